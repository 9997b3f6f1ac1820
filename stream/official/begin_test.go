package official

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/officialtest"
	"github.com/tidemark-go/tidemark/internal/startspec"
	"github.com/tidemark-go/tidemark/stream"
)

func TestStarts(t *testing.T) { onBrokers(t, testStarts) }

func testStarts(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 50)
	check.Eventually(t, "a millisecond passes", laterThan(time.Now().Add(5*time.Millisecond)))
	middle := time.Now()
	check.Eventually(t, "a millisecond passes", laterThan(time.Now().Add(5*time.Millisecond)))
	publish(t, env, name, 50, 100)
	for text, test := range map[string]struct {
		start stream.Start
		first int
	}{
		"zero": {stream.Start{}, 0}, "first": {stream.First(), 0}, "at 0": {stream.At(0), 0}, "at 42": {stream.At(42), 42}, "at 99": {stream.At(99), 99},
		"since": {stream.Since(middle), 50}, "since the beginning": {stream.Since(middle.Add(-time.Hour)), 0}, "ago": {stream.Ago(time.Hour), 0},
		"stored, else 7": {stream.Stored(stream.At(7)), 7}, "stored, else since": {stream.Stored(stream.Since(middle)), 50}, "stored, else ago": {stream.Stored(stream.Ago(time.Hour)), 0},
	} {
		for _, consumer := range []string{"", text} {
			t.Run(fmt.Sprintf("%s named %t", text, consumer != ""), func(t *testing.T) {
				bodies, offsets := readN(t, env, name, Config{Name: consumer, Start: test.start}, 100-test.first)
				wantNumbers(t, bodies, test.first, 100)
				if consumer != "" {
					wantStored(t, env, consumer, name, offsets[len(offsets)-1])
				}
			})
		}
	}
	// The last chunk ends with the last message, wherever it begins.
	for _, consumer := range []string{"", "last"} {
		bodies, offsets := readN(t, env, name, Config{Name: consumer, Start: stream.Stored(stream.Last())}, 1)
		if offsets[0] < 50 {
			t.Errorf("the last chunk, as %q, begins with %s at offset %d", consumer, bodies[0], offsets[0])
		}
	}
}

func laterThan(at time.Time) func() bool { return func() bool { return time.Now().After(at) } }

// TestFirstRunHandlesNothing: what comes between two runs is the second one's,
// and nothing that was there before the first one began. A Start without Stored
// keeps no place.
func TestFirstRunHandlesNothing(t *testing.T) { onBrokers(t, testFirstRunHandlesNothing) }

func testFirstRunHandlesNothing(t *testing.T, b testBroker) {
	env := environment(t, b)
	for text, start := range map[string]stream.Start{
		"next": stream.Stored(stream.Next()), "since": stream.Stored(stream.Since(time.Now().Add(time.Hour))), "ago": stream.Stored(stream.Ago(0)),
	} {
		for _, before := range []int{0, 1, 20} {
			t.Run(fmt.Sprint(text, " after ", before), func(t *testing.T) {
				name := newStream(t, env)
				if before > 0 {
					publish(t, env, name, 0, before)
				}
				check.Eventually(t, "a millisecond passes", laterThan(time.Now().Add(2*time.Millisecond)))
				r := begin(t, env, name, Config{Name: "c", Start: start})
				check.Eventually(t, "the place is stored", func() bool {
					_, err := QueryOffset(inTime(t), env, startspec.StartedName("c"), name)
					return err == nil
				})
				r.stop()
				must(t, r.end())
				publish(t, env, name, before, before+5)
				bodies, _ := readN(t, env, name, Config{Name: "c", Start: start}, 5)
				wantNumbers(t, bodies, before, before+5)
			})
		}
	}
}

// begin starts a consumer whose handler is not called.
func begin(t *testing.T, env *client.Environment, name string, cfg Config) *running {
	t.Helper()
	return start(t, env, name, cfg, func(context.Context, *Delivery) error { return errTest })
}

// TestNextBehindSubBatches: an entry of the last chunk holds several messages.
func TestNextBehindSubBatches(t *testing.T) { onBrokers(t, testNextBehindSubBatches) }

func testNextBehindSubBatches(t *testing.T, b testBroker) {
	officialtest.NeedNumbering(t)
	env := environment(t, b)
	name := newStream(t, env)
	p, err := NewProducer(inTime(t), env, name, client.NewProducerOptions().SetSubEntrySize(10).SetCompression(client.Compression{}.Gzip()))
	must(t, err)
	must(t, errors.Join(p.Publish(inTime(t), numbers(0, 100)...), p.Close(inTime(t))))
	cfg := Config{Name: "c", Start: stream.Stored(stream.Next())}
	r := begin(t, env, name, cfg)
	check.Eventually(t, "the place is stored", func() bool {
		_, err := QueryOffset(inTime(t), env, startspec.StartedName("c"), name)
		return err == nil
	})
	r.stop()
	must(t, r.end())
	publish(t, env, name, 100, 105)
	bodies, _ := readN(t, env, name, cfg, 5)
	wantNumbers(t, bodies, 100, 105)
	bodies, _ = readN(t, env, name, Config{}, 105)
	wantNumbers(t, bodies, 0, 105)
}

// TestStreamAndOfficialShareAPlace: what package stream has stored, this package
// goes on from, and the other way round.
func TestStreamAndOfficialShareAPlace(t *testing.T) { onBrokers(t, testStreamAndOfficialShareAPlace) }

func testStreamAndOfficialShareAPlace(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 30)
	own, err := stream.Connect(inTime(t), stream.Config{URIs: []string{b.StreamURL()}})
	must(t, err)
	defer own.Close()
	readOwn := func(n int) (bodies []string) {
		c, err := own.NewConsumer(name, stream.ConsumerConfig{Name: "c"})
		must(t, err)
		ctx, cancel := context.WithCancel(inTime(t))
		defer cancel()
		must(t, c.Run(ctx, func(_ context.Context, d *stream.Delivery) error {
			if bodies = append(bodies, string(d.Body)); len(bodies) == n {
				cancel()
			}
			return nil
		}))
		return bodies
	}
	bodies, _ := readN(t, env, name, Config{Name: "c"}, 10)
	wantNumbers(t, bodies, 0, 10)
	wantNumbers(t, readOwn(10), 10, 20)
	bodies, _ = readN(t, env, name, Config{Name: "c"}, 10)
	wantNumbers(t, bodies, 20, 30)
}

// TestBeyondTheEnd: with an offset that the stream does not reach the run looks
// for 10 s, and then begins at the end, before what comes.
func TestBeyondTheEnd(t *testing.T) {
	t.Parallel() // it waits for 10 s
	b := inProcess{streamtestBroker(t)}
	env := environment(t, b)
	name := newStream(t, env)
	for i := range 3 {
		publish(t, env, name, i, i+1)
	}
	must(t, StoreOffset(inTime(t), env, "c", name, 1000))
	var log lines
	c, err := NewConsumer(env, name, Config{Name: "c", Logger: log.logger()})
	must(t, err)
	ctx, cancel := context.WithCancel(inTime(t))
	must(t, c.Run(ctx, func(_ context.Context, d *Delivery) error {
		if d.Offset != 2 {
			t.Errorf("began at %d", d.Offset)
		}
		cancel()
		return nil
	}))
	log.want(t, "beyond the end")
	wantStored(t, env, "c", name, 2)
}

// TestRetentionOvertakesThePlace: the broker has forgotten the offset; what is
// lost is logged, and the run begins at the oldest message.
func TestRetentionOvertakesThePlace(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	for text, start := range map[string]stream.Start{"forgotten": stream.Stored(stream.Next()), "overtaken": stream.Stored(stream.First())} {
		t.Run(text, func(t *testing.T) {
			name := newStream(t, env)
			cfg := Config{Name: "c", Start: start}
			r := begin(t, env, name, cfg)
			if text == "forgotten" {
				check.Eventually(t, "the place is stored", func() bool { _, ok := b.Offset(startspec.StartedName("c"), name); return ok })
			}
			r.stop()
			must(t, r.end())
			for i := range 10 {
				publish(t, env, name, i, i+1)
			}
			readN(t, env, name, cfg, 3)
			must(t, b.RemoveBefore(name, 6))
			if text == "overtaken" { // another broker would still have it
				must(t, StoreOffset(inTime(t), env, "c", name, 2))
			}
			var log lines
			cfg.Logger = log.logger()
			bodies, _ := readN(t, env, name, cfg, 4)
			wantNumbers(t, bodies, 6, 10)
			log.want(t, "retention has")
		})
	}
}

// TestStartspec: every Start shows what it is.
func TestStartspec(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		start stream.Start
		want  startspec.Start
	}{
		{stream.Start{}, startspec.Start{Stored: true, Kind: startspec.First}},
		{stream.First(), startspec.Start{Kind: startspec.First}},
		{stream.Last(), startspec.Start{Kind: startspec.Last}},
		{stream.Next(), startspec.Start{Kind: startspec.Next}},
		{stream.At(7), startspec.Start{Kind: startspec.At, Offset: 7}},
		{stream.Since(now), startspec.Start{Kind: startspec.Since, Time: now}},
		{stream.Ago(time.Hour), startspec.Start{Kind: startspec.Since, Time: now.Add(-time.Hour)}},
		{stream.Stored(stream.At(9)), startspec.Start{Stored: true, Kind: startspec.At, Offset: 9}},
	} {
		if got := startspec.Of(test.start, now); got != test.want {
			t.Errorf("%v is %+v, want %+v", test.start, got, test.want)
		}
	}
}
