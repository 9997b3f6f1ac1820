package conformance

import (
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// client is a bare socket that speaks the protocol. What it expects must be the
// next frame: any other frame fails the row. commands_test.go has a method for
// each command.
type client struct {
	t      testing.TB
	nc     net.Conn
	frames *wire.FrameReader
	corr   uint32
	host   string // advertised in the answer to Open, as is port
	port   string
}

// frame is a frame from the broker. Its fields are a copy.
type frame struct {
	key     wire.Key
	version uint16
	fields  []byte
}

func (c *client) next() uint32 {
	c.corr++
	return c.corr
}

// send writes frames with one call of Write.
func (c *client) send(frames ...wire.Frame) {
	c.t.Helper()
	c.write(encode(c.t, frames...))
}

func encode(t testing.TB, frames ...wire.Frame) []byte {
	t.Helper()
	var b []byte
	for _, f := range frames {
		var err error
		if b, err = wire.Append(b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// raw returns a frame with arbitrary fields.
func raw(key wire.Key, version uint16, fields ...byte) []byte {
	n := wire.HeadLen + len(fields)
	b := []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), byte(key >> 8), byte(key), byte(version >> 8), byte(version)}
	return append(b, fields...)
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// readAny returns the next frame, heartbeats included.
func (c *client) readAny() (frame, error) {
	b, err := c.frames.Next()
	if err != nil {
		return frame{}, err
	}
	key, version, fields, err := wire.SplitHead(b)
	return frame{key, version, slices.Clone(fields)}, err
}

func (c *client) read() (frame, error) {
	for {
		f, err := c.readAny()
		if err != nil || f.key != wire.KeyHeartbeat {
			return f, err
		}
	}
}

// expect returns the next frame, which must be of that key.
func (c *client) expect(key wire.Key) frame {
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

// decode reads the next frame into f. The frame must have f's key, version and
// exactly its layout.
func (c *client) decode(f wire.Frame) {
	c.t.Helper()
	key, version := f.Head()
	got := c.expect(key)
	if got.version != version {
		c.t.Fatalf("%v has version %d", key, got.version)
	}
	if err := wire.Decode(got.fields, f); err != nil {
		c.t.Fatal(err)
	}
}

// call sends a request whose answer has no field but the code, and returns the
// code.
func (c *client) call(f wire.Frame) wire.Code {
	c.t.Helper()
	c.send(f)
	key, _ := f.Head()
	resp := wire.Response{Key: key}
	c.decode(&resp)
	is(c.t, resp.Correlation, c.corr)
	return resp.Code
}

// quiet shows that no frame is on its way. The broker answers in order, so
// quiet sends a request whose answer must come next.
func (c *client) quiet() {
	c.t.Helper()
	c.send(&wire.Metadata{Correlation: c.next()})
	c.expect(wire.KeyMetadata.Response())
}

// ended expects the broker to end the connection without another frame.
func (c *client) ended() {
	c.t.Helper()
	if f, err := c.read(); err == nil {
		c.t.Fatalf("got %v % x, want the end of the connection", f.key, f.fields)
	} else if timedOut(err) {
		c.t.Fatal("the connection was not ended")
	}
}

// endedAfter is like ended, but allows frames of one key before the end.
func (c *client) endedAfter(allowed wire.Key) {
	c.t.Helper()
	f, err := c.read()
	for ; err == nil; f, err = c.read() {
		if f.key != allowed {
			c.t.Fatalf("got %v % x, want the end of the connection", f.key, f.fields)
		}
	}
	if timedOut(err) {
		c.t.Fatal("the connection was not ended")
	}
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// closed expects the broker's Close, answers it, and expects the end.
func (c *client) closed(code wire.Code) {
	c.t.Helper()
	c.closing(code)
	c.ended()
}

// closing expects the broker's Close and answers it.
func (c *client) closing(code wire.Code) {
	c.t.Helper()
	var req wire.Close
	c.decode(&req)
	is(c.t, req, wire.Close{Correlation: 1, Code: code, Reason: code.String()})
	c.send(&wire.Response{Key: wire.KeyClose, Correlation: req.Correlation, Code: ok})
}

// patient sets how long the client waits from now on.
func (c *client) patient(d time.Duration) {
	c.t.Helper()
	if err := c.nc.SetDeadline(time.Now().Add(d)); err != nil {
		c.t.Fatal(err)
	}
}
