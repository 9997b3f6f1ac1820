package stream

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
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

// TestOfficialErrorNamesTheNode: and keeps the text of an error that it does not
// know.
func TestOfficialErrorNamesTheNode(t *testing.T) {
	e := broker.Endpoint{Host: "h", Port: 1}
	for _, from := range []error{official.LeaderNotReady, official.StreamNotAvailable} {
		if err := officialError(from, e); !errors.Is(err, ErrStreamUnavailable) || !strings.Contains(err.Error(), "h:1") {
			t.Errorf("%v became %v", from, err)
		}
	}
	if err := officialError(errTest, e); !strings.Contains(err.Error(), "h:1: "+errTest.Error()) {
		t.Errorf("%v became %v", errTest, err)
	}
}

// TestScrubText: behind a colon the password always goes. Elsewhere it goes where
// it is neither too short nor the user's name.
func TestScrubText(t *testing.T) {
	for _, test := range []struct{ user, password, text, want string }{
		{"me", "abc", "abc me:abc abcd", "abc me:*** abcd"},
		{"me", "abcd", "abcd me:abcd xabcdx", "*** me:*** x***x"},
		{"guest", "guest", "guest guest:guest", "guest guest:***"},
		{"me", "p@ss w", "p@ss w p%40ss%20w p%40ss+w p@ss%20w", "*** *** *** ***"},
		{"me", "secret", "nothing", "nothing"},
	} {
		e := broker.Endpoint{User: test.user, Password: test.password}
		err := scrub(fmt.Errorf("%s%w", test.text, errHidden{}), e)
		if err.Error() != test.want || !errors.Is(err, errHidden{}) || errors.Is(err, errTest) {
			t.Errorf("with the password %q, %q became %q", test.password, test.text, err)
		}
	}
}

// errHidden is an error without a text.
type errHidden struct{}

func (errHidden) Error() string { return "" }

func TestEnvironmentOptions(t *testing.T) {
	cfg := testConfig()
	plain := environmentOptions(cfg, broker.Endpoint{Host: "h", Port: 5552, User: "u", Password: "p", VHost: "/"})
	if len(plain.ConnectionParameters) != 1 || plain.TCPParameters.ReadBuffer != -1 || plain.TCPParameters.WriteBuffer != -1 {
		t.Errorf("%+v, %+v", plain.ConnectionParameters, plain.TCPParameters)
	}
	if b := plain.ConnectionParameters[0]; b.Scheme != broker.SchemePlain || b.Host != "h" || b.Port != "5552" {
		t.Errorf("the plain broker is %+v", b)
	}
	secure := environmentOptions(cfg, broker.Endpoint{Host: "fe80::1%eth0", Port: 5551, TLS: true}).ConnectionParameters[0]
	if secure.Scheme != broker.SchemeTLS || secure.Host != "[fe80::1%25eth0]" {
		t.Errorf("the broker with TLS is %+v", secure)
	}
	cfg.Heartbeat = minOfficialHeartbeat + 1
	if got := environmentOptions(cfg, broker.Endpoint{}).TCPParameters.RequestedHeartbeat; got != cfg.Heartbeat {
		t.Errorf("a heartbeat of %v became %v", cfg.Heartbeat, got)
	}
}

func TestCompressionOf(t *testing.T) {
	none := official.Compression{}
	for c, want := range map[Compression]official.Compression{
		CompressionNone: none.None(), CompressionGzip: none.Gzip(), CompressionSnappy: none.Snappy(),
		CompressionLZ4: none.Lz4(), CompressionZstd: none.Zstd(), CompressionZstd + 1: none.None(),
	} {
		if got := compressionOf(c); got != want {
			t.Errorf("compression %d became %v, want %v", c, got, want)
		}
	}
}

// TestLinkSettlesEachCode: which codes are outcomes, which count as progress and
// which end the link.
func TestLinkSettlesEachCode(t *testing.T) {
	for _, test := range []struct {
		code     uint16
		lost     bool  // before
		want     error // of the messages; nil without settled
		settled  int
		confirms uint64
		ends     bool
	}{
		{code: 0, settled: 2, confirms: 2},
		{code: 0, lost: true, settled: 2, confirms: 2},
		{code: codeTimeout},
		{code: codeClosed},
		{code: codeNoPublisher, ends: true},
		{code: codeFrameTooLong, want: ErrMessageTooLarge, settled: 2},
		{code: codeFrameTooLong, lost: true, want: ErrMessageTooLarge, settled: 2},
		{code: 1, want: ErrRefused, settled: 2, confirms: 1},
		{code: 17, want: ErrRefused, settled: 2, confirms: 1},
		{code: 17, lost: true},
	} {
		f, l := testInflight(), ledger{}
		for range 2 {
			l.add(t, f, 0, "x")
		}
		k := &link{lost: make(chan struct{}), flight: f, address: "node:1", frameMax: 4096}
		if test.lost {
			k.lose(errTest)
		}
		before := k.reason()
		k.settle(test.code, []uint64{1, 2})
		if len(l) != test.settled || k.confirms.Load() != test.confirms || (k.reason() != before) != test.ends {
			t.Errorf("%+v: outcomes %v, %d confirms, lost for %v", test, l, k.confirms.Load(), k.reason())
		}
		for id, outcome := range l {
			if !errors.Is(outcome[0], test.want) || (outcome[0] == nil) != (test.want == nil) {
				t.Errorf("%+v: the outcome of %d is %v", test, id, outcome)
			}
		}
	}
}

func TestLinkTexts(t *testing.T) {
	f, l := testInflight(), ledger{}
	for range 2 {
		l.add(t, f, 0, "x")
	}
	k := &link{lost: make(chan struct{}), flight: f, address: "node:1", frameMax: 4096}
	k.settle(codeFrameTooLong, []uint64{1})
	k.settle(17, []uint64{2})
	k.settle(codeNoPublisher, nil)
	for want, err := range map[string]error{"4096": l[1][0], "code 17": l[2][0], "node:1": k.reason()} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// TestLinkReusesBatches: two of them, and keeps no message by them.
func TestLinkReusesBatches(t *testing.T) {
	k := &link{spare: make(chan []*slot, 2)}
	batch := append(k.room(), &slot{id: 1}, &slot{id: 2})
	if cap(batch) != batchMessages {
		t.Errorf("a new batch has room for %d", cap(batch))
	}
	k.reuse(batch)
	if batch[0] != nil || batch[1] != nil {
		t.Error("the messages are kept")
	}
	if again := k.room(); len(again) != 0 || cap(again) == 0 || &again[:1][0] != &batch[0] {
		t.Error("its memory is not used again")
	}
	for range 3 { // one more than are kept
		k.reuse(make([]*slot, 1, 5))
	}
	if a, b, c := k.room(), k.room(), k.room(); cap(a) != 5 || cap(b) != 5 || cap(c) != batchMessages {
		t.Errorf("room for %d, %d and %d", cap(a), cap(b), cap(c))
	}
}

// TestLinkLosesOnce: whoever waits for a link that is lost is told, and a link
// that was never opened can be closed.
func TestLinkLosesOnce(t *testing.T) {
	k := &link{lost: make(chan struct{})}
	if k.reason() != nil {
		t.Errorf("lost for %v before it is", k.reason())
	}
	k.lose(errTest)
	<-k.lost
	k.close()
	wantErr(t, k.reason(), errTest)
	closed := &link{lost: make(chan struct{})}
	closed.close()
	<-closed.lost
	wantErr(t, closed.reason(), ErrClosed)
}

// TestLinkWatch: the end of the official producer is that of the link.
func TestLinkWatch(t *testing.T) {
	k := &link{lost: make(chan struct{}), address: "node:1"}
	closed := make(chan official.Event, 1)
	closed <- official.Event{Reason: "the socket is closed"}
	k.wg.Add(1)
	k.watch(closed)
	k.wg.Wait()
	if err := k.reason(); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "node:1 lost: the socket is closed") {
		t.Errorf("%v", err)
	}
}

// TestLinkCloseIsBounded: a goroutine that is stuck in the official client is left
// behind.
func TestLinkCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &link{lost: make(chan struct{})}
		k.wg.Add(1)
		begin := time.Now()
		k.close()
		if took := time.Since(begin); took != linkCloseTimeout {
			t.Errorf("took %v", took)
		}
		k.wg.Done()
	})
}

// statusOf is what the official client reports of a message. It has no way to
// make one.
func statusOf(m message.StreamMessage, id int64, confirmed bool, code uint16) *official.ConfirmationStatus {
	s := &official.ConfirmationStatus{}
	set := func(field string, value any) {
		f := reflect.ValueOf(s).Elem().FieldByName(field)
		reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem().Set(reflect.ValueOf(value))
	}
	if m != nil {
		set("message", m)
	}
	set("publishingId", id)
	set("confirmed", confirmed)
	set("errorCode", code)
	return s
}

func TestStatusOf(t *testing.T) {
	for _, test := range []struct {
		status *official.ConfirmationStatus
		id     uint64
		code   uint16
	}{
		{statusOf(&slot{id: 7}, 1, true, 0), 7, 0},
		{statusOf(&slot{id: 8}, 1, true, 17), 8, 0}, // what is confirmed has no code
		{statusOf(&slot{id: 9}, 1, false, 17), 9, 17},
		{statusOf(nil, 3, false, codeTimeout), 3, codeTimeout},
	} {
		if id, code := idOfStatus(test.status), codeOf(test.status); id != test.id || code != test.code {
			t.Errorf("message %d with code %d, want %d with %d", id, code, test.id, test.code)
		}
	}
}

// TestLinkDrains: each message of a list gets its own outcome, whatever comes
// before and behind it, and the drain ends with the channel.
func TestLinkDrains(t *testing.T) {
	f, l := testInflight(), ledger{}
	for range 9 {
		l.add(t, f, 0, "x")
	}
	confirmed := func(id uint64) *official.ConfirmationStatus { return statusOf(&slot{id: id}, 0, true, 0) }
	failed := func(id uint64, code uint16) *official.ConfirmationStatus {
		return statusOf(&slot{id: id}, 0, false, code)
	}
	lists := make(chan []*official.ConfirmationStatus, 4)
	lists <- []*official.ConfirmationStatus{confirmed(1), confirmed(2), failed(3, 17), failed(4, 17), failed(5, codeFrameTooLong), confirmed(6), failed(7, codeTimeout)}
	lists <- nil
	lists <- []*official.ConfirmationStatus{failed(8, 17)}
	close(lists)
	k := &link{lost: make(chan struct{}), flight: f}
	k.wg.Add(1)
	k.drain(lists)
	k.wg.Wait()
	want := map[uint64]error{1: nil, 2: nil, 3: ErrRefused, 4: ErrRefused, 5: ErrMessageTooLarge, 6: nil, 8: ErrRefused}
	if len(l) != len(want) {
		t.Errorf("outcomes %v", l)
	}
	for id, err := range want {
		if len(l[id]) != 1 || !errors.Is(l[id][0], err) {
			t.Errorf("the outcome of %d is %v, want %v", id, l[id], err)
		}
	}
	if k.confirms.Load() != 5 {
		t.Errorf("%d confirms, want one for each that was confirmed, and one for each list of refused ones", k.confirms.Load())
	}
}
