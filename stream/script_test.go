package stream

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// listen accepts connections on loopback and has serve play the broker's part
// on each. Everything is closed and waited for at the end of the test.
func listen(t testing.TB, serve func(*peer)) endpoint {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	closed := false
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, nc)
			if closed {
				_ = nc.Close()
			}
			mu.Unlock()
			wg.Go(func() {
				defer nc.Close()
				serve(newPeer(t, nc))
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		closed = true
		for _, nc := range open {
			_ = nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	port := ln.Addr().(*net.TCPAddr).Port
	return endpoint{host: "127.0.0.1", port: port, user: "me", password: "se:cr@t", vhost: "/"}
}

// peer is the broker's end of a connection.
type peer struct {
	t      testing.TB
	nc     net.Conn
	frames *wire.FrameReader
	mu     sync.Mutex // held while writing
}

func newPeer(t testing.TB, nc net.Conn) *peer {
	return &peer{t: t, nc: nc, frames: wire.NewFrameReader(nc, 0)}
}

// next returns the next frame that is not a heartbeat, ok false at the end.
func (p *peer) next() (key wire.Key, fields []byte, ok bool) {
	for {
		frame, err := p.frames.Next()
		if err != nil {
			return 0, nil, false
		}
		key, _, fields, err := wire.SplitHead(frame)
		if err != nil {
			p.t.Errorf("the client sent %x: %v", frame, err)
			return 0, nil, false
		}
		if key != wire.KeyHeartbeat {
			return key, fields, true
		}
	}
}

// expect reads the next frame into f, which says its key.
func (p *peer) expect(f wire.Frame) bool {
	want, _ := f.Head()
	key, fields, ok := p.next()
	if !ok {
		return false
	}
	if key != want {
		p.t.Errorf("the client sent %v, want %v", key, want)
		return false
	}
	return p.decode(fields, f)
}

func (p *peer) decode(fields []byte, f wire.Frame) bool {
	if err := wire.Decode(fields, f); err != nil {
		p.t.Error(err)
		return false
	}
	return true
}

// send writes frames; a client that is gone is no fault.
func (p *peer) send(frames ...wire.Frame) {
	for _, f := range frames {
		b, err := wire.Append(nil, f)
		if err != nil {
			p.t.Error(err)
		}
		p.write(b)
	}
}

func (p *peer) write(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.nc.Write(b)
}

// stall says nothing more until the client hangs up.
func (p *peer) stall() {
	for {
		if _, _, ok := p.next(); !ok {
			return
		}
	}
}

// The steps of the handshake, in order. Each reads the client's frame, if it
// has one, and answers.
var steps = []struct {
	name string
	play func(*peer) bool
}{
	{"peer properties", func(p *peer) bool {
		var f wire.PeerProperties
		ok := p.expect(&f)
		p.send(&wire.PeerPropertiesResponse{Correlation: f.Correlation, Code: wire.CodeOK})
		return ok
	}},
	{"mechanisms", func(p *peer) bool {
		var f wire.SaslHandshake
		ok := p.expect(&f)
		p.send(&wire.Heartbeat{}) // may come at any time
		p.send(&wire.SaslHandshakeResponse{Correlation: f.Correlation, Code: wire.CodeOK, Mechanisms: []string{"AMQPLAIN", "PLAIN"}})
		return ok
	}},
	{"login", func(p *peer) bool {
		var f wire.SaslAuthenticate
		ok := p.expect(&f)
		if want := "\x00me\x00se:cr@t"; ok && (f.Mechanism != "PLAIN" || string(f.Data) != want) {
			p.t.Errorf("login with %s %q, want PLAIN %q", f.Mechanism, f.Data, want)
		}
		p.send(&wire.SaslAuthenticateResponse{Correlation: f.Correlation, Code: wire.CodeOK})
		return ok
	}},
	{"tune", func(p *peer) bool {
		p.send(&wire.Tune{FrameMax: 1 << 19, Heartbeat: 60})
		f := wire.Tune{Response: true}
		ok := p.expect(&f)
		if ok && f.FrameMax != 1<<19 {
			p.t.Errorf("the client wants frames of %d bytes", f.FrameMax)
		}
		return ok
	}},
	{"open", func(p *peer) bool {
		var f wire.Open
		ok := p.expect(&f)
		host, port, _ := net.SplitHostPort(p.nc.LocalAddr().String())
		p.send(&wire.OpenResponse{Correlation: f.Correlation, Code: wire.CodeOK, Properties: wire.Properties{
			{Key: "advertised_host", Value: host}, {Key: "advertised_port", Value: port},
		}})
		return ok
	}},
}

// shake plays the first n steps of the handshake.
func (p *peer) shake(n int) bool {
	for _, step := range steps[:n] {
		if !step.play(p) {
			return false
		}
	}
	return true
}

// welcome plays the whole handshake.
func (p *peer) welcome() bool { return p.shake(len(steps)) }

// firstID is that of the first subscription on a connection.
const firstID = 1

// chunkFrame is a Deliver frame with messages from the given offset on.
func chunkFrame(first uint64, bodies ...string) []byte { return chunkTo(firstID, first, bodies...) }

// chunkTo is chunkFrame for another subscription.
func chunkTo(id uint8, first uint64, bodies ...string) []byte {
	return chunkAt(noon, id, first, bodies...)
}

// laterChunk is chunkFrame of a stream that was created again an hour later.
func laterChunk(first uint64, bodies ...string) []byte {
	return chunkAt(noon.Add(time.Hour), firstID, first, bodies...)
}

func chunkAt(at time.Time, id uint8, first uint64, bodies ...string) []byte {
	var data []byte
	for _, body := range bodies {
		data = wire.AppendEntry(data, appendData(nil, []byte(body)))
	}
	return deliverTo(id, wire.ChunkHeader{FirstOffset: first, Entries: uint16(len(bodies)), Records: uint32(len(bodies)), Timestamp: at.UnixMilli()}, data)
}

func deliverFrame(h wire.ChunkHeader, data []byte) []byte { return deliverTo(firstID, h, data) }

func deliverTo(id uint8, h wire.ChunkHeader, data []byte) []byte {
	h.CRC, h.DataLength = wire.Checksum(data), uint32(len(data))
	if h.Timestamp == 0 {
		h.Timestamp = noon.UnixMilli()
	}
	head := make([]byte, wire.ChunkHeaderLen)
	h.Put(head)
	b := wire.AppendDeliverHead(nil, wire.Version1, id, 0, len(head)+len(data))
	return append(append(b, head...), data...)
}

// testConfig has no patience with a silent peer.
func testConfig() Config {
	cfg, _, err := Config{DialTimeout: patience, Backoff: Backoff{Min: time.Millisecond, Max: 5 * time.Millisecond}}.withDefaults()
	if err != nil {
		panic(err)
	}
	return cfg
}

// dialed returns a connection to the endpoint that ends with the test.
func dialed(t testing.TB, e endpoint, h hooks) *conn {
	t.Helper()
	c, err := dial(soon(t), testConfig(), e, "test", h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.abort)
	return c
}

// uri is what Connect takes for the endpoint.
func (e endpoint) uri() string {
	return schemePlain + "://me:se%3Acr%40t@" + net.JoinHostPort(e.host, strconv.Itoa(e.port)) + "/"
}

var errTest = errors.New("the test's own error")
