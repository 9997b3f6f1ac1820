package broker

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// query is a call that a test can make on any connection.
func query(ctx context.Context, c *Conn) (uint64, error) { return c.QueryOffset(ctx, "me", "s") }

// readQuery reads a QueryOffset and returns its correlation id.
func readQuery(p *script.Peer) (uint32, bool) {
	var f wire.QueryOffset
	ok := p.Expect(&f)
	return f.Correlation, ok
}

func offsetAnswer(id uint32, offset uint64) wire.Frame {
	return &wire.QueryOffsetResponse{Correlation: id, Code: wire.CodeOK, Offset: offset}
}

// after returns a connection whose broker plays then once the handshake is over.
func after(t *testing.T, then func(*script.Peer)) *Conn {
	t.Helper()
	check.NoLeaks(t)
	return dialed(t, listen(t, func(p *script.Peer) {
		if p.Welcome() {
			then(p)
		}
	}), hooks{})
}

func TestCallAnswersOutOfOrder(t *testing.T) {
	const n = 10
	c := after(t, func(p *script.Peer) {
		var ids []uint32
		for range n {
			id, ok := readQuery(p)
			if !ok {
				return
			}
			ids = append(ids, id)
		}
		p.Send(offsetAnswer(9999, 1)) // nobody asked
		for i := range ids {
			id := ids[n-1-i]
			p.Send(offsetAnswer(id, uint64(id)*100), offsetAnswer(id, 0)) // the second one is too much
		}
		p.Stall()
	})
	var wg sync.WaitGroup
	seen := make(chan uint64, n)
	for range n {
		wg.Go(func() {
			offset, err := query(check.Soon(t), c)
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
		then func(*script.Peer)
		want error
		says string
	}{
		{"the connection drops", func(p *script.Peer) { readQuery(p) }, ErrUnreachable, "closed the connection"},
		{"the server closes", func(p *script.Peer) {
			readQuery(p)
			p.Send(&wire.Close{Correlation: 1, Code: wire.CodeUnknownFrame, Reason: "unknown frame"})
			p.Stall()
		}, ErrUnreachable, "unknown frame"},
		{"garbage", func(p *script.Peer) { readQuery(p); p.Write([]byte{0, 0, 0, 1, 7}); p.Stall() }, ErrProtocol, ""},
		{"a size beyond any", func(p *script.Peer) { readQuery(p); p.Write([]byte("\xff\xff\xff\xff")); p.Stall() }, ErrProtocol, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := after(t, test.then)
			_, err := query(check.Soon(t), c)
			check.Err(t, err, test.want)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v: does not say %q", err, test.says)
			}
			if _, again := query(check.Soon(t), c); !errors.Is(again, test.want) || c.Alive() {
				t.Errorf("the next call: %v, alive %v", again, c.Alive())
			}
		})
	}
}

func TestCallContext(t *testing.T) {
	asked := make(chan struct{})
	c := after(t, func(p *script.Peer) {
		id, _ := readQuery(p)
		close(asked)
		if next, ok := readQuery(p); ok {
			p.Send(offsetAnswer(id, 1), offsetAnswer(next, 2))
			p.Stall()
		}
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	got := make(chan error, 1)
	go func() { _, err := query(ctx, c); got <- err }()
	check.Recv(t, asked, "the question")
	cancel(check.ErrTest)
	check.Err(t, check.Recv(t, got, "the cancelled call"), check.ErrTest)
	// The late answer is nobody's, and the next call gets its own.
	if offset, err := query(check.Soon(t), c); offset != 2 || err != nil {
		t.Errorf("%d, %v after a call that was cancelled", offset, err)
	}
	if len(c.pending) != 0 {
		t.Errorf("%d calls are still pending", len(c.pending))
	}
}

// TestCallAnsweredBeforeTheDrop: an answer that came counts, though the
// connection was lost right behind it.
func TestCallAnsweredBeforeTheDrop(t *testing.T) {
	check.NoLeaks(t)
	for range 300 {
		c, theirs := piped(t, time.Hour)
		go func() {
			p := script.NewPeer(t, theirs)
			if id, ok := readQuery(p); ok {
				p.Send(offsetAnswer(id, 7))
			}
			_ = theirs.Close()
		}()
		if offset, err := query(check.Soon(t), c); offset != 7 || err != nil {
			t.Fatalf("%d, %v", offset, err)
		}
		c.Abort()
	}
}

// TestCloseReachesTheServer politely, and does not wait for one that is deaf.
func TestCloseReachesTheServer(t *testing.T) {
	closed := make(chan wire.Close, 1)
	c := after(t, func(p *script.Peer) {
		var f wire.Close
		if p.Expect(&f) {
			closed <- f
			p.Send(&wire.Response{Key: wire.KeyClose, Correlation: f.Correlation, Code: wire.CodeOK})
		}
	})
	c.Close()
	if f := check.Recv(t, closed, "Close"); f.Code != wire.CodeOK {
		t.Errorf("closed with code %v", f.Code)
	}
	c.Close()
	if c.Alive() {
		t.Error("alive after close")
	}
}

func TestHooks(t *testing.T) {
	check.NoLeaks(t)
	e := listen(t, func(p *script.Peer) {
		if p.Welcome() {
			p.Send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"}, &wire.Heartbeat{}, &wire.CreditResponse{Code: 4})
			p.Write(script.Chunk(5, "kept"))
			p.Write(script.Chunk(6, "overwritten"))
			p.Write(bytes.Repeat(script.Chunk(7, strings.Repeat("x", 1000)), 50))
			p.Stall()
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
	if s := check.Recv(t, moved, "the update"); s != "s" {
		t.Errorf("%q has moved", s)
	}
	chunk := check.Recv(t, chunks, "the chunk")
	check.Recv(t, last, "the last chunk")
	if err := chunk.Check(); err != nil {
		t.Errorf("a chunk that was kept has changed: %v", err)
	}
}

func TestSilentPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, theirs := piped(t, 10*time.Second)
		beats := make(chan int, 1)
		go func() { // it reads, and says nothing
			p := script.NewPeer(t, theirs)
			n := 0
			for {
				if _, err := p.Frames.Next(); err != nil {
					beats <- n
					return
				}
				n++
			}
		}()
		begin := time.Now()
		_, err := c.QueryOffset(context.Background(), "me", "s")
		check.Err(t, err, ErrUnreachable)
		<-c.ended
		if took := time.Since(begin); took < 15*time.Second || took > 20*time.Second {
			t.Errorf("noticed after %v with a heartbeat of 10s", took)
		}
		c.Abort()
		if n := <-beats; n < 3 {
			t.Errorf("in that time we sent %d frames, want the question and a heartbeat every 5s", n)
		}
	})
}

func TestHeartbeatsKeepTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, theirs := piped(t, 10*time.Second)
		p := script.NewPeer(t, theirs)
		go p.Stall()
		for range 100 {
			time.Sleep(10 * time.Second)
			p.Send(&wire.Heartbeat{})
		}
		synctest.Wait()
		if err := c.Reason(); err != nil {
			t.Errorf("a peer that shows its life was given up: %v", err)
		}
		c.Abort()
	})
}

// TestStuckWriterIsNoticed: the peer sends heartbeats and reads nothing.
func TestStuckWriterIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, theirs := piped(t, 10*time.Second)
		p := script.NewPeer(t, theirs)
		quiet := make(chan struct{})
		go func() {
			defer close(quiet)
			for c.Alive() {
				p.Send(&wire.Heartbeat{})
				time.Sleep(5 * time.Second)
			}
		}()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		check.Err(t, c.StoreOffset(ctx, "me", "s", 1), ErrUnreachable)
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("a store was stuck for %v", took)
		}
		c.Abort()
		<-quiet
	})
}

// TestSendContext: a caller is let go while the writer is stuck.
func TestSendContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := piped(t, time.Hour)
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 1)
		for range 2 * writeQueueLen {
			go func() { got <- c.StoreOffset(ctx, "me", "s", 1) }()
		}
		synctest.Wait()
		cancel(check.ErrTest)
		for range 2 * writeQueueLen {
			if err := <-got; !errors.Is(err, check.ErrTest) {
				t.Errorf("a cancelled store: %v", err)
			}
		}
		c.Abort()
	})
}
