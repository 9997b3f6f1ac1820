package broker

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// testNode is the node that a fake plays.
var testNode = Node{"h", 1}

// fake is a broker past its handshake that answers each request, and keeps what
// it was sent. Its fields are under mu.
type fake struct {
	mu     sync.Mutex
	log    []string          // what it was sent, but for heartbeats
	stored map[string]uint64 // by reference
	// act comes before the answer, and in place of it where it returns true.
	act func(p *script.Peer, key wire.Key, fields []byte) bool
	// codes answer a command that is not carried out.
	codes map[wire.Key]wire.Code
	// conns are the client's ends of its pipes.
	conns []*Conn
	// peers are its own ends of the connections of a cluster.
	peers []*script.Peer
	// sequence is what it has under every reference.
	sequence uint64
	// confirms has it confirm what is published.
	confirms bool
}

func newFake() *fake { return &fake{stored: map[string]uint64{}, codes: map[wire.Key]wire.Code{}} }

// on sets act.
func (b *fake) on(act func(p *script.Peer, key wire.Key, fields []byte) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.act = act
}

// mute has the fake ignore a command.
func (b *fake) mute(silent wire.Key) {
	b.on(func(_ *script.Peer, key wire.Key, _ []byte) bool { return key == silent })
}

// refuse has the fake answer a command with a code, and carry it out again with
// CodeOK.
func (b *fake) refuse(key wire.Key, code wire.Code) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.codes[key] = code; code == wire.CodeOK {
		delete(b.codes, key)
	}
}

// took compares what the fake was sent since the last call. In a bubble of
// synctest it waits until nothing more is on its way.
func (b *fake) took(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.log, want) {
		t.Errorf("the broker was sent\n\t%q, want\n\t%q", b.log, want)
	}
	b.log = nil
}

// serve plays the broker on a connection until that ends.
func (b *fake) serve(p *script.Peer) {
	for {
		key, fields, ok := p.Next()
		if !ok {
			return
		}
		b.mu.Lock()
		b.log = append(b.log, frameText(p, key, fields))
		act := b.act
		b.mu.Unlock()
		if act == nil || !act(p, key, fields) {
			b.answer(p, key, fields)
		}
	}
}

func (b *fake) answer(p *script.Peer, key wire.Key, fields []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id, _ := wire.Correlation(fields)
	code, refused := b.codes[key]
	if !refused {
		code = wire.CodeOK
	}
	switch key {
	case wire.KeyCredit:
	case wire.KeyMetadata:
		p.Send(metadata(id, "s", code))
	case wire.KeyStreamStats:
		p.Send(&wire.StreamStatsResponse{Correlation: id, Code: code, Stats: []wire.Stat{
			{Key: "first_chunk_id", Value: 3}, {Key: "last_chunk_id", Value: 99}, {Key: "committed_chunk_id", Value: 8},
		}})
	case wire.KeyStoreOffset:
		var f wire.StoreOffset
		if p.Decode(fields, &f) && !refused {
			b.stored[f.Reference] = f.Offset
		}
	case wire.KeyQueryOffset:
		var f wire.QueryOffset
		p.Decode(fields, &f)
		offset, ok := b.stored[f.Reference]
		if !ok && !refused {
			code = wire.CodeNoOffset
		}
		p.Send(&wire.QueryOffsetResponse{Correlation: id, Code: code, Offset: offset})
	case wire.KeyQueryPublisherSequence:
		p.Send(&wire.QueryPublisherSequenceResponse{Correlation: id, Code: code, Sequence: b.sequence})
	case wire.KeyPublish:
		if b.confirms {
			publisher, ids, _ := published(fields)
			p.Write(wire.AppendPublishConfirm(nil, publisher, ids))
		}
	default:
		p.Send(&wire.Response{Key: key, Correlation: id, Code: code})
	}
}

// published returns the publisher and the publishing ids of a Publish frame.
func published(fields []byte) (publisher uint8, ids []uint64, err error) {
	f, err := wire.DecodePublish(wire.Version1, fields)
	var e wire.PublishEntry
	for err == nil && f.Next(&e) {
		ids = append(ids, e.PublishingID)
	}
	return f.PublisherID, ids, errors.Join(err, f.Err())
}

// metadata is an answer to Metadata: a stream with a leader and one replica.
func metadata(id uint32, stream string, code wire.Code) *wire.MetadataResponse {
	return &wire.MetadataResponse{
		Correlation: id,
		Brokers:     []wire.BrokerAddress{{Reference: 7, Host: "h", Port: 1}, {Reference: 8, Host: "r", Port: 2}},
		Streams:     []wire.StreamMetadata{{Stream: stream, Code: code, Leader: 7, Replicas: []uint16{8}}},
	}
}

// frameText is a frame as a test writes it.
func frameText(p *script.Peer, key wire.Key, fields []byte) string {
	switch key {
	case wire.KeyCreate:
		var f wire.Create
		p.Decode(fields, &f)
		return fmt.Sprint("create ", f.Stream, f.Arguments)
	case wire.KeyDelete:
		var f wire.Delete
		p.Decode(fields, &f)
		return "delete " + f.Stream
	case wire.KeyStreamStats:
		var f wire.StreamStats
		p.Decode(fields, &f)
		return "stats " + f.Stream
	case wire.KeyMetadata:
		var f wire.Metadata
		p.Decode(fields, &f)
		return fmt.Sprint("metadata ", f.Streams)
	case wire.KeySubscribe:
		var f wire.Subscribe
		p.Decode(fields, &f)
		return fmt.Sprint("subscribe ", f.SubscriptionID, " ", f.Stream, " ", f.Spec, " credit ", f.Credit, " ", f.Properties)
	case wire.KeyUnsubscribe:
		var f wire.Unsubscribe
		p.Decode(fields, &f)
		return fmt.Sprint("unsubscribe ", f.SubscriptionID)
	case wire.KeyCredit:
		var f wire.Credit
		p.Decode(fields, &f)
		return fmt.Sprint("credit ", f.SubscriptionID, " ", f.Credit)
	case wire.KeyStoreOffset:
		var f wire.StoreOffset
		p.Decode(fields, &f)
		return fmt.Sprint("store ", f.Reference, " ", f.Stream, " ", f.Offset)
	case wire.KeyQueryOffset:
		var f wire.QueryOffset
		p.Decode(fields, &f)
		return fmt.Sprint("query ", f.Reference, " ", f.Stream)
	case wire.KeyDeclarePublisher:
		var f wire.DeclarePublisher
		p.Decode(fields, &f)
		return fmt.Sprintf("declare %d %q %s", f.PublisherID, f.Reference, f.Stream)
	case wire.KeyDeletePublisher:
		var f wire.DeletePublisher
		p.Decode(fields, &f)
		return fmt.Sprint("undeclare ", f.PublisherID)
	case wire.KeyQueryPublisherSequence:
		var f wire.QueryPublisherSequence
		p.Decode(fields, &f)
		return fmt.Sprint("sequence ", f.Reference, " ", f.Stream)
	case wire.KeyPublish:
		id, ids, err := published(fields)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint("publish ", id, " ", ids)
	case wire.KeyConsumerUpdate.Response():
		var f wire.ConsumerUpdateResponse
		p.Decode(fields, &f)
		return fmt.Sprint("answer ", f.Correlation, " ", f.Code, " ", f.Spec)
	case wire.KeyClose:
		var f wire.Close
		p.Decode(fields, &f)
		return fmt.Sprint("close ", f.Code)
	}
	return key.String()
}

// dial connects to the fake on a pipe. The connection ends with the test.
func (b *fake) dial(t *testing.T, h hooks) *Conn {
	c, theirs := pipedHooks(t, time.Hour, h)
	go b.serve(script.NewPeer(t, theirs))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns = append(b.conns, c)
	return c
}

// dials returns how many connections were made.
func (b *fake) dials() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// join returns a lease of a pool whose connections lead to the fake.
func (b *fake) join(t *testing.T, p *pool, s Subscriber) *Lease {
	t.Helper()
	l := &Lease{node: testNode, subscriber: s}
	err := p.join(t.Context(), l, func(h hooks) (*Conn, error) { return b.dial(t, h), nil })
	check.Nil(t, err)
	return l
}

// virtual runs a test of a fake in virtual time. Nothing of the test outlives
// it.
func virtual(t *testing.T, f func(t *testing.T, b *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newFake()) })
}

// piped is a connection past its handshake, on a pipe in virtual time.
func piped(t *testing.T, heartbeat time.Duration) (*Conn, net.Conn) {
	return pipedHooks(t, heartbeat, hooks{})
}

func pipedHooks(t testing.TB, heartbeat time.Duration, h hooks) (*Conn, net.Conn) {
	ours, theirs := net.Pipe()
	c := &Conn{
		endpoint: Endpoint{Host: "h", Port: 1, User: "u"}, advertised: "h:1", frameMax: 1000,
		socket: ours, heartbeat: heartbeat, hooks: h,
	}
	c.frames = wire.NewFrameReader(c, 0)
	if h.buffer != nil {
		c.frames.Give(wire.KeyDeliver, h.buffer)
	}
	c.start()
	t.Cleanup(func() {
		_ = theirs.Close()
		c.Abort()
	})
	return c, theirs
}

// recorder is a subscriber that keeps what comes.
type recorder struct {
	mu       sync.Mutex
	chunks   []uint64 // their first offsets
	flushes  []int    // how many chunks had come at each Flush
	moved    []string
	refused  []wire.Code // of Credits
	ticks    int
	buffers  int
	updates  []Update
	declines bool  // updates
	err      error // of Deliver
	errFlush error
}

func (r *recorder) Deliver(d wire.Deliver, buffer []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	chunk, err := wire.ParseChunk(d.Chunk)
	if err != nil {
		return err
	}
	r.chunks = append(r.chunks, chunk.FirstOffset)
	return r.err
}

// Update takes what the broker says, unless the test has declined it.
func (r *recorder) Update(u Update) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.updates = append(r.updates, u)
	return !r.declines
}

func (r *recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes = append(r.flushes, len(r.chunks))
	return r.errFlush
}

func (r *recorder) Buffer(n int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buffers++
	return make([]byte, n)
}

func (r *recorder) Moved(stream string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved = append(r.moved, stream)
}

func (r *recorder) CreditRefused(code wire.Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = append(r.refused, code)
}

func (r *recorder) Tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ticks++
}

// want compares the chunks that came.
func (r *recorder) want(t *testing.T, firsts ...uint64) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.chunks, firsts) {
		t.Errorf("chunks %v came, want %v", r.chunks, firsts)
	}
}

// says fails the test unless an error's text contains each of want.
func says(t *testing.T, err error, want ...string) {
	t.Helper()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v does not say %q", err, w)
		}
	}
}

// took fails the test unless, in virtual time, exactly want has passed since
// begin.
func took(t *testing.T, begin time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(begin); got != want {
		t.Errorf("it took %v, want %v", got, want)
	}
}
