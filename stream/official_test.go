package stream

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
	"github.com/tidemark-go/tidemark/internal/broker"
)

// readBack is how the official client, v1.8.3, takes a broker's URI apart
// (client.go, connect).
func readBack(t testing.TB, b *official.Broker) (broker.Endpoint, error) {
	t.Helper()
	u, err := url.Parse(b.GetUri())
	if err != nil {
		return broker.Endpoint{}, err
	}
	e := broker.Endpoint{Host: u.Hostname(), User: u.User.Username(), VHost: "/", TLS: strings.Contains(u.Scheme, "+tls")}
	e.Password, _ = u.User.Password()
	if len(u.Path) > 1 {
		e.VHost, err = url.QueryUnescape(u.Path[1:])
	}
	if _, err := fmt.Sscan(u.Port(), &e.Port); err != nil {
		t.Error(err)
	}
	return e, err
}

func checkReadBack(t testing.TB, e broker.Endpoint) {
	t.Helper()
	b := environmentOptions(testConfig(), e).ConnectionParameters[0]
	if got, err := readBack(t, b); err != nil || got != e {
		t.Errorf("%#v was read as %#v: %v", e, got, err)
	}
}

func TestOfficialReadsTheLogin(t *testing.T) {
	nasty := []string{"guest", "/", "@", "a/b", "p@ss:w%rd", "a+b c", "über", "%2f", "%252F", "?#[]", "'\"\\", "\x00\x01\n", "..", "a,b;c=d&e", "日本"}
	for _, s := range nasty {
		for _, host := range []string{"localhost", "::1", "fe80::1%eth0"} {
			checkReadBack(t, broker.Endpoint{Host: host, Port: 5552, User: s, Password: "x" + s, VHost: s})
			checkReadBack(t, broker.Endpoint{Host: host, Port: 5551, TLS: true, User: "u", Password: s, VHost: "/"})
		}
	}
}

func FuzzOfficialReadsTheLogin(f *testing.F) {
	f.Add("user", "p@ss", "/")
	f.Add("a%b", "a/b c+d", "%2f")
	f.Fuzz(func(t *testing.T, user, password, vhost string) {
		if user == "" || password == "" || vhost == "" {
			return // parseURI gives none of these
		}
		checkReadBack(t, broker.Endpoint{Host: "h", Port: 1, User: user, Password: password, VHost: vhost})
	})
}

func TestOfficialHeartbeat(t *testing.T) {
	for ours, want := range map[time.Duration]time.Duration{
		time.Second: minOfficialHeartbeat, 10 * time.Second: 10 * time.Second,
	} {
		cfg := testConfig()
		cfg.Heartbeat = ours
		if got := environmentOptions(cfg, broker.Endpoint{}).TCPParameters.RequestedHeartbeat; got != want {
			t.Errorf("a heartbeat of %v became %v", ours, got)
		}
	}
}

func TestScrub(t *testing.T) {
	for _, password := range []string{"hunter2", "p@ss/w:rd", "ab", "a b+c", "über%41", `q"uo\te`, "me", "guest", "longer-than-me"} {
		e := broker.Endpoint{Host: "h", Port: 5552, User: "me", Password: password, VHost: "/"}
		forms := []string{password, escapeUser(password), url.QueryEscape(password), url.PathEscape(password)}
		for _, form := range forms {
			cause := fmt.Errorf("parse \"rabbitmq-stream://me:%s@h:5552/\": %w", form, ErrUnreachable)
			err := scrub(opErr("connect", "", "", cause), e)
			if strings.Contains(err.Error(), ":"+form+"@") || len(password) > 3 && strings.Contains(err.Error(), form) {
				t.Errorf("the password %q is in: %v", password, err)
			}
			wantErr(t, err, ErrUnreachable)
		}
	}
	plain := errors.New("nothing to hide")
	if err := scrub(plain, broker.Endpoint{User: "guest", Password: "guest"}); err != plain {
		t.Errorf("%v became %v", plain, err)
	}
	_, err := url.Parse(strings.Join([]string{"rabbitmq-stream://me:hunter2@h", "port/"}, ":"))
	if got := scrub(err, broker.Endpoint{User: "me", Password: "hunter2"}); strings.Contains(got.Error(), "hunter2") {
		t.Error(got)
	}
}

func TestOfficialError(t *testing.T) {
	e := broker.Endpoint{Host: "h", Port: 1}
	for from, want := range map[error]error{
		official.StreamDoesNotExist:                 ErrStreamNotFound,
		official.StreamNotAvailable:                 ErrStreamUnavailable,
		official.CodeAccessRefused:                  ErrAccessRefused,
		official.AuthenticationFailure:              ErrAuthentication,
		official.AuthenticationFailureLoopbackError: ErrAuthentication,
		official.VirtualHostAccessFailure:           ErrVirtualHost,
		errTest:                                     ErrUnreachable,
	} {
		wantErr(t, officialError(fmt.Errorf("wrapped: %w", from), e), want)
	}
}

func TestWithin(t *testing.T) {
	never := func() { t.Error("cleaned up after a call that was waited for") }
	t.Run("result", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			wantErr(t, within(t.Context(), func() error { return errTest }, never), errTest)
			if err := within(t.Context(), func() error { time.Sleep(time.Hour); return nil }, never); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("panic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			err := within(t.Context(), func() error { panic("oh") }, never)
			if err == nil || !strings.Contains(err.Error(), "oh") {
				t.Errorf("a panic became %v", err)
			}
		})
	})
	t.Run("late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errTest)
			defer cancel()
			cleaned := make(chan time.Time, 1)
			begin := time.Now()
			err := within(ctx, func() error { time.Sleep(time.Hour); return nil }, func() { cleaned <- time.Now() })
			wantErr(t, err, errTest)
			if took := time.Since(begin); took != time.Second {
				t.Errorf("waited for %v", took)
			}
			if after := (<-cleaned).Sub(begin); after != time.Hour {
				t.Errorf("cleaned up after %v", after)
			}
		})
	})
}

func TestLinkOutcomes(t *testing.T) {
	l := ledger{}
	f := testInflight()
	for range 6 {
		l.add(t, f, 0, "x")
	}
	k := &link{lost: make(chan struct{}), flight: f}
	k.settle(0, []uint64{1, 2, 99})
	k.settle(codeTimeout, []uint64{3})
	k.settle(codeClosed, []uint64{3})
	k.settle(codeFrameTooLong, []uint64{3})
	k.settle(17, []uint64{4})
	k.settle(codeNoPublisher, []uint64{5})
	k.settle(17, []uint64{6}) // it may be on its way on the next link
	wantErr(t, k.reason(), ErrUnreachable)
	k.lose(ErrClosed) // the first reason stays
	wantErr(t, k.reason(), ErrUnreachable)
	if len(l) != 4 || l[1][0] != nil || l[2][0] != nil || k.confirms.Load() != 4 {
		t.Errorf("outcomes %v, %d confirms", l, k.confirms.Load())
	}
	wantErr(t, l[3][0], ErrMessageTooLarge)
	wantErr(t, l[4][0], ErrRefused)
}

func TestSlotIsAMessage(t *testing.T) {
	m := &slot{id: 7, body: []byte("ready")}
	if b, err := m.MarshalBinary(); string(b) != "ready" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if !m.HasPublishingId() || m.GetPublishingId() != 7 {
		t.Errorf("publishing id %d", m.GetPublishingId())
	}
}
