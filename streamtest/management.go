package streamtest

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// This file is the management endpoint. It answers GET /api/overview, GET
// /api/connections, GET and DELETE /api/connections/NAME, and PUT and DELETE
// /api/vhosts/NAME.
//
// Not implemented: the rest of RabbitMQ's HTTP API, and its pages for a browser.
// What is asked for in vain is told what there is. Two things differ from
// RabbitMQ. The endpoint lists a connection as soon as the connection is open,
// RabbitMQ some seconds later. And every user may do everything.

// management is the HTTP server of a broker. A broker without one has a nil
// pointer.
type management struct {
	server *http.Server
	ln     net.Listener
}

// startManagement starts the endpoint if WithManagement asks for it.
func (b *Broker) startManagement() error {
	if b.cfg.management == "" {
		return nil
	}
	ln, err := net.Listen("tcp", b.cfg.management)
	if err != nil {
		return fmt.Errorf("listen for management: %w", err)
	}
	b.mgmt = &management{ln: ln, server: &http.Server{Handler: b.managementHandler(), ReadHeaderTimeout: stepTimeout}}
	b.wg.Add(1)
	go func() {
		defer b.wg.Done()
		if err := b.mgmt.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			b.cfg.logger.Error("management", "error", err)
		}
	}()
	return nil
}

func (m *management) close() error {
	if m == nil {
		return nil
	}
	return m.server.Close()
}

// ManagementURL returns the base URL of the management endpoint, such as
// http://127.0.0.1:15672, without a user and password. It returns the empty
// string without WithManagement.
func (b *Broker) ManagementURL() string {
	if b.mgmt == nil {
		return ""
	}
	return "http://" + b.mgmt.ln.Addr().String()
}

func (b *Broker) managementHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/", b.authenticated(b.routes()))
	mux.HandleFunc("/", showPage)
	return mux
}

func (b *Broker) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/overview", b.getOverview)
	mux.HandleFunc("GET /api/connections", b.getConnections)
	mux.HandleFunc("GET /api/connections/{name...}", b.getConnection)
	mux.HandleFunc("DELETE /api/connections/{name...}", b.deleteConnection)
	mux.HandleFunc("PUT /api/vhosts/{name...}", b.putVHost)
	mux.HandleFunc("DELETE /api/vhosts/{name...}", b.deleteVHost)
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
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if r.URL.Path != "/" {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = io.WriteString(w, page) // fails only if the client is gone
}

// authenticated lets only requests pass that carry the name and password of a
// user of the broker.
func (b *Broker) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		a := b.accounts[name] // the map never changes after Start
		if a == nil || subtle.ConstantTimeCompare([]byte(a.Password), []byte(password)) != 1 {
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

func (b *Broker) getOverview(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"product_name": "RabbitMQ", "product_version": b.cfg.version, "rabbitmq_version": b.cfg.version,
		"cluster_name": "streamtest@localhost", "node": "streamtest@localhost",
		"object_totals": map[string]int{"connections": len(b.Connections())},
	})
}

// jsonConnection is a Connection with the field names of RabbitMQ.
type jsonConnection struct {
	Name             string            `json:"name"`
	User             string            `json:"user"`
	VHost            string            `json:"vhost"`
	Protocol         string            `json:"protocol"`
	ClientProperties map[string]string `json:"client_properties"`
}

func newJSONConnection(c Connection) jsonConnection {
	return jsonConnection{Name: c.Name, User: c.User, VHost: c.VHost, Protocol: "stream", ClientProperties: c.Properties}
}

func (b *Broker) getConnections(w http.ResponseWriter, _ *http.Request) {
	list := []jsonConnection{}
	for _, c := range b.Connections() {
		// A connection in the handshake may lack properties that the
		// tests of other clients read.
		if c.Ready {
			list = append(list, newJSONConnection(c))
		}
	}
	writeJSON(w, http.StatusOK, list)
}

func (b *Broker) getConnection(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if strings.Trim(name, "/") == "" {
		b.getConnections(w, r)
		return
	}
	for _, c := range b.Connections() {
		if c.Name == name {
			writeJSON(w, http.StatusOK, newJSONConnection(c))
			return
		}
	}
	notFound(w)
}

func (b *Broker) deleteConnection(w http.ResponseWriter, r *http.Request) {
	if b.DropConnection(r.PathValue("name"), CutFIN) == 0 {
		notFound(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (b *Broker) putVHost(w http.ResponseWriter, r *http.Request) {
	if b.addVHost(r.PathValue("name")) {
		w.WriteHeader(http.StatusCreated)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (b *Broker) deleteVHost(w http.ResponseWriter, r *http.Request) {
	if !b.dropVHost(r.PathValue("name")) {
		notFound(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// addVHost creates a virtual host. It returns false if the virtual host exists.
func (b *Broker) addVHost(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.vhosts[name] != nil {
		return false
	}
	b.vhosts[name] = newVHost(b, name)
	return true
}

// dropVHost deletes a virtual host with its streams and connections. It returns
// false if the virtual host does not exist. It only empties the virtual host
// "/", to which the methods of Broker refer.
func (b *Broker) dropVHost(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	vh := b.vhosts[name]
	if vh == nil {
		return false
	}
	for _, s := range vh.streams {
		b.deleteStream(s)
	}
	b.addStored(-streamCost*int64(len(vh.supers)), b.full())
	clear(vh.supers)
	for c := range b.conns {
		if c.vhost == vh {
			c.finish() // clients read the metadata updates first
		}
	}
	if name != defaultVHost {
		delete(b.vhosts, name)
	}
	return true
}
