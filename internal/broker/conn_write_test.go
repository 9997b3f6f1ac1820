package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// fakeRaw is a socket for directWriter, of which nothing but the answers exist.
type fakeRaw struct {
	err      error
	attempts int
	controls int
}

func (r *fakeRaw) Control(func(uintptr)) error { r.controls++; return nil }

func (r *fakeRaw) Read(func(uintptr) bool) error { return errors.New("nobody reads") }

func (r *fakeRaw) Write(f func(uintptr) bool) error {
	r.attempts++
	if r.err == nil {
		f(0)
	}
	return r.err
}

// takes has a directWriter's socket take n bytes of each frame.
func (r *fakeRaw) takes(d *directWriter, n int) {
	d.socket = r
	d.attempt = func(uintptr) bool { d.written = n; return true }
}

func TestTry(t *testing.T) {
	frame := []byte("frame")
	for _, test := range []struct {
		name     string
		set      func(*directWriter, *fakeRaw)
		want     taken
		attempts int
		rest     string
	}{
		{"all", func(d *directWriter, r *fakeRaw) { r.takes(d, 5) }, takenAll, 1, ""},
		{"a part", func(d *directWriter, r *fakeRaw) { r.takes(d, 2) }, takenPart, 1, "ame"},
		{"nothing", func(d *directWriter, r *fakeRaw) { r.takes(d, 0) }, takenNone, 1, ""},
		{"an error", func(d *directWriter, r *fakeRaw) { r.takes(d, 5); r.err = check.ErrTest }, takenNone, 1, ""},
		{"no socket", func(d *directWriter, r *fakeRaw) { r.takes(d, 5); d.socket = nil }, takenNone, 0, ""},
		{"queued", func(d *directWriter, r *fakeRaw) { r.takes(d, 5); d.queued.Add(1) }, takenNone, 0, ""},
		{"a rest", func(d *directWriter, r *fakeRaw) { r.takes(d, 5); d.rest = []byte("x") }, takenNone, 0, "x"},
		{"the writer is at it", func(d *directWriter, r *fakeRaw) { r.takes(d, 5); d.mu.Lock() }, takenNone, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := directWriter{mu: newSocketLock()}
			var r fakeRaw
			test.set(&d, &r)
			if got := d.try(frame); got != test.want || r.attempts != test.attempts || string(d.rest) != test.rest {
				t.Errorf("%d after %d attempts, with the rest %q; want %d, %d, %q", got, r.attempts, d.rest, test.want, test.attempts, test.rest)
			}
			if d.frame != nil {
				t.Error("the frame is kept")
			}
			if test.name != "the writer is at it" && !d.mu.TryLock() {
				t.Error("it is locked")
			}
		})
	}
}

// A rest is the writer's own: the caller may use the frame again.
func TestTryKeepsACopy(t *testing.T) {
	d := directWriter{mu: newSocketLock()}
	new(fakeRaw).takes(&d, 2)
	frame := []byte("frame")
	d.try(frame)
	copy(frame, "xxxxx")
	if string(d.rest) != "ame" {
		t.Errorf("the rest is %q", d.rest)
	}
}

func TestCork(t *testing.T) {
	var d directWriter
	d.cork(true) // no socket
	if d.corked {
		t.Error("corked without a socket")
	}
	var r fakeRaw
	r.takes(&d, 0)
	for i, step := range []struct {
		on       bool
		controls int
	}{{false, 0}, {true, 1}, {true, 1}, {false, 2}, {false, 2}, {true, 3}} {
		if d.cork(step.on); d.corked != step.on || r.controls != step.controls {
			t.Errorf("step %d: corked %v, the option was set %d times, want %v and %d", i, d.corked, r.controls, step.on, step.controls)
		}
	}
}

// halfTaken returns a connection whose socket takes n bytes of a frame at once,
// which nobody sees, and its peer.
func halfTaken(t *testing.T, n int) (*Conn, io.Reader) {
	c, theirs := piped(t, time.Hour)
	new(fakeRaw).takes(&c.direct, n)
	return c, theirs
}

// sendOrPut waits for the socket to take a frame, or does not.
func (c *Conn) sendOrPut(ctx context.Context, frame []byte, await bool) error {
	if await {
		return c.sendBytes(ctx, frame)
	}
	_, err := c.put(ctx, frame, false)
	return err
}

// TestPutTheRest: what the socket does not take at once goes through the writer,
// behind the rest of the frame before.
func TestPutTheRest(t *testing.T) {
	frame, next := []byte("0123456789"), []byte("next")
	for name, await := range map[string]bool{"send": true, "post": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, theirs := halfTaken(t, 4)
				put := make(chan error, 1)
				go func() {
					err := c.sendOrPut(t.Context(), frame, await)
					copy(frame, "xxxxxxxxxx")
					put <- err
				}()
				synctest.Wait()
				if len(put) == 1 == await || c.direct.queued.Load() != 1 {
					t.Errorf("returned: %v, and %d frames are queued", len(put) == 1, c.direct.queued.Load())
				}
				second := make(chan error, 1)
				go func() { second <- c.sendBytes(t.Context(), next) }()
				synctest.Wait()
				got := make([]byte, len("456789next"))
				_, err := io.ReadFull(theirs, got)
				if err != nil || string(got) != "456789next" {
					t.Errorf("the peer got %q, %v", got, err)
				}
				check.Nil(t, <-put)
				check.Nil(t, <-second)
				synctest.Wait()
				if c.direct.queued.Load() != 0 || len(c.direct.rest) > 0 {
					t.Errorf("%d frames are queued, and %q is left", c.direct.queued.Load(), c.direct.rest)
				}
				copy(frame, "0123456789")
			})
		})
	}
}

// A frame that the socket took needs no writer.
func TestPutTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := halfTaken(t, 4)
		check.Nil(t, c.sendBytes(t.Context(), []byte("0123")))
		if c.direct.queued.Load() != 0 {
			t.Error("it is queued too")
		}
		// Neither for who has given up nor on a connection that has ended.
		r := c.direct.socket.(*fakeRaw)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(check.ErrTest)
		before := r.attempts
		check.Err(t, c.sendBytes(ctx, []byte("0123")), check.ErrTest)
		c.Abort()
		check.Err(t, c.sendBytes(t.Context(), []byte("0123")), ErrClosed)
		if r.attempts != before {
			t.Errorf("%d attempts", r.attempts-before)
		}
	})
}

// A call under a context that has ended is not sent, though the queue has room:
// a delete that was given up must not happen.
func TestPutUnderAnEndedContext(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(check.ErrTest)
		for range 50 {
			check.Err(t, c.Delete(ctx, "s"), check.ErrTest)
		}
		b.took(t)
	})
}

// TestGivenUpInTheQueue: a request whose caller gives up before the writer has
// come to it is never sent, though the peer reads again. One of which the socket
// has a part is sent to its end.
func TestGivenUpInTheQueue(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Conn) error{
		"delete": func(ctx context.Context, c *Conn) error { return c.Delete(ctx, "s") },
		"store":  func(ctx context.Context, c *Conn) error { return c.StoreOffset(ctx, "me", "s", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				c, theirs := piped(t, time.Hour)
				check.Nil(t, c.credit(t.Context(), 1, 1)) // the writer is stuck in it
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(check.ErrTest) })
				check.Err(t, call(ctx, c), check.ErrTest)
				go b.serve(script.NewPeer(t, theirs))
				check.Nil(t, c.Ping(t.Context()))
				b.took(t, "credit 1 1", "metadata []")
				if n := c.direct.queued.Load(); n != 0 {
					t.Errorf("%d frames are queued", n)
				}
			})
		})
	}
	t.Run("half of it sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, theirs := halfTaken(t, 4)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			check.Err(t, c.sendBytes(ctx, []byte("0123456789")), context.Canceled)
			got := make([]byte, 6)
			if _, err := io.ReadFull(theirs, got); err != nil || string(got) != "456789" {
				t.Errorf("the peer got %q, %v", got, err)
			}
		})
	})
}

// What is posted is the writer's own: the caller may use the bytes again.
func TestPostKeepsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, theirs := piped(t, time.Hour)
		frame := []byte("frame")
		check.Nil(t, c.sendOrPut(t.Context(), frame, false))
		copy(frame, "xxxxx")
		got := make([]byte, 5)
		if _, err := io.ReadFull(theirs, got); err != nil || string(got) != "frame" {
			t.Errorf("the peer got %q, %v", got, err)
		}
	})
}

// pause waits a while, and reports whether the connection is alive then.
func pause(c *Conn, d time.Duration) bool {
	select {
	case <-c.ended:
		return false
	case <-time.After(d):
		return true
	}
}

// TestQueueFull: the peer reads nothing, though it sends heartbeats. The queue
// fills up; whoever comes then waits; heartbeats are left out; and the writer's
// deadline ends it.
func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const heartbeat = 10 * time.Second
		var ticks atomic.Int64
		c, theirs := pipedHooks(t, heartbeat, hooks{tick: func() { ticks.Add(1) }})
		p := script.NewPeer(t, theirs)
		go func() {
			for pause(c, heartbeat/2) {
				p.Send(&wire.Heartbeat{})
			}
		}()
		begin := time.Now()
		for range writeQueueLen + 1 { // the writer has one of them
			check.Nil(t, c.credit(t.Context(), 1, 1))
			synctest.Wait()
		}
		full := func() {
			t.Helper()
			synctest.Wait()
			if n := c.direct.queued.Load(); n != writeQueueLen+1 || len(c.queue) != writeQueueLen {
				t.Errorf("%d frames are on their way, and %d wait", n, len(c.queue))
			}
		}
		full()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, check.ErrTest)
		defer cancel()
		check.Err(t, c.credit(ctx, 1, 1), check.ErrTest)
		full()
		time.Sleep(heartbeat)
		full()
		if n := ticks.Load(); n != 2 {
			t.Errorf("%d ticks in a heartbeat", n)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := c.credit(ctx, 1, 1)
		check.Err(t, err, ErrUnreachable)
		says(t, err, "connection to h:1 lost")
		took(t, begin, 2*heartbeat)
		c.Abort()
		if n := c.direct.queued.Load(); n != writeQueueLen {
			t.Errorf("%d frames are on their way after the end, and %d wait", n, len(c.queue))
		}
	})
}

// The deadline is of each write: a peer that reads slowly is not given up.
func TestSlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, theirs := piped(t, 10*time.Second)
		p := script.NewPeer(t, theirs)
		go func() {
			buf := make([]byte, 64)
			for pause(c, 12*time.Second) {
				p.Send(&wire.Heartbeat{})
				if _, err := p.Conn.Read(buf); err != nil {
					return
				}
			}
		}()
		for range 10 {
			check.Nil(t, c.sendBytes(t.Context(), bytes.Repeat([]byte("x"), 64)))
		}
	})
}
