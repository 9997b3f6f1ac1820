package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// oneByOne measures from publishing a message to its confirm, one at a time.
// publish returns when the message is confirmed.
func oneByOne(j job, m *meter, publish func(i int) error) error {
	list := make([]float64, 0, j.N)
	m.begin()
	for i := range j.N {
		begin := time.Now()
		if err := publish(i); err != nil {
			return err
		}
		list = append(list, milliseconds(time.Since(begin)))
	}
	m.end(j.N)
	m.sample.percentiles(list)
	return nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// percentiles notes what the latencies of a run were.
func (s *sample) percentiles(ms []float64) {
	s.P50, s.P99, s.Worst = percentile(ms, 0.5), percentile(ms, 0.99), statOf(ms).max
}

// pacer publishes at a rate, whether confirms come or not, and measures from each
// call to its confirm. A message that was due while the call before it did not
// return counts from when it was due, so that a client cannot hide its delays by
// taking fewer messages.
type pacer struct {
	base   time.Time
	starts []atomic.Int64 // when each message was published, counted from base
	full   chan struct{}  // closed once all are confirmed, or one failed

	mu        sync.Mutex
	latencies []float64
	err       error
}

func newPacer(n int) *pacer {
	return &pacer{base: time.Now(), starts: make([]atomic.Int64, n), full: make(chan struct{}), latencies: make([]float64, 0, n)}
}

// run publishes all messages and waits for their confirms.
func (p *pacer) run(ctx context.Context, j job, m *meter, publish func(i int) error) error {
	m.begin()
	first := time.Now()
	var called, returned time.Time
	for i := range p.starts {
		due := first.Add(time.Duration(i) * time.Second / time.Duration(j.Rate))
		time.Sleep(time.Until(due))
		now := time.Now()
		p.starts[i].Store(int64(startOf(due, called, returned, now).Sub(p.base)))
		called = now
		if err := publish(i); err != nil {
			return err
		}
		returned = time.Now()
	}
	select {
	case <-p.full:
	case <-ctx.Done():
		return fmt.Errorf("not all messages were confirmed: %w", context.Cause(ctx))
	}
	m.end(len(p.starts))
	p.mu.Lock()
	defer p.mu.Unlock()
	m.sample.percentiles(p.latencies)
	return p.err
}

// startOf is from when a message counts that was due at a time and is published
// now. If it was due during the call before it, it waited for that call. If it
// was not, it waited for a timer that was late, which is not the client's doing.
func startOf(due, called, returned, now time.Time) time.Time {
	if due.After(called) && due.Before(returned) {
		return due
	}
	return now
}

// confirmed counts the next k messages as confirmed now.
func (p *pacer) confirmed(k int) {
	now := time.Since(p.base)
	p.mu.Lock()
	defer p.mu.Unlock()
	for range k {
		i := len(p.latencies)
		if i == len(p.starts) {
			return
		}
		p.latencies = append(p.latencies, milliseconds(now-time.Duration(p.starts[i].Load())))
	}
	if len(p.latencies) == len(p.starts) && p.err == nil {
		close(p.full)
	}
}

// fail ends the waiting.
func (p *pacer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && len(p.latencies) < len(p.starts) {
		p.err = err
		close(p.full)
	}
}
