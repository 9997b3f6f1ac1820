package stream

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// fakeDispatcher notes what it gets.
type fakeDispatcher struct {
	ctx     context.Context
	due     chan time.Time
	got     []uint64
	flushes int
	passed  []uint64
	fails   error // what dispatch returns
	flushed error // what flush returns
	ended   error // what endSession got
}

func (f *fakeDispatcher) context() context.Context   { return f.ctx }
func (f *fakeDispatcher) flushDue() <-chan time.Time { return f.due }
func (f *fakeDispatcher) pass(offset uint64, _ mark.ChunkID, _ int) error {
	f.passed = append(f.passed, offset)
	return nil
}
func (f *fakeDispatcher) flush() error               { f.flushes++; return f.flushed }
func (f *fakeDispatcher) endSession(err error) error { f.ended = err; return err }
func (f *fakeDispatcher) end(err error) error        { return err }
func (f *fakeDispatcher) abandon() error             { return nil }
func (f *fakeDispatcher) dispatch(_ *wire.Chunk, d *decoder) error {
	for _, m := range d.block(100) {
		f.got = append(f.got, m.Offset)
	}
	return f.fails
}

// arriveWhole delivers a chunk with a buffer of its own.
func arriveWhole(t *testing.T, s *subscription, chunk *wire.Chunk) {
	t.Helper()
	h := chunk.ChunkHeader
	h.DataLength, h.CRC = uint32(len(chunk.Data)), wire.Checksum(chunk.Data)
	b := make([]byte, wire.ChunkHeaderLen, wire.ChunkHeaderLen+len(chunk.Data))
	h.Put(b)
	b = append(b, chunk.Data...)
	must(t, s.Deliver(wire.Deliver{Chunk: b}, b))
	must(t, s.Flush())
}

// TestFeed gives the dispatcher what is new of each chunk, until the subscription
// ends.
func TestFeed(t *testing.T) {
	broken := chunkOf(10, 2, 2, wire.AppendEntry(nil, appendData(nil, []byte("whole")))) // the second one is missing
	other := plainChunk(5, 4)                                                            // reaches into the chunk that is known
	for name, test := range map[string]struct {
		chunks     []*wire.Chunk
		fails      error
		got        []uint64
		progressed bool
		want       error
		left       int // chunks that were not finished
	}{
		"nothing":        {want: errTest},
		"old":            {chunks: []*wire.Chunk{plainChunk(6, 2)}, want: errTest},
		"old, broken":    {chunks: []*wire.Chunk{chunkOf(6, 3, 3, []byte("?"))}, want: errTest},
		"old and new":    {chunks: []*wire.Chunk{plainChunk(6, 2), plainChunk(8, 3)}, got: []uint64{9, 10}, progressed: true, want: errTest},
		"new, then more": {chunks: []*wire.Chunk{plainChunk(9, 1), plainChunk(12, 1)}, got: []uint64{9, 12}, progressed: true, want: errTest},
		"cannot decode":  {chunks: []*wire.Chunk{broken}, got: []uint64{10}, progressed: true, want: ErrMalformed, left: 1},
		"handler fails":  {chunks: []*wire.Chunk{broken}, fails: ErrClosed, got: []uint64{10}, progressed: true, want: ErrClosed, left: 1},
		"another stream": {chunks: []*wire.Chunk{plainChunk(8, 2), other, plainChunk(10, 1)}, got: []uint64{9}, progressed: true, want: ErrStreamRecreated, left: 2},
	} {
		b := startScripted(t)
		s := openOn(t, b, 1)
		s.flow.granted = 10
		r := aloneRun(t, ConsumerConfig{})
		r.place.Begin(mark.AtOffset(9), mark.AtOffset(9))
		for _, chunk := range test.chunks {
			arriveWhole(t, s, chunk)
		}
		s.end(errTest)
		d := &fakeDispatcher{ctx: soon(t), fails: test.fails}
		progressed, err := r.feed(d, s)
		if wantErr(t, err, test.want); err == nil || progressed != test.progressed || !slices.Equal(d.got, test.got) {
			t.Errorf("%s: got %v, progressed %v, %v", name, d.got, progressed, err)
		}
		if left := s.flow.held; left != test.left {
			t.Errorf("%s: %d chunks are not finished, want %d", name, left, test.left)
		}
	}
}

// slabDispatcher notes how much of the shared room each chunk leaves, and writes
// into each message and behind it, as a handler may.
type slabDispatcher struct {
	fakeDispatcher
	slabs []int
}

func (f *slabDispatcher) dispatch(_ *wire.Chunk, d *decoder) error {
	list := d.block(blockSize)
	f.slabs = append(f.slabs, len(d.slab))
	for _, m := range list {
		f.got = append(f.got, m.Offset)
		clear(m.Body)
		_ = append(m.Body, 1, 2, 3)
	}
	return nil
}

// TestFeedSharesRoom among small chunks that came together, and keeps none behind
// them. The bytes of a large chunk are copied.
func TestFeedSharesRoom(t *testing.T) {
	s := openOn(t, startScripted(t), 1<<20)
	s.flow.granted = 10
	r := aloneRun(t, ConsumerConfig{})
	r.place.Begin(mark.AtOffset(0), mark.AtOffset(0))
	must(t, arriveTogether(t, s, 0, "a", "b", "c"))
	large := strings.Repeat("x", minBuffer)
	must(t, arriveTogether(t, s, 3, large))
	must(t, arriveTogether(t, s, 4, "d"))
	whole := s.queue[3].buffer
	s.end(errTest)
	d := &slabDispatcher{fakeDispatcher: fakeDispatcher{ctx: soon(t)}}
	if _, err := r.feed(d, s); err != errTest {
		t.Fatal(err)
	}
	if want := []int{4, 3, 2, 1, 0}; !slices.Equal(d.slabs, want) || !slices.Equal(d.got, []uint64{0, 1, 2, 3, 4}) {
		t.Errorf("%v got room and left %v, want %v", d.got, d.slabs, want)
	}
	if r.decoder.slab != nil || r.decoder.entries.Records() != 0 {
		t.Errorf("behind the chunks something is kept: %+v", r.decoder)
	}
	if !strings.Contains(string(whole), large) {
		t.Error("the handler has written into memory that is used again")
	}
}

// TestFeedFlushes when that is due, and ends if it fails.
func TestFeedFlushes(t *testing.T) {
	b := startScripted(t)
	s := openOn(t, b, 1)
	r := aloneRun(t, ConsumerConfig{})
	d := &fakeDispatcher{ctx: soon(t), due: make(chan time.Time, 2)}
	d.due <- time.Time{}
	ended := make(chan error, 1)
	go func() { _, err := r.feed(d, s); ended <- err }()
	eventually(t, "it has flushed", patience, func() bool { return len(d.due) == 0 })
	s.end(errTest)
	if wantErr(t, recv(t, ended, "the end"), errTest); d.flushes != 1 {
		t.Errorf("flushed %d times", d.flushes)
	}
	s = openOn(t, b, 1)
	d.flushed = ErrClosed
	d.due <- time.Time{}
	_, err := r.feed(d, s)
	if wantErr(t, err, ErrClosed); d.flushes != 2 {
		t.Errorf("flushed %d times", d.flushes)
	}
}

// TestFeedRecognises: what was held is released by the first chunk that shows that
// the stream is the same, and by none before it.
func TestFeedRecognises(t *testing.T) {
	for name, test := range map[string]struct {
		chunk *wire.Chunk
		held  bool
	}{"before it": {plainChunk(6, 2), true}, "the same": {plainChunk(8, 3), false}, "behind it": {plainChunk(20, 1), false}} {
		b := startScripted(t)
		s := openOn(t, b, 1)
		r := aloneRun(t, ConsumerConfig{Name: "billing"})
		r.place.Begin(mark.AtOffset(8), mark.AtOffset(8))
		r.place.Receive(plainChunk(8, 3))
		r.place.HandledTo(9, mark.IDOf(plainChunk(8, 3)))
		r.progress.pauseStores()
		s.flow.granted = 10
		arriveWhole(t, s, test.chunk)
		s.end(errTest)
		_, err := r.feed(&fakeDispatcher{ctx: soon(t)}, s)
		if wantErr(t, err, errTest); r.progress.storesPaused() != test.held {
			t.Errorf("%s: held %v (%v)", name, r.progress.storesPaused(), err)
		}
	}
}

// TestUndecodable names the messages that cannot be read, and how to go on behind
// them: that depends on where the next run begins.
func TestUndecodable(t *testing.T) {
	s := openOn(t, startScripted(t), 1)
	for want, cfg := range map[string]ConsumerConfig{
		"store offset 9 with Env.StoreOffset": {Name: "billing", Start: Stored(Next())},
		"save offset 9 in the OffsetStore":    {Name: "billing", OffsetStore: &memoryStore{}},
		"start with At(10)":                   {Name: "billing", Start: First()},
		"them, start with At(10)":             {},
	} {
		d := &decoder{err: errTest, bad: 7, good: 10}
		err := aloneRun(t, cfg).undecodable(s, chunkOf(5, 1, 9, nil), d)
		if wantErr(t, err, ErrMalformed); !strings.Contains(err.Error(), "offsets 7 to 9, in the chunk at 5 ") || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), errTest.Error()) {
			t.Error(err)
		}
	}
}

// TestDeadLetterStreamIsCheckedOnce: when it goes later, that ends the run with the
// first message that needs it, and not the next reconnect.
func TestDeadLetterStreamIsCheckedOnce(t *testing.T) {
	b, env, name := inStream(t, 1)
	letters := newStream(t, env)
	handled := make(chan uint64, 10)
	stop, ended := running1(t, env, name, ConsumerConfig{OnError: ErrorPolicy{DeadLetter: letters}}, func(_ context.Context, d *Delivery) error {
		handled <- d.Offset
		return nil
	})
	recv(t, handled, "the first message")
	must(t, b.DeleteStream(letters))
	subscribed := b.Received(streamtest.Subscribe)
	b.DropConnections(streamtest.CutRST)
	must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.Subscribe) > subscribed }))
	publish(t, env, name, 1, 2)
	if got := recv(t, handled, "the second message"); got != 1 {
		t.Errorf("handled %d, want 1", got)
	}
	stop()
	must(t, recv(t, ended, "the end"))
}
