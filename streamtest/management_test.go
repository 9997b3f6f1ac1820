package streamtest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// request sends an HTTP request as user guest and returns the status and body
// of the answer.
func request(t *testing.T, b *Broker, method, path, password string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.ManagementURL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("guest", password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestManagement(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	b := NewBroker(t, WithManagement("127.0.0.1:0"))
	c := openRaw(t, b)
	name := url.PathEscape(b.Connections()[0].Name)
	tests := []struct {
		method, path string
		status       int
		contains     string
	}{
		{"GET", "/api/overview", 200, `"rabbitmq_version":"4.3.6"`},
		{"GET", "/api/connections", 200, `"connection_name":"TestManagement"`},
		{"GET", "/api/connections/", 200, `"connection_name":"TestManagement"`},
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
		status, text := request(t, b, tt.method, tt.path, "guest")
		if status != tt.status || !strings.Contains(text, tt.contains) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, status, text)
		}
		if strings.Contains(text, "{") && !json.Valid([]byte(text)) {
			t.Errorf("%s %s: no JSON: %s", tt.method, tt.path, text)
		}
	}
	if status, _ := request(t, b, "GET", "/api/overview", "wrong"); status != 401 {
		t.Errorf("wrong password: %d", status)
	}
	if status, _ := request(t, b, "DELETE", "/api/connections/"+name, "guest"); status != 204 {
		t.Errorf("delete: %d", status)
	}
	c.expectEnd()
}

// TestBrowser expects that the endpoint explains itself to a browser, which asks
// for no part of the API and knows no password.
func TestBrowser(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	b := NewBroker(t, WithManagement("127.0.0.1:0"))
	for path, want := range map[string]int{"/": 200, "/#/queues": 200, "/favicon.ico": 404} {
		resp, err := http.Get(b.ManagementURL() + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want || !strings.Contains(string(text), "This is not RabbitMQ") ||
			!strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
}

func TestDeleteVHost(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	b := NewBroker(t, WithManagement("127.0.0.1:0"), WithVHost("v"))
	c := dialRaw(t, b)
	c.login("guest", "guest")
	c.open("v")
	c.create("s")
	c.declare(1, "", "s")
	if status, _ := request(t, b, "DELETE", "/api/vhosts/v", "guest"); status != 204 {
		t.Fatalf("%d", status)
	}
	c.expect(wire.KeyMetadataUpdate)
	c.expectEnd()
}

// TestManagementListsOpenConnectionsOnly expects no connection that is still in
// the handshake: the tests of other clients read
// client_properties.connection_name of every connection in the list.
func TestManagementListsOpenConnectionsOnly(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	b := NewBroker(t, WithManagement("127.0.0.1:0"))
	dialRaw(t, b)
	awaitCond(t, b, "a connection", func() bool { return len(b.Connections()) == 1 })
	if _, text := request(t, b, "GET", "/api/connections", "guest"); strings.TrimSpace(text) != "[]" {
		t.Errorf("got %s", text)
	}
}
