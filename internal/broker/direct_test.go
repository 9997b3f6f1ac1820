package broker

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// onSocket returns a connection on a real socket, past its handshake, and its
// peer. Both end with the test.
func onSocket(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.Nil(t, err)
	defer ln.Close()
	socket, err := net.Dial("tcp", ln.Addr().String())
	check.Nil(t, err)
	peer, err := ln.Accept()
	check.Nil(t, err)
	c := &Conn{socket: socket, heartbeat: 10 * time.Second}
	c.frames = wire.NewFrameReader(c, 0)
	c.start()
	t.Cleanup(func() {
		c.Abort()
		_ = peer.Close()
	})
	return c, peer
}

// TestDirectOnASocket: where the system allows it, a frame needs no writer.
func TestDirectOnASocket(t *testing.T) {
	c, peer := onSocket(t)
	want := takenAll
	if runtime.GOOS == "windows" {
		want = takenNone
	}
	frame := mustEncode(&wire.Heartbeat{})
	if got := c.direct.try(frame); got != want {
		t.Fatalf("the socket took %d, want %d", got, want)
	}
	if want == takenAll {
		got := make([]byte, len(frame))
		if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, frame) {
			t.Errorf("the peer got %x, %v", got, err)
		}
	}
}

// TestDirectKeepsFramesWholeAndInOrder: a peer that stops reading takes a part
// of a frame; once it reads again it gets the rest, and then what came after.
func TestDirectKeepsFramesWholeAndInOrder(t *testing.T) {
	c, peer := onSocket(t)
	name := strings.Repeat("n", 30_000)
	var next uint64
	send := func(ctx context.Context) error {
		next++
		return c.send(ctx, &wire.StoreOffset{Reference: name, Stream: "s", Offset: next})
	}
	// Until nothing goes any more, and a few attempts longer.
	for stuck := 0; stuck < 3; {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if send(ctx) != nil {
			stuck++
		}
		cancel()
	}
	const more = 200
	last := next + more
	failed := make(chan error, 1)
	go func() {
		var err error
		for range more {
			if err = send(t.Context()); err != nil {
				break
			}
		}
		failed <- err
	}()
	frames := wire.NewFrameReader(peer, 0)
	for seen := uint64(0); seen < last; {
		frame, err := frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		_, _, fields, err := wire.SplitHead(frame)
		if err != nil {
			t.Fatal(err)
		}
		var f wire.StoreOffset
		if err := wire.Decode(fields, &f); err != nil {
			t.Fatalf("after offset %d: %v", seen, err)
		}
		if f.Offset <= seen || f.Reference != name {
			t.Fatalf("offset %d follows %d", f.Offset, seen)
		}
		seen = f.Offset
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
	// The writer has caught up, and is not needed any more.
	check.Eventually(t, "the queue is empty", func() bool { return c.direct.queued.Load() == 0 })
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	if len(c.direct.rest) > 0 {
		t.Errorf("%d bytes of a frame are left", len(c.direct.rest))
	}
}
