package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// window is how a bare socket publishes: so many messages in a frame, so many
// sent and not confirmed at most, on so many connections. No number of
// connections: as few as hold the publishers.
type window struct{ frame, inFlight, conns int }

// maxInFlight is the credit of a connection in entries. A broker that has given
// all of it reads the connection only after most of them are confirmed.
const maxInFlight = 50_000

// The windows of which the bench shows the best.
var (
	oneConnection   = []window{{frame: 100, inFlight: 2_000}, {frame: 1000, inFlight: 10_000}, {frame: 1000, inFlight: 40_000}}
	manyConnections = append([]window{{1000, 10_000, 8}}, oneConnection...)
	largeMessages   = []window{{frame: 10, inFlight: 1_000}, {frame: 30, inFlight: 2_000}, {frame: 100, inFlight: 10_000}}
	subBatches      = []window{{frame: 100, inFlight: 20_000}, {frame: 1000, inFlight: 20_000}}
)

// String writes FRAME/INFLIGHT, and /CONNECTIONS where the window has them.
func (w window) String() string {
	text := fmt.Sprintf("%d/%d", w.frame, w.inFlight)
	if w.conns > 0 {
		text += fmt.Sprintf("/%d", w.conns)
	}
	return text
}

// parseWindow reads what String writes.
func parseWindow(text string) (window, error) {
	fields := strings.Split(text, "/")
	var n [3]int
	bad := len(fields) < 2 || len(fields) > 3
	for i := 0; !bad && i < len(fields); i++ {
		if _, err := fmt.Sscan(fields[i], &n[i]); err != nil || strconv.Itoa(n[i]) != fields[i] || n[i] < 1 {
			bad = true
		}
	}
	w := window{n[0], n[1], n[2]}
	if bad || w.frame > w.inFlight || w.inFlight > maxInFlight || w.conns > 100 {
		return window{}, fmt.Errorf("window %q: want FRAME/INFLIGHT or FRAME/INFLIGHT/CONNECTIONS, such as 1000/10000, with FRAME at most INFLIGHT, INFLIGHT at most %d and at most 100 CONNECTIONS",
			text, maxInFlight)
	}
	return w, nil
}

// fit returns the window with no more entries in a frame than 1 MB holds.
func (w window) fit(entryBytes int) window {
	w.frame = max(1, min(w.frame, maxFrameBytes/(entryBytes+30)))
	w.inFlight = max(w.inFlight, w.frame)
	return w
}

// maxFrameBytes keeps frames below the broker's limit of 1 MiB.
const maxFrameBytes = 1_000_000

// appendEntry appends entry i to a Publish frame.
type appendEntry func(frame []byte, i int) []byte

// publishAll publishes n entries as publisher 1, and returns when all are
// confirmed.
func (c *raw) publishAll(n int, w window, add appendEntry) error {
	return c.publishInTurns(1, n, w, add)
}

// publishInTurns publishes n entries for each of so many publishers, frame by
// frame, and returns when all are confirmed. It reads confirms only where the
// window is full: a goroutine that reads them beside costs more.
func (c *raw) publishInTurns(publishers, n int, w window, add appendEntry) error {
	var frame []byte
	open := 0
	for sent := 0; sent < n; sent += min(w.frame, n-sent) {
		count := min(w.frame, n-sent)
		for p := range publishers {
			if err := c.awaitConfirms(&open, w.inFlight-count); err != nil {
				return err
			}
			frame = wire.BeginPublish(frame[:0], wire.Version1, uint8(p+1))
			for i := range count {
				frame = add(frame, sent+i)
			}
			if _, err := c.nc.Write(wire.FinishPublish(frame, 0, count)); err != nil {
				return err
			}
			open += count
		}
	}
	return c.awaitConfirms(&open, 0)
}

// awaitConfirms reads confirms until no more than limit entries are open.
func (c *raw) awaitConfirms(open *int, limit int) error {
	for *open > limit {
		n, err := c.confirms()
		if err != nil {
			return err
		}
		*open -= n
	}
	return nil
}

// publishOne publishes an encoded message and does not wait.
func (c *raw) publishOne(id uint64, message []byte) error {
	b := wire.BeginPublish(nil, wire.Version1, 1)
	b = wire.AppendPublishEntry(b, id, message)
	_, err := c.nc.Write(wire.FinishPublish(b, 0, 1))
	return err
}

// publisherSocket runs f with a connection on which publisher 1 is declared, by
// the job's name if the case has names.
func publisherSocket(j job, f func(c *raw) error) error {
	c, err := dialRaw(j.URI)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.declareAs(1, j.Stream, j.Producer); err != nil {
		return err
	}
	return f(c)
}

// messageAppender appends the messages of a size, which are encoded before, in
// turns.
func messageAppender(size int) appendEntry {
	list := encodedMessages(size)
	return func(b []byte, i int) []byte { return wire.AppendPublishEntry(b, uint64(i), list[i%len(list)]) }
}

// publishSocket publishes one message behind the other.
func publishSocket(_ context.Context, j job, m *meter) error {
	w, err := parseWindow(j.Window)
	if err != nil {
		return err
	}
	add := messageAppender(j.Size)
	return publisherSocket(j, func(c *raw) error {
		m.begin()
		err := c.publishAll(j.N, w.fit(j.Size), add)
		m.end(j.N)
		return err
	})
}

func publishOneSocket(_ context.Context, j job, m *meter) error {
	list := encodedMessages(j.Size)
	return publisherSocket(j, func(c *raw) error {
		return oneByOne(j, m, func(i int) error {
			open := 1
			return errors.Join(c.publishOne(uint64(i), list[i%len(list)]), c.awaitConfirms(&open, 0))
		})
	})
}

func publishPacedSocket(ctx context.Context, j job, m *meter) error {
	list := encodedMessages(j.Size)
	return publisherSocket(j, func(c *raw) error {
		p := newPacer(j.N)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for left := j.N; left > 0; {
				n, err := c.confirms()
				if err != nil {
					p.fail(err)
					return
				}
				p.confirmed(n)
				left -= n
			}
		})
		err := p.run(ctx, j, m, func(i int) error { return c.publishOne(uint64(i), list[i%len(list)]) })
		if err != nil {
			c.close() // ends the reading
		}
		return err
	})
}

// socketPool is many publishers on as few connections as the window says. A
// goroutine for each connection publishes for its publishers in turns.
type socketPool struct {
	j      job
	window window
	conns  []*raw
	of     []int // publishers on each
	append appendEntry
	mu     []sync.Mutex
}

func openSocketPool(_ context.Context, j job) (pool, error) {
	w, err := parseWindow(j.Window)
	if err != nil {
		return nil, err
	}
	n := max((j.Producers+publishersPerConn-1)/publishersPerConn, min(w.conns, j.Producers))
	p := &socketPool{j: j, window: w.fit(j.Size), of: make([]int, n), append: messageAppender(j.Size), mu: make([]sync.Mutex, n)}
	for range n {
		c, err := dialRaw(j.URI)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.conns = append(p.conns, c)
	}
	return p, nil
}

// add declares one more publisher. Those of a connection are numbered from 1.
func (p *socketPool) add(_ context.Context, i int, stream string) error {
	k := i % len(p.conns)
	p.mu[k].Lock()
	defer p.mu[k].Unlock()
	p.of[k]++
	return p.conns[k].declareAs(uint8(p.of[k]), stream, "")
}

func (p *socketPool) publish(_ context.Context, each int) error {
	return allOf(len(p.conns), func(k int) error {
		return p.conns[k].publishInTurns(p.of[k], each, p.window, p.append)
	})
}

func (p *socketPool) close() error {
	for _, c := range p.conns {
		c.close()
	}
	return nil
}

// republishSocket connects again as soon as its connection has ended.
func republishSocket(_ context.Context, j job, m *meter) error {
	message := appendMessage(nil, make([]byte, j.Size))
	return republish(j, m, func(uri string) (func() error, func() error, error) {
		var c *raw
		try := func() (err error) {
			if c == nil {
				if c, err = dialRaw(uri); err != nil {
					return err
				}
				if err = c.declare(j.Stream); err != nil {
					return err
				}
			}
			open := 1
			return errors.Join(c.publishOne(0, message), c.awaitConfirms(&open, 0))
		}
		publish := func() error {
			for begin := time.Now(); ; {
				err := try()
				if err == nil || time.Since(begin) > reconnectTimeout {
					return err
				}
				if c != nil {
					c.close()
				}
				c = nil
			}
		}
		stop := func() error {
			if c != nil {
				c.close()
			}
			return nil
		}
		return publish, stop, nil
	})
}
