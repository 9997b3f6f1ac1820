package streamtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestPublisherIDs(t *testing.T) {
	c := openRaw(t, NewBroker(t))
	c.create("s")
	c.create("other")
	declare := func(id uint8, ref, stream string) wire.Code {
		return c.call(&wire.DeclarePublisher{Correlation: c.next(), PublisherID: id, Reference: ref, Stream: stream})
	}
	for _, tt := range []struct {
		id          uint8
		ref, stream string
		want        wire.Code
	}{
		{1, "", "s", wire.CodeOK},
		{1, "", "s", wire.CodePreconditionFailed},
		{2, "", "s", wire.CodeOK},
		{3, "ref", "s", wire.CodeOK},
		{4, "ref", "s", wire.CodePreconditionFailed},
		{4, "ref", "other", wire.CodeOK},
		{5, strings.Repeat("r", 256), "s", wire.CodePreconditionFailed},
	} {
		if got := declare(tt.id, tt.ref, tt.stream); got != tt.want {
			t.Errorf("declare %d %.9q on %q: %v, want %v", tt.id, tt.ref, tt.stream, got, tt.want)
		}
	}
	c.must(&wire.DeletePublisher{Correlation: c.next(), PublisherID: 1})
	if code := c.call(&wire.DeletePublisher{Correlation: c.next(), PublisherID: 1}); code != wire.CodePublisherDoesNotExist {
		t.Errorf("deleted twice: %v", code)
	}
	c.publish(1, 5, 6)
	o, err := wire.DecodePublishError(c.expect(wire.KeyPublishError).fields)
	if _, code := o.At(0); err != nil || code != wire.CodePublisherDoesNotExist || !slices.Equal(outcomeIDs(o), []uint64{5, 6}) {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestDeduplication(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "ref", "s")
	c.publish(1, 5, 3, 7, 7, 9)
	if dups, fresh := c.confirmed(), c.confirmed(); !slices.Equal(dups, []uint64{3, 7}) || !slices.Equal(fresh, []uint64{5, 7, 9}) {
		t.Errorf("duplicates %d, new %d", dups, fresh)
	}
	if got := b.Bodies("s"); !slices.Equal(got, []string{"m5", "m7", "m9"}) {
		t.Errorf("stored %q", got)
	}
	other := openRaw(t, b)
	other.declare(1, "ref", "s")
	other.publish(1, 9, 10)
	other.confirmed()
	other.confirmed()
	if id, ok := b.Sequence("ref", "s"); !ok || id != 10 {
		t.Errorf("sequence %d, %v", id, ok)
	}
	c.send(&wire.QueryPublisherSequence{Correlation: c.next(), Reference: "ref", Stream: "s"})
	var resp wire.QueryPublisherSequenceResponse
	if c.decode(&resp); resp.Sequence != 10 {
		t.Errorf("%+v", resp)
	}
	c.declare(2, "zero", "s")
	c.publish(2, 0)
	if got := c.confirmed(); len(got) != 1 || len(b.Bodies("s")) != 5 {
		t.Errorf("first id 0: %d, %q", got, b.Bodies("s"))
	}
}

func TestPublishSplitsLongFrames(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "", "s")
	c.subscribe(1, "s", fromFirst, 100)
	ids := make([]uint64, 10_000)
	c.publish(1, ids...)
	if got := len(c.confirmed()); got != len(ids) {
		t.Errorf("%d confirmed", got)
	}
	for left, want := 10_000, 32; left > 0; left, want = left-want, 2*want {
		if _, chunk := c.chunk(); int(chunk.Entries) != min(want, left) {
			t.Errorf("chunk of %d entries, want %d", chunk.Entries, min(want, left))
		}
	}
}

// TestTrailerLengthOfNamedPublisher expects that the header of every chunk
// counts the publisher reference, which RabbitMQ keeps on disk and does not
// deliver. The tests of the client rstream check it.
func TestTrailerLengthOfNamedPublisher(t *testing.T) {
	c := openRaw(t, NewBroker(t))
	c.create("s")
	c.declare(1, "test-reference", "s")
	c.declare(2, "", "s")
	ids := make([]uint64, minChunkEntries+1)
	for i := range ids {
		ids[i] = uint64(i)
	}
	c.publish(1, ids...)
	c.confirmed()
	c.publish(2, 1)
	c.confirmed()
	c.subscribe(1, "s", fromFirst, 100)
	for i, want := range []uint32{24, 24, 0} {
		if _, chunk := c.chunk(); chunk.TrailerLength != want || int(chunk.DataLength) != len(chunk.Data) {
			t.Errorf("chunk %d: trailer length %d, want %d", i, chunk.TrailerLength, want)
		}
	}
}

func TestSubBatch(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "", "s")
	c.subscribe(1, "s", fromFirst, 10)
	records := wire.AppendEntry(wire.AppendEntry(nil, []byte("a")), []byte("b"))
	good := wire.Entry{Records: 2, Uncompressed: uint32(len(records)), Body: records}
	frame := wire.AppendPublishBatch(wire.BeginPublish(nil, 1, 1), 1, good)
	frame = wire.AppendPublishEntry(frame, 2, []byte("c"))
	frame = wire.AppendPublishBatch(frame, 3, wire.Entry{Records: 0, Body: records})
	frame = wire.AppendPublishEntry(frame, 4, []byte("d"))
	c.write(wire.FinishPublish(frame, 0, 4))
	if got := c.confirmed(); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("confirmed %d", got)
	}
	o, err := wire.DecodePublishError(c.readPast(wire.KeyDeliver, wire.KeyPublishError).fields)
	if _, code := o.At(0); err != nil || code != wire.CodePreconditionFailed || !slices.Equal(outcomeIDs(o), []uint64{3, 4}) {
		t.Errorf("%+v, %v", o, err)
	}
	if got := b.Messages("s"); len(got) != 3 || got[1].String() != "b" || got[1].Offset != 1 || got[2].Offset != 2 {
		t.Errorf("stored %v", got)
	}
	c.write(wire.FinishPublish(append(append(wire.BeginPublish(nil, 2, 1), 0, 0, 0, 0, 0, 0, 0, 9, 0xff, 0xff), wire.AppendBatch(nil, good)...), 0, 1))
	c.readToEnd()
}

// readPast skips frames of key skip and returns the first other one, which must
// be of key want.
func (c *rawClient) readPast(skip, want wire.Key) receivedFrame {
	c.t.Helper()
	for {
		f, err := c.read()
		if err != nil || f.key != want && f.key != skip {
			c.t.Fatalf("got %v, %v; want %v", f.key, err, want)
		}
		if f.key == want {
			return f
		}
	}
}

// readToEnd reads until the broker closes the connection.
func (c *rawClient) readToEnd() {
	for {
		if _, err := c.read(); err != nil {
			return
		}
	}
}

func TestMalformedPublishStoresWhatCameBefore(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "ref", "s")
	frame := wire.AppendPublishEntry(wire.BeginPublish(nil, 1, 1), 7, []byte("good"))
	frame = append(frame, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 99, 'x')
	c.write(wire.FinishPublish(frame, 0, 2))
	c.expectEnd()
	if id, _ := b.Sequence("ref", "s"); id != 7 || len(b.Messages("s")) != 1 {
		t.Errorf("stored %q", b.Bodies("s"))
	}
}

// TestDeletedPublisherIsNotConfirmed expects no confirm of a deleted publisher.
// A client that reuses the id would take it for one of the new publisher.
func TestDeletedPublisherIsNotConfirmed(t *testing.T) {
	b, c := published(t)
	c.declare(2, "", "s")
	b.WithholdConfirms()
	c.publish(1, 1)
	c.publish(2, 2)
	c.must(&wire.DeletePublisher{Correlation: c.next(), PublisherID: 1})
	b.ReleaseConfirms()
	if got := c.confirmed(); !slices.Equal(got, []uint64{2}) {
		t.Errorf("confirmed %d", got)
	}
	c.quiet()
}
