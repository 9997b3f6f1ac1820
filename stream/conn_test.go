package stream

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// query is a call that a test can make on any connection.
func query(ctx context.Context, c *conn) (uint64, error) { return c.queryOffset(ctx, "me", "s") }

// asked reads a QueryOffset and returns its correlation id.
func (p *peer) asked() (uint32, bool) {
	var f wire.QueryOffset
	ok := p.expect(&f)
	return f.Correlation, ok
}

func offsetAnswer(id uint32, offset uint64) wire.Frame {
	return &wire.QueryOffsetResponse{Correlation: id, Code: wire.CodeOK, Offset: offset}
}

// after returns a connection whose broker plays then once the handshake is over.
func after(t *testing.T, then func(*peer)) *conn {
	t.Helper()
	noLeaks(t)
	return dialed(t, listen(t, func(p *peer) {
		if p.welcome() {
			then(p)
		}
	}), hooks{})
}

func TestCallAnswersOutOfOrder(t *testing.T) {
	const n = 10
	c := after(t, func(p *peer) {
		var ids []uint32
		for range n {
			id, ok := p.asked()
			if !ok {
				return
			}
			ids = append(ids, id)
		}
		p.send(offsetAnswer(9999, 1)) // nobody asked
		for i := range ids {
			id := ids[n-1-i]
			p.send(offsetAnswer(id, uint64(id)*100), offsetAnswer(id, 0)) // the second one is too much
		}
		p.stall()
	})
	var wg sync.WaitGroup
	seen := make(chan uint64, n)
	for range n {
		wg.Go(func() {
			offset, err := query(soon(t), c)
			if err != nil {
				t.Error(err)
			}
			seen <- offset
		})
	}
	wg.Wait()
	close(seen)
	sum := uint64(0)
	for offset := range seen {
		sum += offset
	}
	if want := uint64(n * (n + 1) / 2 * 100); sum != want {
		t.Errorf("the answers add up to %d, want %d", sum, want)
	}
}

func TestCallEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		then func(*peer)
		want error
		says string
	}{
		{"the connection drops", func(p *peer) { p.asked() }, ErrUnreachable, "closed the connection"},
		{"the server closes", func(p *peer) {
			p.asked()
			p.send(&wire.Close{Correlation: 1, Code: wire.CodeUnknownFrame, Reason: "unknown frame"})
			p.stall()
		}, ErrUnreachable, "unknown frame"},
		{"garbage", func(p *peer) { p.asked(); p.write([]byte{0, 0, 0, 1, 7}); p.stall() }, ErrProtocol, ""},
		{"a size beyond any", func(p *peer) { p.asked(); p.write([]byte("\xff\xff\xff\xff")); p.stall() }, ErrProtocol, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := after(t, test.then)
			_, err := query(soon(t), c)
			wantErr(t, err, test.want)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v: does not say %q", err, test.says)
			}
			if _, again := query(soon(t), c); !errors.Is(again, test.want) || c.alive() {
				t.Errorf("the next call: %v, alive %v", again, c.alive())
			}
		})
	}
}

func TestCallContext(t *testing.T) {
	asked := make(chan struct{})
	c := after(t, func(p *peer) {
		id, _ := p.asked()
		close(asked)
		if next, ok := p.asked(); ok {
			p.send(offsetAnswer(id, 1), offsetAnswer(next, 2))
			p.stall()
		}
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	got := make(chan error, 1)
	go func() { _, err := query(ctx, c); got <- err }()
	recv(t, asked, "the question")
	cancel(errTest)
	wantErr(t, recv(t, got, "the cancelled call"), errTest)
	// The late answer is nobody's, and the next call gets its own.
	if offset, err := query(soon(t), c); offset != 2 || err != nil {
		t.Errorf("%d, %v after a call that was cancelled", offset, err)
	}
	if len(c.pending) != 0 {
		t.Errorf("%d calls are still pending", len(c.pending))
	}
}

// TestCallAnsweredBeforeTheDrop: an answer that came counts, though the
// connection was lost right behind it.
func TestCallAnsweredBeforeTheDrop(t *testing.T) {
	noLeaks(t)
	for range 300 {
		c, theirs := piped(t, time.Hour)
		go func() {
			p := newPeer(t, theirs)
			if id, ok := p.asked(); ok {
				p.send(offsetAnswer(id, 7))
			}
			_ = theirs.Close()
		}()
		if offset, err := query(soon(t), c); offset != 7 || err != nil {
			t.Fatalf("%d, %v", offset, err)
		}
		c.abort()
	}
}

// TestCloseReachesTheServer politely, and does not wait for one that is deaf.
func TestCloseReachesTheServer(t *testing.T) {
	closed := make(chan wire.Close, 1)
	c := after(t, func(p *peer) {
		var f wire.Close
		if p.expect(&f) {
			closed <- f
			p.send(&wire.Response{Key: wire.KeyClose, Correlation: f.Correlation, Code: wire.CodeOK})
		}
	})
	c.close()
	if f := recv(t, closed, "Close"); f.Code != wire.CodeOK {
		t.Errorf("closed with code %v", f.Code)
	}
	c.close()
	if c.alive() {
		t.Error("alive after close")
	}
}

func TestHooks(t *testing.T) {
	noLeaks(t)
	e := listen(t, func(p *peer) {
		if p.welcome() {
			p.send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"}, &wire.Heartbeat{}, &wire.CreditResponse{Code: 4})
			p.write(chunkFrame(5, "kept"))
			p.write(chunkFrame(6, "overwritten"))
			p.write(bytes.Repeat(chunkFrame(7, strings.Repeat("x", 1000)), 50))
			p.stall()
		}
	})
	moved, chunks := make(chan string, 1), make(chan wire.Chunk, 1)
	last := make(chan struct{})
	var once sync.Once
	dialed(t, e, hooks{
		moved:  func(stream string) { moved <- stream },
		buffer: func(_ uint8, n int) []byte { return make([]byte, n) },
		deliver: func(d wire.Deliver, _ []byte) error {
			chunk, err := wire.ParseChunk(d.Chunk)
			switch {
			case err == nil && chunk.FirstOffset == 5:
				chunks <- chunk
			case err == nil && chunk.FirstOffset == 7:
				once.Do(func() { close(last) })
			}
			return err
		},
	})
	if s := recv(t, moved, "the update"); s != "s" {
		t.Errorf("%q has moved", s)
	}
	chunk := recv(t, chunks, "the chunk")
	recv(t, last, "the last chunk")
	if err := chunk.Check(); err != nil {
		t.Errorf("a chunk that was kept has changed: %v", err)
	}
}

// piped is a connection past its handshake, on a pipe in virtual time.
func piped(t *testing.T, heartbeat time.Duration) (*conn, net.Conn) {
	ours, theirs := net.Pipe()
	c := &conn{endpoint: endpoint{host: "h", port: 1}, nc: ours, heartbeat: heartbeat}
	c.frames = wire.NewFrameReader(c, 0)
	c.start()
	t.Cleanup(func() { _ = theirs.Close() })
	return c, theirs
}

func TestSilentPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, theirs := piped(t, 10*time.Second)
		beats := make(chan int, 1)
		go func() { // it reads, and says nothing
			p := newPeer(t, theirs)
			n := 0
			for {
				if _, err := p.frames.Next(); err != nil {
					beats <- n
					return
				}
				n++
			}
		}()
		begin := time.Now()
		_, err := c.queryOffset(context.Background(), "me", "s")
		wantErr(t, err, ErrUnreachable)
		<-c.closed
		if took := time.Since(begin); took < 15*time.Second || took > 20*time.Second {
			t.Errorf("noticed after %v with a heartbeat of 10s", took)
		}
		c.abort()
		if n := <-beats; n < 3 {
			t.Errorf("in that time we sent %d frames, want the question and a heartbeat every 5s", n)
		}
	})
}

func TestHeartbeatsKeepTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, theirs := piped(t, 10*time.Second)
		p := newPeer(t, theirs)
		go p.stall()
		for range 100 {
			time.Sleep(10 * time.Second)
			p.send(&wire.Heartbeat{})
		}
		synctest.Wait()
		if err := c.reason(); err != nil {
			t.Errorf("a peer that shows its life was given up: %v", err)
		}
		c.abort()
	})
}

// TestStuckWriterIsNoticed: the peer sends heartbeats and reads nothing.
func TestStuckWriterIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, theirs := piped(t, 10*time.Second)
		p := newPeer(t, theirs)
		quiet := make(chan struct{})
		go func() {
			defer close(quiet)
			for c.alive() {
				p.send(&wire.Heartbeat{})
				time.Sleep(5 * time.Second)
			}
		}()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		wantErr(t, c.storeOffset(ctx, "me", "s", 1), ErrUnreachable)
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("a store was stuck for %v", took)
		}
		c.abort()
		<-quiet
	})
}

// TestSendContext: a caller is let go while the writer is stuck.
func TestSendContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := piped(t, time.Hour)
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 1)
		for range 2 * writeQueue {
			go func() { got <- c.storeOffset(ctx, "me", "s", 1) }()
		}
		synctest.Wait()
		cancel(errTest)
		for range 2 * writeQueue {
			if err := <-got; !errors.Is(err, errTest) {
				t.Errorf("a cancelled store: %v", err)
			}
		}
		c.abort()
	})
}
