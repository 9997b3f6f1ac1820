package broker

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestDirectKeepsFramesWholeAndInOrder: a peer that stops reading takes a part
// of a frame; once it reads again it gets the rest, and then what came after.
func TestDirectKeepsFramesWholeAndInOrder(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c := &Conn{socket: socket, heartbeat: 10 * time.Second}
	c.frames = wire.NewFrameReader(c, 0)
	c.start()
	defer c.Abort()

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
}
