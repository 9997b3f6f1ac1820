package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/stream"
)

// crowd is the consumers of one measurement, which end together. Each reads a
// stream under a name of its own.
type crowd struct {
	m       *meter
	members []*member
	begun   latch         // each member has a message
	full    latch         // each member has all of its messages
	hold    chan struct{} // nil, or what a handler waits for until it is closed
	base    time.Time     // the times in messages count from it
	stop    context.CancelCauseFunc
	timed   bool // the clock starts with the first message
	others  int  // connections of this process that are not the consumers'

	mu        sync.Mutex
	last      time.Time // when the last member so far had ended
	notStored int       // members that ended with stream.ErrNotStored
}

// member is one consumer of a crowd.
type member struct {
	crowd        *crowd
	stream, name string
	want, n      int
	handled      uint64    // offset of the last message
	latencies    []float64 // in milliseconds, where messages tell when they were sent
}

// crowdReader starts a consumer for each member, and returns once ctx has ended
// and all of them are closed.
type crowdReader func(ctx context.Context, j job, c *crowd) error

// newCrowd makes the consumers of a job, each of which gets want messages.
func newCrowd(j job, m *meter, want int) *crowd {
	c := &crowd{m: m, begun: newLatch(j.Consumers), full: newLatch(j.Consumers), base: time.Now()}
	for i := range j.Consumers {
		c.members = append(c.members, &member{crowd: c, stream: j.streamOf(i), name: fmt.Sprintf("%s-%d", j.Name, i), want: want})
	}
	m.status = c.status
	return c
}

// run reads while drive runs, and ends all members together. It notes how that
// went.
func (c *crowd) run(ctx context.Context, j job, read crowdReader, drive func(context.Context) error) error {
	ctx, c.stop = context.WithCancelCause(ctx)
	defer c.stop(nil)
	ended := make(chan error, 1)
	go func() {
		err := read(ctx, j, c)
		c.stop(err) // if it ended by itself
		ended <- err
	}()
	err := drive(ctx)
	c.m.sample.Connections = max(0, connectionsTo(j.URI)-c.others)
	at := time.Now()
	c.stop(errEnough)
	if readErr := <-ended; readErr != nil {
		return readErr
	}
	c.m.sample.End = c.last.Sub(at).Seconds()
	c.m.sample.NotStored = c.notStored
	c.m.sample.Consumers = len(c.members)
	return err
}

// errEnough is the cause with which a crowd ends as planned.
var errEnough = errors.New("enough")

// each runs f for each member at the same time, and returns once all have
// returned. An error of one ends the others, and is the one that it returns.
func (c *crowd) each(ctx context.Context, f func(*member) error) error {
	_ = allOf(len(c.members), func(i int) error {
		err := f(c.members[i])
		c.mu.Lock()
		defer c.mu.Unlock()
		c.last = time.Now()
		if errors.Is(err, stream.ErrNotStored) {
			c.notStored++
			return nil
		}
		if err == nil || context.Cause(ctx) == errEnough && (errors.Is(err, errEnough) || errors.Is(err, context.Canceled)) {
			return nil
		}
		c.stop(err)
		return nil
	})
	if cause := context.Cause(ctx); cause != errEnough {
		return cause
	}
	return nil
}

// message counts a message of a member.
func (f *member) message(offset uint64, body []byte) {
	f.n++
	f.handled = offset
	switch {
	case f.n == 1:
		f.crowd.m.first()
		if f.crowd.timed {
			f.crowd.m.begin()
		}
		f.crowd.begun.arrive()
		if f.crowd.hold != nil {
			<-f.crowd.hold
		}
	case f.latencies != nil && len(body) >= 8:
		sent := time.Duration(binary.BigEndian.Uint64(body))
		f.latencies = append(f.latencies, float64(time.Since(f.crowd.base)-sent)/1e6)
	}
	if f.n == f.want {
		f.crowd.full.arrive()
	}
}

func (c *crowd) status() string {
	return fmt.Sprintf("of %d consumers %d had a message and %d had all of their %d", len(c.members),
		c.begun.count(), c.full.count(), c.members[0].want)
}

// latch opens once so many have arrived.
type latch struct {
	total   int
	arrived *atomic.Int64
	open    chan struct{}
	opens   func() // nil, or called by the last one that arrives
}

func newLatch(n int) latch {
	return latch{total: n, arrived: new(atomic.Int64), open: make(chan struct{})}
}

func (l latch) arrive() {
	if l.arrived.Add(1) != int64(l.total) {
		return
	}
	if l.opens != nil {
		l.opens()
	}
	close(l.open)
}

func (l latch) count() int64 { return l.arrived.Load() }

// wait waits until the latch is open.
func (l latch) wait(ctx context.Context) error {
	select {
	case <-l.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fanOut measures consumers that all read one stream from its beginning. Each
// of them gets N / Consumers messages.
func fanOut(read crowdReader) runner { return fanOutFrom(read, false) }

// wholeFanOut is fanOut whose clock starts before anybody connects. Who connects
// all consumers first and then reads has little left to do after the first
// message, so a clock that starts there would compare different things.
func wholeFanOut(read crowdReader) runner { return fanOutFrom(read, true) }

func fanOutFrom(read crowdReader, whole bool) runner {
	return func(ctx context.Context, j job, m *meter) error {
		each := max(1, j.N/j.Consumers)
		c := newCrowd(j, m, each)
		c.timed, c.full.opens = !whole, func() { m.end(each * j.Consumers) }
		c.begun.opens = m.allFirst
		if whole {
			m.begin()
		}
		if err := c.run(ctx, j, read, c.full.wait); err != nil {
			return err
		}
		return c.readMarks(j)
	}
}

// heldTime is how long held lets chunks come in.
const heldTime = 2 * time.Second

// held measures the memory that consumers hold whose handlers do not return:
// all that came for them, after a garbage collection.
func held(read crowdReader) runner {
	return func(ctx context.Context, j job, m *meter) error {
		c := newCrowd(j, m, 0)
		c.timed, c.hold = true, make(chan struct{})
		return c.run(ctx, j, read, func(ctx context.Context) error {
			defer close(c.hold)
			before := liveHeapMiB()
			if err := c.begun.wait(ctx); err != nil {
				return err
			}
			select {
			case <-time.After(heldTime):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			m.end(j.Consumers)
			m.sample.HeldHeap = liveHeapMiB() - before
			m.sample.RSS = residentMiB()
			return nil
		})
	}
}
