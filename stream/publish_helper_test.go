package stream

import (
	"context"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// nextMillisecond returns in a later millisecond than it was called in.
func nextMillisecond() {
	for now := time.Now().UnixMilli(); time.Now().UnixMilli() == now; {
		time.Sleep(100 * time.Microsecond)
	}
}

// offlineOf is a producer of an Env, without a connection: what it accepts stays
// with it. It can be closed, and its callbacks run. Its goroutine has ended when
// ended is closed.
func offlineOf(e *Env, cfg ProducerConfig) *Producer {
	cfg, err := cfg.withDefaults()
	if err != nil {
		panic(err)
	}
	p := newProducerOf(e, "s", cfg)
	p.life, p.cancel = context.WithCancel(context.Background())
	e.producers[p] = struct{}{}
	return p
}

// refusalOf returns why a producer accepts nothing more, or nil.
func refusalOf(p *Producer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusal
}

// confirm gives messages of a producer without a connection an outcome, as its
// connection would, which has been sent everything.
func confirm(p *Producer, err error, ids ...uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	settleLocked(p, err, ids...)
}

// settleLocked is confirm for who holds the lock.
func settleLocked(p *Producer, err error, ids ...uint64) {
	for f, _ := p.box.next(broker.Allowance{Room: math.MaxInt}); f != nil; f, _ = p.box.next(broker.Allowance{Room: math.MaxInt}) {
		switch {
		case f.preparing: // by a goroutine of the Env
			p.unlocked(runtime.Gosched)
			continue
		case len(f.records) > 0:
			p.compress(f)
			continue
		}
		p.box.hand(f, 0)
	}
	p.box.sent()
	for _, id := range ids {
		p.box.settle(id, err, p.tell)
	}
	p.told()
	p.box.advance()
}

// confirmAll is confirm for every message there is.
func confirmAll(p *Producer) {
	p.mu.Lock()
	last := p.box.lastID
	p.mu.Unlock()
	confirm(p, nil, numbers(1, last)...)
}

// numbers returns the numbers from first to last.
func numbers(first, last uint64) (list []uint64) {
	for n := first; n <= last; n++ {
		list = append(list, n)
	}
	return list
}

// endOffline ends a producer without a connection.
func endOffline(t testing.TB, p *Producer) {
	t.Helper()
	select {
	case <-p.ended:
	default:
		close(p.ended)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.Close(ctx)
	select {
	case <-p.closed:
	default:
		t.Error("the producer is not closed")
	}
}
