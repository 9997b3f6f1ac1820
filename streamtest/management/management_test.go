package management

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

// start starts a broker and its management. The test fails if either leaves a
// goroutine behind.
func start(t *testing.T) (*streamtest.Broker, *Server) {
	t.Helper()
	check.NoLeaks(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	b := streamtest.NewBroker(t)
	s, err := Start(b, "127.0.0.1:0")
	check.Nil(t, err)
	t.Cleanup(func() { check.Nil(t, s.Close()) })
	return b, s
}

// connect makes a connection that is ready, and returns its name.
func connect(t *testing.T, b *streamtest.Broker) string {
	t.Helper()
	env, err := stream.Connect(check.Soon(t), stream.Config{URIs: []string{b.URI()}, ConnectionName: t.Name()})
	check.Nil(t, err)
	t.Cleanup(func() { check.Nil(t, env.Close()) })
	list := b.Connections()
	if len(list) != 1 || !list[0].Ready {
		t.Fatalf("want one connection that is ready: %+v", list)
	}
	return list[0].Name
}

// request sends an HTTP request as user guest and returns the status and body
// of the answer.
func request(t *testing.T, s *Server, method, path, password string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL()+path, nil)
	check.Nil(t, err)
	req.SetBasicAuth("guest", password)
	resp, err := http.DefaultTransport.RoundTrip(req) // a redirect is no answer
	check.Nil(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check.Nil(t, err)
	return resp.StatusCode, string(text)
}

func TestRequests(t *testing.T) {
	b, s := start(t)
	connection := connect(t, b)
	name := url.PathEscape(connection)
	tests := []struct {
		method, path string
		status       int
		contains     string
	}{
		{"GET", "/api/overview", 200, `"rabbitmq_version":"4.3.6"`},
		{"GET", "/api/connections", 200, `"connection_name":"TestRequests tidemark-admin"`},
		{"GET", "/api/connections/", 200, `"connection_name":"TestRequests tidemark-admin"`},
		{"GET", "/api/connections/" + name, 200, `"protocol":"stream"`},
		{"GET", "/api/connections/nope", 404, "Not Found"},
		{"DELETE", "/api/connections/nope", 404, ""},
		{"PUT", "/api/vhosts/v", 201, ""},
		{"PUT", "/api/vhosts/v", 204, ""},
		{"PUT", "/api/vhosts/%2F", 204, ""},
		{"DELETE", "/api/vhosts/v", 204, ""},
		{"DELETE", "/api/vhosts/v", 404, ""},
		{"GET", "/api/queues", 404, "GET /api/queues is not part of this broker, which is for tests; it serves GET /api/overview"},
		{"POST", "/api/overview", 404, "POST /api/overview is not part of this broker"},
	}
	for _, tt := range tests {
		status, text := request(t, s, tt.method, tt.path, "guest")
		if status != tt.status || !strings.Contains(text, tt.contains) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, status, text)
		}
		if strings.Contains(text, "{") && !json.Valid([]byte(text)) {
			t.Errorf("%s %s: no JSON: %s", tt.method, tt.path, text)
		}
	}
	if status, _ := request(t, s, "GET", "/api/overview", "wrong"); status != 401 {
		t.Errorf("wrong password: %d", status)
	}
	if status, _ := request(t, s, "DELETE", "/api/connections/"+name, "guest"); status != 204 {
		t.Errorf("delete: %d", status)
	}
	check.Nil(t, b.Await(check.Soon(t), func() bool {
		list := b.Connections()
		return len(list) == 0 || list[0].Name != connection
	}))
}

// TestBrowser expects that the endpoint explains itself to a browser, which asks
// for no part of the API and knows no password.
func TestBrowser(t *testing.T) {
	_, s := start(t)
	for path, want := range map[string]int{"/": 200, "/#/queues": 200, "/favicon.ico": 404} {
		resp, err := http.Get(s.URL() + path)
		check.Nil(t, err)
		text, err := io.ReadAll(resp.Body)
		check.Nil(t, err)
		if got := resp.Header.Get("Content-Type"); got != "text/html; charset=utf-8" {
			t.Errorf("%s has the content type %q", path, got)
		}
		resp.Body.Close()
		if resp.StatusCode != want || !strings.Contains(string(text), "This is not RabbitMQ") ||
			!strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
}

// TestListsOpenConnectionsOnly expects no connection that is still in the
// handshake: the tests of other clients read client_properties.connection_name
// of every connection in the list.
func TestListsOpenConnectionsOnly(t *testing.T) {
	b, s := start(t)
	c, err := net.Dial("tcp", b.Addr())
	check.Nil(t, err)
	defer c.Close()
	check.Nil(t, b.Await(check.Soon(t), func() bool { return len(b.Connections()) == 1 }))
	if _, text := request(t, s, "GET", "/api/connections", "guest"); strings.TrimSpace(text) != "[]" {
		t.Errorf("got %s", text)
	}
}

func TestStartFails(t *testing.T) {
	b, s := start(t)
	addr := strings.TrimPrefix(s.URL(), "http://")
	if s, err := Start(b, addr); err == nil {
		t.Errorf("a port that is taken: %v", s.Close())
	} else if !strings.Contains(err.Error(), "listen for management") || !strings.Contains(err.Error(), addr) {
		t.Errorf("a port that is taken: %v", err)
	}
	check.Nil(t, b.Close())
	s, err := Start(b, "127.0.0.1:0")
	check.Err(t, err, net.ErrClosed)
	if err == nil {
		check.Nil(t, s.Close())
	}
}

func TestClose(t *testing.T) {
	b, s := start(t)
	request(t, s, "GET", "/api/overview", "guest") // its connection stays open
	check.Nil(t, s.Close())
	check.Nil(t, s.Close())
	if _, err := http.Get(s.URL()); err == nil {
		t.Error("the server answers after Close")
	}
	connect(t, b)
}

// TestStopOfBroker expects that the server outlives Stop of its broker.
func TestStopOfBroker(t *testing.T) {
	b, s := start(t)
	b.Stop()
	if status, _ := request(t, s, "GET", "/api/overview", "guest"); status != 200 {
		t.Errorf("%d", status)
	}
}

// TestCloseOfBroker expects that the server ends with its broker, although nobody
// closes it, and that Close is no error afterwards.
func TestCloseOfBroker(t *testing.T) {
	check.NoLeaks(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	b := streamtest.NewBroker(t)
	s, err := Start(b, "127.0.0.1:0")
	check.Nil(t, err)
	request(t, s, "GET", "/api/overview", "guest")
	check.Nil(t, b.Close())
	check.Recv(t, s.ended, "the end of the server")
	check.Nil(t, s.Close())
}

// TestDone: a server says when it has ended, whoever ended it.
func TestDone(t *testing.T) {
	ends := []func(*streamtest.Broker, *Server) error{
		func(_ *streamtest.Broker, s *Server) error { return s.Close() },
		func(b *streamtest.Broker, _ *Server) error { return b.Close() },
		func(_ *streamtest.Broker, s *Server) error { return s.http.Close() },
	}
	for _, end := range ends {
		b, s := start(t)
		select {
		case <-s.Done():
			t.Error("it has ended before its time")
		default:
		}
		if err := end(b, s); err != nil {
			t.Error(err)
		}
		<-s.Done()
	}
}
