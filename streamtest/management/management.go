// Package management serves a part of RabbitMQ's HTTP API for a broker of package
// streamtest: to tests that look for their connections there, and to tests that
// make and delete virtual hosts. It is a package of its own so that a test which
// does without it compiles no HTTP server.
//
// A server answers these requests of any user of the broker:
//
//   - GET /api/overview
//   - GET /api/connections
//   - GET and DELETE /api/connections/NAME
//   - PUT and DELETE /api/vhosts/NAME
//
// It has nothing else of RabbitMQ's HTTP API, and no pages for a browser. It
// tells whoever asks for more what it has. Two things differ from RabbitMQ. The
// server lists a connection as soon as the connection is open, RabbitMQ some
// seconds later. And every user may do everything.
package management

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// headerTimeout is how long a client may take to send the header of a request.
const headerTimeout = 10 * time.Second

// Server answers requests for a broker. Start makes one. Any goroutine may call
// its methods.
type Server struct {
	http  *http.Server
	url   string
	tasks sync.WaitGroup
	ended chan struct{} // closed when serve returns
	err   error         // why serve returned; read it after ended
}

// Start starts a server for b that listens on addr, as host:port in the format of
// net.Listen. Port 0 picks a free port. Start returns once the server listens. It
// fails if that address cannot be had, with a *net.OpError inside the error, or
// if b is closed, with net.ErrClosed inside.
//
// The server runs while b is stopped. It ends by itself when b is closed, soon
// after Broker.Close has begun. Server.Close ends it sooner, and waits for it.
func Start(b *streamtest.Broker, addr string) (*Server, error) {
	select {
	case <-b.Done():
		return nil, fmt.Errorf("management of a broker that is closed: %w", net.ErrClosed)
	default:
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for management: %w", err)
	}
	s := &Server{
		http: &http.Server{Handler: handler(b), ReadHeaderTimeout: headerTimeout},
		url:  "http://" + ln.Addr().String(), ended: make(chan struct{}),
	}
	s.tasks.Go(func() { s.serve(ln) })
	s.tasks.Go(func() { s.endWith(b) })
	return s, nil
}

func (s *Server) serve(ln net.Listener) {
	defer close(s.ended)
	s.err = s.http.Serve(ln)
}

// endWith ends the server when b is closed.
func (s *Server) endWith(b *streamtest.Broker) {
	select {
	case <-b.Done():
		_ = s.http.Close() // fails if the listener is closed: nothing to report
	case <-s.ended:
	}
}

// Done returns a channel that is closed when the server has ended: by Close, with
// its broker, or because it can take no more connections. Close says why.
func (s *Server) Done() <-chan struct{} { return s.ended }

// URL returns the base URL of the server, such as http://127.0.0.1:15672, without
// a user and password.
func (s *Server) URL() string { return s.url }

// Close stops the server, cuts its connections and waits for its goroutines, but
// not for a request that is being answered. It fails if the server ended before
// for another reason than that it or the broker was closed. Further calls change
// nothing and return the same.
func (s *Server) Close() error {
	_ = s.http.Close() // fails if the listener is closed: nothing to report
	s.tasks.Wait()
	if errors.Is(s.err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve management: %w", s.err)
}

// api answers the requests for a broker.
type api struct{ b *streamtest.Broker }

func handler(b *streamtest.Broker) http.Handler {
	a := api{b}
	mux := http.NewServeMux()
	mux.Handle("/api/", a.authenticated(a.routes()))
	mux.HandleFunc("/", showPage)
	return mux
}

func (a api) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/overview", a.getOverview)
	mux.HandleFunc("GET /api/connections", a.getConnections)
	mux.HandleFunc("GET /api/connections/{name...}", a.getConnection)
	mux.HandleFunc("DELETE /api/connections/{name...}", a.deleteConnection)
	mux.HandleFunc("PUT /api/vhosts/{name...}", a.putVHost)
	mux.HandleFunc("DELETE /api/vhosts/{name...}", a.deleteVHost)
	mux.HandleFunc("/api/", notServed)
	return mux
}

// served lists what the endpoint serves, for who asks for something else.
const served = "GET /api/overview, GET /api/connections, GET and DELETE /api/connections/NAME, PUT and DELETE /api/vhosts/NAME"

// notServed answers a request for another part of RabbitMQ's HTTP API.
func notServed(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusNotFound, map[string]string{
		"error":  "Object Not Found",
		"reason": fmt.Sprintf("%s %s is not part of this broker, which is for tests; it serves %s", r.Method, r.URL.Path, served),
	})
}

// page is what a browser is shown in place of RabbitMQ's management pages.
const page = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>tidemark broker</title></head><body>
<h1>This is not RabbitMQ</h1>
<p>This is the broker of tidemark, for tests and development. It has no management pages.</p>
<p>It serves a part of RabbitMQ's HTTP API, to the users of the broker: ` + served + `. For example
<a href="/api/overview">/api/overview</a> and <a href="/api/connections">/api/connections</a>.</p>
</body></html>
`

// showPage explains the endpoint to a browser. It asks for no password.
func showPage(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = io.WriteString(w, page) // fails only if the client is gone
}

// authenticated lets only requests pass that carry the name and password of a
// user of the broker.
func (a api) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		if !a.b.Authenticate(name, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="RabbitMQ Management"`)
			writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "not_authorized", "reason": "Login failed"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the client is gone
}

func notFound(w http.ResponseWriter) {
	writeJSON(w, http.StatusNotFound, map[string]string{"error": "Object Not Found", "reason": "Not Found"})
}

func (a api) getOverview(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"product_name": "RabbitMQ", "product_version": a.b.Version(), "rabbitmq_version": a.b.Version(),
		"cluster_name": "streamtest@localhost", "node": "streamtest@localhost",
		"object_totals": map[string]int{"connections": len(a.b.Connections())},
	})
}

// jsonConnection is a streamtest.Connection with the field names of RabbitMQ.
type jsonConnection struct {
	Name             string            `json:"name"`
	User             string            `json:"user"`
	VHost            string            `json:"vhost"`
	Protocol         string            `json:"protocol"`
	ClientProperties map[string]string `json:"client_properties"`
}

func newJSONConnection(c streamtest.Connection) jsonConnection {
	return jsonConnection{Name: c.Name, User: c.User, VHost: c.VHost, Protocol: "stream", ClientProperties: c.Properties}
}

func (a api) getConnections(w http.ResponseWriter, _ *http.Request) {
	list := []jsonConnection{}
	for _, c := range a.b.Connections() {
		// A connection in the handshake may lack properties that the
		// tests of other clients read.
		if c.Ready {
			list = append(list, newJSONConnection(c))
		}
	}
	writeJSON(w, http.StatusOK, list)
}

func (a api) getConnection(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if strings.Trim(name, "/") == "" {
		a.getConnections(w, r)
		return
	}
	for _, c := range a.b.Connections() {
		if c.Name == name {
			writeJSON(w, http.StatusOK, newJSONConnection(c))
			return
		}
	}
	notFound(w)
}

func (a api) deleteConnection(w http.ResponseWriter, r *http.Request) {
	if a.b.DropConnection(r.PathValue("name"), streamtest.CutFIN) == 0 {
		notFound(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a api) putVHost(w http.ResponseWriter, r *http.Request) {
	if a.b.CreateVHost(r.PathValue("name")) {
		w.WriteHeader(http.StatusCreated)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a api) deleteVHost(w http.ResponseWriter, r *http.Request) {
	if !a.b.DeleteVHost(r.PathValue("name")) {
		notFound(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
