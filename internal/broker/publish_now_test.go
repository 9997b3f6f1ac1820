package broker

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// nowBench is a publisher on a connection whose socket takes n bytes of a frame at
// once, which nobody sees. The peer sees the rest.
func nowBench(t *testing.T, n int) (*senderBench, *Conn, net.Conn) {
	s := newSenderBench(t, "a", "b")
	c, theirs := pipedHooks(t, time.Hour, hooks{outcomes: func(wire.Outcomes) {}})
	new(fakeRaw).takes(&c.direct, n)
	for _, p := range s.publishers {
		p.lease.conn = &sharedConn{Conn: c}
	}
	c.wg.Go(func() { s.run(c) })
	return s, c, theirs
}

// wantRead reads from a connection what must come.
func wantRead(t *testing.T, from io.Reader, want ...[]byte) {
	t.Helper()
	all := bytes.Join(want, nil)
	got := make([]byte, len(all))
	if _, err := io.ReadFull(from, got); err != nil || !bytes.Equal(got, all) {
		t.Errorf("the peer got %x, %v; want %x", got, err, all)
	}
}

// A frame that the socket takes is written when SendNow returns.
func TestSendNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := nowBench(t, len((&feed{}).frame([]uint64{1})))
		f := s.feeds["a"]
		for id := range uint64(3) {
			f.give(id, id)
			s.publishers["a"].SendNow()
			if f.sent != int(id)+1 || s.busy || s.publishers["a"].queued {
				t.Errorf("Sent came %d times", f.sent)
			}
		}
		s.publishers["a"].SendNow() // nothing
		if r := s.sender; r.woken() || s.busy {
			t.Error("the goroutine is woken")
		}
	})
}

// TestSendNowPart: of a frame of which the socket takes a part, the sender's
// goroutine writes the rest, before anything else. So it does for what the socket
// does not take at all, and for several frames.
func TestSendNowPart(t *testing.T) {
	for name, test := range map[string]struct {
		takes, frames int
	}{"a part": {7, 1}, "nothing": {0, 1}, "two frames": {7, 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c, theirs := nowBench(t, test.takes)
				a, b := s.publishers["a"], s.publishers["b"]
				var want []byte
				for id := range uint64(test.frames) {
					s.feeds["a"].give(id, id)
					want = append(want, s.feeds["a"].frame([]uint64{id})...)
				}
				if test.frames == 1 {
					want = want[test.takes:]
				}
				a.SendNow()
				if s.feeds["a"].sent != 0 {
					t.Error("the socket does not have the frame, and Sent has come")
				}
				synctest.Wait()
				s.feeds["b"].give(1, 1)
				b.SendNow()
				go func() { check.Nil(t, c.sendBytes(t.Context(), []byte("other"))) }()
				synctest.Wait()
				wantRead(t, theirs, want)
				synctest.Wait()
				if s.feeds["a"].sent != 1 {
					t.Errorf("Sent came %d times", s.feeds["a"].sent)
				}
				// Who waited for the socket first is next.
				wantRead(t, theirs, []byte("other"), s.feeds["b"].frame([]uint64{1}))
				synctest.Wait()
				if s.busy || s.left != nil || len(c.direct.rest) != 0 {
					t.Error("it has not come to an end")
				}
			})
		})
	}
}

// The writer may write the rest of a frame that SendNow began.
func TestSendNowRestByWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, theirs := nowBench(t, 7)
		c.direct.mu.Lock()
		go func() { check.Nil(t, c.sendBytes(t.Context(), []byte("other"))) }()
		synctest.Wait() // the writer is first
		c.direct.rest = []byte("rest")
		s.left = &turn{of: []*Publisher{s.publishers["a"]}}
		s.publishers["a"].turns = 1
		s.poke()
		synctest.Wait()
		c.direct.mu.Unlock()
		wantRead(t, theirs, []byte("restother"))
		synctest.Wait()
		if s.feeds["a"].sent != 1 {
			t.Errorf("Sent came %d times", s.feeds["a"].sent)
		}
	})
}

// What SendNow leaves to a goroutine that ends with the connection is ended all the
// same, and from then on nothing is taken.
func TestSendNowAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, theirs := nowBench(t, 0)
		a, f := s.publishers["a"], s.feeds["a"]
		f.give(1, 1)
		a.SendNow()
		synctest.Wait()
		_ = theirs.Close()
		synctest.Wait()
		if f.sent != 1 || c.Alive() {
			t.Errorf("Sent came %d times", f.sent)
		}
		f.give(2, 2)
		a.SendNow()
		if f.taken != 1 {
			t.Error("it is taken from after the end")
		}
		// The goroutine ended while SendNow wrote, or it had not come to what was left.
		late := &turn{of: []*Publisher{a}}
		if s.leaveTo(late) || s.left != nil {
			t.Error("nobody will end it")
		}
		s.over, s.left, a.turns = false, late, 1
		s.stop()
		if f.sent != 2 || s.left != nil || !s.over {
			t.Errorf("Sent came %d times", f.sent)
		}
	})
}

// Who becomes ready while SendNow writes is not forgotten.
func TestSendNowMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, theirs := nowBench(t, len((&feed{}).frame([]uint64{1})))
		s.feeds["b"].give(1, 1)
		f := s.feeds["a"]
		f.give(1, 1)
		f.during = func() { f.during = nil; s.publishers["b"].Ready() }
		s.publishers["a"].SendNow()
		wantRead(t, theirs, s.feeds["b"].frame([]uint64{1}))
	})
}
