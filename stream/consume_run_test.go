package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// running is a consumer at work.
type running struct {
	*Consumer
	handled chan uint64
	ended   chan error
	stop    context.CancelCauseFunc
}

// run starts a consumer whose handler reports each offset and then does as
// handle says, if that is given.
func (b *scripted) run(t testing.TB, cfg ConsumerConfig, handle func(*running, *Delivery) error) *running {
	t.Helper()
	c, err := b.env(t).NewConsumer(testStream, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(context.Background())
	r := &running{Consumer: c, handled: make(chan uint64, 1000), ended: make(chan error, 1), stop: stop}
	go func() {
		r.ended <- c.Run(ctx, func(_ context.Context, d *Delivery) error {
			r.handled <- d.Offset
			if handle == nil {
				return nil
			}
			return handle(r, d)
		})
	}()
	t.Cleanup(func() { stop(nil) })
	return r
}

func (r *running) want(t testing.TB, offsets ...uint64) {
	t.Helper()
	for _, want := range offsets {
		if got := recv(t, r.handled, fmt.Sprintf("message %d", want)); got != want {
			t.Fatalf("handled %d, want %d", got, want)
		}
	}
}

func (r *running) end(t testing.TB) error {
	t.Helper()
	return recv(t, r.ended, "the end of the run")
}

// deliverAt has the broker send chunks on every subscription, from the chunk
// that holds the offset asked for.
func (b *scripted) deliverAt(chunks map[uint64][]string) {
	firsts := slices.Sorted(maps.Keys(chunks))
	b.onSubscribe = func(p *script.Peer, _ int, spec wire.OffsetSpec) {
		var frames [][]byte
		for _, first := range firsts {
			if spec.Type != wire.OffsetAt || first+uint64(len(chunks[first])) > spec.Value {
				frames = append(frames, script.Chunk(first, chunks[first]...))
			}
		}
		b.deliver(p, frames...)
	}
}

func TestRunResumesWithinAChunk(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed, b.stored["billing"] = 3, 3
	b.deliverAt(map[uint64][]string{0: {"a", "b", "c"}, 3: {"d", "e"}})
	r := b.run(t, ConsumerConfig{Name: "billing"}, nil)
	r.want(t, 4)
	r.stop(errTest)
	must(t, r.end(t))
	if got, _ := b.storedOffset("billing"); got != 4 {
		t.Errorf("stored %d, want 4", got)
	}
}

// TestRunHandlesNothingTwice drops the connection after each message.
func TestRunHandlesNothingTwice(t *testing.T) {
	beside(t)
	noLeaks(t)
	b := startScripted(t)
	b.committed = 3
	b.deliverAt(map[uint64][]string{0: {"a", "b", "c"}, 3: {"d", "e"}})
	r := b.run(t, ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 1}}, func(*running, *Delivery) error {
		b.drop()
		return nil
	})
	r.want(t, 0, 1, 2, 3, 4)
	r.stop(errTest)
	must(t, r.end(t))
	if n := len(r.handled); n > 0 {
		t.Errorf("%d messages were handled twice", n)
	}
	if got, _ := b.storedOffset("billing"); got != 4 || !slices.IsSorted(b.history) {
		t.Errorf("stored %v, want ascending up to 4", b.history)
	}
}

// TestRunRefusedWhileReconnecting: what ends a run between two connections does
// not make it forget the mark.
func TestRunRefusedWhileReconnecting(t *testing.T) {
	for name, store := range map[string]*memoryStore{"broker": nil, "OffsetStore": {}} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			b := startScripted(t)
			b.committed = 0
			b.deliverAt(map[uint64][]string{0: {"a", "b"}})
			var refused atomic.Bool
			b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
				if key != wire.KeySubscribe || !refused.Load() {
					return false
				}
				id, _ := wire.Correlation(fields)
				p.Send(&wire.Response{Key: key, Correlation: id, Code: wire.CodeAccessRefused})
				return true
			}
			cfg := ConsumerConfig{Name: "billing", Store: StorePolicy{Interval: time.Hour}}
			if store != nil {
				cfg.OffsetStore = store
			}
			r := b.run(t, cfg, func(_ *running, d *Delivery) error {
				if d.Offset == 1 {
					refused.Store(true)
					b.drop()
				}
				return nil
			})
			r.want(t, 0, 1)
			err := r.end(t)
			wantErr(t, err, ErrAccessRefused)
			switch {
			case store == nil && !errors.Is(err, ErrNotStored):
				t.Errorf("%v does not say that the mark is not stored", err)
			case store != nil && (errors.Is(err, ErrNotStored) || !store.at(1)):
				t.Errorf("the mark is not saved: %v", err)
			}
		})
	}
}

// TestRunPacesACorruptChunk: a chunk that is corrupt for good is asked for with
// growing pauses, though the one before it comes each time, for the stream to
// be recognised.
func TestRunPacesACorruptChunk(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 1
	corrupt := script.Chunk(1, "b")
	corrupt[len(corrupt)-1] ^= 1
	b.onSubscribe = func(p *script.Peer, _ int, _ wire.OffsetSpec) {
		b.deliver(p, script.Chunk(0, "a"), corrupt)
	}
	env := b.env(t)
	env.cfg.Backoff.Max = time.Minute // a session that lasts longer counts as useful
	attempts := make(chan int, 100)
	must(t, env.states.drain())
	env.states = startStates(Config{Logger: env.cfg.Logger, OnState: func(c StateChange) {
		if c.State == StateReconnecting {
			attempts <- c.Attempt
		}
	}})
	got := make(chan uint64, 10)
	stop, _ := runConsumer(t, env, testStream, ConsumerConfig{}, func(d *Delivery) { got <- d.Offset })
	for want := range 5 {
		if n := recv(t, attempts, "an attempt"); n != want+1 {
			t.Errorf("attempt %d, want %d", n, want+1)
		}
	}
	_ = stop()
	if len(got) != 1 {
		t.Errorf("%d messages were handled, want 1", len(got))
	}
}

// TestRunStoresNothingBeforeItRecognises: the first thing that a session does
// is not to store the mark: the stream may be another one.
func TestRunStoresNothingBeforeItRecognises(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 100
	var anew atomic.Bool
	looked := make(chan struct{})
	b.onSubscribe = func(p *script.Peer, _ int, spec wire.OffsetSpec) {
		switch {
		case !anew.Load():
			p.Write(script.Chunk(100, "a", "b"))
		case spec.Type == wire.OffsetAt: // where it left off
			<-looked
			p.Write(script.LaterChunk(100, "x", "y"))
		default:
			p.Write(script.LaterChunk(0, "z"))
		}
	}
	r := b.run(t, ConsumerConfig{Name: "billing"}, func(_ *running, d *Delivery) error {
		if string(d.Body) == "z" {
			return errTest
		}
		return nil
	})
	r.want(t, 100, 101)
	must(t, r.Commit(soon(t)))
	anew.Store(true)
	b.set(func() { b.committed, b.stored, b.history = 500, map[string]uint64{}, nil })
	b.drop()
	eventually(t, "it has subscribed again", patience, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.subscriptions >= 2
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	wantErr(t, r.Commit(ctx), context.DeadlineExceeded) // it waits, as while connecting
	close(looked)
	wantErr(t, recv(t, b.recreated, "the change"), ErrStreamRecreated)
	wantErr(t, r.end(t), errTest)
	if len(b.history) > 0 {
		t.Errorf("stored %v in the new stream, whose messages up to it the next run would skip", b.history)
	}
}

// TestRunStreamMissingForAMoment: a stream that is created again soon enough is
// not a deleted one.
func TestRunStreamMissingForAMoment(t *testing.T) {
	beside(t)
	b, env, stream := faulty(t, 3)
	got := make(chan string, 10)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c"}, func(d *Delivery) { got <- string(d.Body) })
	for range 3 {
		recv(t, got, "a message")
	}
	asked := b.Received(streamtest.Metadata)
	must(t, env.DeleteStream(t.Context(), stream))
	must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.Metadata) > asked }))
	must(t, env.DeclareStream(t.Context(), stream, StreamConfig{}))
	publish(t, env, stream, 7, 9)
	for i := 7; i < 9; i++ {
		if body := recv(t, got, "a message of the new stream"); body != string(number(i)) {
			t.Errorf("got %s, want %d", body, i)
		}
	}
	must(t, stop())
}

// TestRunNodeThatIsBehind: a stream that ends before what was read of it is
// still the same: a replica may be behind, and a new leader not know yet what
// is committed. Nothing is read again, and nothing stored before it is known.
func TestRunNodeThatIsBehind(t *testing.T) {
	for name, committed := range map[string]int64{"behind": 50, "knows nothing": -1} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			b := startScripted(t)
			b.committed = 100
			var reader atomic.Pointer[script.Peer]
			goOn := make(chan struct{})
			b.onSubscribe = func(p *script.Peer, nth int, spec wire.OffsetSpec) {
				switch {
				case nth == 0:
					reader.Store(p)
					p.Write(script.Chunk(100, "a", "b"))
				case spec.Type == wire.OffsetFirst: // it looks
					p.Write(script.Chunk(0, "old"))
				case spec.Value != 100:
					t.Errorf("subscribed at %v", spec)
				default:
					<-goOn
					b.set(func() { b.committed = 102 })
					// it was behind, and catches up
					b.deliver(p, script.Chunk(50, "c"), script.Chunk(100, "a", "b"), script.Chunk(102, "d"))
				}
			}
			r := b.run(t, ConsumerConfig{Name: "billing"}, nil)
			r.want(t, 100, 101)
			must(t, r.Commit(soon(t)))
			b.set(func() { b.committed, b.history = committed, nil })
			_ = reader.Load().Conn.Close()
			eventually(t, "it has subscribed again", patience, func() bool {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.subscriptions >= 2
			})
			b.set(func() {
				if len(b.history) > 0 {
					t.Errorf("stored %v before the stream was recognised", b.history)
				}
			})
			close(goOn)
			r.want(t, 102)
			r.stop(errTest)
			must(t, r.end(t))
			if len(b.recreated) > 0 || len(r.handled) > 0 {
				t.Errorf("it started over: %v", <-b.recreated)
			}
			if got, _ := b.storedOffset("billing"); got != 102 {
				t.Errorf("stored %d, want 102", got)
			}
		})
	}
}

// badSubBatch is a sub-batch of three messages that nobody can decompress.
func badSubBatch() []byte {
	return wire.AppendBatch(nil, wire.Entry{Records: 3, Compression: wire.CompressionUser, Body: []byte("?"), Uncompressed: 1})
}

// TestRunEndsAtAnUndecodableChunk: its checksum is right, so that it is there
// on every attempt, and the error says how to go on behind it.
func TestRunEndsAtAnUndecodableChunk(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 0
	b.onSubscribe = func(p *script.Peer, _ int, _ wire.OffsetSpec) {
		p.Write(script.Deliver(script.FirstID, wire.ChunkHeader{FirstOffset: 7, Entries: 1, Records: 3}, badSubBatch()))
	}
	c, err := b.env(t).NewConsumer(testStream, ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Run(soon(t), func(context.Context, *Delivery) error { return nil })
	wantErr(t, err, ErrMalformed)
	if !strings.Contains(err.Error(), "offsets 7 to 9") || !strings.Contains(err.Error(), "At(10)") {
		t.Errorf("%v does not name the offsets and the remedy", err)
	}
}

// TestAdviceOfAnUndecodableChunkLosesNothing: whoever follows the advice of the
// error gets every message of the chunk but those that nobody can read. What
// comes before them is handled when the run ends, however it is handled.
func TestAdviceOfAnUndecodableChunkLosesNothing(t *testing.T) {
	entry := func(b []byte, body string) []byte { return wire.AppendEntry(b, appendData(nil, []byte(body))) }
	tail := wire.AppendBatch(nil, wire.Entry{Records: 2, Body: append(wire.AppendEntry(entry(nil, "9"), []byte("a")), 'x')})
	short := func(b []byte) []byte { return append(b, 0x7f, 0xff, 0xff, 0xff, 'x') }
	for name, test := range map[string]struct {
		entries, records int
		data             []byte
		before, behind   []uint64
		advice           uint64
	}{
		"sub-batch":            {5, 7, entry(entry(append(entry(entry(nil, "7"), "8"), badSubBatch()...), "12"), "13"), []uint64{7, 8}, []uint64{12, 13}, 11},
		"tail of a sub-batch":  {4, 5, entry(append(entry(entry(nil, "7"), "8"), tail...), "11"), []uint64{7, 8, 9, 10}, []uint64{11}, 10},
		"the rest of a chunk":  {3, 4, short(entry(entry(nil, "7"), "8")), []uint64{7, 8}, nil, 10},
		"a chunk from its top": {2, 2, short(nil), nil, nil, 8},
	} {
		for how, workers := range map[string]int{"one at a time": 0, "workers": 3, "batches": -1} {
			t.Run(name+"/"+how, func(t *testing.T) {
				noLeaks(t)
				b := startScripted(t)
				b.committed = 20
				b.onSubscribe = func(p *script.Peer, _ int, _ wire.OffsetSpec) {
					p.Write(script.Deliver(script.FirstID, wire.ChunkHeader{FirstOffset: 7, Entries: uint16(test.entries), Records: uint32(test.records)}, test.data))
					<-b.creditOf(p)
					p.Write(script.Chunk(20, "behind"))
				}
				env := b.env(t)
				run := func() (handled []uint64, err error) {
					c, err := env.NewConsumer(testStream, ConsumerConfig{Name: "billing", Workers: max(workers, 0), BatchWait: time.Millisecond})
					must(t, err)
					ctx, cancel := context.WithCancel(soon(t))
					var mu sync.Mutex
					handle := func(_ context.Context, d *Delivery) error {
						mu.Lock()
						defer mu.Unlock()
						if handled = append(handled, d.Offset); d.Offset == 20 {
							cancel()
						}
						return nil
					}
					if workers < 0 {
						err = c.RunBatch(ctx, func(ctx context.Context, batch []Delivery) error {
							for i := range batch {
								_ = handle(ctx, &batch[i])
							}
							return nil
						})
					} else {
						err = c.Run(ctx, handle)
					}
					slices.Sort(handled)
					return handled, err
				}
				handled, err := run()
				if wantErr(t, err, ErrMalformed); !slices.Equal(handled, test.before) || !strings.Contains(err.Error(), fmt.Sprintf("store offset %d with", test.advice)) {
					t.Errorf("handled %v, %v", handled, err)
				}
				if last, ok := b.storedOffset("billing"); ok != (len(test.before) > 0) || ok && last != test.before[len(test.before)-1] {
					t.Errorf("stored %d, %v", last, ok)
				}
				must(t, env.StoreOffset(soon(t), "billing", testStream, test.advice))
				if handled, _ = run(); !slices.Equal(handled, append(test.behind, 20)) {
					t.Errorf("then handled %v, want %v and 20", handled, test.behind)
				}
			})
		}
	}
}

// TestRunBacksOffFromABadChunk: a chunk whose checksum is wrong may be so on
// every attempt, and each attempt must not come at once.
func TestRunBacksOffFromABadChunk(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 0
	bad := script.Deliver(script.FirstID, wire.ChunkHeader{Entries: 1, Records: 1}, wire.AppendEntry(nil, []byte("?")))
	bad[len(bad)-1]++
	var mu sync.Mutex
	var at []time.Time
	enough := make(chan struct{})
	b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
		mu.Lock()
		at = append(at, time.Now())
		mu.Unlock()
		if nth == 8 {
			close(enough)
		}
		p.Write(bad)
	}
	e := b.env(t)
	e.cfg.Backoff = Backoff{Min: 20 * time.Millisecond, Max: 20 * time.Millisecond}
	c, err := e.NewConsumer(testStream, ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func(context.Context, *Delivery) error { return nil }) }()
	recv(t, enough, "another attempt")
	cancel()
	recv(t, ended, "the end of the run")
	mu.Lock()
	defer mu.Unlock()
	if took := at[8].Sub(at[0]); took < 7*10*time.Millisecond {
		t.Errorf("9 attempts within %v: there is no pause between them", took)
	}
}

// TestRunKeepsTheHandlersError though the connection and the context ended in
// the same moment.
func TestRunKeepsTheHandlersError(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 0
	b.deliverAt(map[uint64][]string{0: {"a", "b"}})
	r := b.run(t, ConsumerConfig{Name: "billing"}, func(r *running, d *Delivery) error {
		if d.Offset == 0 {
			return nil
		}
		b.drop()
		for r.Commit(context.Background()) == nil {
			// the loss is not noticed yet
		}
		r.stop(nil)
		return errTest
	})
	r.want(t, 0, 1)
	err := r.end(t)
	var h *HandlerError
	if !errors.As(err, &h) || h.Offset != 1 || !errors.Is(err, errTest) {
		t.Errorf("the handler's error is lost: %v", err)
	}
	if got, _ := b.storedOffset("billing"); got != 0 {
		t.Errorf("stored %d, want 0", got)
	}
}

// TestRunReconnectsPastASilentAdmin: a lost connection is made again though the
// administrative one, which is asked for the stream's place, is silent. Its
// heartbeats would tell after a minute and a half.
func TestRunReconnectsPastASilentAdmin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pipedScripted(t)
		b.committed = 0
		var silent, reader atomic.Pointer[script.Peer]
		b.onCommand = func(p *script.Peer, key wire.Key, _ []byte) bool {
			if key != wire.KeyMetadata {
				return false
			}
			return !silent.CompareAndSwap(nil, p) && silent.Load() == p // answers once
		}
		b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
			reader.Store(p)
			p.Write(script.Chunk(uint64(nth), "a"))
		}
		begun := time.Now()
		got := make(chan uint64, 10)
		stop, _ := runConsumer(t, b.env(t), testStream, ConsumerConfig{}, func(d *Delivery) { got <- d.Offset })
		recv(t, got, "the first message")
		b.set(func() { b.committed = 1 })
		_ = reader.Load().Conn.Close()
		if offset := recv(t, got, "the second message"); offset != 1 {
			t.Errorf("handled %d, want 1", offset)
		}
		if took := time.Since(begun); took > patience/2+time.Second {
			t.Errorf("took %v, and a silent connection is waited for half of %v at most", took, patience)
		}
		must(t, stop())
	})
}

// TestRunSurvivesAnEarlyDeliver: a broken peer delivers before anybody has
// subscribed, and something that is no chunk.
func TestRunSurvivesAnEarlyDeliver(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 0
	var once sync.Once
	b.onCommand = func(p *script.Peer, key wire.Key, _ []byte) bool {
		if key == wire.KeyStreamStats {
			once.Do(func() { p.Write([]byte{0, 0, 0, 6, 0, 8, 0, 1, script.FirstID, 0x50}) })
		}
		return false
	}
	b.deliverAt(map[uint64][]string{0: {"a"}})
	r := b.run(t, ConsumerConfig{}, nil)
	r.want(t, 0)
	r.stop(errTest)
	must(t, r.end(t))
}
