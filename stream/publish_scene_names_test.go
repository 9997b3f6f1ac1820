package stream

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// TestSceneTwoProducers: two processes count their ids under one name. Both publish
// all the time. The older one ends with ErrNameInUse within 2 s, the younger one
// gets its first confirm only then, and what either was told is confirmed is there.
func TestSceneTwoProducers(t *testing.T) {
	for range sceneRuns(t, 3) {
		play(t, Config{}, func(s *scene) {
			older := s.logOf(s.producer("s", ProducerConfig{Name: "n"}))
			var life sync.WaitGroup
			ended := make(chan time.Time, 1)
			life.Go(func() {
				for i := 0; ; i++ {
					body := text("old %d", i)
					err := older.p.Publish(s.ctx, body)
					older.mu.Lock()
					older.accepted = append(older.accepted, string(body.Body))
					older.mu.Unlock()
					if older.settle(string(body.Body), err); err != nil {
						wantErr(s, err, ErrNameInUse)
						ended <- time.Now()
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
			time.Sleep(time.Second)
			younger := s.logOf(s.producerOf(s.connect(Config{}), "s", ProducerConfig{Name: "n"}))
			begin := time.Now()
			younger.publish(text("new 0"))
			if err := younger.p.Flush(s.ctx); err != nil {
				s.Fatal(err)
			}
			confirmed := time.Now()
			for i := range 100 {
				younger.publish(text("new %d", 1+i))
			}
			end := <-ended
			life.Wait()
			if took := end.Sub(begin); took > 2*time.Second {
				s.Errorf("the older one ended %v after the younger one had begun", took)
			}
			if end.After(confirmed) {
				s.Errorf("the younger one published %v before the older one ended", end.Sub(confirmed))
			}
			must(s, younger.p.Close(s.ctx))
			younger.checkAll()
			if failed := older.checkConfirmed(); len(failed) != 1 {
				s.Errorf("%q failed", failed)
			}
		})
	}
}

// TestSceneLateConfirm: what the older one has on its way is read by the broker behind
// the younger one's first message: dropped as a repeat, and confirmed. That confirm
// does not count, for the older one's last look is too old.
func TestSceneLateConfirm(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		older := s.logOf(s.producer("s", ProducerConfig{Name: "n"}))
		older.publish(text("old 0"))
		must(s, older.p.Flush(s.ctx))
		for _, c := range s.b.Connections() {
			if c.Publishers > 0 {
				s.b.StopReadingFrom(c.Name)
			}
		}
		for i := range 3000 { // a packet gets through
			older.publish(text("old %d", 1+i))
		}
		time.Sleep(time.Millisecond) // until all frames are on their way
		younger := s.logOf(s.producerOf(s.connect(Config{}), "s", ProducerConfig{Name: "n"}))
		younger.publish(text("new"))
		must(s, younger.p.Flush(s.ctx))
		s.b.ClearFaults()
		s.until("the older one has ended", func() bool { return older.count() == 3001 })
		if failed := older.checkConfirmed(); len(failed) == 0 {
			s.Error("everything of the older one was confirmed: nothing of it came late")
		} else {
			wantErr(s, older.of[failed[0]], ErrUnconfirmed, ErrNameInUse)
		}
		must(s, younger.p.Close(s.ctx))
		younger.checkAll()
	})
}

// TestSceneOutranked: whoever counts notices ids above its own, of a client that
// knows of no lease, at its next look, and ends.
func TestSceneOutranked(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{Name: "n"})
		must(s, p.Publish(s.ctx, text("counted")))
		m := text("own")
		m.PublishingID = 1 << 50
		must(s, s.producerOf(s.connect(Config{}), "s", ProducerConfig{Name: "n"}).Publish(s.ctx, m))
		begin := time.Now()
		var err error
		for err == nil && time.Since(begin) < time.Minute {
			time.Sleep(10 * time.Millisecond)
			err = p.Publish(s.ctx, text("counted"))
		}
		wantErr(s, err, ErrNameInUse)
		if took := time.Since(begin); took > 2*time.Second {
			s.Errorf("it went on for %v", took)
		}
	})
}

// TestSceneNameGivenBack: a name that was given back is free at once. One whose
// process has died is free 2 s later.
func TestSceneNameGivenBack(t *testing.T) {
	for _, closed := range []bool{true, false} {
		play(t, Config{}, func(s *scene) {
			env := s.connect(Config{})
			p := s.producerOf(env, "s", ProducerConfig{Name: "n"})
			must(s, p.Publish(s.ctx, text("old")))
			next := s.producer("s", ProducerConfig{Name: "n"})
			if closed {
				must(s, p.Close(s.ctx))
			}
			begin := time.Now()
			must(s, next.Publish(s.ctx, text("new")))
			if took := time.Since(begin); closed && took > 0 || !closed && took < 2*time.Second {
				s.Errorf("closed: %v; the next one had its first confirm after %v", closed, took)
			}
			if got := s.bodies("s"); !slices.Equal(got, []string{"old", "new"}) {
				s.Errorf("the stream has %q", got)
			}
		})
	}
}

// TestSceneSameIDsTwice: two processes publish the same messages with the same ids
// of their callers under one name, to be redundant. Neither is held up or ended,
// and each message is there once.
func TestSceneSameIDsTwice(t *testing.T) {
	for range sceneRuns(t, 3) {
		play(t, Config{}, func(s *scene) {
			const total = 500
			var both sync.WaitGroup
			for range 2 {
				p := s.producerOf(s.connect(Config{}), "s", ProducerConfig{Name: "n"})
				both.Go(func() {
					begin := time.Now()
					for i := range total {
						m := text("%d", i)
						m.PublishingID = uint64(i + 1)
						if err := p.Publish(s.ctx, m); err != nil {
							s.Errorf("message %d: %v", i, err)
							return
						}
						time.Sleep(time.Millisecond)
					}
					if took := time.Since(begin); took > total*time.Millisecond {
						s.Errorf("%d messages took %v", total, took)
					}
				})
			}
			both.Wait()
			got := s.bodies("s")
			for i := range total {
				if i >= len(got) || got[i] != string(text("%d", i).Body) {
					s.Fatalf("message %d is not where it belongs: %q", i, got[max(0, min(i, len(got))-2):min(i+3, len(got))])
				}
			}
			if len(got) != total {
				s.Errorf("%d messages, want %d", len(got), total)
			}
			if n := len(s.reported(StateReconnecting)); n > 0 {
				s.Errorf("%d reconnects", n)
			}
		})
	}
}
