package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// fuzzPatience is how long a connection may take to end once its peer has hung
// up.
const fuzzPatience = 5 * time.Second

// frames joins frames to what a peer sends.
func frames(t testing.TB, list ...wire.Frame) (b []byte) {
	t.Helper()
	for _, f := range list {
		var err error
		b, err = wire.Append(b, f)
		check.Nil(t, err)
	}
	return b
}

// hangUp sends bytes to a client and closes the connection. It reads and forgets
// what the client sends.
func hangUp(conn net.Conn, data []byte) {
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	_, _ = conn.Write(data)
	_ = conn.Close()
}

// FuzzConn: whatever a peer sends after the handshake, to a connection that two
// subscriptions share and on which calls wait, the connection ends with an error
// that says whose fault it is, and lets everybody go.
func FuzzConn(f *testing.F) {
	id := uint32(1)
	for _, data := range [][]byte{
		nil,
		frames(f, metadata(id, "s", wire.CodeOK), &wire.Heartbeat{}),
		frames(f, metadata(id, "s", wire.CodeStreamDoesNotExist)),
		frames(f, &wire.StreamStatsResponse{Correlation: 2, Code: wire.CodeOK, Stats: []wire.Stat{{Key: "first_chunk_id", Value: -1}}}),
		frames(f, &wire.QueryOffsetResponse{Correlation: 3, Code: wire.CodeOK, Offset: 5}),
		frames(f, &wire.Response{Key: wire.KeySubscribe, Correlation: 3, Code: wire.CodeOK}),
		frames(f, &wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"}, &wire.CreditResponse{Code: 4, SubscriptionID: 1}),
		frames(f, &wire.Close{Correlation: 9, Code: wire.CodeOK, Reason: "bye"}),
		append(script.ChunkTo(1, 5, "a", "b"), script.ChunkTo(2, 6, "c")...),
		script.ChunkTo(3, 5, "for one who has left"),
		script.ChunkTo(99, 5, "for nobody"),
		rawFrame(wire.KeyDeliver), rawFrame(wire.KeyDeliver, 3), rawFrame(wire.KeyDeliver, 1, 0x51),
		rawFrame(wire.KeyMetadata.Response(), 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff),
		[]byte("\x00\x00\x00\x00"), []byte("\xff\xff\xff\xff"), []byte("\x00\x40\x00\x00\x00\x08\x00\x01\x01"),
		[]byte("AMQP\x00\x00\x09\x01"), []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	} {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), fuzzPatience)
		defer cancel()
		p := newPool(conns(1), nil)
		var theirs net.Conn
		var leases [3]*Lease
		for i := range leases {
			leases[i] = &Lease{node: testNode, subscriber: &recorder{}}
			check.Nil(t, p.join(ctx, leases[i], func(h hooks) (c *Conn, err error) {
				c, theirs = pipedHooks(t, time.Hour, h)
				return c, nil
			}))
		}
		l := leases[0]
		leases[2].conn.leave(context.Background(), leases[2], func() error { return ErrSilent }, false) // its id stays taken
		calls := []func() error{
			func() error { _, err := l.Locate(ctx, "s"); return err },
			func() error { _, err := l.Stats(ctx, "s"); return err },
			func() error { _, err := l.QueryOffset(ctx, "me", "s"); return err },
		}
		errs := make(chan error, len(calls))
		for _, call := range calls {
			go func() { errs <- call() }()
		}
		hangUp(theirs, data)
		select {
		case <-l.Ended():
		case <-ctx.Done():
			t.Fatal("the connection has not ended")
		}
		for range calls {
			if err := check.Recv(t, errs, "a call's end"); errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a call outlived the connection: %v", err)
			}
		}
		if err := l.Reason(); errors.Is(err, ErrUnreachable) == errors.Is(err, ErrProtocol) {
			t.Errorf("the end is %v", err)
		}
		l.Release(true)
		leases[1].Release(true)
		if p.size() != 0 {
			t.Error("a connection is left in the pool")
		}
	})
}

// FuzzPublishers: whatever a peer sends to a connection for publishing, that ends
// with an error that says whose fault it is.
func FuzzPublishers(f *testing.F) {
	for _, data := range [][]byte{
		wire.AppendPublishConfirm(nil, 1, []uint64{1, 2}), wire.AppendPublishConfirm(nil, 3, nil),
		wire.AppendPublishError(nil, 2, wire.CodePublisherDoesNotExist, []uint64{1, 1 << 63}),
		frames(f, &wire.Response{Key: wire.KeyDeletePublisher, Correlation: 1, Code: wire.CodeOK}, &wire.Response{Key: wire.KeyDeletePublisher, Correlation: 1}),
		frames(f, &wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"}, &wire.Close{Code: wire.CodeInternalError}),
		rawFrame(wire.KeyPublishConfirm), rawFrame(wire.KeyPublishConfirm, 1, 0xff, 0xff, 0xff, 0xff), rawFrame(wire.KeyPublishError, 1, 0, 0, 0, 1),
		script.ChunkTo(1, 5, "for nobody"),
	} {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), fuzzPatience)
		defer cancel()
		g := newGoodbyes()
		p := newPublisherPool(conns(1), nil, g)
		var theirs net.Conn
		var all [3]*Publisher
		for i := range all {
			all[i] = &Publisher{source: &feed{id: uint8(i + 1)}, turn: &turn{}}
			l := &Lease{node: testNode, stream: "s", subscriber: publisherSubscriber{source: all[i].source}, publisher: all[i]}
			all[i].lease = l
			check.Nil(t, p.join(ctx, l, func(h hooks) (c *Conn, err error) {
				c, theirs = pipedHooks(t, time.Hour, h)
				return c, nil
			}))
			all[i].sender = l.conn.sender
			all[i].sender.enter(all[i], "s")
		}
		all[2].Release() // its id stays taken
		all[0].source.(*feed).give(1, 2)
		all[0].SendNow()
		hangUp(theirs, data)
		select {
		case <-all[0].Ended():
		case <-ctx.Done():
			t.Fatal("the connection has not ended")
		}
		if err := all[0].Reason(); errors.Is(err, ErrUnreachable) == errors.Is(err, ErrProtocol) {
			t.Errorf("the end is %v", err)
		}
		all[0].Release()
		all[1].Release()
		if g.wait(ctx); p.size() != 0 {
			t.Error("a connection is left in the pool")
		}
	})
}

// FuzzHandshake: whatever a peer sends during the handshake, that ends, and an
// error says what kind it is.
func FuzzHandshake(f *testing.F) {
	welcome := []wire.Frame{
		&wire.PeerPropertiesResponse{Correlation: 1, Code: wire.CodeOK},
		&wire.SaslHandshakeResponse{Correlation: 2, Code: wire.CodeOK, Mechanisms: []string{"PLAIN"}},
		&wire.SaslAuthenticateResponse{Correlation: 3, Code: wire.CodeOK},
		&wire.Tune{FrameMax: 1 << 20, Heartbeat: 60},
		&wire.OpenResponse{Correlation: 4, Code: wire.CodeOK, Properties: wire.Properties{{Key: "advertised_host", Value: "h"}}},
	}
	for n := range len(welcome) + 1 {
		f.Add(frames(f, welcome[:n]...))
	}
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Add([]byte("\x00\x00\x00\x05\x80\x11\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		begin := time.Now()
		_ = ours.SetDeadline(begin.Add(fuzzPatience))
		c := &Conn{endpoint: Endpoint{Host: "h", Port: 1}, socket: ours, heartbeat: time.Minute}
		c.frames = wire.NewFrameReader(c, handshakeFrameMax)
		go hangUp(theirs, data)
		err := c.handshake("fuzz")
		if time.Since(begin) > fuzzPatience {
			t.Errorf("the handshake did not end by itself: %v", err)
		}
		kinds := 0
		for _, kind := range []error{ErrUnreachable, ErrProtocol, ErrAuthentication, ErrVirtualHost} {
			if errors.Is(err, kind) {
				kinds++
			}
		}
		if (err == nil) != (kinds == 0) || kinds > 1 {
			t.Errorf("%v is of %d kinds", err, kinds)
		}
		if err == nil && (c.frameMax <= 0 || c.frameMax > wantedFrameMax) {
			t.Errorf("frames of %d bytes", c.frameMax)
		}
	})
}
