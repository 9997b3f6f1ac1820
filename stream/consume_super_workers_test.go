package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// TestSuperStreamWorkers handle the messages of all partitions, as many at a time
// as there are workers, those of a key in order.
func TestSuperStreamWorkers(t *testing.T) {
	for name, store := range map[string]StorePolicy{"by time": {}, "each": {Every: 1}} {
		for _, keyed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keyed %v", name, keyed), func(t *testing.T) {
				playParts(t, 5, func(s *partScene) {
					const workers, each = 4, 300
					s.fill(0, each, s.partitions...)
					cfg := ConsumerConfig{Name: "billing", Workers: workers, MaxAhead: 64, Store: store}
					if keyed {
						cfg.KeyOf = func(d *Delivery) string { return strconv.Itoa(int(d.Offset % 3)) }
					}
					var most atomic.Int32
					last := map[string]uint64{}
					r := s.run(cfg, func(ctx context.Context, d *Delivery) error {
						for n := s.inside.Add(1); n > most.Load(); {
							most.Store(n)
						}
						defer s.inside.Add(-1)
						time.Sleep(time.Millisecond)
						s.note(d)
						s.mu.Lock()
						defer s.mu.Unlock()
						lane := fmt.Sprint(d.Stream, d.Offset%3)
						if before, seen := last[lane]; keyed && seen && d.Offset != before+3 {
							s.Errorf("%s: %d follows %d", lane, d.Offset, before)
						}
						last[lane] = d.Offset
						return nil
					})
					begin := time.Now()
					s.until("all", func() bool { return s.count() == 5*each })
					if took := time.Since(begin); took > 600*time.Millisecond {
						s.Errorf("it took %v", took)
					}
					if n := most.Load(); n != workers {
						s.Errorf("up to %d handlers at a time", n)
					}
					must(s, r.stopped())
					for _, p := range s.partitions {
						s.wantStored("billing", p, each-1)
					}
					if s.count() != 5*each {
						s.Errorf("%d messages", s.count())
					}
				})
			})
		}
	}
}

// TestSuperStreamWorkersTrouble: neither a partition without leader, whose stores
// wait, nor a message that takes an hour keeps the workers from other partitions.
func TestSuperStreamWorkersTrouble(t *testing.T) {
	playParts(t, 5, func(s *partScene) {
		bad, slow := s.partitions[1], s.partitions[3]
		s.fill(0, 300, s.partitions...)
		release := make(chan struct{})
		r := s.run(ConsumerConfig{Name: "billing", Workers: 3, MaxAhead: 50, Store: StorePolicy{Every: 1}}, func(_ context.Context, d *Delivery) error {
			switch {
			case d.Stream == bad && d.Offset == 100:
				must(s, s.b.SetAvailable(bad, false))
			case d.Stream == slow && d.Offset == 100:
				<-release
			}
			s.note(d)
			return nil
		})
		s.until("the others", func() bool {
			for _, p := range s.partitions {
				if p != bad && p != slow && s.countOf(p) < 300 {
					return false
				}
			}
			return s.countOf(bad) > 100 // it is in trouble
		})
		if n := s.countOf(slow); n > 150 {
			s.Errorf("%d messages of the slow partition", n)
		}
		must(s, s.b.SetAvailable(bad, true))
		s.until("the bad one", func() bool { return s.countOf(bad) == 300 })
		close(release)
		s.until("all", func() bool { return s.count() == 1500 })
		must(s, r.stopped())
		for _, p := range s.partitions {
			s.wantStored("billing", p, 299)
		}
	})
}

// heldStore is an OffsetStore in which the saves of one partition wait.
type heldStore struct {
	partition string
	release   chan struct{}
}

func (h *heldStore) Load(context.Context, string, string) (uint64, bool, error) {
	return 0, false, nil
}

func (h *heldStore) Save(_ context.Context, _, partition string, _ uint64) error {
	if partition == h.partition {
		<-h.release
	}
	return nil
}

// TestSuperStreamWorkersWaitForStores: messages of a partition whose stores wait are
// handled as long as fewer of them wait than there are workers. The others go on.
func TestSuperStreamWorkersWaitForStores(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		const workers, each = 3, 100
		s.fill(0, each, s.partitions...)
		store := &heldStore{s.partitions[1], make(chan struct{})}
		r := s.run(ConsumerConfig{Name: "billing", Workers: workers, OffsetStore: store, Store: StorePolicy{Every: 1}}, func(_ context.Context, d *Delivery) error {
			time.Sleep(time.Millisecond) // no worker falls behind: the mark waits for the first
			s.note(d)
			return nil
		})
		s.until("the others", func() bool { return s.count()-s.countOf(store.partition) == 2*each })
		time.Sleep(time.Minute)
		if n := s.countOf(store.partition); n < workers || n > 4*workers { // a store may be for one of each worker's
			s.Errorf("%d messages of the partition whose stores wait", n)
		}
		close(store.release)
		s.until("all", func() bool { return s.count() == 3*each })
		must(s, r.stopped())
	})
}

// TestSuperStreamWorkersFail: a handler's failure ends the others' contexts and the
// run. What lies before it is stored, of every partition.
func TestSuperStreamWorkersFail(t *testing.T) {
	for name, fail := range map[string]func() error{"error": func() error { return errTest }, "panic": func() error { panic(errTest) }, "goexit": func() error { runtime.Goexit(); return nil }} {
		playParts(t, 5, func(s *partScene) {
			s.fill(0, 100, s.partitions...)
			bad, waits := s.partitions[2], atomic.Bool{}
			cfg := ConsumerConfig{Name: "billing", Workers: 3, Drain: 2 * sceneTime} // which nobody waits for
			r := s.run(cfg, func(ctx context.Context, d *Delivery) error {
				switch {
				case d.Stream == bad && d.Offset == 50:
					time.Sleep(time.Second)
					return fail()
				case d.Offset == 99 && d.Stream != bad && !waits.Swap(true):
					<-ctx.Done()
					return ctx.Err()
				}
				s.note(d)
				return nil
			})
			err := r.end()
			var h *HandlerError
			if !errors.As(err, &h) || h.Stream != bad || h.Offset != 50 {
				s.Fatalf("%s: the run ended with %v", name, err)
			}
			s.wantStored("billing", bad, 49)
			for _, p := range s.partitions {
				if n := s.countOf(p); p != bad && n > 0 {
					if got, ok := s.b.Offset("billing", p); !ok || got > uint64(n) {
						s.Errorf("%s: stored for %s: %d, %v", name, p, got, ok)
					}
				}
			}
		})
	}
}

// TestSuperStreamWorkersDrain: the end of the context lets what is begun finish, for
// Drain, and loses nothing.
func TestSuperStreamWorkersDrain(t *testing.T) {
	playParts(t, 5, func(s *partScene) {
		s.fill(0, 200, s.partitions...)
		handled := map[string]int{}
		for round := 1; s.count() < 1000; round++ {
			r := s.run(ConsumerConfig{Name: "billing", Workers: 8}, func(_ context.Context, d *Delivery) error {
				time.Sleep(time.Duration(d.Offset%7) * 10 * time.Millisecond)
				s.mu.Lock()
				defer s.mu.Unlock()
				if key := d.Stream + string(d.Body); handled[key] > 0 {
					s.Errorf("%s at %d is handled again", d.Stream, d.Offset)
				} else {
					handled[key]++
					s.total++
				}
				return nil
			})
			time.Sleep(200 * time.Millisecond)
			begin := time.Now()
			must(s, r.stopped())
			if took := time.Since(begin); took > time.Second {
				s.Errorf("round %d: the end took %v", round, took)
			}
		}
	})
}

// TestWorkersWaitForStoresAndRoom: workers that wait for a store of a session that
// has ended, and a run that waits for room, do not wait for each other.
func TestWorkersWaitForStoresAndRoom(t *testing.T) {
	playParts(t, 1, func(s *partScene) {
		s.fill(0, 1000, "s")
		c, err := s.env.NewConsumer("s", ConsumerConfig{Name: "billing", Workers: 3, MaxAhead: 20, Store: StorePolicy{Every: 1}})
		must(s, err)
		r := s.start(func(ctx context.Context) error {
			return c.Run(ctx, func(_ context.Context, d *Delivery) error {
				if d.Offset == 500 {
					must(s, s.b.SetAvailable("s", false))
					time.AfterFunc(10*time.Second, func() { must(s, s.b.SetAvailable("s", true)) })
				}
				s.note(d)
				return nil
			})
		})
		s.until("all", func() bool { return s.count() == 1000 })
		must(s, r.stopped())
	})
}
