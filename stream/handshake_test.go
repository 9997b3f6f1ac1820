package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestDial(t *testing.T) {
	noLeaks(t)
	e := listen(t, func(p *peer) {
		if p.welcome() {
			p.stall()
		}
	})
	c, err := dial(soon(t), testConfig(), e, "test", hooks{})
	if err != nil {
		t.Fatal(err)
	}
	if c.advertised != e.address() || c.frameMax != 1<<19 || !c.alive() {
		t.Errorf("advertised %s, frame max %d, alive %v", c.advertised, c.frameMax, c.alive())
	}
	c.abort()
	wantErr(t, c.reason(), ErrClosed)
}

// TestDialRefused has a broker that ends the handshake in one way or another.
func TestDialRefused(t *testing.T) {
	answer := func(f func(id uint32) wire.Frame) func(*peer) {
		return func(p *peer) {
			if _, fields, ok := p.next(); ok {
				id, _ := wire.Correlation(fields)
				p.send(f(id))
			}
		}
	}
	loginCode := func(code wire.Code) func(*peer) {
		return answer(func(id uint32) wire.Frame { return &wire.SaslAuthenticateResponse{Correlation: id, Code: code} })
	}
	raw := func(text string) func(*peer) {
		return func(p *peer) { p.next(); p.write([]byte(text)); p.stall() }
	}
	for _, test := range []struct {
		name  string
		steps int
		then  func(*peer)
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
		{"hangs up", 0, func(*peer) {}, ErrUnreachable, "closed the connection"},
		{"hangs up before the login", 2, func(*peer) {}, ErrUnreachable, "closed the connection"},
		{"hangs up within a frame", 0, func(p *peer) { p.next(); p.write([]byte{0, 0, 0, 9, 0x80}) }, ErrUnreachable, "closed the connection"},
		{"AMQP", 0, raw("AMQP\x00\x00\x09\x01"), ErrProtocol, "5672"},
		{"HTTP", 0, raw("HTTP/1.1 400 Bad Request\r\n\r\n"), ErrProtocol, "HTTP"},
		{"TLS alert", 0, raw("\x15\x03\x01\x00\x02\x02\x46"), ErrProtocol, "TLS"},
		{"a huge frame", 0, raw("\x7f\xff\xff\xff\x80\x11\x00\x01"), ErrProtocol, e5552},
		{"an empty frame", 0, raw("\x00\x00\x00\x00"), ErrProtocol, e5552},
		{"another answer", 0, answer(func(id uint32) wire.Frame { return &wire.OpenResponse{Correlation: id} }), ErrProtocol, e5552},
		{"a garbled answer", 0, raw("\x00\x00\x00\x05\x80\x11\x00\x01\x00"), ErrProtocol, e5552},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			e := listen(t, func(p *peer) {
				if p.shake(test.steps) {
					test.then(p)
				}
			})
			_, err := dial(soon(t), testConfig(), e, "test", hooks{})
			wantErr(t, err, test.want)
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "cr@t") {
				t.Errorf("%v: should say %q and not the password", err, test.says)
			}
		})
	}
}

const e5552 = "5552"

// stalled plays n steps and then says nothing. It reports when it is there.
func stalled(t testing.TB, n int) (endpoint, <-chan struct{}) {
	there := make(chan struct{}, 1)
	return listen(t, func(p *peer) {
		if p.shake(n) {
			if n < len(steps) && steps[n].name != "tune" { // the client is silent before Tune
				p.next()
			}
			there <- struct{}{}
			p.stall()
		}
	}), there
}

func TestDialSilentBroker(t *testing.T) {
	for n, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			noLeaks(t)
			e, _ := stalled(t, n)
			cfg := testConfig()
			cfg.DialTimeout = 50 * time.Millisecond
			_, err := dial(soon(t), cfg, e, "test", hooks{})
			wantErr(t, err, ErrUnreachable)
			if isFatal(err) || !strings.Contains(err.Error(), "50ms") {
				t.Errorf("a silent broker is %v", err)
			}
		})
	}
}

// TestDialContext: wherever the handshake is, the end of the caller's context
// ends it at once, with the context's error and nothing of ours.
func TestDialContext(t *testing.T) {
	for n, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			noLeaks(t)
			e, there := stalled(t, n)
			ctx, cancel := context.WithCancelCause(context.Background())
			got := make(chan error, 1)
			go func() { _, err := dial(ctx, testConfig(), e, "test", hooks{}); got <- err }()
			recv(t, there, "the handshake's step")
			cancel(errTest)
			if err := recv(t, got, "dial's error"); !errors.Is(err, errTest) || errors.Is(err, ErrUnreachable) {
				t.Errorf("a cancelled dial returned %v", err)
			}
		})
	}
	t.Run("deadline", func(t *testing.T) {
		noLeaks(t)
		e, _ := stalled(t, 0)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_, err := dial(ctx, testConfig(), e, "test", hooks{})
		wantErr(t, err, context.DeadlineExceeded)
		if strings.Contains(err.Error(), patience.String()) {
			t.Errorf("%v: it was the caller's deadline and not the dial's time-out", err)
		}
	})
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := dial(ctx, testConfig(), endpoint{host: "127.0.0.1", port: 1}, "test", hooks{})
		wantErr(t, err, context.Canceled)
	})
}

// silentTLS is a plain port: it takes the start of TLS for a long frame.
func silentTLS(t testing.TB) endpoint {
	e := listen(t, func(p *peer) { p.stall() })
	e.tls = true
	return e
}

func TestDialTLSToPlainPort(t *testing.T) {
	noLeaks(t)
	cfg := testConfig()
	cfg.DialTimeout = 100 * time.Millisecond
	_, err := dial(soon(t), cfg, silentTLS(t), "test", hooks{})
	wantErr(t, err, ErrTLS, ErrUnreachable)
	if !strings.Contains(fmt.Sprint(err), schemePlain) {
		t.Errorf("%v: does not say what to do", err)
	}
}

// TestDialTLSIsTriedAgain where a broker that restarts, or the proxy before
// it, hangs up or says nothing: it must not end a consumer's run.
func TestDialTLSIsTriedAgain(t *testing.T) {
	cfg := testConfig()
	cfg.DialTimeout = 100 * time.Millisecond
	for name, play := range map[string]func(*peer){
		"silent":   func(p *peer) { p.stall() },
		"hangs up": func(p *peer) { _, _ = p.nc.Read(make([]byte, 4096)) },
		"resets":   func(p *peer) { _ = p.nc.(*net.TCPConn).SetLinger(0) },
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			e := listen(t, play)
			e.tls = true
			_, err := dial(soon(t), cfg, e, "test", hooks{})
			wantErr(t, err, ErrUnreachable)
			if isFatal(err) {
				t.Errorf("%v ends a run", err)
			}
		})
	}
}

func TestDialTLSContext(t *testing.T) {
	noLeaks(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := dial(ctx, testConfig(), silentTLS(t), "test", hooks{})
	wantErr(t, err, context.DeadlineExceeded)
	if errors.Is(err, ErrTLS) {
		t.Errorf("%v: the caller's deadline says nothing about TLS", err)
	}
}

func TestDialTLSAnswers(t *testing.T) {
	noLeaks(t)
	e := listen(t, func(p *peer) { p.write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); p.stall() })
	e.tls = true
	_, err := dial(soon(t), testConfig(), e, "test", hooks{})
	wantErr(t, err, ErrTLS)
	if !strings.Contains(fmt.Sprint(err), "TLS port") || !isFatal(err) {
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
	_, err = dial(soon(t), testConfig(), endpoint{host: "127.0.0.1", port: port}, "test", hooks{})
	wantErr(t, err, ErrUnreachable)
	if !strings.Contains(fmt.Sprint(err), "nothing listens") || isFatal(err) {
		t.Errorf("a closed port is %v", err)
	}
}

// TestDialAny: nodes that are away are passed over; a refused login is the
// answer of all of them.
func TestDialAny(t *testing.T) {
	noLeaks(t)
	up := listen(t, func(p *peer) {
		if p.welcome() {
			p.stall()
		}
	})
	down := endpoint{host: "127.0.0.1", port: 1}
	for range 8 { // the order is random
		c, err := dialAny(soon(t), testConfig(), []endpoint{down, up, down}, "test", hooks{})
		if err != nil {
			t.Fatal(err)
		}
		c.abort()
	}
	_, err := dialAny(soon(t), testConfig(), []endpoint{down, down, down}, "test", hooks{})
	wantErr(t, err, ErrUnreachable)
	if !strings.Contains(fmt.Sprint(err), "2 more nodes") {
		t.Errorf("%v: does not mention the other nodes", err)
	}
}
