package streamtest

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestTenThousandConnections opens and drops connections after each byte of the
// first step of the handshake. Every fifth is a socket; pipes stand for the
// others because they are quicker.
func TestTenThousandConnections(t *testing.T) {
	b := NewBroker(t)
	before := runtime.NumGoroutine()
	hello, err := wire.Append(nil, &wire.PeerProperties{})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		var list []net.Conn
		for i := range 200 {
			nc := dialOrPipe(t, b, i%5 == 0)
			if _, err := nc.Write(hello[:i%(len(hello)+1)]); err != nil {
				t.Fatal(err)
			}
			list = append(list, nc)
		}
		for i, nc := range list {
			if i%10 == 0 {
				nc.Close()
				continue
			}
			reset(nc) // leaves no port in TIME_WAIT: the system has only so many
		}
	}
	openRaw(t, b)
	awaitCond(t, b, "connections gone", func() bool { return len(b.Connections()) == 1 })
	awaitCond(t, b, "sockets gone", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.sockets) == 1
	})
	for deadline := time.Now().Add(testTimeout); runtime.NumGoroutine() > before+10; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
}

// dialOrPipe connects to the broker by a socket or by a pipe.
func dialOrPipe(t testing.TB, b *Broker, socket bool) net.Conn {
	t.Helper()
	if socket {
		nc, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	ours, theirs := net.Pipe()
	b.admit(theirs, b.ln)
	return ours
}

// TestClientThatNeverReads sends many requests and reads no answer at first.
// The broker must hold a bounded number of bytes for the client, serve another
// client meanwhile, and answer every request once the client reads.
func TestClientThatNeverReads(t *testing.T) {
	t.Parallel()
	b := NewBroker(t)
	c := openRaw(t, b)
	const requests = 400_000
	var frames []byte
	for range 1000 {
		frames, _ = wire.Append(frames, &wire.QueryOffset{Stream: "nope"})
	}
	written := make(chan error, 1)
	go func() {
		for range requests / 1000 {
			if _, err := c.nc.Write(frames); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	pending := func() (most int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for c := range b.conns {
			most = max(most, len(c.out))
		}
		return most
	}
	awaitCond(t, b, "answers pile up", func() bool { return pending() > maxPending })
	openRaw(t, b).quiet()
	if n := pending(); n > 2*maxPending {
		t.Errorf("%d bytes are held", n)
	}
	// 400,000 answers take a while.
	if err := c.nc.SetDeadline(time.Now().Add(6 * testTimeout)); err != nil {
		t.Fatal(err)
	}
	for i := range requests {
		if f, err := c.read(); err != nil || f.key != wire.KeyQueryOffset.Response() {
			t.Fatalf("answer %d: %v, %v", i, f.key, err)
		}
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// TestSlowConsumer gives credit for far more chunks than it reads. The broker
// must still serve another client, and deliver all chunks in the end.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	b, c := published(t)
	slow := openRaw(t, b)
	slow.subscribe(1, "s", fromFirst, 30_000)
	frame := wire.AppendPublishEntry(wire.BeginPublish(nil, 1, 1), 1, make([]byte, 500_000))
	frame = wire.FinishPublish(frame, 0, 1)
	c.declare(2, "", "s")
	frame[wire.SizeLen+wire.HeadLen] = 2
	for range 40 {
		c.write(frame)
		c.confirmed()
	}
	for want := range uint64(40) {
		if _, chunk := slow.chunk(); chunk.FirstOffset != want {
			t.Fatalf("chunk %d, want %d", chunk.FirstOffset, want)
		}
	}
}

// pipeRaw connects a client to the broker by a pipe. A fuzzer opens more
// connections than the system has ports.
func pipeRaw(t testing.TB, b *Broker) *rawClient {
	t.Helper()
	ours := dialOrPipe(t, b, false)
	t.Cleanup(func() { ours.Close() })
	if err := ours.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t: t, nc: ours, frames: wire.NewFrameReader(ours, 0)}
}

// FuzzSocket sends arbitrary bytes to a new broker, before or after the
// handshake, either as they are or cut into frames. The broker must read all of
// them or end the connection. It must then serve another client, and close.
func FuzzSocket(f *testing.F) {
	f.Add(false, false, []byte{0, 0, 0, 4, 0, 0x17, 0, 1})
	f.Add(true, false, []byte{0xff, 0xff, 0xff, 0xff, 0, 1})
	f.Add(true, false, benchPublishFrame(2))
	for _, frame := range []wire.Frame{
		&wire.Create{Stream: "s"}, &wire.Subscribe{Stream: "s", Spec: fromFirst, Credit: 1}, &wire.Credit{Credit: -5},
		&wire.CreateSuperStream{Name: "x", Partitions: []string{"p"}, BindingKeys: []string{"k"}},
		&wire.ConsumerUpdateResponse{}, &wire.SaslAuthenticate{Mechanism: "PLAIN"}, &wire.Close{},
	} {
		b, err := wire.Append(nil, frame)
		if err != nil {
			f.Fatal(err)
		}
		b = b[wire.SizeLen:]
		f.Add(true, true, append([]byte{byte(len(b))}, b...))
	}
	f.Fuzz(func(t *testing.T, ready, framed bool, data []byte) {
		// The user guest could not log in: a pipe is no loopback
		// address.
		b, err := Start(WithUser(User{Name: "fuzz", Password: "fuzz"}))
		if err != nil {
			t.Fatal(err)
		}
		fuzzSocket(t, b, ready, framed, data)
		c := pipeRaw(t, b)
		c.login("fuzz", "fuzz")
		c.open("/")
		c.quiet()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// fuzzSocket sends data on a connection of its own and closes it.
func fuzzSocket(t *testing.T, b *Broker, ready, framed bool, data []byte) {
	t.Helper()
	c := pipeRaw(t, b)
	if ready {
		c.login("fuzz", "fuzz")
		c.open("/")
		c.create("s")
		c.declare(1, "ref", "s")
		sacMember(c, 0, "s", "")
	}
	if framed {
		data = cutIntoFrames(data)
	}
	answers := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c.nc)
		answers <- err
	}()
	_, err := c.nc.Write(data)
	c.nc.Close()
	for _, err := range []error{err, <-answers} {
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Fatal("the connection hangs")
		}
	}
}

// cutIntoFrames turns data into frames. A byte gives the length of a frame,
// that many bytes follow as its contents, and so on.
func cutIntoFrames(data []byte) []byte {
	var out bytes.Buffer
	for len(data) > 0 {
		n := min(int(data[0]), len(data)-1)
		out.Write([]byte{0, 0, 0, byte(n)})
		out.Write(data[1 : 1+n])
		data = data[1+n:]
	}
	return out.Bytes()
}

// TestMemoryLimit fills the memory of the broker. Publishers must wait until a
// deletion frees memory; other clients must not.
func TestMemoryLimit(t *testing.T) {
	b := NewBroker(t, WithMemoryLimit(1_000_000))
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "", "s")
	frame := wire.AppendPublishEntry(wire.BeginPublish(nil, 1, 1), 1, make([]byte, 600_000))
	frame = wire.FinishPublish(frame, 0, 1)
	for range 3 {
		c.write(frame)
	}
	c.confirmed()
	c.confirmed()
	other := openRaw(t, b)
	if code := other.call(&wire.DeclarePublisher{Correlation: other.next(), PublisherID: 1, Stream: "s"}); code != wire.CodePreconditionFailed {
		t.Errorf("declare: %v", code)
	}
	if code := other.call(&wire.Create{Correlation: other.next(), Stream: "t"}); code != wire.CodeInternalError {
		t.Errorf("create: %v", code)
	}
	other.send(&wire.StoreOffset{Reference: "c", Stream: "s", Offset: 1})
	other.quiet()
	if _, stored := b.Offset("c", "s"); stored || len(b.Messages("s")) != 2 {
		t.Error("stored beyond the limit")
	}
	other.must(&wire.Delete{Correlation: other.next(), Stream: "s"})
	other.expect(wire.KeyMetadataUpdate)
	c.expect(wire.KeyMetadataUpdate)
	c.expect(wire.KeyPublishError)
	other.create("t")
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stored != streamCost {
		t.Errorf("%d bytes counted, want one stream", b.stored)
	}
}
