package streamtest

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// This file is the management endpoint. It answers GET /api/overview, GET
// /api/connections, GET and DELETE /api/connections/NAME, and PUT and DELETE
// /api/vhosts/NAME.
//
// Not implemented: the rest of RabbitMQ's HTTP API. Two things differ from
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
	b.mgmt = &management{ln: ln, server: &http.Server{Handler: b.authenticated(b.routes()), ReadHeaderTimeout: stepTimeout}}
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

func (b *Broker) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/overview", b.getOverview)
	mux.HandleFunc("GET /api/connections", b.getConnections)
	mux.HandleFunc("GET /api/connections/{name...}", b.getConnection)
	mux.HandleFunc("DELETE /api/connections/{name...}", b.deleteConnection)
	mux.HandleFunc("PUT /api/vhosts/{name...}", b.putVHost)
	mux.HandleFunc("DELETE /api/vhosts/{name...}", b.deleteVHost)
	return mux
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
