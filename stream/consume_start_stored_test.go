package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/startspec"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

func TestBeforeFirst(t *testing.T) { onBrokers(t, testBeforeFirst) }

// testBeforeFirst: the offset that means "nothing handled yet" is stored on an
// empty stream and on one that was read, and Stored begins at the first message.
func testBeforeFirst(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	name := newStream(t, env)
	cfg := ConsumerConfig{Name: "billing", Start: Stored(Next())}
	must(t, env.StoreOffset(inTime(t), "billing", name, BeforeFirst))
	for run := range 2 {
		if got, err := env.QueryOffset(inTime(t), "billing", name); err != nil || got != BeforeFirst {
			t.Errorf("stored %d, %v", got, err)
		}
		if run == 0 {
			publish(t, env, name, 0, 10)
		}
		bodies, _ := readN(t, env, name, cfg, 10)
		wantNumbers(t, bodies, 0, 10)
		must(t, env.StoreOffset(inTime(t), "billing", name, BeforeFirst))
	}
}

// awaitConsumer waits for a change to a state of a consumer, and passes over all
// others.
func awaitConsumer(t testing.TB, changes chan StateChange, state State) StateChange {
	t.Helper()
	for {
		if c := recv(t, changes, state.String()); c.State == state && c.Role == RoleConsumer {
			return c
		}
	}
}

// awaitProducer is awaitConsumer for producers.
func awaitProducer(t testing.TB, changes chan StateChange, state State) StateChange {
	t.Helper()
	for {
		if c := recv(t, changes, state.String()); c.State == state && c.Role == RoleProducer {
			return c
		}
	}
}

// runUntilConnected runs a consumer until it reads, and ends it.
func runUntilConnected(t testing.TB, env *Env, changes chan StateChange, name string, cfg ConsumerConfig) {
	t.Helper()
	stop, _ := runConsumer(t, env, name, cfg, func(d *Delivery) { t.Errorf("handled %d", d.Offset) })
	awaitConsumer(t, changes, StateConnected)
	if err := stop(); errors.Is(err, ErrNotStored) {
		t.Error(err)
	}
	awaitConsumer(t, changes, StateClosed)
}

func TestStoredElse(t *testing.T) { onBrokers(t, testStoredElse) }

// testStoredElse: what comes between two runs is read, also if the first one has
// handled nothing.
func testStoredElse(t *testing.T, b testBroker) {
	env, changes := watched(t, b.StreamURL())
	for name, start := range map[string]Start{"next": Next(), "last": Last(), "since": Since(time.Now().Add(time.Hour)), "ago": Ago(0)} {
		for _, before := range []int{0, 1, 7} {
			stream := newStream(t, env)
			cfg := ConsumerConfig{Name: "billing", Start: Stored(start)}
			if before > 0 {
				publish(t, env, stream, 0, before)
				nextMillisecond() // for Ago(0): a chunk counts from its millisecond on
			}
			if name == "last" && before > 0 {
				continue // it handles something
			}
			runUntilConnected(t, env, changes, stream, cfg)
			publish(t, env, stream, before, before+5)
			bodies, _ := readN(t, env, stream, cfg, 5)
			wantNumbers(t, bodies, before, before+5)
			awaitConsumer(t, changes, StateClosed)
		}
	}
}

// TestStoredLastStoresItsPlace before it handles anything: a handler that fails
// at once leaves the place to the next run.
func TestStoredLastStoresItsPlace(t *testing.T) {
	b, env, name := inStream(t, 7)
	last, ok := uint64(0), false
	_, done := running1(t, env, name, ConsumerConfig{Name: "billing", Start: Stored(Last())}, func(context.Context, *Delivery) error { return errTest })
	wantErr(t, recv(t, done, "the end"), errTest)
	if last, ok = b.Offset("billing", name); !ok || last+1 > 6 && last != BeforeFirst {
		t.Fatalf("stored %d, %v", last, ok)
	}
	publish(t, env, name, 7, 9)
	n := int(8 - last)
	bodies, _ := readN(t, env, name, ConsumerConfig{Name: "billing", Start: Stored(Last())}, n)
	wantNumbers(t, bodies, 9-n, 9)
}

// TestStoredElseStoresNoPlace where the service stores the offsets itself, where
// the place is an offset, and where the next run begins there in any case.
func TestStoredElseStoresNoPlace(t *testing.T) {
	b := streamtest.NewBroker(t)
	noLeaks(t)
	env, changes := watched(t, b.URI())
	name := newStream(t, env)
	for what, cfg := range map[string]ConsumerConfig{
		"manual":      {Start: Stored(Next()), Store: StorePolicy{Manual: true}},
		"OffsetStore": {Start: Stored(Next()), OffsetStore: &memoryStore{}},
		"first":       {Start: Stored(First())},
		"explicit":    {Start: Next()},
		"offset":      {Start: Stored(At(7))},
	} {
		cfg.Name = "billing"
		runUntilConnected(t, env, changes, name, cfg)
		for _, entry := range []string{"billing", startspec.StartedName("billing")} {
			if got, ok := b.Offset(entry, name); ok {
				t.Errorf("%s: %d is stored as %q", what, got, entry)
			}
		}
	}
}

func TestStoredIsOvertaken(t *testing.T) {
	b := streamtest.NewBroker(t)
	noLeaks(t)
	env, changes := watched(t, b.URI())
	overtake := func(name string, offset uint64) { must(t, b.RemoveBefore(name, offset)) }
	testStoredIsOvertaken(t, env, changes, newStream(t, env), overtake)
}

// TestRealStoredIsOvertaken is TestStoredIsOvertaken on RabbitMQ, which forgets
// the offset when it begins a segment.
func TestRealStoredIsOvertaken(t *testing.T) {
	b := realBroker(t)
	env, changes := watched(t, b.StreamURL())
	name := newStreamWith(t, env, StreamConfig{MaxBytes: 20_000, SegmentBytes: 5_000})
	at := 1000
	testStoredIsOvertaken(t, env, changes, name, func(name string, offset uint64) {
		eventually(t, "the broker has forgotten the offset", patience, func() bool {
			publish(t, env, name, at, at+100)
			at += 100
			_, err := env.QueryOffset(inTime(t), "billing", name)
			return errors.Is(err, ErrNoOffset)
		})
	})
}

// testStoredIsOvertaken: the broker answers for an offset that retention has
// overtaken as if nothing had ever been stored. The consumer knows better.
func testStoredIsOvertaken(t *testing.T, env *Env, changes chan StateChange, name string, overtake func(name string, offset uint64)) {
	cfg := ConsumerConfig{Name: "billing", Start: Stored(Next())}
	publish(t, env, name, 0, 5)
	runUntilConnected(t, env, changes, name, cfg)
	publish(t, env, name, 5, 30)
	for range 2 { // also if the second run has handled nothing
		overtake(name, 20)
		before, err := env.Stats(inTime(t), name)
		must(t, err)
		first := make(chan uint64, 10_000)
		stop, _ := start(t, env, name, cfg, func(ctx context.Context, c *Consumer) error {
			return c.Run(ctx, func(_ context.Context, d *Delivery) error { first <- d.Offset; return errTest })
		})
		lost := awaitConsumer(t, changes, StateMessagesLost)
		if lost.Lost != 0 || !errors.Is(lost.Err, errOvertaken) {
			t.Errorf("%d are lost: %v", lost.Lost, lost.Err)
		}
		got := recv(t, first, "the first message that is left")
		if got < before.FirstOffset {
			t.Errorf("begins with %d, and the stream with %d", got, before.FirstOffset)
		}
		eventually(t, "the stream begins there", patience, func() bool { // RabbitMQ removes segments, and then counts
			now, err := env.Stats(inTime(t), name)
			return err == nil && got <= now.FirstOffset+20
		})
		awaitConsumer(t, changes, StateClosed)
		stop()
	}
}

// TestStartedMark is made up for: a consumer whose offset was stored by another
// client, or an earlier version, has none.
func TestStartedMark(t *testing.T) {
	b := streamtest.NewBroker(t)
	noLeaks(t)
	env, changes := watched(t, b.URI())
	for _, consumer := range []string{"billing", strings.Repeat("x", 255)} {
		name := newStream(t, env)
		publish(t, env, name, 0, 5)
		must(t, env.StoreOffset(soon(t), consumer, name, 4))
		runUntilConnected(t, env, changes, name, ConsumerConfig{Name: consumer, Start: Stored(Next())})
		if got, ok := b.Offset(startspec.StartedName(consumer), name); !ok || got <= 1<<63 {
			t.Errorf("%d, %v is stored as %q", got, ok, startspec.StartedName(consumer))
		}
		_, err := env.NewConsumer(name, ConsumerConfig{Name: startspec.StartedName(consumer)})
		wantErr(t, err, ErrInvalidConfig)
	}
	if startspec.StartedName(strings.Repeat("x", 255)) == startspec.StartedName(strings.Repeat("x", 254)+"y") {
		t.Error("two consumers have one entry")
	}
}

// TestPlaceIsNotStored: a broker that drops stores keeps nobody from reading.
func TestPlaceIsNotStored(t *testing.T) {
	beside(t)
	b, env, name := inStream(t, 5)
	b.LoseStores(streamtest.Forever)
	handled := make(chan uint64, 10)
	stop, _ := runConsumer(t, env, name, ConsumerConfig{Name: "billing", Start: Stored(Last()), Store: StorePolicy{Interval: time.Hour}}, func(d *Delivery) { handled <- d.Offset })
	recv(t, handled, "a message")
	b.ClearFaults()
	_ = stop()
}

// TestStartIsTiedToItsPlace: a run that loses its connection before the first
// message goes on where it has begun, even if its first attempt failed half-way.
func TestStartIsTiedToItsPlace(t *testing.T) {
	beside(t)
	for name, start := range map[string]Start{"next": Next(), "last": Last(), "since": Since(time.Now().Add(time.Hour)), "ago": Ago(0)} {
		for _, lost := range []int{0, 1, 2} { // the subscription with which it is lost
			if lost == 2 && name[0] != 's' && name[0] != 'a' {
				continue // the second one is the session's
			}
			t.Run(fmt.Sprintf("%s/%d", name, lost), func(t *testing.T) {
				besideSubtest(t)
				noLeaks(t)
				b := startScripted(t)
				b.committed = 100
				chunks := [][]byte{script.Chunk(100, "a", "b"), script.Chunk(102, "c"), script.Chunk(103, "d")}
				var mu sync.Mutex
				has := 1
				b.onSubscribe = func(p *script.Peer, nth int, spec wire.OffsetSpec) {
					if nth == lost {
						b.set(func() { b.committed = 103 })
						mu.Lock()
						has = 3
						mu.Unlock()
						b.drop()
						return
					}
					mu.Lock()
					n := has
					mu.Unlock()
					from := map[uint64]int{102: 1, 103: 2}[spec.Value]
					if spec.Type == wire.OffsetLast {
						from = n - 1
					}
					if spec.Type == wire.OffsetTimestamp {
						return
					}
					b.deliver(p, chunks[from:n]...)
				}
				r := b.run(t, ConsumerConfig{Start: start}, nil)
				switch {
				case name == "last" && lost > 0:
					r.want(t, 100, 101, 102, 103)
				case name == "last":
					r.want(t, 103)
				default:
					r.want(t, 102, 103)
				}
				r.stop(errTest)
				_ = r.end(t)
			})
		}
	}
}

// TestNextInAStreamCreatedAgain before the first message: all of it is newer than
// the run, and the run notices by the chunk that was the last when it began.
func TestNextInAStreamCreatedAgain(t *testing.T) {
	for name, start := range map[string]Start{"next": Next(), "since": Since(time.Now().Add(24 * time.Hour))} {
		t.Run(name, func(t *testing.T) {
			b := streamtest.NewBroker(t)
			noLeaks(t)
			direct := connect(t, b.URI())
			name := newStream(t, direct)
			publish(t, direct, name, 0, 50)
			proxy, uri := throughProxy(t, inProcess{b})
			env, changes := watched(t, uri)
			handled := make(chan uint64, 100)
			stop, _ := runConsumer(t, env, name, ConsumerConfig{Start: start}, func(d *Delivery) { handled <- d.Offset })
			awaitConsumer(t, changes, StateConnected)
			proxy.Refuse(true)
			proxy.Drop()
			b.Advance(time.Hour)
			b.DeleteStream(name)
			b.CreateStream(name)
			publish(t, direct, name, 0, 3)
			proxy.Refuse(false)
			var got []uint64
			for range 3 {
				got = append(got, recv(t, handled, "a message of the new stream"))
			}
			if !slices.Equal(got, []uint64{0, 1, 2}) {
				t.Errorf("handled %v", got)
			}
			_ = stop()
		})
	}
}
