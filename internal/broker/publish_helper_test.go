package broker

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// feed is a source of frames that a test fills.
type feed struct {
	mu      sync.Mutex
	pub     *Publisher // that counts the outcomes, or nil
	id      uint8
	name    string     // in front of its bodies
	waiting [][]uint64 // publishing ids, those of a frame each
	padding int        // bytes in a body
	during  func()     // called by Take, unlocked
	rooms   []int      // that Take was offered
	taken   int        // frames
	sent    int        // calls of Sent
	got     []string   // outcomes
	moved   []string
	retired int
	endless bool // what was taken waits again
	filling bool // the last frame is not full
}

// give adds a frame with the publishing ids from first to last.
func (f *feed) give(first, last uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []uint64
	for id := first; id <= last; id++ {
		ids = append(ids, id)
	}
	f.waiting = append(f.waiting, ids)
}

func (f *feed) Take(frames [][]byte, may Allowance) (_ [][]byte, entries int, rest Rest) {
	f.mu.Lock()
	during := f.during
	f.rooms = append(f.rooms, may.Room)
	f.mu.Unlock()
	if during != nil {
		during()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for may.Size > 0 {
		if len(f.waiting) == 0 {
			return frames, entries, TookAll
		}
		ids := f.waiting[0]
		if len(ids) > may.Room {
			return frames, entries, NoRoom
		}
		if may.Full && f.filling && len(f.waiting) == 1 {
			return frames, entries, NotFull
		}
		if f.waiting = f.waiting[1:]; f.endless {
			f.waiting = append(f.waiting, ids)
		}
		frame := f.frame(ids)
		may.Size, may.Room = may.Size-len(frame), may.Room-len(ids)
		frames, entries, f.taken = append(frames, frame), entries+len(ids), f.taken+1
	}
	return frames, entries, TookSome
}

func (f *feed) frame(ids []uint64) []byte {
	b := wire.BeginPublish(nil, wire.Version1, f.id)
	for _, id := range ids {
		b = wire.AppendPublishEntry(b, id, append([]byte(f.name), make([]byte, f.padding)...))
	}
	return wire.FinishPublish(b, 0, len(ids))
}

func (f *feed) Sent() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent++
}

func (f *feed) Outcomes(o wire.Outcomes) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range o.Len() {
		id, code := o.At(i)
		f.got = append(f.got, fmt.Sprint(id, " ", uint16(code)))
	}
	if f.pub != nil {
		f.pub.Settled(o.Len())
	}
}

func (f *feed) Moved(stream string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved = append(f.moved, stream)
}

func (f *feed) Retire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retired++
}

// look returns what a test compares. The feed is locked meanwhile.
func look[T any](f *feed, get func() T) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return get()
}

// publishing returns a cluster whose nodes are a fake, at the other end of pipes.
// Each of its two connections to a node is for publishing. The cluster is closed at
// the end of the test.
func (b *fake) publishing(t *testing.T, heartbeat time.Duration) *Cluster {
	t.Helper()
	var serving sync.WaitGroup
	c := NewCluster(Options{DialTimeout: time.Minute, Heartbeat: heartbeat, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		serving.Go(func() {
			defer theirs.Close()
			p := script.NewPeer(t, theirs)
			if p.Welcome() {
				b.mu.Lock()
				b.peers = append(b.peers, p)
				b.mu.Unlock()
				b.serve(p)
			}
		})
		return ours, nil
	}}, nil)
	c.publishers.perNode = conns(1)
	t.Cleanup(func() {
		c.Close()
		b.mu.Lock()
		for _, p := range b.peers {
			_ = p.Conn.Close()
		}
		b.mu.Unlock()
		serving.Wait()
	})
	return c
}

// publisher returns a publisher of a stream, with its source, that the broker
// knows. The end of the test does not release it.
func (b *fake) publisher(t *testing.T, c *Cluster, stream string) (*Publisher, *feed) {
	t.Helper()
	f := &feed{}
	p, err := c.Publish(t.Context(), testContact, testNode, stream, f, false)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.pub, f.id = p, p.ID()
	f.mu.Unlock()
	check.Nil(t, p.Declare(t.Context(), ""))
	return p, f
}

var testContact = Contact{Endpoint: Endpoint{Host: "x", Port: 1, User: script.User, Password: script.Password, VHost: "/"}}
