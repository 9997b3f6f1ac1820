package streamtest

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// testTimeout is how long a test waits for something that must come.
const testTimeout = 10 * time.Second

// rawClient is a bare socket that speaks the protocol. It can also do what no
// client library does.
type rawClient struct {
	t      testing.TB
	nc     net.Conn
	frames *wire.FrameReader
	corr   uint32
}

// receivedFrame is a frame from the broker. Its fields are a copy.
type receivedFrame struct {
	key     wire.Key
	version uint16
	fields  []byte
}

func dialRaw(t testing.TB, b *Broker) *rawClient {
	t.Helper()
	nc, err := net.Dial("tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t: t, nc: nc, frames: wire.NewFrameReader(nc, 0)}
}

// openRaw connects as guest and opens the virtual host "/".
func openRaw(t testing.TB, b *Broker) *rawClient {
	t.Helper()
	c := dialRaw(t, b)
	c.login("guest", "guest")
	c.open("/")
	return c
}

func (c *rawClient) login(user, password string) {
	c.t.Helper()
	c.send(&wire.PeerProperties{Correlation: c.next(), Properties: wire.Properties{{Key: "connection_name", Value: c.t.Name()}}})
	c.expect(wire.KeyPeerProperties.Response())
	c.send(&wire.SaslHandshake{Correlation: c.next()})
	c.expect(wire.KeySaslHandshake.Response())
	c.send(&wire.SaslAuthenticate{Correlation: c.next(), Mechanism: "PLAIN", Data: []byte("\x00" + user + "\x00" + password)})
	var auth wire.SaslAuthenticateResponse
	if c.decode(&auth); auth.Code != wire.CodeOK {
		c.t.Fatalf("login: %v", auth.Code)
	}
}

// open answers Tune, asking for no heartbeats, and opens a virtual host.
func (c *rawClient) open(vhost string) {
	c.t.Helper()
	c.expect(wire.KeyTune)
	c.send(&wire.Tune{})
	c.send(&wire.Open{Correlation: c.next(), VHost: vhost})
	var open wire.OpenResponse
	if c.decode(&open); open.Code != wire.CodeOK {
		c.t.Fatalf("open: %v", open.Code)
	}
}

func (c *rawClient) next() uint32 {
	c.corr++
	return c.corr
}

func (c *rawClient) send(frames ...wire.Frame) {
	c.t.Helper()
	var b []byte
	for _, f := range frames {
		var err error
		if b, err = wire.Append(b, f); err != nil {
			c.t.Fatal(err)
		}
	}
	c.write(b)
}

func (c *rawClient) write(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// read returns the next frame, skipping heartbeats.
func (c *rawClient) read() (receivedFrame, error) {
	for {
		frame, err := c.frames.Next()
		if err != nil {
			return receivedFrame{}, err
		}
		key, version, fields, err := wire.SplitHead(frame)
		if err != nil || key != wire.KeyHeartbeat {
			return receivedFrame{key, version, append([]byte(nil), fields...)}, err
		}
	}
}

// expect returns the next frame, which must be of that key.
func (c *rawClient) expect(key wire.Key) receivedFrame {
	c.t.Helper()
	f, err := c.read()
	if err != nil {
		c.t.Fatalf("waiting for %v: %v", key, err)
	}
	if f.key != key {
		c.t.Fatalf("got %v % x, want %v", f.key, f.fields, key)
	}
	return f
}

// decode reads the next frame into f. The frame must be of f's kind.
func (c *rawClient) decode(f wire.Frame) {
	c.t.Helper()
	key, _ := f.Head()
	if err := wire.Decode(c.expect(key).fields, f); err != nil {
		c.t.Fatal(err)
	}
}

// expectEnd waits for the broker to end the connection. It fails the test if a
// frame comes first.
func (c *rawClient) expectEnd() {
	c.t.Helper()
	f, err := c.read()
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Fatalf("got %v, %v; want the end of the connection", f.key, err)
	}
}

// call sends a request whose answer has no field but the code, and returns the
// code.
func (c *rawClient) call(f wire.Frame) wire.Code {
	c.t.Helper()
	c.send(f)
	key, _ := f.Head()
	resp := wire.Response{Key: key}
	c.decode(&resp)
	if resp.Correlation != c.corr {
		c.t.Fatalf("%v: correlation %d, want %d", key, resp.Correlation, c.corr)
	}
	return resp.Code
}

// must is call for a request that must succeed.
func (c *rawClient) must(f wire.Frame) {
	c.t.Helper()
	if code := c.call(f); code != wire.CodeOK {
		key, _ := f.Head()
		c.t.Fatalf("%v: %v", key, code)
	}
}

func (c *rawClient) create(stream string, args ...string) {
	c.t.Helper()
	var p wire.Properties
	for i := 0; i < len(args); i += 2 {
		p = append(p, wire.Property{Key: args[i], Value: args[i+1]})
	}
	c.must(&wire.Create{Correlation: c.next(), Stream: stream, Arguments: p})
}

func (c *rawClient) declare(id uint8, ref, stream string) {
	c.t.Helper()
	c.must(&wire.DeclarePublisher{Correlation: c.next(), PublisherID: id, Reference: ref, Stream: stream})
}

// publish sends one frame of messages with these ids. Each body is an m and the
// last digit of the id.
func (c *rawClient) publish(publisher uint8, ids ...uint64) {
	c.t.Helper()
	b := wire.BeginPublish(nil, wire.Version1, publisher)
	for _, id := range ids {
		b = wire.AppendPublishEntry(b, id, []byte{'m', byte('0' + id%10)})
	}
	c.write(wire.FinishPublish(b, 0, len(ids)))
}

// publishFiltered sends one frame with one message per filter value and waits
// for the confirm. The value "" stands for no value.
func (c *rawClient) publishFiltered(publisher uint8, values ...string) {
	c.t.Helper()
	b := wire.BeginPublish(nil, wire.Version2, publisher)
	for i, v := range values {
		var filter []byte
		if v != "" {
			filter = []byte(v)
		}
		b = wire.AppendPublishFiltered(b, uint64(i), filter, []byte(v))
	}
	c.write(wire.FinishPublish(b, 0, len(values)))
	c.confirmed()
}

// confirmed reads the next frame, which must be a PublishConfirm, and returns
// its ids.
func (c *rawClient) confirmed() []uint64 {
	c.t.Helper()
	o, err := wire.DecodePublishConfirm(c.expect(wire.KeyPublishConfirm).fields)
	if err != nil {
		c.t.Fatal(err)
	}
	return outcomeIDs(o)
}

func outcomeIDs(o wire.Outcomes) []uint64 {
	var ids []uint64
	for i := range o.Len() {
		id, _ := o.At(i)
		ids = append(ids, id)
	}
	return ids
}

func (c *rawClient) subscribe(id uint8, stream string, spec wire.OffsetSpec, credit uint16, props ...wire.Property) {
	c.t.Helper()
	c.must(&wire.Subscribe{Correlation: c.next(), SubscriptionID: id, Stream: stream, Spec: spec, Credit: credit, Properties: props})
}

// chunk reads the next frame, which must be a Deliver, and returns its chunk.
// The checksum must be right.
func (c *rawClient) chunk() (wire.Deliver, wire.Chunk) {
	c.t.Helper()
	f := c.expect(wire.KeyDeliver)
	d, err := wire.DecodeDeliver(f.version, f.fields)
	if err != nil {
		c.t.Fatal(err)
	}
	chunk, err := wire.ParseChunk(d.Chunk)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := chunk.Check(); err != nil {
		c.t.Fatal(err)
	}
	return d, chunk
}

// quiet shows that no frame is on its way. The broker answers in order, so it
// sends a request whose answer must come next.
func (c *rawClient) quiet() {
	c.t.Helper()
	c.send(&wire.Metadata{Correlation: c.next()})
	c.expect(wire.KeyMetadata.Response())
}

// awaitCond waits until cond returns true, and fails the test after
// testTimeout.
func awaitCond(t testing.TB, b *Broker, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := b.Await(ctx, cond); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

var (
	fromFirst = wire.OffsetSpec{Type: wire.OffsetFirst}
	fromNext  = wire.OffsetSpec{Type: wire.OffsetNext}
)
