package stream

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// lastBench is a storer at work that was asked for its last store, and waits for
// a batch.
type lastBench struct {
	*bench
	batch *fakeBatch
	mu    sync.Mutex
	read  []uint64
	got   chan error
	end   context.CancelCauseFunc // of who asks
}

// awaitLast runs a test with a mark at 7.
func awaitLast(t *testing.T, test func(t *testing.T, b *lastBench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &lastBench{batch: &fakeBatch{}, got: make(chan error, 1)}
		b.bench = startBench(StorePolicy{}, &stores{batch: b.batch, reads: func(offset uint64) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.read = append(b.read, offset)
			return nil
		}})
		defer b.storer.stop()
		ctx, end := context.WithCancelCause(t.Context())
		b.end = end
		b.markNext(7, 1)
		synctest.Wait()
		go func() { b.got <- b.requests.ask(ctx, storeLast, nil) }()
		synctest.Wait()
		if len(b.got) > 0 || len(b.reads()) > 0 || b.asked() != 1 {
			t.Errorf("before the batch: %d answers, read back %v, asked for a batch %d times", len(b.got), b.reads(), b.asked())
		}
		test(t, b)
	})
}

// reads returns what was read back.
func (b *lastBench) reads() []uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.read)
}

// asked returns how often the storer has asked for a batch.
func (b *lastBench) asked() int {
	b.batch.mu.Lock()
	defer b.batch.mu.Unlock()
	return b.batch.next
}

// leave is the batch, which any other storer sends.
func (b *lastBench) leave(t *testing.T, err error) {
	t.Helper()
	if offset, ok := b.storer.Take(); !ok || offset != 7 {
		t.Fatalf("taken %d, %v", offset, ok)
	}
	if b.storer.Taken(err) {
		t.Error("it is to be stored with the next batch too")
	}
	synctest.Wait()
}

// free reports whether nobody holds the storer's turn to send.
func (b *lastBench) free() bool {
	free := b.storer.sending.TryLock()
	if free {
		b.storer.sending.Unlock()
	}
	return free
}

// TestLastStoreWithOthers: the last store leaves with a batch, and is read back
// after what other connections have carried.
func TestLastStoreWithOthers(t *testing.T) {
	awaitLast(t, func(t *testing.T, b *lastBench) {
		time.Sleep(batchPatience / 2)
		b.leave(t, nil)
		must(t, <-b.got)
		if !slices.Equal(b.reads(), []uint64{7}) || b.batch.settled != 1 {
			t.Errorf("read back %v, settled %d times", b.reads(), b.batch.settled)
		}
		if s := b.storer; !b.free() || s.stores.Load() != 1 || s.lastOffset != 7 || !s.settled.Load() || b.batch.yields == 0 {
			t.Errorf("%d stores, the last of %d, settled %v", s.stores.Load(), s.lastOffset, s.settled.Load())
		}
		wantMark(t, b.progress, 7, 0)
		b.want(t, "by itself")
		b.storer.stop()
		if !b.batch.retired {
			t.Error("a batch may go over its connection")
		}
	})
}

// TestLastStoreBehindABatch: a batch that was about to leave when the last store was
// asked for has taken an older mark, which is not the last one.
func TestLastStoreBehindABatch(t *testing.T) {
	for _, patient := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			read := make(chan uint64, 10)
			batch := &fakeBatch{}
			b := startBench(StorePolicy{}, &stores{batch: batch, reads: func(offset uint64) error { read <- offset; return nil }})
			defer b.storer.stop()
			b.markNext(7, 1)
			if offset, ok := b.storer.Take(); !ok || offset != 7 {
				t.Fatalf("taken %d, %v", offset, ok)
			}
			b.markNext(8, 1)
			got := make(chan error, 1)
			go func() { got <- b.requests.ask(t.Context(), storeLast, nil) }()
			synctest.Wait()
			b.storer.Taken(nil)
			synctest.Wait()
			if len(got) > 0 || len(read) > 0 {
				t.Error("the older mark counts")
			}
			if patient {
				if offset, ok := b.storer.Take(); !ok || offset != 8 {
					t.Errorf("taken %d, %v", offset, ok)
				}
				b.storer.Taken(nil)
			} // else it stores by itself
			must(t, <-got)
			if offset := <-read; offset != 8 || len(read) > 0 {
				t.Errorf("read back %d, and %d more", offset, len(read))
			}
			wantMark(t, b.progress, 8, 0)
		})
	}
}

// What counts as stored, and what is read back, is what the batch has taken; no
// other store comes between, and none is lost that is handled meanwhile.
func TestLastStoreIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reading, read := make(chan uint64), make(chan error)
		batch := &fakeBatch{}
		b := startBench(StorePolicy{}, &stores{batch: batch, reads: func(offset uint64) error { reading <- offset; return <-read }})
		defer b.storer.stop()
		for i, fails := range []error{nil, errTest} {
			b.markNext(uint64(10*i), 1)
			got := make(chan error, 1)
			go func() { got <- b.requests.ask(t.Context(), storeLast, nil) }()
			synctest.Wait()
			b.markNext(uint64(10*i+1), 1)
			b.storer.Take()
			b.markNext(uint64(10*i+2), 1)
			b.storer.Taken(nil)
			if got := <-reading; got != uint64(10*i+1) {
				t.Errorf("%d is read back", got)
			}
			if _, ok := b.storer.Take(); ok {
				t.Error("another store may begin")
			}
			read <- fails
			wantErr(t, <-got, fails)
			if due, _ := b.progress.due(true); !due || b.storer.settled.Load() != (fails == nil) {
				t.Errorf("%v: what was handled meanwhile is due: %v; settled: %v", fails, due, b.storer.settled.Load())
			}
			synctest.Wait()
			if _, ok := b.storer.Take(); !ok {
				t.Fatal("nothing may be stored any more")
			}
			b.storer.Taken(nil)
		}
		go func() { <-reading; read <- nil }() // of the quiet time that follows
		time.Sleep(3 * quietAfter)
	})
}

// A storer that leads while it waits comes back when the batch is due, and one
// that is woken looks whether it has to lead now.
func TestLastStoreLeads(t *testing.T) {
	awaitLast(t, func(t *testing.T, b *lastBench) {
		b.batch.mu.Lock()
		b.batch.leads, b.batch.at = true, time.Now().Add(50*time.Millisecond)
		b.batch.mu.Unlock()
		b.storer.Wake()
		synctest.Wait()
		if b.asked() != 2 {
			t.Errorf("asked for a batch %d times after it was woken", b.asked())
		}
		time.Sleep(40 * time.Millisecond)
		if synctest.Wait(); b.asked() != 2 {
			t.Errorf("asked for a batch %d times before it is due", b.asked())
		}
		b.batch.mu.Lock()
		b.batch.leads = false
		b.batch.onNext = func() { b.storer.Take(); b.storer.Taken(nil) } // it sends the batch itself
		b.batch.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		must(t, <-b.got)
		if synctest.Wait(); b.asked() != 3 || b.storer.stores.Load() != 1 {
			t.Errorf("asked for a batch %d times; %d stores", b.batch.next, b.storer.stores.Load())
		}
	})
}

// TestLastStoreWithoutBatch: a storer whom the batch fails stores by itself.
func TestLastStoreWithoutBatch(t *testing.T) {
	for name, test := range map[string]struct {
		fail func(t *testing.T, b *lastBench)
		took time.Duration
	}{
		"not sent":     {fail: func(t *testing.T, b *lastBench) { b.leave(t, errTest) }},
		"nobody sends": {fail: func(*testing.T, *lastBench) {}, took: batchPatience},
		"not usable":   {fail: func(_ *testing.T, b *lastBench) { b.batch.gone = true; b.storer.Wake() }},
		"cannot lead":  {fail: func(_ *testing.T, b *lastBench) { b.batch.fails = errTest; b.storer.Wake() }},
		"due too late": {fail: func(_ *testing.T, b *lastBench) {
			b.batch.leads, b.batch.at = true, time.Now().Add(time.Hour)
			b.storer.Wake()
		}, took: batchPatience},
		"woken for ever": {fail: func(_ *testing.T, b *lastBench) {
			for range 100 {
				b.storer.Wake()
				time.Sleep(batchPatience / 100)
			}
		}, took: batchPatience},
	} {
		t.Run(name, func(t *testing.T) {
			awaitLast(t, func(t *testing.T, b *lastBench) {
				begin := time.Now()
				test.fail(t, b)
				must(t, <-b.got)
				if got := b.list(); !slices.Equal(got, []uint64{7}) || !slices.Equal(b.reads(), []uint64{7}) || !b.free() {
					t.Errorf("stored %v, read back %v", got, b.reads())
				}
				if took := time.Since(begin); took != test.took {
					t.Errorf("after %v, want %v", took, test.took)
				}
				wantMark(t, b.progress, 7, 0)
			})
		})
	}
}

// The end of a context ends the wait for a batch, and what the batch does after
// that counts as for any other store.
func TestLastStoreGivenUp(t *testing.T) {
	awaitLast(t, func(t *testing.T, b *lastBench) {
		b.end(errTest)
		wantErr(t, <-b.got, errTest)
		if synctest.Wait(); !b.free() {
			t.Fatal("nobody else can store")
		}
		b.leave(t, nil)
		if b.storer.stores.Load() != 1 || !b.free() {
			t.Errorf("%d stores; nobody may store: %v", b.storer.stores.Load(), !b.free())
		}
		wantMark(t, b.progress, 7, 0)
	})
	awaitLast(t, func(t *testing.T, b *lastBench) { // that of the session
		b.storer.stop()
		wantErr(t, <-b.got, ErrUnreachable)
		if !b.free() {
			t.Error("nobody else can store")
		}
		wantMark(t, b.progress, 7, 1)
	})
}

// TestLeaveBatch: what a batch has sent by the time that the storer stops waiting
// counts, and leaves the turn to the storer.
func TestLeaveBatch(t *testing.T) {
	for _, fails := range []error{nil, errTest} {
		s, _ := batchedStorer(StorePolicy{})
		s.progress.markNext(7, 1)
		handOn := s.awaitBatch()
		s.Take()
		s.Taken(fails)
		if sent := s.leaveBatch(handOn); sent != (fails == nil) || s.sending.TryLock() == sent {
			t.Errorf("%v: sent %v, or the turn is not where it belongs", fails, sent)
		}
		if s.progress.tracker.Unstored() != 1 {
			t.Error("it counts as stored before it was read back")
		}
	}
}

// A Commit does not wait for a batch, and neither does a run's end without a
// mark.
func TestCommitWaitsForNoBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		batch := &fakeBatch{}
		b := startBench(StorePolicy{Manual: true}, &stores{batch: batch})
		defer b.storer.stop()
		must(t, b.requests.ask(t.Context(), storeLast, nil))
		b.markNext(7, 1)
		must(t, b.requests.ask(t.Context(), storeRead, nil))
		if b.want(t, "by itself", 7); batch.next > 0 {
			t.Errorf("it asks for %d batches", batch.next)
		}
	})
}

// storePackets counts the writes of a client in which offsets are stored.
type storePackets struct {
	mu    sync.Mutex
	count int
	onOne func(n int, c net.Conn) // called before each, with its number and connection
}

// storingConn counts its writes that begin with a StoreOffset.
type storingConn struct {
	net.Conn
	packets *storePackets
}

func (c storingConn) Write(b []byte) (int, error) {
	if len(b) > 6 && bytes.Equal(b[4:6], []byte{0, byte(wire.KeyStoreOffset)}) {
		c.packets.mu.Lock()
		c.packets.count++
		if c.packets.onOne != nil {
			c.packets.onOne(c.packets.count, c.Conn)
		}
		c.packets.mu.Unlock()
	}
	return c.Conn.Write(b)
}

// take returns how many packets there were since the last call.
func (p *storePackets) take() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.count
	p.count = 0
	return n
}

func (p *storePackets) do(onOne func(n int, c net.Conn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onOne = onOne
}

// ending is consumers of one stream that have handled all of it, whose marks are
// stored but for the last message, and which end together.
type ending struct {
	*testing.T
	b       *streamtest.Broker
	env     *Env
	packets *storePackets
	stop    context.CancelFunc
	errs    chan error
	names   []string
}

const endingMessages = 3

// endTogether runs a test with consumers.
func endTogether(t *testing.T, consumers int, cfg ConsumerConfig, test func(e *ending), opts ...streamtest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		e := &ending{T: t, packets: &storePackets{}, errs: make(chan error, consumers)}
		e.b = streamtest.NewBroker(t, append(opts, streamtest.InMemory())...)
		must(t, e.b.CreateStream("s"))
		must(t, e.b.Publish("s", "0", "1"))
		var err error
		e.env, err = Connect(ctx, Config{URIs: []string{e.b.URI()}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := e.b.Dial(ctx, network, address)
			return storingConn{c, e.packets}, err
		}})
		must(t, err)
		defer e.env.Close()
		run, stop := context.WithCancel(ctx)
		defer stop()
		e.stop = stop
		var handled, held sync.WaitGroup
		held.Add(1)
		handled.Add(consumers)
		for i := range consumers {
			cfg.Name = fmt.Sprint("c", i)
			e.names = append(e.names, cfg.Name)
			c, err := e.env.NewConsumer("s", cfg)
			must(t, err)
			go func() {
				e.errs <- c.Run(run, func(_ context.Context, d *Delivery) error {
					if d.Offset == endingMessages-1 {
						handled.Done()
						held.Wait()
					}
					return nil
				})
			}()
		}
		time.Sleep(time.Minute)
		must(t, e.b.Publish("s", "2"))
		handled.Wait()
		time.Sleep(time.Minute)
		e.packets.take()
		stop() // while the handlers have the last message in hand
		go held.Done()
		test(e)
	})
}

// wait waits for all to have ended, and compares what they have stored.
func (e *ending) wait() {
	e.Helper()
	for range e.names {
		if err := <-e.errs; err != nil {
			e.Error(err)
		}
	}
	for _, name := range e.names {
		if got, ok := e.b.Offset(name, "s"); !ok || got != endingMessages-1 {
			e.Errorf("%s: the offset %d is stored, %v; want %d", name, got, ok, endingMessages-1)
		}
	}
}

// TestEndTogether: consumers that end together store their marks in two packets,
// whether they share a subscription or not, and wait for no longer than a batch.
func TestEndTogether(t *testing.T) {
	for _, own := range []bool{false, true} {
		endTogether(t, 200, ConsumerConfig{OwnSubscription: own}, func(e *ending) {
			begin := time.Now()
			e.wait()
			if took := time.Since(begin); took > 100*time.Millisecond {
				e.Errorf("own %v: the end took %v", own, took)
			}
			if n := e.packets.take(); n > 2 {
				e.Errorf("own %v: %d packets of stores", own, n)
			}
		}, streamtest.WithVersion("4.0.5"))
	}
}

// TestEndAlone: a consumer that has a stream for itself stores at once, and two
// wait for each other for a moment.
func TestEndAlone(t *testing.T) {
	for consumers := 1; consumers <= 2; consumers++ {
		endTogether(t, consumers, ConsumerConfig{}, func(e *ending) {
			begin := time.Now()
			e.wait()
			if took := time.Since(begin); took > time.Duration(consumers-1)*2*time.Millisecond {
				e.Errorf("the end of %d consumers took %v", consumers, took)
			}
		})
	}
}

// TestEndTogetherWithLoss: a connection that is lost under the first batch, or
// under the one with the others' marks, costs no mark.
func TestEndTogetherWithLoss(t *testing.T) {
	for lost := range 2 {
		endTogether(t, 20, ConsumerConfig{OwnSubscription: true}, func(e *ending) {
			e.packets.do(func(n int, c net.Conn) {
				if n-1 == lost {
					_ = c.Close()
				}
			})
			e.wait()
			if n := e.packets.take(); n <= lost {
				e.Errorf("there were %d packets", n)
			}
		}, streamtest.WithVersion("4.0.5"))
	}
}

// TestEndTogetherWithLostStores: stores that the broker loses are sent again.
func TestEndTogetherWithLostStores(t *testing.T) {
	endTogether(t, 20, ConsumerConfig{}, func(e *ending) {
		e.b.LoseStores(15)
		e.wait()
	})
}

// A storer leaves the batch while it reads back, and looks again after that. While
// stores follow each other it stays.
func TestQuietStorerYields(t *testing.T) {
	s, b := batchedStorer(StorePolicy{})
	s.settled.Store(false)
	s.stores.Store(1)
	s.leads = true
	if s.verifyWhenQuiet(t.Context()); b.yields != 0 || !s.leads {
		t.Errorf("%d times handed over within a burst", b.yields)
	}
	if s.verifyWhenQuiet(t.Context()); b.yields != 1 || s.leads || len(s.progress.wake) != 1 {
		t.Errorf("%d times handed over, %d looks follow", b.yields, len(s.progress.wake))
	}
}

// TestLockWithin: nobody whose context has ended gets the turn, though it is free.
func TestLockWithin(t *testing.T) {
	free := newTurn()
	must(t, free.LockWithin(t.Context()))
	free.Unlock()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	for range 50 {
		wantErr(t, free.LockWithin(ctx), errTest)
	}
}
