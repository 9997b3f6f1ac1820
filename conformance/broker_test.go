package conformance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/rabbit"
	"github.com/tidemark-go/tidemark/internal/realtest"
	"github.com/tidemark-go/tidemark/streamtest"
	"github.com/tidemark-go/tidemark/streamtest/management"
)

// broker is a broker that the rows run against.
type broker struct {
	name    string // name and version, for the summary
	addr    string
	tlsAddr string // empty: no TLS listener
	roots   *x509.CertPool
	version string
	// management is the URL of the management API, with user and password.
	// It is empty if the broker has none.
	management string
	// advance moves the clock of the connections forward. It is nil if the
	// row can only wait; see run.own.
	advance func(time.Duration)
	// alarm switches a disk alarm on and off. It is nil if nobody can.
	alarm func(on bool) error
	// stall keeps the leaders of streams from writing what they are given, or
	// makes them write it. loseLeader loses a leader with what it has not written.
	stall      func(on bool, streams ...string) error
	loseLeader func(stream string) error
	// byPacket says that the broker handles all frames of a packet before it looks
	// at what credit the connection has left.
	byPacket bool
	// bind adds a stream to a super stream, and unbind removes it.
	bind   func(superStream, stream, key string) error
	unbind func(superStream, stream string) error
}

// Every broker has this virtual host and these users, besides "/" and guest.
// The password of each user is its name.
const (
	otherVHost    = "cf-other"
	nobody        = "cf-nobody" // has no permission at all
	reader        = "cf-reader"
	writer        = "cf-writer"
	configurer    = "cf-configurer"
	declarer      = "cf-declarer" // may configure and read
	everything    = ".*"
	upTimeout     = 10 * time.Minute // leaves room for the download of a broker
	setUpTimeout  = time.Minute
	certLife      = time.Hour
	suiteVariable = "TIDEMARK_RABBITMQ_SUITE"
	// partitionOrder is the argument of a binding that says which partition of
	// a super stream it leads to.
	partitionOrder = "x-stream-partition-order"
)

var permissions = map[string]streamtest.Permission{
	reader:     {Read: everything},
	writer:     {Write: everything},
	configurer: {Configure: everything},
	declarer:   {Configure: everything, Read: everything},
}

func newStreamtest(t *testing.T) *broker {
	b := streamtest.NewBroker(t, streamtestOptions()...)
	api, err := management.Start(b, "127.0.0.1:0")
	check.Nil(t, err)
	t.Cleanup(func() { check.Nil(t, api.Close()) })
	cert, roots := certificate(t)
	secure := streamtest.NewBroker(t, streamtest.WithTLS(&tls.Config{Certificates: []tls.Certificate{cert}}))
	target := &broker{addr: b.Addr(), tlsAddr: secure.Addr(), roots: roots}
	target.management = strings.Replace(api.URL(), "://", "://guest:guest@", 1)
	target.alarm = func(on bool) error { b.SetDiskAlarm(on); return nil }
	target.loseLeader = b.LoseLeader
	target.stall = func(on bool, streams ...string) error {
		var errs []error
		for _, s := range streams {
			errs = append(errs, b.SetQuorum(s, !on))
		}
		return errors.Join(errs...)
	}
	target.bind, target.unbind = b.BindPartition, b.UnbindPartition
	target.learnVersion(t, "streamtest")
	return target
}

func streamtestOptions() []streamtest.Option {
	opts := []streamtest.Option{
		streamtest.WithUser(streamtest.User{Name: "guest", Password: "guest"}),
		streamtest.WithUser(streamtest.User{Name: nobody, Password: nobody, Permissions: map[string]streamtest.Permission{}}),
		streamtest.WithVHost(otherVHost), streamtest.WithAnonymous("guest"),
	}
	for name, p := range permissions {
		opts = append(opts, streamtest.WithUser(streamtest.User{
			Name: name, Password: name, Permissions: map[string]streamtest.Permission{"/": p},
		}))
	}
	return opts
}

// newRabbitMQ starts a real broker and leaves it running. make test stops it. No
// other package uses it: a row sets its disk alarm, which blocks every publisher.
func newRabbitMQ(t *testing.T) *broker {
	if os.Getenv("TIDEMARK_REAL") != "1" {
		t.Skip("needs a real RabbitMQ: run make test, or set TIDEMARK_REAL=1 (the first run downloads one)")
	}
	dir := "test-conformance" // make test ends those in test*
	if suite := os.Getenv(suiteVariable); suite != "" {
		dir += "-" + suite
	}
	ctx, cancel := context.WithTimeout(t.Context(), upTimeout)
	defer cancel()
	inst, err := rabbit.Up(ctx, filepath.Join(realtest.Root(), ".rabbitmq", dir), 1, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	target := &broker{addr: hostPort(t, inst.StreamURL()), management: inst.ManagementURL()}
	if secure := inst.StreamTLSURL(); secure != "" {
		pem, err := os.ReadFile(inst.CAFile())
		if err != nil {
			t.Fatal(err)
		}
		target.tlsAddr, target.roots = hostPort(t, secure), x509.NewCertPool()
		target.roots.AppendCertsFromPEM(pem)
	}
	target.byPacket, target.alarm = true, diskAlarm(inst)
	target.stall = func(on bool, streams ...string) error {
		if on {
			return eachLeader(inst, "sys:suspend(P)", streams...)
		}
		return eachLeader(inst, "sys:resume(P)", streams...)
	}
	target.loseLeader = func(stream string) error { return eachLeader(inst, "exit(P, kill)", stream) }
	target.bind, target.unbind = target.bindByManagement, target.unbindByManagement
	target.setUp(t)
	target.learnVersion(t, "RabbitMQ")
	return target
}

// diskAlarm returns a function that makes RabbitMQ want a petabyte of room on its
// disk, or a megabyte.
func diskAlarm(inst *rabbit.Instance) func(on bool) error {
	return func(on bool) error {
		limit := "1000000"
		if on {
			limit = "1000000000000000"
		}
		ctx, cancel := context.WithTimeout(context.Background(), setUpTimeout)
		defer cancel()
		_, err := inst.Ctl(ctx, inst.Nodes()[0].Name, "set_disk_free_limit", limit)
		return err
	}
}

// eachLeader evaluates Erlang on RabbitMQ for the process P of each stream that
// writes what is published: the leader, as there is one node.
func eachLeader(inst *rabbit.Instance, do string, streams ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), setUpTimeout)
	defer cancel()
	out, err := inst.Ctl(ctx, inst.Nodes()[0].Name, "eval", fmt.Sprintf(
		`[begin %s, done end || {Id, P, _, _} <- supervisor:which_children({osiris_server_sup, node()}), is_pid(P), re:run(Id, "%s") =/= nomatch].`,
		do, strings.Join(streams, "|")))
	if err == nil && strings.Count(out, "done") != len(streams) {
		err = fmt.Errorf("%s for the leaders of %d streams: %s", do, len(streams), out)
	}
	return err
}

func hostPort(t *testing.T, uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", u.Port())
}

// setUp creates the virtual host and the users. An earlier run may have created
// them already.
func (b *broker) setUp(t *testing.T) {
	put := func(path string, body any) {
		t.Helper()
		if status := b.manage(t, http.MethodPut, path, body); status >= http.StatusBadRequest {
			t.Fatalf("PUT %s: %d", path, status)
		}
	}
	put("vhosts/"+otherVHost, struct{}{})
	put("users/"+nobody, map[string]string{"password": nobody, "tags": ""})
	for name, p := range permissions {
		put("users/"+name, map[string]string{"password": name, "tags": ""})
		put("permissions/%2F/"+name, map[string]string{"configure": p.Configure, "write": p.Write, "read": p.Read})
	}
}

// manage sends a request to the management API and returns the status of the
// answer.
func (b *broker) manage(t testing.TB, method, path string, body any) int {
	t.Helper()
	status, err := b.request(method, path, body, nil)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// request sends a request to the management API. It returns the status of the
// answer, and reads the answer into result unless that is nil.
func (b *broker) request(method, path string, body, result any) (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), setUpTimeout)
	defer cancel()
	data, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, method, b.management+"/api/"+path, bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read, or nobody wants it
	if result != nil {
		err = json.NewDecoder(resp.Body).Decode(result)
	}
	return resp.StatusCode, err
}

// binding is a binding as the management API describes it.
type binding struct {
	Destination   string         `json:"destination"`
	PropertiesKey string         `json:"properties_key"`
	Arguments     map[string]any `json:"arguments"`
}

// bindByManagement binds a stream as the last partition, as streamtest does.
func (b *broker) bindByManagement(superStream, stream, key string) error {
	var all []binding
	if _, err := b.request(http.MethodGet, "exchanges/%2F/"+superStream+"/bindings/source", nil, &all); err != nil {
		return err
	}
	order := 0.0
	for _, x := range all {
		if n, ok := x.Arguments[partitionOrder].(float64); ok {
			order = max(order, n+1)
		}
	}
	body := map[string]any{"routing_key": key, "arguments": map[string]any{partitionOrder: order}}
	status, err := b.request(http.MethodPost, "bindings/%2F/e/"+superStream+"/q/"+stream, body, nil)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("bind %s to %s: status %d", stream, superStream, status)
	}
	return err
}

// unbindByManagement removes all bindings of a stream to a super stream.
func (b *broker) unbindByManagement(superStream, stream string) error {
	var all []binding
	path := "bindings/%2F/e/" + superStream + "/q/" + stream
	if _, err := b.request(http.MethodGet, path, nil, &all); err != nil {
		return err
	}
	for _, x := range all {
		status, err := b.request(http.MethodDelete, path+"/"+url.PathEscape(x.PropertiesKey), nil, nil)
		if err == nil && status != http.StatusNoContent {
			err = fmt.Errorf("unbind %s from %s: status %d", stream, superStream, status)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// learnVersion asks the broker for its version, on which the expectations of
// some rows depend.
func (b *broker) learnVersion(t *testing.T, product string) {
	c := newRun(t, b, patience).dial()
	b.version = c.peerProperties()["version"]
	b.name = product + " " + b.version
	if _, err := fmt.Sscanf(b.version, "%d.%d.%d", new(int), new(int), new(int)); err != nil {
		t.Fatalf("version %q: %v", b.version, err)
	}
}

// since reports whether the version of the broker is the given one or newer.
func (b *broker) since(version string) bool {
	var have, want [3]int
	// learnVersion has checked the format.
	_, _ = fmt.Sscanf(b.version, "%d.%d.%d", &have[0], &have[1], &have[2])
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &want[0], &want[1], &want[2])
	for i := range have {
		if have[i] != want[i] {
			return have[i] > want[i]
		}
	}
	return true
}

// certificate returns a self-signed certificate for localhost.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-certLife), NotAfter: time.Now().Add(certLife),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
