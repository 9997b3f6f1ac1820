package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestDial(t *testing.T) {
	check.NoLeaks(t)
	e := listen(t, func(p *script.Peer) {
		if p.Welcome() {
			p.Stall()
		}
	})
	c, err := dial(check.Soon(t), testOptions(), e, "test", hooks{})
	if err != nil {
		t.Fatal(err)
	}
	if c.advertised != e.Address() || c.frameMax != 1<<19 || !c.Alive() {
		t.Errorf("advertised %s, frame max %d, alive %v", c.advertised, c.frameMax, c.Alive())
	}
	c.Abort()
	check.Err(t, c.Reason(), ErrClosed)
}

// TestDialRefused has a broker that ends the handshake in one way or another.
func TestDialRefused(t *testing.T) {
	answer := func(f func(id uint32) wire.Frame) func(*script.Peer) {
		return func(p *script.Peer) {
			if _, fields, ok := p.Next(); ok {
				id, _ := wire.Correlation(fields)
				p.Send(f(id))
			}
		}
	}
	loginCode := func(code wire.Code) func(*script.Peer) {
		return answer(func(id uint32) wire.Frame { return &wire.SaslAuthenticateResponse{Correlation: id, Code: code} })
	}
	raw := func(text string) func(*script.Peer) {
		return func(p *script.Peer) { p.Next(); p.Write([]byte(text)); p.Stall() }
	}
	for _, test := range []struct {
		name  string
		steps int
		then  func(*script.Peer)
		want  error
		says  string
	}{
		{"wrong password", 2, loginCode(wire.CodeAuthenticationFailure), ErrAuthentication, "check user and password"},
		{"not from here", 2, loginCode(wire.CodeAuthenticationLoopback), ErrAuthentication, "own machine"},
		{"challenge", 2, loginCode(wire.CodeSaslChallenge), ErrAuthentication, "me"},
		{"no PLAIN", 1, answer(func(id uint32) wire.Frame {
			return &wire.SaslHandshakeResponse{Correlation: id, Code: wire.CodeOK, Mechanisms: []string{"EXTERNAL"}}
		}), ErrAuthentication, "EXTERNAL"},
		{"no vhost", 4, answer(func(id uint32) wire.Frame {
			return &wire.OpenResponse{Correlation: id, Code: wire.CodeVHostAccessFailure}
		}), ErrVirtualHost, `"/"`},
		{"hangs up", 0, func(*script.Peer) {}, ErrUnreachable, "closed the connection"},
		{"hangs up before the login", 2, func(*script.Peer) {}, ErrUnreachable, "closed the connection"},
		{"hangs up within a frame", 0, func(p *script.Peer) { p.Next(); p.Write([]byte{0, 0, 0, 9, 0x80}) }, ErrUnreachable, "closed the connection"},
		{"AMQP", 0, raw("AMQP\x00\x00\x09\x01"), ErrProtocol, "5672"},
		{"HTTP", 0, raw("HTTP/1.1 400 Bad Request\r\n\r\n"), ErrProtocol, "HTTP"},
		{"TLS alert", 0, raw("\x15\x03\x01\x00\x02\x02\x46"), ErrProtocol, "TLS"},
		{"a huge frame", 0, raw("\x7f\xff\xff\xff\x80\x11\x00\x01"), ErrProtocol, e5552},
		{"an empty frame", 0, raw("\x00\x00\x00\x00"), ErrProtocol, e5552},
		{"another answer", 0, answer(func(id uint32) wire.Frame { return &wire.OpenResponse{Correlation: id} }), ErrProtocol, e5552},
		{"a garbled answer", 0, raw("\x00\x00\x00\x05\x80\x11\x00\x01\x00"), ErrProtocol, e5552},
	} {
		t.Run(test.name, func(t *testing.T) {
			check.NoLeaks(t)
			e := listen(t, func(p *script.Peer) {
				if p.Shake(test.steps) {
					test.then(p)
				}
			})
			_, err := dial(check.Soon(t), testOptions(), e, "test", hooks{})
			check.Err(t, err, test.want)
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "cr@t") {
				t.Errorf("%v: should say %q and not the password", err, test.says)
			}
		})
	}
}

const e5552 = "5552"

// stalled plays n steps and then says nothing. It reports when it is there.
func stalled(t testing.TB, n int) (Endpoint, <-chan struct{}) {
	there := make(chan struct{}, 1)
	return listen(t, func(p *script.Peer) {
		if p.Shake(n) {
			if n < len(script.Steps) && script.Steps[n].Name != "tune" { // the client is silent before Tune
				p.Next()
			}
			there <- struct{}{}
			p.Stall()
		}
	}), there
}

func TestDialSilentBroker(t *testing.T) {
	for n, step := range script.Steps {
		t.Run(step.Name, func(t *testing.T) {
			check.NoLeaks(t)
			e, _ := stalled(t, n)
			o := testOptions()
			o.DialTimeout = 50 * time.Millisecond
			got := make(chan error, 1)
			go func() { _, err := dial(check.Soon(t), o, e, "test", hooks{}); got <- err }()
			err := check.Recv(t, got, "dial's error")
			check.Err(t, err, ErrUnreachable)
			if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "50ms") {
				t.Errorf("a silent broker is %v", err)
			}
		})
	}
}

// TestDialContext: wherever the handshake is, the end of the caller's context
// ends it at once, with the context's error and nothing of ours.
func TestDialContext(t *testing.T) {
	for n, step := range script.Steps {
		t.Run(step.Name, func(t *testing.T) {
			check.NoLeaks(t)
			e, there := stalled(t, n)
			ctx, cancel := context.WithCancelCause(context.Background())
			got := make(chan error, 1)
			go func() { _, err := dial(ctx, testOptions(), e, "test", hooks{}); got <- err }()
			check.Recv(t, there, "the handshake's step")
			cancel(check.ErrTest)
			if err := check.Recv(t, got, "dial's error"); !errors.Is(err, check.ErrTest) || errors.Is(err, ErrUnreachable) {
				t.Errorf("a cancelled dial returned %v", err)
			}
		})
	}
	t.Run("deadline", func(t *testing.T) {
		check.NoLeaks(t)
		e, _ := stalled(t, 0)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_, err := dial(ctx, testOptions(), e, "test", hooks{})
		check.Err(t, err, context.DeadlineExceeded)
		if strings.Contains(err.Error(), check.Patience.String()) {
			t.Errorf("%v: it was the caller's deadline and not the dial's time-out", err)
		}
	})
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := dial(ctx, testOptions(), Endpoint{Host: "127.0.0.1", Port: 1}, "test", hooks{})
		check.Err(t, err, context.Canceled)
	})
}

// silentTLS is a plain port: it takes the start of TLS for a long frame.
func silentTLS(t testing.TB) Endpoint {
	e := listen(t, func(p *script.Peer) { p.Stall() })
	e.TLS = true
	return e
}

func TestDialTLSToPlainPort(t *testing.T) {
	check.NoLeaks(t)
	o := testOptions()
	o.DialTimeout = 100 * time.Millisecond
	_, err := dial(check.Soon(t), o, silentTLS(t), "test", hooks{})
	check.Err(t, err, ErrTLS, ErrUnreachable)
	if !strings.Contains(fmt.Sprint(err), SchemePlain) {
		t.Errorf("%v: does not say what to do", err)
	}
}

// TestDialTLSIsTriedAgain where a broker that restarts, or the proxy before
// it, hangs up or says nothing: it must not end a consumer's run.
func TestDialTLSIsTriedAgain(t *testing.T) {
	o := testOptions()
	o.DialTimeout = 100 * time.Millisecond
	for name, play := range map[string]func(*script.Peer){
		"silent":   func(p *script.Peer) { p.Stall() },
		"hangs up": func(p *script.Peer) { _, _ = p.Conn.Read(make([]byte, 4096)) },
		"resets":   func(p *script.Peer) { _ = p.Conn.(*net.TCPConn).SetLinger(0) },
	} {
		t.Run(name, func(t *testing.T) {
			check.NoLeaks(t)
			e := listen(t, play)
			e.TLS = true
			_, err := dial(check.Soon(t), o, e, "test", hooks{})
			check.Err(t, err, ErrUnreachable)
		})
	}
}

func TestDialTLSContext(t *testing.T) {
	check.NoLeaks(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := dial(ctx, testOptions(), silentTLS(t), "test", hooks{})
	check.Err(t, err, context.DeadlineExceeded)
	if errors.Is(err, ErrTLS) {
		t.Errorf("%v: the caller's deadline says nothing about TLS", err)
	}
}

func TestDialTLSAnswers(t *testing.T) {
	check.NoLeaks(t)
	e := listen(t, func(p *script.Peer) { p.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); p.Stall() })
	e.TLS = true
	_, err := dial(check.Soon(t), testOptions(), e, "test", hooks{})
	check.Err(t, err, ErrTLS)
	if !strings.Contains(fmt.Sprint(err), "TLS port") || errors.Is(err, ErrUnreachable) {
		t.Errorf("%v: does not say what to do, or is tried again", err)
	}
}

func TestDialNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	_, err = dial(check.Soon(t), testOptions(), Endpoint{Host: "127.0.0.1", Port: port}, "test", hooks{})
	check.Err(t, err, ErrUnreachable)
	if !strings.Contains(fmt.Sprint(err), "nothing listens") {
		t.Errorf("a closed port is %v", err)
	}
}

// TestDialAny: nodes that are away are passed over; a refused login is the
// answer of all of them.
func TestDialAny(t *testing.T) {
	check.NoLeaks(t)
	up := listen(t, func(p *script.Peer) {
		if p.Welcome() {
			p.Stall()
		}
	})
	down := Endpoint{Host: "127.0.0.1", Port: 1}
	for range 8 { // the order is random
		c, err := dialAny(check.Soon(t), testOptions(), []Endpoint{down, up, down}, "test", hooks{})
		if err != nil {
			t.Fatal(err)
		}
		c.Abort()
	}
	_, err := dialAny(check.Soon(t), testOptions(), []Endpoint{down, down, down}, "test", hooks{})
	check.Err(t, err, ErrUnreachable)
	if !strings.Contains(fmt.Sprint(err), "2 more nodes") {
		t.Errorf("%v: does not mention the other nodes", err)
	}
}
