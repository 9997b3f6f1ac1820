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

// run is one row on one broker.
type run struct {
	testing.TB
	*broker
	patience time.Duration
	opened   *client
	streams  []string
	supers   []string
}

func newRun(t testing.TB, b *broker, patience time.Duration) *run {
	r := &run{TB: t, broker: b, patience: patience}
	t.Cleanup(r.cleanUp)
	return r
}

// cleanUp deletes the streams that the row may have made.
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

// is fails the row unless both are the same.
func is[T any](t testing.TB, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// dial opens a socket and sends nothing.
func (r *run) dial() *client {
	r.Helper()
	nc, err := net.Dial("tcp", r.addr)
	return r.client(nc, err)
}

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

// open connects as guest to the virtual host /.
func (r *run) open() *client {
	r.Helper()
	return r.openAs("guest", "/")
}

// openAs connects; the password of every account is its name.
func (r *run) openAs(user, vhost string) *client {
	r.Helper()
	c := r.dial()
	c.login(user)
	is(r, c.open(vhost), ok)
	return c
}

// admin is a connection for what the row needs but is not about.
func (r *run) admin() *client {
	r.Helper()
	if r.opened == nil {
		r.opened = r.open()
	}
	return r.opened
}

// name returns a name that no other row uses; a stream of that name is deleted in the end.
func (r *run) name() string {
	name := "cf-" + strings.ToLower(rand.Text()[:10])
	r.streams = append(r.streams, name)
	return name
}

// stream creates a stream with arguments given as key, value.
func (r *run) stream(args ...string) string {
	r.Helper()
	name := r.name()
	is(r, r.admin().create(name, args...), ok)
	return name
}

// filled creates a stream with n chunks of one message each, of offsets 0 to n-1 and bodies m0, m1 ...
func (r *run) filled(n int) string {
	r.Helper()
	s := r.stream()
	r.append(s, 0, n)
	return s
}

// append publishes n chunks of one message each, whose bodies are m and their number.
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

// super creates a super stream with one partition per key, and returns its name and those of the partitions.
func (r *run) super(keys ...string) (name string, partitions []string) {
	r.Helper()
	name, partitions = r.superName(len(keys))
	is(r, r.admin().createSuper(name, partitions, keys), ok)
	return name, partitions
}

func (r *run) superName(n int) (name string, partitions []string) {
	name = r.name()
	r.supers = append(r.supers, name)
	for i := range n {
		partitions = append(partitions, name+"-"+string(rune('0'+i)))
	}
	r.streams = append(r.streams, partitions...)
	return name, partitions
}

// own returns a run on a broker whose time can be moved without disturbing the other rows. The real
// broker is the shared one: there advance does nothing, and the row waits.
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

// wait lets time pass on a broker that own returned.
func (r *run) wait(d time.Duration) {
	if r.advance != nil {
		r.advance(d)
	}
}

// eventually asks again until cond is true; each time it asks the broker, which is what it waits for.
func (r *run) eventually(what string, cond func() bool) {
	r.Helper()
	for end := time.Now().Add(r.patience); !cond(); {
		if time.Now().After(end) {
			r.Fatalf("never %s", what)
		}
	}
}
