package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// TestHandshakeGarbled: an answer of another kind ends the handshake, even where
// the peer goes on as if nothing had been.
func TestHandshakeGarbled(t *testing.T) {
	for n, step := range script.Steps {
		t.Run(step.Name, func(t *testing.T) {
			e := listen(t, func(p *script.Peer) {
				if !p.Shake(n) {
					return
				}
				p.Send(&wire.Response{Key: wire.KeyDelete, Correlation: 1, Code: wire.CodeOK})
				for key, fields, ok := p.Next(); ok; key, fields, ok = p.Next() {
					if id, _ := wire.Correlation(fields); key == wire.KeyOpen {
						p.Send(&wire.OpenResponse{Correlation: id, Code: wire.CodeOK})
					}
				}
			})
			_, err := dial(check.Soon(t), testOptions(), e, "test", hooks{})
			check.Err(t, err, ErrProtocol)
			says(t, err, e.Address())
		})
	}
}

// TestTune: what a broker offers, and what the client makes of it.
func TestTune(t *testing.T) {
	for _, test := range []struct {
		offer     uint32
		heartbeat time.Duration
		frameMax  uint32
		seconds   uint32
	}{
		{0, time.Minute, wantedFrameMax, 60},
		{wantedFrameMax + 1, time.Second, wantedFrameMax, 1},
		{wantedFrameMax - 1, time.Second + 1, wantedFrameMax - 1, 2},
		{4096, time.Millisecond, 4096, 1},
	} {
		answers := make(chan wire.Tune, 1)
		e := listen(t, func(p *script.Peer) {
			if !p.Shake(3) {
				return
			}
			p.Send(&wire.Tune{FrameMax: test.offer, Heartbeat: 7})
			f := wire.Tune{Response: true}
			if p.Expect(&f) {
				answers <- f
			}
			if script.Steps[4].Play(p) {
				p.Stall()
			}
		})
		o := testOptions()
		o.Heartbeat = test.heartbeat
		c, err := dial(check.Soon(t), o, e, "test", hooks{})
		check.Nil(t, err)
		if f := check.Recv(t, answers, "the answer"); f.FrameMax != test.frameMax || f.Heartbeat != test.seconds {
			t.Errorf("an offer of %d was answered with %+v, want %d and %d s", test.offer, f, test.frameMax, test.seconds)
		}
		if c.Contact().FrameMax != int(test.frameMax) {
			t.Errorf("frames of %d bytes, want %d", c.Contact().FrameMax, test.frameMax)
		}
		c.Abort()
		// Where chunks come, the broker's own limit holds, and none if it has none.
		c, err = dial(check.Soon(t), o, e, "test", hooks{deliver: func(wire.Deliver, []byte) error { return nil }})
		check.Nil(t, err)
		if f := check.Recv(t, answers, "the answer"); f.FrameMax != test.offer || c.Contact().FrameMax != int(test.frameMax) {
			t.Errorf("an offer of %d was answered with %+v for chunks, and %d bytes are sent", test.offer, f, c.Contact().FrameMax)
		}
		c.Abort()
	}
}

// The client introduces itself.
func TestIntroduction(t *testing.T) {
	b := streamtest.NewBroker(t, streamtest.WithAdvertised("x.invalid:99"))
	c, err := dial(check.Soon(t), testOptions(), guestAt(t, b), "a name", hooks{})
	check.Nil(t, err)
	defer c.Abort()
	props := b.Connections()[0].Properties
	if props["connection_name"] != "a name" || props["product"] != clientProduct || props["platform"] != "Go" {
		t.Errorf("the client's properties are %v", props)
	}
	if c.advertised != "x.invalid:99" {
		t.Errorf("advertised %q", c.advertised)
	}
}

// A frame of any size may come once the handshake is over, and none before.
func TestLargeFrames(t *testing.T) {
	large := script.Chunk(1, strings.Repeat("x", 2*handshakeFrameMax))
	got := make(chan int, 1)
	e := listen(t, func(p *script.Peer) {
		if p.Welcome() {
			p.Write(large)
			p.Stall()
		}
	})
	for name, buffer := range map[string]func(uint8, int) []byte{
		"own memory": func(_ uint8, n int) []byte { return make([]byte, n+1)[:n] }, "the reader's": nil,
	} {
		c := dialed(t, e, hooks{buffer: buffer, deliver: func(d wire.Deliver, buf []byte) error {
			if buffer != nil && cap(buf) != len(buf)+1 {
				t.Errorf("%s: the chunk did not come in the hook's buffer", name)
			}
			got <- len(d.Chunk)
			return nil
		}})
		if n := check.Recv(t, got, "the chunk"); n < 2*handshakeFrameMax {
			t.Errorf("%s: %d bytes", name, n)
		}
		c.Abort()
	}
}

// certified returns TLS configurations for a server on loopback and for those
// who trust it.
func certified(t *testing.T) (server, client *tls.Config) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots}
}

func TestDialTLS(t *testing.T) {
	check.NoLeaks(t)
	server, client := certified(t)
	b := streamtest.NewBroker(t, streamtest.WithTLS(server))
	b.CreateStream("s")
	e := guestAt(t, b)
	e.TLS = true
	o := testOptions()
	o.TLS = client
	c, err := dial(check.Soon(t), o, e, "test", hooks{})
	check.Nil(t, err)
	check.Nil(t, c.StoreOffset(check.Soon(t), "me", "s", 5))
	check.Nil(t, c.VerifyOffset(check.Soon(t), "me", "s", 5))
	c.direct.cork(true) // which TLS does not take
	c.Close()
	o.TLS = nil
	_, err = dial(check.Soon(t), o, e, "test", hooks{})
	check.Err(t, err, ErrTLS)
	says(t, err, "certificate", e.Address())
	if errors.Is(err, ErrUnreachable) {
		t.Errorf("%v would be tried again", err)
	}
}

// TestDialAnyStops at a refusal that every node would repeat, and at the end of
// the caller's context.
func TestDialAnyStops(t *testing.T) {
	for _, test := range []struct {
		code wire.Code
		step int
		want error
	}{
		{wire.CodeAuthenticationFailure, 2, ErrAuthentication},
		{wire.CodeVHostAccessFailure, 4, ErrVirtualHost},
	} {
		dials := make(chan struct{}, 10)
		e := listen(t, func(p *script.Peer) {
			dials <- struct{}{}
			if !p.Shake(test.step) {
				return
			}
			_, fields, _ := p.Next()
			id, _ := wire.Correlation(fields)
			if test.step == 2 {
				p.Send(&wire.SaslAuthenticateResponse{Correlation: id, Code: test.code})
			} else {
				p.Send(&wire.OpenResponse{Correlation: id, Code: test.code})
			}
		})
		_, err := dialAny(check.Soon(t), testOptions(), []Endpoint{e, e, e}, "test", hooks{})
		check.Err(t, err, test.want)
		if strings.Contains(err.Error(), "more nodes") || len(dials) != 1 {
			t.Errorf("%v after %d dials", err, len(dials))
		}
	}
	down := Endpoint{Host: "127.0.0.1", Port: 1}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(check.ErrTest)
	_, err := dialAny(ctx, testOptions(), []Endpoint{down, down}, "test", hooks{})
	check.Err(t, err, context.Canceled, check.ErrTest)
	if errors.Is(err, ErrUnreachable) {
		t.Errorf("a cancelled dial returned %v", err)
	}
	_, err = dialAny(check.Soon(t), testOptions(), []Endpoint{down}, "test", hooks{})
	check.Err(t, err, ErrUnreachable)
	if strings.Contains(err.Error(), "more") {
		t.Errorf("%v: there is one node", err)
	}
}

// TestDialFailure: of several reasons that hold at once, which one is told.
func TestDialFailure(t *testing.T) {
	ended := func() context.Context {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(check.ErrTest)
		return ctx
	}()
	running, boom := context.Background(), errors.New("boom")
	past, cancel := context.WithDeadline(running, time.Now().Add(-time.Second))
	defer cancel()
	later, cancel := context.WithDeadline(running, time.Now().Add(time.Hour))
	defer cancel()
	soon, cancel := context.WithTimeout(running, time.Millisecond)
	defer cancel()
	for _, test := range []struct {
		name            string
		caller, attempt context.Context
		err             error
		want            error
		same            bool // as err
	}{
		{"the broker's answer", running, running, boom, boom, true},
		{"the broker's answer, with time left", later, running, boom, boom, true},
		{"the time is up", running, ended, boom, ErrUnreachable, false},
		{"the time is up, and the caller has more", later, ended, boom, ErrUnreachable, false},
		{"the time is up, but TLS says why", running, ended, fmt.Errorf("%w: x", ErrTLS), ErrTLS, true},
		{"the caller has gone", ended, ended, fmt.Errorf("%w: x", ErrTLS), check.ErrTest, false},
		{"the caller's deadline", past, ended, boom, context.DeadlineExceeded, false},
		// The dialer's timer may come before the context's own.
		{"the caller's deadline, unnoticed", unnoticed{soon}, running, boom, context.DeadlineExceeded, false},
	} {
		err := dialFailure(test.caller, test.attempt, test.err, Endpoint{Host: "h", Port: 1}, 7*time.Second)
		if !errors.Is(err, test.want) || (err == test.err) != test.same {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if test.want == ErrUnreachable {
			says(t, err, "h:1", "7s")
		}
	}
}

// TestDialDeadlineCause: the end of the caller's context is told with its cause, also
// where the dialer notices the deadline before the context does. A context that never
// ends is not waited for.
func TestDialDeadlineCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := OwnReason(ErrBlocked)
		for _, test := range []struct {
			cause error
			want  []error
		}{{check.ErrTest, []error{context.DeadlineExceeded, check.ErrTest}}, {own, []error{ErrBlocked}}} {
			ends, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, test.cause)
			defer cancel()
			err := dialFailure(unnoticed{ends}, t.Context(), os.ErrDeadlineExceeded, Endpoint{}, time.Hour)
			check.Err(t, err, test.want...)
		}
		err := dialFailure(unnoticed{context.Background()}, t.Context(), os.ErrDeadlineExceeded, Endpoint{}, time.Hour)
		check.Err(t, err, context.DeadlineExceeded)
	})
}

// unnoticed is a context whose deadline has passed and that does not know yet.
type unnoticed struct{ context.Context }

func (unnoticed) Deadline() (time.Time, bool) { return time.Now().Add(-time.Nanosecond), true }

func TestDialError(t *testing.T) {
	e := Endpoint{Host: "h", Port: 1}
	for says, err := range map[string]error{
		`unknown host "h"`:    &net.OpError{Err: &net.DNSError{Err: "no such host", Name: "h"}},
		"nothing listens":     &net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"h:1: no route there": errors.New("no route there"),
	} {
		got := dialError(err, e)
		if !errors.Is(got, ErrUnreachable) || !strings.Contains(got.Error(), says) {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// TestTLSError: what is wrong for good, and what is tried again.
func TestTLSError(t *testing.T) {
	e := Endpoint{Host: "h", Port: 1, TLS: true}
	for _, test := range []struct {
		err            error
		tls, unreached bool
		says           string
	}{
		{tls.RecordHeaderError{Msg: "not TLS"}, true, false, "TLS port (usually 5551)"},
		{io.EOF, true, true, "TLS port"},
		{io.ErrUnexpectedEOF, true, true, "TLS port"},
		{context.DeadlineExceeded, true, true, SchemePlain},
		{os.ErrDeadlineExceeded, true, true, "h:1"},
		{&net.OpError{Err: os.NewSyscallError("read", syscall.ECONNRESET)}, false, true, "h:1 closed the connection"},
		{x509.UnknownAuthorityError{}, true, false, "RootCAs"},
	} {
		err := tlsError(fmt.Errorf("wrapped: %w", test.err), e)
		if errors.Is(err, ErrTLS) != test.tls || errors.Is(err, ErrUnreachable) != test.unreached {
			t.Errorf("%v became %v", test.err, err)
		}
		says(t, err, test.says)
	}
	if err := tlsError(context.Canceled, e); err != context.Canceled {
		t.Errorf("the caller's end became %v", err)
	}
}

func TestHandshakeError(t *testing.T) {
	c := &Conn{endpoint: Endpoint{Host: "h", Port: 1}}
	for _, test := range []struct {
		err, want error
		says      string
	}{
		{wire.ErrMalformed, ErrProtocol, "is it the stream port (usually 5552)"},
		{wire.ErrFrameTooLarge, ErrProtocol, SchemeTLS},
		{io.EOF, ErrUnreachable, "h:1 closed the connection during the handshake"},
		{io.ErrUnexpectedEOF, ErrUnreachable, "during the handshake"},
		{syscall.ECONNRESET, ErrUnreachable, "during the handshake"},
		{check.ErrTest, ErrUnreachable, "h:1: wrapped: " + check.ErrTest.Error()},
	} {
		err := c.handshakeError(fmt.Errorf("wrapped: %w", test.err))
		check.Err(t, err, test.want)
		says(t, err, test.says)
	}
	for _, err := range []error{ErrAuthentication, ErrVirtualHost} {
		if got := c.handshakeError(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// A vhost that does not fit a frame is the caller's mistake, not the peer's.
func TestHandshakeTooLong(t *testing.T) {
	long := strings.Repeat("n", 1<<16)
	e := listen(t, func(p *script.Peer) {
		if p.Shake(4) {
			p.Stall()
		}
	})
	e.VHost = long
	_, err := dial(check.Soon(t), testOptions(), e, "test", hooks{})
	check.Err(t, err, ErrInvalidConfig)
	if errors.Is(err, ErrProtocol) {
		t.Errorf("%.200s: the peer has not said anything wrong", err)
	}
	_, err = dial(check.Soon(t), testOptions(), e, long, hooks{})
	check.Err(t, err, ErrInvalidConfig)
}

func TestResolve(t *testing.T) {
	for _, test := range []struct {
		host string
		port int
		want error
	}{
		{"h", 1, nil}, {"h", 65535, nil}, {"", 1, ErrInvalidConfig},
		{"h", 0, ErrInvalidConfig}, {"h", 65536, ErrInvalidConfig}, {"", 0, ErrInvalidConfig},
	} {
		o := Options{Resolve: func(host string, port int) (string, int) {
			if host != "node" || port != 77 {
				t.Errorf("asked for %s:%d", host, port)
			}
			return test.host, test.port
		}}
		n, err := o.resolve(Node{"node", 77})
		if !errors.Is(err, test.want) || err == nil && n != (Node{test.host, test.port}) {
			t.Errorf("%s:%d: %v, %v", test.host, test.port, n, err)
		}
		if err != nil {
			says(t, err, "node:77")
		}
	}
	if n, err := (Options{}).resolve(Node{"node", 77}); n != (Node{"node", 77}) || err != nil {
		t.Errorf("without Resolve: %v, %v", n, err)
	}
}

// TestDialNode: the login of the contact, at the node's address or where Resolve
// leads.
func TestDialNode(t *testing.T) {
	check.NoLeaks(t)
	b := streamtest.NewBroker(t, streamtest.WithAdvertised("a.invalid:5552"))
	here := Node{"127.0.0.1", check.Port(t, b.Addr())}
	by := Contact{Endpoint: guestAt(t, b).At(Node{"c.invalid", 5552}), Advertised: "c.invalid:5552"}
	cluster := NewCluster(testOptions(), nil)
	// Nobody checks what answers at an advertised address.
	c, err := cluster.dialNode(check.Soon(t), by, here, "test", hooks{})
	check.Nil(t, err)
	if c.Contact().Endpoint != guestAt(t, b) {
		t.Errorf("%+v", c.Contact())
	}
	c.Close()
	cluster.opts.Resolve = func(string, int) (string, int) { return "127.0.0.1", 1 }
	_, err = cluster.dialNode(check.Soon(t), by, Node{"a.invalid", 5552}, "test", hooks{})
	says(t, err, "nothing listens on 127.0.0.1:1")
	// Another node at the end of every attempt.
	cluster.opts.Resolve = func(string, int) (string, int) { return here.Host, here.Port }
	_, err = cluster.dialNode(check.Soon(t), by, Node{"b.invalid", 5552}, "test", hooks{})
	check.Err(t, err, ErrUnreachable)
	says(t, err, here.Address(), "b.invalid:5552", "20 times", "a.invalid:5552")
	// A contact whose address cannot be reached any more.
	by = Contact{Endpoint: Endpoint{Host: "127.0.0.1", Port: 1}, Advertised: "a.invalid:5552"}
	_, err = cluster.dialNode(check.Soon(t), by, Node{"a.invalid", 5552}, "test", hooks{})
	says(t, err, "nothing listens on 127.0.0.1:1")
}
