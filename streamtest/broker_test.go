package streamtest

import (
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestHandshake(t *testing.T) {
	b := NewBroker(t)
	c := dialRaw(t, b)
	c.send(&wire.PeerProperties{Correlation: 7})
	var peer wire.PeerPropertiesResponse
	c.decode(&peer)
	if v, _ := peer.Properties.Get("version"); peer.Correlation != 7 || peer.Code != wire.CodeOK || v != "4.3.6" {
		t.Errorf("%+v", peer)
	}
	c.send(&wire.Heartbeat{}, &wire.SaslHandshake{Correlation: 8})
	var sasl wire.SaslHandshakeResponse
	if c.decode(&sasl); len(sasl.Mechanisms) != 1 || sasl.Mechanisms[0] != "PLAIN" {
		t.Errorf("mechanisms %q", sasl.Mechanisms)
	}
	c.send(&wire.SaslAuthenticate{Correlation: 9, Mechanism: "PLAIN", Data: []byte("\x00guest\x00guest")})
	c.expect(wire.KeySaslAuthenticate.Response())
	var tune wire.Tune
	if c.decode(&tune); tune.FrameMax != 1<<20 || tune.Heartbeat != 60 {
		t.Errorf("%+v", tune)
	}
	c.send(&wire.Tune{Response: true}, &wire.Open{Correlation: 10, VHost: "/"})
	var open wire.OpenResponse
	c.decode(&open)
	host, _ := open.Properties.Get("advertised_host")
	port, _ := open.Properties.Get("advertised_port")
	c.create("s")
	c.send(&wire.Metadata{Correlation: c.next(), Streams: []string{"s"}})
	var meta wire.MetadataResponse
	c.decode(&meta)
	if nodes := b.nodes(); len(meta.Brokers) != 1 || meta.Brokers[0] != nodes[0] || host != nodes[0].Host ||
		!strings.HasSuffix(b.Addr(), ":"+port) {
		t.Errorf("advertised %s:%s, metadata %+v", host, port, meta.Brokers)
	}
}

func TestLoginRefused(t *testing.T) {
	b := NewBroker(t)
	tests := map[string]struct {
		mechanism, data string
		want            wire.Code
	}{
		"wrong password": {"PLAIN", "\x00guest\x00wrong", wire.CodeAuthenticationFailure},
		"unknown user":   {"PLAIN", "\x00who\x00guest", wire.CodeAuthenticationFailure},
		"malformed":      {"PLAIN", "guest guest", wire.CodeSaslError},
		"authzid":        {"PLAIN", "x\x00guest\x00guest", wire.CodeSaslError},
		"anonymous":      {"ANONYMOUS", "", wire.CodeSaslMechanismNotSupported},
		"external":       {"EXTERNAL", "", wire.CodeSaslMechanismNotSupported},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, b)
			c.send(&wire.PeerProperties{}, &wire.SaslHandshake{})
			c.expect(wire.KeyPeerProperties.Response())
			c.expect(wire.KeySaslHandshake.Response())
			c.send(&wire.SaslAuthenticate{Mechanism: tt.mechanism, Data: []byte(tt.data)})
			var resp wire.SaslAuthenticateResponse
			if c.decode(&resp); resp.Code != tt.want {
				t.Errorf("%v, want %v", resp.Code, tt.want)
			}
			c.expectEnd()
		})
	}
}

func TestOpenRefused(t *testing.T) {
	c := dialRaw(t, NewBroker(t))
	c.login("guest", "guest")
	c.expect(wire.KeyTune)
	c.send(&wire.Tune{}, &wire.Open{Correlation: 4, VHost: "nope"})
	var resp wire.OpenResponse
	if c.decode(&resp); resp.Code != wire.CodeVHostAccessFailure {
		t.Errorf("%v", resp.Code)
	}
	c.expectEnd()
}

func TestReauthenticate(t *testing.T) {
	b := NewBroker(t, WithUser(User{Name: "guest", Password: "guest"}), WithUser(User{Name: "other", Password: "x"}),
		WithAnonymous("other"))
	auth := func(c *rawClient, mechanism, data string) wire.Code {
		return c.call(&wire.SaslAuthenticate{Correlation: c.next(), Mechanism: mechanism, Data: []byte(data)})
	}
	c := openRaw(t, b)
	if code := auth(c, "PLAIN", "\x00guest\x00guest"); code != wire.CodeOK {
		t.Errorf("same user: %v", code)
	}
	c.quiet()
	if code := auth(c, "PLAIN", "\x00other\x00x"); code != wire.CodeSaslCannotChangeUsername {
		t.Errorf("other user: %v", code)
	}
	c.expectEnd()
	c = openRaw(t, b)
	if code := auth(c, "ANONYMOUS", ""); code != wire.CodeSaslCannotChangeMechanism {
		t.Errorf("other mechanism: %v", code)
	}
	c.expectEnd()
}

func TestExchangeCommandVersions(t *testing.T) {
	c := openRaw(t, NewBroker(t))
	c.create("s")
	c.declare(1, "", "s")
	c.subscribe(1, "s", fromFirst, 10)
	c.publish(1, 1)
	if c.confirmed(); c.expect(wire.KeyDeliver).version != wire.Version1 {
		t.Error("version 2 unasked")
	}
	c.send(&wire.ExchangeCommandVersions{Correlation: c.next(), Commands: []wire.CommandVersion{{Key: wire.KeyDeliver, Min: 1, Max: 2}, {Key: 99, Min: 1, Max: 1}}})
	var resp wire.ExchangeCommandVersionsResponse
	if c.decode(&resp); len(resp.Commands) != 20 {
		t.Errorf("%d commands", len(resp.Commands))
	}
	c.publish(1, 2)
	c.confirmed()
	if d, chunk := c.chunk(); d.CommittedChunk != 1 || chunk.FirstOffset != 1 {
		t.Errorf("%+v", d)
	}
}

func TestBadFrames(t *testing.T) {
	b := NewBroker(t)
	unknown := map[string][]byte{
		"size 0":          {0, 0, 0, 0},
		"unknown key":     {0, 0, 0, 4, 0, 0x77, 0, 1},
		"unknown version": {0, 0, 0, 4, 0, 9, 0, 9},
		"truncated body":  {0, 0, 0, 5, 0, 0x0d, 0, 1, 0},
		"left over":       {0, 0, 0, 8, 0, 9, 0, 1, 1, 0, 1, 0},
	}
	for name, frame := range unknown {
		t.Run(name, func(t *testing.T) {
			c := openRaw(t, b)
			c.write(frame)
			var req wire.Close
			if c.decode(&req); req.Code != wire.CodeUnknownFrame || req.Reason != "unknown frame" || req.Correlation != 1 {
				t.Errorf("%+v", req)
			}
			c.send(&wire.Heartbeat{}, &wire.Response{Key: wire.KeyClose, Correlation: 1, Code: wire.CodeOK})
			c.expectEnd()
		})
	}
	silent := map[string][]byte{
		"bad offset type": {0, 0, 0, 16, 0, 7, 0, 1, 0, 0, 0, 1, 1, 0, 1, 's', 0, 9, 0, 1},
		"short entry":     {0, 0, 0, 22, 0, 2, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 'x'},
	}
	for name, frame := range silent {
		t.Run(name, func(t *testing.T) {
			c := openRaw(t, b)
			c.write(frame)
			c.expectEnd()
		})
	}
	t.Run("before Open", func(t *testing.T) {
		c := dialRaw(t, b)
		c.write(unknown["unknown key"])
		c.expectEnd()
	})
	t.Run("out of order", func(t *testing.T) {
		c := dialRaw(t, b)
		c.send(&wire.SaslHandshake{})
		c.expectEnd()
	})
}

func TestFrameTooLarge(t *testing.T) {
	b := NewBroker(t, WithFrameMax(10_000))
	c := openRaw(t, b)
	c.write([]byte{0, 0, 0x27, 0x11, 0, 2})
	var req wire.Close
	if c.decode(&req); req.Code != wire.CodeFrameTooLarge {
		t.Errorf("%+v", req)
	}
	c = dialRaw(t, b)
	c.write([]byte{0, 0, 0x20, 0x01, 0, 2})
	c.expectEnd()
}

func TestCloseByClient(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.must(&wire.Close{Correlation: c.next(), Code: wire.CodeOK, Reason: "done"})
	c.expectEnd()
	awaitCond(t, b, "connection gone", func() bool { return len(b.Connections()) == 0 })
}

func TestHeartbeats(t *testing.T) {
	b := NewBroker(t)
	c := dialRaw(t, b)
	c.login("guest", "guest")
	c.expect(wire.KeyTune)
	c.send(&wire.Tune{Heartbeat: 3600}, &wire.Open{Correlation: c.next(), VHost: "/"})
	c.expect(wire.KeyOpen.Response())
	// The first heartbeat comes although the broker has just sent
	// something.
	for _, step := range []time.Duration{1800e9, 3600e9} {
		b.AdvanceHeartbeats(step)
		if frame, err := c.frames.Next(); err != nil || len(frame) != 4 || frame[1] != 0x17 {
			t.Fatalf("%x, %v", frame, err)
		}
	}
	c.send(&wire.Heartbeat{})
	awaitCond(t, b, "heartbeat received", func() bool { return b.Received(Heartbeat) == 1 })
	// The client's heartbeat counts for one interval. Two of silence
	// follow.
	b.AdvanceHeartbeats(3 * 3600e9)
	c.expectEnd()
}

func TestHandshakeTimeout(t *testing.T) {
	b := NewBroker(t)
	c := dialRaw(t, b)
	awaitCond(t, b, "connected", func() bool { return len(b.Connections()) == 1 })
	b.AdvanceHeartbeats(stepTimeout)
	c.expectEnd()
}

func TestStartFails(t *testing.T) {
	b := NewBroker(t)
	if _, err := Start(WithAddr(b.Addr())); err == nil {
		t.Error("a port that is taken")
	}
	if _, err := Start(WithUser(User{Name: "u", Permissions: map[string]Permission{"/": {Read: "("}}})); err == nil {
		t.Error("a pattern that does not compile")
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	b, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	c := openRaw(t, b)
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Error(err)
	}
	c.expectEnd()
	if err := b.Restart(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("restart after close: %v", err)
	}
}

// TestThousandBrokers starts and closes a thousand brokers, each with a
// connection. No goroutine may be left behind.
func TestThousandBrokers(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 1000 {
		b, err := Start()
		if err != nil {
			t.Fatal(err)
		}
		nc, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		nc.Close()
	}
	// The runtime still counts a goroutine for a moment after its function
	// has returned.
	after := runtime.NumGoroutine()
	for end := time.Now().Add(5 * time.Second); after > before && time.Now().Before(end); after = runtime.NumGoroutine() {
		runtime.Gosched()
	}
	if after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}
