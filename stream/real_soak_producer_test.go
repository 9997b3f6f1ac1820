package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/faults"
)

// soakProducers is how many publish to the same stream.
const soakProducers = 4

// producers is a soak of producers behind the proxies: each publishes its own
// numbers, and in the end the stream is read and compared.
type producers struct {
	*soak
	cfgs    [soakProducers]ProducerConfig
	allowed atomic.Int64 // how many each may publish
	settled atomic.Int64
	failed  atomic.Pointer[error]
}

func producerBody(producer, n int) []byte {
	b := make([]byte, 100)
	binary.BigEndian.PutUint32(b, uint32(producer))
	binary.BigEndian.PutUint64(b[4:], uint64(n))
	return b
}

func (p *producers) each() int { return p.total / soakProducers }

// publish publishes the numbers of one producer.
func (p *producers) publish(ctx context.Context, which int) error {
	var producer *Producer
	for producer == nil { // it may be made in the middle of a fault
		var err error
		producer, err = p.env.NewProducer(ctx, p.stream, p.cfgs[which])
		if err != nil && !SafeToRetry(err) {
			return err
		}
	}
	for n := range p.each() {
		for int64(n) >= p.allowed.Load() {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			pause(time.Millisecond)
		}
		err := producer.PublishAsync(ctx, Message{Body: producerBody(which, n)}, func(err error) {
			if p.settled.Add(1); err != nil {
				p.failed.CompareAndSwap(nil, &err)
			}
		})
		if err != nil {
			return fmt.Errorf("number %d: %w", n, err)
		}
	}
	return producer.Close(ctx)
}

func (p *producers) breakOne() {
	p.oneOf([]fault{
		{"drop", func() { p.soak.each(func(x *faults.Proxy) { x.Drop() }) }},
		{"drop", func() { p.soak.each(func(x *faults.Proxy) { x.Drop() }) }},
		{"silence", p.silence},
		{"confirms held", p.holdConfirms},
		{"leader killed", func() { p.restart(p.b.Kill, true) }},
		{"node killed", func() { p.restart(p.b.Kill, false) }},
		{"leader restarted", func() { p.restart(p.b.Stop, true) }},
		{"leader moved", p.moveLeader},
	})
}

// holdConfirms keeps confirms back for longer than ConfirmTimeout, or for less.
func (p *producers) holdConfirms() {
	p.soak.each(func(x *faults.Proxy) { x.HoldConfirms(true) })
	pause(time.Duration(500+p.rand.IntN(3000)) * time.Millisecond)
	p.soak.each(func(x *faults.Proxy) { x.HoldConfirms(false) })
}

func (p *producers) run() {
	t := p.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	ended := make(chan error, soakProducers)
	for i := range soakProducers {
		wg.Go(func() { ended <- p.publish(ctx, i) })
	}
	reach := func(n int) {
		eventually(t, fmt.Sprintf("%d messages have their outcome", n), 3*time.Minute, func() bool {
			select {
			case err := <-ended:
				ended <- err
				if err != nil {
					cancel()
					t.Fatalf("a producer ended: %v", err)
				}
			default:
			}
			return p.settled.Load() >= int64(n)
		})
	}
	for i := range p.faults {
		p.allowed.Store(int64(p.each() / p.faults * (i + 1)))
		reach(p.total/p.faults*i + min(1000, p.total/p.faults/2))
		p.breakOne()
		if (i+1)%10 == 0 {
			t.Logf("%4.0f s: %d faults %v, %d messages confirmed", time.Since(p.start).Seconds(), i+1, p.kinds, p.settled.Load())
		}
	}
	p.allowed.Store(int64(p.each()))
	reach(p.each() * soakProducers)
	wg.Wait()
	for range soakProducers {
		must(t, <-ended)
	}
	if err := p.failed.Load(); err != nil {
		t.Fatalf("a callback got: %v", *err)
	}
	p.compare()
}

// compare reads the stream: each number of each producer once and in order, or
// without a name at least once.
func (p *producers) compare() {
	t := p.t
	end, err := p.direct.NewProducer(t.Context(), p.stream, ProducerConfig{})
	must(t, err)
	must(t, end.Publish(t.Context(), Message{Body: []byte("end")}))
	must(t, end.Close(t.Context()))
	c, err := p.direct.NewConsumer(p.stream, ConsumerConfig{Start: First()})
	must(t, err)
	var next [soakProducers]int // the number to come
	seen := make([]bool, p.each()*soakProducers)
	missing, twice, messages := len(seen), 0, 0
	for d, err := range c.All(t.Context()) {
		must(t, err)
		if string(d.Body) == "end" {
			break
		}
		messages++
		which, n := int(binary.BigEndian.Uint32(d.Body)), int(binary.BigEndian.Uint64(d.Body[4:]))
		if p.cfgs[which].Name != "" && n != next[which] {
			t.Fatalf("producer %d: %d stands where %d should", which, n, next[which])
		}
		next[which]++
		if at := which*p.each() + n; seen[at] {
			twice++
		} else {
			seen[at] = true
			missing--
		}
	}
	if missing > 0 {
		t.Errorf("%d messages were confirmed and are not in the stream", missing)
	}
	t.Logf("%.0f s: %d messages published, %d in the stream, %d of them twice; faults %v", time.Since(p.start).Seconds(), len(seen), messages, twice, p.kinds)
}

// TestRealSoakProducers: with names the stream holds each message exactly once,
// in order, with sub-batches as well; without, nothing is lost.
func TestRealSoakProducers(t *testing.T) {
	for _, variant := range []string{"named", "unnamed"} {
		t.Run(variant, func(t *testing.T) {
			p := &producers{soak: newSoak(t)}
			for i := range p.cfgs {
				cfg := &p.cfgs[i]
				cfg.ConfirmTimeout = 2 * time.Second
				if variant == "named" {
					cfg.Name = fmt.Sprintf("producer-%d", i)
				}
				if i%2 == 1 {
					cfg.SubEntries, cfg.Compression = 100, Compression(i)
				}
			}
			p.run()
		})
	}
}
