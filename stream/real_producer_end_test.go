package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// outcomes notes what became of each message.
type outcomes struct {
	mu    sync.Mutex
	calls map[int]int
	last  map[int]error
}

func (o *outcomes) of(i int) func(error) {
	return func(err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.calls[i]++
		o.last[i] = err
	}
}

func (o *outcomes) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.calls)
}

// check wants one outcome for each of the accepted messages, and returns how
// many are confirmed. After a Close without time for it a busy machine may be
// calling the last callbacks.
func (o *outcomes) check(t *testing.T, accepted int) (confirmed int) {
	t.Helper()
	eventually(t, "each message has an outcome", timeLimit(), func() bool { return o.count() >= accepted })
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range accepted {
		switch err := o.last[i]; {
		case o.calls[i] != 1:
			t.Fatalf("message %d of %d has %d outcomes", i, accepted, o.calls[i])
		case err == nil:
			confirmed++
		case !errors.Is(err, ErrUnconfirmed):
			t.Fatalf("message %d: %v", i, err)
		}
	}
	return confirmed
}

// load publishes until the producer refuses, which it does once Close has begun,
// and returns how many were accepted.
func load(p *Producer, o *outcomes) (accepted chan int) {
	accepted = make(chan int, 1)
	go func() {
		n := 0
		for p.PublishAsync(context.Background(), Message{Body: number(n)}, o.of(n)) == nil {
			n++
		}
		accepted <- n
	}()
	return accepted
}

// TestCloseInEverySituation: Close returns as its doc says, each message has
// exactly one outcome, and what was confirmed is in the stream.
func TestCloseInEverySituation(t *testing.T) {
	beside(t)
	onBrokers(t, testCloseInEverySituation)
}

func testCloseInEverySituation(t *testing.T, b testBroker) {
	for _, test := range []struct {
		name    string
		before  func(drop, refuse func())
		limit   time.Duration // of Close's context; 0: none, -1: it has ended
		confirm bool          // all of them
	}{
		{"under load", func(_, _ func()) {}, 0, true},
		{"during recovery, the broker comes back", func(drop, _ func()) { drop() }, 0, true},
		{"with the broker away", func(drop, refuse func()) { refuse(); drop() }, 300 * time.Millisecond, false},
		{"with an expired context", func(_, _ func()) {}, -1, false},
		{"with both", func(drop, refuse func()) { refuse(); drop() }, -1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			proxy, uri := throughProxy(t, b)
			env, direct := connect(t, uri), connect(t, b.StreamURL())
			stream := newStream(t, direct)
			p, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: "p"})
			must(t, err)
			o := &outcomes{calls: map[int]int{}, last: map[int]error{}}
			accepted := load(p, o)
			eventually(t, "some are accepted", patience, func() bool { return p.LastPublishingID() > 20_000 })
			test.before(func() { proxy.Drop() }, func() { proxy.Refuse(true) })
			ctx := t.Context()
			switch {
			case test.limit > 0:
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, test.limit)
				defer cancel()
			case test.limit < 0:
				ended, cancel := context.WithCancel(ctx)
				cancel()
				ctx = ended
			}
			begin := time.Now()
			err = p.Close(ctx)
			if took := time.Since(begin); test.limit != 0 && took > max(test.limit, 0)+5*time.Second {
				t.Errorf("Close took %v", took)
			}
			n := <-accepted
			confirmed := o.check(t, n)
			switch {
			case test.confirm && (err != nil || confirmed != n):
				t.Errorf("Close: %v; %d of %d confirmed", err, confirmed, n)
			case !test.confirm && confirmed < n && (!errors.Is(err, ErrUnconfirmed) || !errors.Is(err, ctx.Err())):
				t.Errorf("%d of %d confirmed, and Close returned %v", confirmed, n, err)
			}
			if again := p.Close(inTime(t)); fmt.Sprint(again) != fmt.Sprint(err) {
				t.Errorf("the second Close: %v, the first: %v", again, err)
			}
			wantErr(t, p.Publish(inTime(t), Message{}), ErrClosed)
			if got := len(readAll(t, direct, stream)); got < confirmed || got > n {
				t.Errorf("%d in the stream, %d confirmed, %d accepted", got, confirmed, n)
			}
			t.Logf("%d accepted, %d confirmed, Close took %v: %v", n, confirmed, time.Since(begin).Round(time.Millisecond), err)
		})
	}
}

func TestBlockedCallback(t *testing.T) { onBrokers(t, testBlockedCallback) }

// testBlockedCallback: it holds up its own producer once MaxInFlight messages wait
// for it, and nothing else.
func testBlockedCallback(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	blocked, err := env.NewProducer(inTime(t), stream, ProducerConfig{MaxInFlight: 100})
	must(t, err)
	other, err := env.NewProducer(inTime(t), stream, ProducerConfig{})
	must(t, err)
	release := make(chan struct{})
	var calls atomic.Int64
	publish := func(ctx context.Context) error {
		return blocked.PublishAsync(ctx, Message{}, func(error) { <-release; calls.Add(1) })
	}
	for range 100 {
		must(t, publish(t.Context()))
	}
	enough, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantErr(t, publish(enough), context.DeadlineExceeded)
	msgs := make([]Message, 10_000)
	must(t, other.Publish(inTime(t), msgs...))
	must(t, other.Close(inTime(t)))
	if n := calls.Load(); n != 0 {
		t.Errorf("%d callbacks have returned", n)
	}
	close(release)
	must(t, blocked.Close(inTime(t)))
	if n := calls.Load(); n != 100 {
		t.Errorf("%d callbacks were called, want 100", n)
	}
}

// A callback may publish, and that waits for room like any other.
func TestCallbacksPublish(t *testing.T) { onBrokers(t, testCallbacksPublish) }

func testCallbacksPublish(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{MaxInFlight: 3})
	must(t, err)
	var answers sync.WaitGroup
	for i := range 200 {
		answers.Add(1)
		must(t, p.PublishAsync(t.Context(), Message{Body: number(i)}, func(err error) {
			if err == nil {
				err = p.PublishAsync(t.Context(), Message{Body: []byte("answer")}, func(error) { answers.Done() })
			}
			if err != nil {
				t.Error(err)
				answers.Done()
			}
		}))
	}
	answers.Wait()
	must(t, p.Close(inTime(t)))
	if n := len(readAll(t, env, stream)); n != 400 {
		t.Errorf("%d messages, want 200 and an answer to each", n)
	}
}

func TestLargestMessages(t *testing.T) {
	beside(t)
	onBrokers(t, testLargestMessages)
}

// testLargestMessages publishes messages that just fit into a frame, and reads
// them meanwhile. TIDEMARK_LARGE=10000 is 10 GB on the real broker's disk.
func testLargestMessages(t *testing.T, b testBroker) {
	total := soakNumber(t, "TIDEMARK_LARGE", 60)
	if _, ok := b.(inProcess); ok {
		total = min(total, 60) // which it keeps in memory
	}
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{})
	must(t, err)
	largest := p.largestMessage() - 8 // the data section's head
	if largest != 1<<20-frameOverhead-messageOverhead-8 {
		t.Errorf("the largest body has %d bytes", largest)
	}
	err = p.Publish(inTime(t), Message{Body: make([]byte, largest+1)})
	wantErr(t, err, ErrMessageTooLarge)
	if text := err.Error(); !strings.Contains(text, fmt.Sprint(largest+1+8)) || !strings.Contains(text, fmt.Sprint(largest+8)) {
		t.Errorf("the error names neither size nor limit: %v", err)
	}
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	must(t, p.Publish(inTime(t), Message{}, Message{Body: binary}, Message{Body: []byte("\xff\xfe\x00")}))
	pattern := make([]byte, largest)
	for i := range pattern {
		pattern[i] = byte(rand.IntN(256))
	}
	sent := make(chan error, 1)
	go func() {
		for i := range total {
			body := bytes.Clone(pattern)
			copy(body, number(i))
			if err := p.PublishAsync(t.Context(), Message{Body: body}, nil); err != nil {
				sent <- err
				return
			}
		}
		sent <- p.Close(inTime(t))
	}()
	c, err := env.NewConsumer(stream, ConsumerConfig{Start: First()})
	must(t, err)
	at := -3
	for d, err := range c.All(t.Context()) {
		must(t, err)
		switch {
		case at == -3 && len(d.Body) != 0, at == -2 && !bytes.Equal(d.Body, binary), at == -1 && string(d.Body) != "\xff\xfe\x00":
			t.Fatalf("message %d came as %d bytes", at+3, len(d.Body))
		case at >= 0:
			n := number(at)
			if !bytes.HasPrefix(d.Body, n) || !bytes.Equal(d.Body[len(n):], pattern[len(n):]) {
				t.Fatalf("large message %d is damaged", at)
			}
		}
		if at++; at == total {
			break
		}
	}
	must(t, <-sent)
}
