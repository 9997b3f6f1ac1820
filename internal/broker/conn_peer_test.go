package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// What a peer says of its own accord, and what it does not say.

// rawFrame returns a frame of version 1.
func rawFrame(key wire.Key, fields ...byte) []byte {
	n := wire.HeadLen + len(fields)
	return append([]byte{0, 0, byte(n >> 8), byte(n), byte(key >> 8), byte(key), 0, 1}, fields...)
}

// A frame that only looks like the answer is nobody's.
func TestWhatIsNoAnswer(t *testing.T) {
	for name, frame := range map[string][]byte{
		"a request":              rawFrame(wire.KeyMetadata, 0, 0, 0, 1),
		"a long credit response": rawFrame(wire.KeyCredit.Response(), 0, 0, 0, 1),
		"a short response":       rawFrame(wire.KeyMetadata.Response(), 0, 0, 1),
		"an unknown key":         rawFrame(0x7777, 0, 0, 0, 1),
		"a consumer update":      rawFrame(wire.KeyConsumerUpdate, 0, 0, 0, 1, 2, 1),
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				c := b.dial(t, hooks{})
				b.on(func(p *script.Peer, _ wire.Key, _ []byte) bool { p.Write(frame); return false })
				check.Nil(t, c.Ping(t.Context()))
			})
		})
	}
}

// A peer that answers one request again and again holds up nobody.
func TestAnswersTooMany(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		b.on(func(p *script.Peer, _ wire.Key, fields []byte) bool {
			id, _ := wire.Correlation(fields)
			p.Write(bytes.Repeat(frames(t, metadata(id, "s", wire.CodeOK)), 5))
			return true
		})
		for range 3 {
			check.Nil(t, c.Ping(t.Context()))
		}
	})
}

// An answer that cannot be read fails its call, not the connection.
func TestGarbledAnswer(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		b.on(func(p *script.Peer, _ wire.Key, _ []byte) bool {
			p.Write(rawFrame(wire.KeyMetadata.Response(), 0, 0, 0, 1, 9))
			return true
		})
		err := c.Ping(t.Context())
		check.Err(t, err, ErrProtocol)
		says(t, err, "h:1")
		b.on(nil)
		check.Nil(t, c.Ping(t.Context()))
	})
}

// TestPeerEndsTheConnection by what it sends.
func TestPeerEndsTheConnection(t *testing.T) {
	deliver := func(err error) hooks {
		return hooks{deliver: func(wire.Deliver, []byte) error { return err }}
	}
	closing, _ := encode(&wire.Close{Correlation: 3, Code: wire.CodeInternalError, Reason: "because"})
	for _, test := range []struct {
		name  string
		hooks hooks
		sends []byte
		want  error
		says  string

		hangsUp bool
	}{
		{"close", hooks{}, closing, ErrUnreachable, "h:1 closed the connection: because (internal error)", false},
		{"a garbled close", hooks{}, rawFrame(wire.KeyClose, 0), ErrProtocol, "h:1", false},
		{"a garbled update", hooks{}, rawFrame(wire.KeyMetadataUpdate, 0), ErrProtocol, "h:1", false},
		{"a garbled consumer update", hooks{}, rawFrame(wire.KeyConsumerUpdate, 0), ErrProtocol, "h:1", false},
		{"a chunk of version 0", hooks{}, append(rawFrame(wire.KeyDeliver, 1)[:7], 9, 1), ErrProtocol, "h:1", false},
		{"a frame without a key", hooks{}, []byte{0, 0, 0, 2, 0, 8}, ErrProtocol, "h:1", false},
		{"half a frame", hooks{}, []byte{0, 0, 0, 9, 0, 8}, ErrUnreachable, "connection to h:1 lost", true},
		{"the end", hooks{}, nil, ErrUnreachable, "h:1 closed the connection", true},
		{"a chunk that nobody takes", deliver(unknownSubscription(4)), script.Chunk(1, "a"), ErrProtocol, "subscription 4", false},
		{"a chunk that a hook refuses", deliver(check.ErrTest), script.Chunk(1, "a"), ErrUnreachable, "connection to h:1 lost: " + check.ErrTest.Error(), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtual(t, func(t *testing.T, _ *fake) {
				c, theirs := pipedHooks(t, time.Hour, test.hooks)
				_, _ = theirs.Write(test.sends)
				if test.hangsUp {
					_ = theirs.Close()
				}
				select {
				case <-c.ended:
				case <-time.After(time.Minute):
					t.Fatal("the connection has not ended")
				}
				check.Err(t, c.Reason(), test.want)
				says(t, c.Reason(), test.says)
				if other := map[error]error{ErrProtocol: ErrUnreachable, ErrUnreachable: ErrProtocol}[test.want]; errors.Is(c.Reason(), other) {
					t.Errorf("%v is %v too", c.Reason(), other)
				}
				c.Abort()
			})
		})
	}
}

// A hook's error that says already what it means is the reason as it is.
func TestReadErrorKeepsUnreachable(t *testing.T) {
	c := &Conn{}
	err := fmt.Errorf("%w: as it is", ErrUnreachable)
	if got := c.readError(err); got != err {
		t.Errorf("%v became %v", err, got)
	}
}

// What needs no hook passes without one.
func TestNoHooks(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		b.on(func(p *script.Peer, _ wire.Key, _ []byte) bool {
			p.Write(script.Chunk(1, "a"))
			p.Send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"}, &wire.Heartbeat{})
			return false
		})
		check.Nil(t, c.Ping(t.Context()))
		check.Nil(t, c.Ping(t.Context()))
	})
}

// TestCloseByPeerIsAnswered before the connection ends.
func TestCloseByPeerIsAnswered(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the answer goes through the writer, which the end may overtake")
	}
	answered := make(chan wire.Response, 1)
	c := after(t, func(p *script.Peer) {
		p.Send(&wire.Close{Correlation: 77, Code: wire.CodeOK, Reason: "maintenance"})
		f := wire.Response{Key: wire.KeyClose}
		if p.Expect(&f) {
			answered <- f
		}
	})
	f := check.Recv(t, answered, "the answer")
	if f.Correlation != 77 || f.Code != wire.CodeOK {
		t.Errorf("answered with %+v", f)
	}
	check.Recv(t, c.ended, "the end")
}

// failingWrites is a socket that can be read and not written to.
type failingWrites struct{ net.Conn }

func (failingWrites) Write([]byte) (int, error) { return 0, check.ErrTest }

// TestCloseReasonSurvivesItsAnswer: a peer that has hung up by the time of the
// answer has said why nevertheless.
func TestCloseReasonSurvivesItsAnswer(t *testing.T) {
	closing, _ := encode(&wire.Close{Correlation: 3, Code: wire.CodeInternalError, Reason: "because"})
	virtual(t, func(t *testing.T, _ *fake) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := &Conn{endpoint: Endpoint{Host: "h", Port: 1}, socket: failingWrites{ours}, heartbeat: time.Hour}
		c.frames = wire.NewFrameReader(c, 0)
		c.start()
		// The reader has not yet ended the connection when the answer fails.
		err := c.closedByPeer(closing[4+wire.HeadLen:])
		<-c.ended
		says(t, err, "because")
		says(t, c.Reason(), "because")
		c.Abort()
	})
}

func TestFirstReasonCounts(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		if c.Reason() != nil || !c.Alive() {
			t.Errorf("ended from the start: %v", c.Reason())
		}
		c.fail(check.ErrTest)
		c.Abort()
		c.Close()
		if c.Reason() != check.ErrTest || c.Alive() {
			t.Errorf("the reason is %v", c.Reason())
		}
		b.took(t) // no goodbye on a connection that has ended
	})
}

// A peer that does not answer a goodbye is waited for no longer than
// closeTimeout.
func TestCloseOfASilentPeer(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		b.mute(wire.KeyClose)
		begin := time.Now()
		c.Close()
		took(t, begin, closeTimeout)
		check.Err(t, c.Reason(), ErrClosed)
		b.took(t, "close ok")
	})
}

// TestKeeper counts half heartbeats of 5 s: which reads put off the end, and what
// happens at each.
func TestKeeper(t *testing.T) {
	for _, test := range []struct {
		name  string
		speak []time.Duration // when the peer sends something
		ends  time.Duration
	}{
		{"never a word", nil, 15 * time.Second},
		{"one at the beginning", []time.Duration{time.Second}, 20 * time.Second},
		{"the last moment", []time.Duration{14 * time.Second}, 30 * time.Second},
		{"two, then none", []time.Duration{time.Second, 19 * time.Second}, 35 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ticks := 0
				c, theirs := pipedHooks(t, 10*time.Second, hooks{tick: func() { ticks++ }})
				p := script.NewPeer(t, theirs)
				beats := make(chan int, 1)
				go func() {
					n := 0
					for {
						frame, err := p.Frames.Next()
						if err != nil {
							beats <- n
							return
						}
						if key, _, _, _ := wire.SplitHead(frame); key == wire.KeyHeartbeat {
							n++
						}
					}
				}()
				for _, at := range test.speak {
					time.AfterFunc(at, func() { p.Send(&wire.Heartbeat{}) })
				}
				begin := time.Now()
				select {
				case <-c.ended:
				case <-time.After(time.Minute):
					t.Error("it did not end")
				}
				took(t, begin, test.ends)
				check.Err(t, c.Reason(), ErrUnreachable)
				says(t, c.Reason(), "h:1 has been silent for 15s")
				c.Abort()
				want := int(test.ends / (5 * time.Second))
				if n := <-beats; ticks != want || n < want-1 || n > want { // the end may overtake the last one
					t.Errorf("%d ticks and %d heartbeats, want %d", ticks, n, want)
				}
			})
		})
	}
}

// The end of a connection lets every caller go at once.
func TestEndLetsEveryCallerGo(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		b.mute(wire.KeyMetadata)
		errs := make(chan error, 3)
		for range 3 {
			go func() { errs <- c.Ping(context.Background()) }()
		}
		synctest.Wait()
		if len(c.pending) != 3 {
			t.Errorf("%d calls are pending", len(c.pending))
		}
		begin := time.Now()
		c.Abort()
		for range 3 {
			check.Err(t, <-errs, ErrClosed)
		}
		took(t, begin, 0)
		b.took(t, slices.Repeat([]string{"metadata []"}, 3)...)
	})
}
