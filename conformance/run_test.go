package conformance

import (
	"crypto/rand"
	"crypto/tls"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// run is the run of one row on one broker.
type run struct {
	testing.TB
	*broker
	patience time.Duration
	opened   *client  // the connection that admin returns; nil: not yet open
	streams  []string // streams to delete in the end
	supers   []string // super streams to delete in the end
}

func newRun(t testing.TB, b *broker, patience time.Duration) *run {
	r := &run{TB: t, broker: b, patience: patience}
	t.Cleanup(r.cleanUp)
	return r
}

// cleanUp deletes the streams and super streams that the row may have created.
func (r *run) cleanUp() {
	if len(r.streams)+len(r.supers) == 0 {
		return
	}
	c := r.open()
	for _, name := range r.supers {
		c.deleteSuper(name)
	}
	for _, name := range r.streams {
		c.delete(name)
	}
	_ = c.nc.Close()
}

// is fails the row unless got and want are deeply equal.
func is[T any](t testing.TB, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// must fails the row if there is an error.
func (r *run) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// dial connects to the broker and sends nothing.
func (r *run) dial() *client {
	r.Helper()
	nc, err := net.Dial("tcp", r.addr)
	return r.client(nc, err)
}

// dialTLS is dial with TLS. It skips the row if the broker has no TLS listener.
func (r *run) dialTLS() *client {
	r.Helper()
	if r.tlsAddr == "" {
		r.Skip("the broker has no TLS listener that is known")
	}
	nc, err := tls.Dial("tcp", r.tlsAddr, &tls.Config{RootCAs: r.roots, ServerName: "localhost"})
	return r.client(nc, err)
}

func (r *run) client(nc net.Conn, err error) *client {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = nc.Close() })
	c := &client{t: r.TB, nc: nc, frames: wire.NewFrameReader(nc, 0)}
	c.patient(r.patience)
	return c
}

// open connects as user guest and opens the virtual host "/".
func (r *run) open() *client {
	r.Helper()
	return r.openAs("guest", "/")
}

// openAs connects as user and opens vhost. The password of every user is its
// name.
func (r *run) openAs(user, vhost string) *client {
	r.Helper()
	c := r.dial()
	c.login(user)
	is(r, c.open(vhost), ok)
	return c
}

// admin returns a connection for what the row needs besides what it tests. Each
// call returns the same one.
func (r *run) admin() *client {
	r.Helper()
	if r.opened == nil {
		r.opened = r.open()
	}
	return r.opened
}

// name returns a name that no other row uses. cleanUp deletes the stream of
// that name.
func (r *run) name() string {
	name := "cf-" + strings.ToLower(rand.Text()[:10])
	r.streams = append(r.streams, name)
	return name
}

// stream creates a stream, with arguments given as key, value, and returns its
// name.
func (r *run) stream(args ...string) string {
	r.Helper()
	name := r.name()
	is(r, r.admin().create(name, args...), ok)
	return name
}

// filled creates a stream with n chunks of one message each, and returns its
// name. The offsets are 0 to n-1, the bodies m0, m1 and so on.
func (r *run) filled(n int) string {
	r.Helper()
	s := r.stream()
	r.append(s, 0, n)
	return s
}

// append publishes n chunks of one message each. The bodies are an m and the
// number of the message, which begins at from.
func (r *run) append(stream string, from, n int) {
	r.Helper()
	c := r.open()
	is(r, c.declare(1, "", stream), ok)
	for i := from; i < from+n; i++ {
		c.publish(1, uint64(i))
		c.confirmed(1, uint64(i))
	}
	_ = c.nc.Close()
}

// super creates a super stream with one partition per routing key. It returns
// the names of the super stream and of its partitions.
func (r *run) super(keys ...string) (name string, partitions []string) {
	r.Helper()
	name, partitions = r.superName(len(keys))
	is(r, r.admin().createSuper(name, partitions, keys), ok)
	return name, partitions
}

// superName returns names for a super stream with n partitions. cleanUp deletes
// them all.
func (r *run) superName(n int) (name string, partitions []string) {
	name = r.name()
	r.supers = append(r.supers, name)
	for i := range n {
		partitions = append(partitions, name+"-"+string(rune('0'+i)))
	}
	r.streams = append(r.streams, partitions...)
	return name, partitions
}

// own returns a run on a broker whose clock the row can move with wait, without
// disturbing the other rows. On streamtest that is a new broker. On RabbitMQ it
// is the shared one, whose clock nobody can move: wait does nothing, and the
// row waits for real.
func (r *run) own() *run {
	r.Helper()
	if strings.HasPrefix(r.broker.name, "RabbitMQ") {
		return r
	}
	b := streamtest.NewBroker(r.TB, streamtestOptions()...)
	own := *r.broker
	own.addr, own.advance = b.Addr(), b.AdvanceHeartbeats
	return newRun(r.TB, &own, r.patience)
}

// wait moves the clock of a broker that own returned forward by d. It does
// nothing on RabbitMQ.
func (r *run) wait(d time.Duration) {
	if r.advance != nil {
		r.advance(d)
	}
}

// eventually calls cond until it returns true, and fails the row after
// patience. It does not sleep in between, because cond waits for an answer of
// the broker each time.
func (r *run) eventually(what string, cond func() bool) {
	r.Helper()
	for end := time.Now().Add(r.patience); !cond(); {
		if time.Now().After(end) {
			r.Fatalf("never %s", what)
		}
	}
}
