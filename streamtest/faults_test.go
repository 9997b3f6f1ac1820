package streamtest

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// published starts a broker and returns a client that has declared publisher 1,
// with reference "ref", on a new stream "s".
func published(t *testing.T, opts ...Option) (*Broker, *rawClient) {
	t.Helper()
	b := NewBroker(t, opts...)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "ref", "s")
	return b, c
}

// silence is how long expectSilence waits. It is long beside the time in which
// the broker answers.
const silence = 50 * time.Millisecond

func TestDropConnections(t *testing.T) {
	t.Parallel()
	b := NewBroker(t)
	c := openRaw(t, b)
	if n := b.DropConnections(CutFIN); n != 1 {
		t.Errorf("%d dropped", n)
	}
	if _, err := c.read(); err != io.EOF {
		t.Errorf("FIN: %v", err)
	}
	c = openRaw(t, b)
	if n := b.DropConnection(t.Name(), CutRST) + b.DropConnection("other", CutRST); n != 1 {
		t.Errorf("%d dropped by name", n)
	}
	if _, err := c.read(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("RST: %v", err)
	}
	c = openRaw(t, b)
	b.DropConnections(CutSilent)
	if len(b.Connections()) != 0 {
		t.Error("still a connection")
	}
	c.send(&wire.Metadata{})
	c.expectSilence()
}

// expectSilence fails the test if a frame or the end of the connection comes
// within silence. A test cannot wait for something that does not come, so it
// waits this long.
func (c *rawClient) expectSilence() {
	c.t.Helper()
	if err := c.nc.SetReadDeadline(time.Now().Add(silence)); err != nil {
		c.t.Fatal(err)
	}
	f, err := c.read()
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		c.t.Fatalf("got %v, %v; want silence", f.key, err)
	}
	if err := c.nc.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		c.t.Fatal(err)
	}
}

func TestRefuseConnections(t *testing.T) {
	b := NewBroker(t)
	b.RefuseConnections(true)
	if nc, err := net.Dial("tcp", b.Addr()); err == nil {
		defer nc.Close()
		if _, err := nc.Read(make([]byte, 1)); err == nil {
			t.Error("not refused")
		}
	}
	b.RefuseConnections(false)
	openRaw(t, b)
}

func TestSilence(t *testing.T) {
	t.Parallel()
	b, c := published(t)
	b.StopReading()
	c.publish(1, 1)
	c.expectSilence()
	if len(b.Messages("s")) != 0 {
		t.Error("executed while not reading")
	}
	b.ResumeReading()
	c.confirmed()
	b.StopAnswering()
	c.publish(1, 2)
	awaitCond(t, b, "stored", func() bool { return len(b.Messages("s")) == 2 })
	c.expectSilence()
	b.ResumeAnswering()
	c.quiet()
}

// TestCloseWhileNotAnswering expects that a client that says Close is
// disconnected, though it gets no answer.
func TestCloseWhileNotAnswering(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	b.StopAnswering()
	c.send(&wire.Close{Correlation: c.next(), Code: wire.CodeOK})
	c.expectEnd()
}

func TestConfirmFaults(t *testing.T) {
	t.Parallel()
	b, c := published(t)
	b.WithholdConfirms()
	c.publish(1, 1)
	c.publish(1, 2)
	awaitCond(t, b, "stored", func() bool { return len(b.Messages("s")) == 2 })
	c.quiet()
	b.ReleaseConfirms()
	if got := append(c.confirmed(), c.confirmed()...); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("released %d", got)
	}
	b.WithholdConfirms()
	c.publish(1, 3)
	c.quiet()
	b.LoseConfirms()
	b.ReleaseConfirms()
	c.quiet()
	b.DelayConfirms(30 * time.Millisecond)
	before := time.Now()
	c.publish(1, 4)
	if got := c.confirmed(); !slices.Equal(got, []uint64{4}) || time.Since(before) < 30*time.Millisecond {
		t.Errorf("confirmed %d after %v", got, time.Since(before))
	}
}

func TestWithheldConfirmsStopReading(t *testing.T) {
	t.Parallel()
	b, c := published(t)
	b.WithholdConfirms()
	ids := make([]uint64, 30_000)
	for i := range ids {
		ids[i] = uint64(i)
	}
	c.publish(1, ids...)
	for i := range ids {
		ids[i] += 30_000
	}
	c.publish(1, ids...)
	c.send(&wire.Metadata{})
	awaitCond(t, b, "both stored", func() bool { return b.Received(Publish) == 2 })
	c.expectSilence()
	b.ReleaseConfirms()
	if n := len(c.confirmed()) + len(c.confirmed()); n != 60_000 {
		t.Errorf("%d confirmed", n)
	}
	c.expect(wire.KeyMetadata.Response())
}

func TestAnswerWith(t *testing.T) {
	b, c := published(t)
	b.AnswerWith(Subscribe, StreamNotAvailable, 1)
	subscribe := &wire.Subscribe{Correlation: 5, SubscriptionID: 1, Stream: "s", Spec: fromFirst, Credit: 1}
	c.corr = 5
	if code := c.call(subscribe); code != wire.CodeStreamNotAvailable {
		t.Errorf("forced: %v", code)
	}
	if code := c.call(subscribe); code != wire.CodeOK {
		t.Errorf("then: %v", code)
	}
	b.AnswerWith(Publish, InternalError, 1)
	c.publish(1, 8, 9)
	o, err := wire.DecodePublishError(c.expect(wire.KeyPublishError).fields)
	if _, code := o.At(1); err != nil || code != wire.CodeInternalError || len(b.Messages("s")) != 0 {
		t.Errorf("%v, %v", code, err)
	}
	b.AnswerWith(QueryOffset, AccessRefused, Forever)
	for range 2 {
		c.send(&wire.QueryOffset{Correlation: 6, Stream: "s"})
		var resp wire.QueryOffsetResponse
		if c.decode(&resp); resp.Code != wire.CodeAccessRefused || resp.Correlation != 6 {
			t.Errorf("%+v", resp)
		}
	}
	b.AnswerWith(Metadata, StreamNotAvailable, 1)
	c.send(&wire.Metadata{Correlation: 7, Streams: []string{"s"}})
	var meta wire.MetadataResponse
	if c.decode(&meta); len(meta.Streams) != 1 || meta.Streams[0].Code != wire.CodeStreamNotAvailable {
		t.Errorf("%+v", meta)
	}
	b.AnswerWith(Credit, InternalError, 1)
	c.send(&wire.Credit{SubscriptionID: 1, Credit: 1})
	c.expect(wire.KeyCredit.Response())
	b.ClearFaults()
	c.send(&wire.QueryOffset{Correlation: 6, Stream: "s"})
	var resp wire.QueryOffsetResponse
	if c.decode(&resp); resp.Code != wire.CodeNoOffset {
		t.Errorf("cleared: %+v", resp)
	}
	b.AnswerWith(Open, VHostAccessFailure, 1)
	other := dialRaw(t, b)
	other.login("guest", "guest")
	other.expect(wire.KeyTune)
	other.send(&wire.Tune{}, &wire.Open{VHost: "/"})
	other.expect(wire.KeyOpen.Response())
	other.expectEnd()
}

func TestLoseStores(t *testing.T) {
	b, c := published(t)
	b.LoseStores(1)
	c.send(&wire.StoreOffset{Reference: "c", Stream: "s", Offset: 1})
	c.quiet()
	if _, stored := b.Offset("c", "s"); stored {
		t.Error("not lost")
	}
	c.send(&wire.StoreOffset{Reference: "c", Stream: "s", Offset: 2})
	c.quiet()
	if offset, _ := b.Offset("c", "s"); offset != 2 {
		t.Errorf("then %d", offset)
	}
}

func TestCorruptChunks(t *testing.T) {
	b, c := published(t)
	c.publish(1, 1)
	c.confirmed()
	if err := b.CorruptChunks("s", 1); err != nil {
		t.Error(err)
	}
	c.subscribe(1, "s", fromFirst, 1)
	d, _ := wire.DecodeDeliver(1, c.expect(wire.KeyDeliver).fields)
	if chunk, err := wire.ParseChunk(d.Chunk); err != nil || !errors.Is(chunk.Check(), wire.ErrCRC) {
		t.Errorf("%v, %v", err, chunk.Check())
	}
	c.subscribe(2, "s", fromFirst, 1)
	c.chunk()
}

func TestTruncateNext(t *testing.T) {
	for name, size := range map[string]int{"small": 1, "large": 10_000} {
		t.Run(name, func(t *testing.T) {
			b, c := published(t)
			frame := wire.AppendPublishEntry(wire.BeginPublish(nil, 1, 1), 1, make([]byte, size))
			c.write(wire.FinishPublish(frame, 0, 1))
			c.confirmed()
			b.TruncateNext(Deliver)
			c.subscribe(1, "s", fromFirst, 1)
			if _, err := c.read(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Deliver: %v", err)
			}
			c = openRaw(t, b)
			b.TruncateNext(QueryOffset)
			c.send(&wire.QueryOffset{Stream: "s"})
			if _, err := c.read(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("QueryOffset: %v", err)
			}
		})
	}
}

func TestSendGarbage(t *testing.T) {
	b, c := published(t)
	b.SendGarbage([]byte{0, 0, 0, 2, 0xde, 0xad})
	if frame, err := c.frames.Next(); err != nil || len(frame) != 2 || frame[0] != 0xde {
		t.Errorf("%x, %v", frame, err)
	}
}

func TestRestart(t *testing.T) {
	b, c := published(t)
	c.publish(1, 1)
	c.confirmed()
	c.send(&wire.StoreOffset{Reference: "c", Stream: "s", Offset: 1})
	c.quiet()
	uri := b.URI()
	b.Stop()
	c.expectEnd()
	if nc, err := net.Dial("tcp", b.Addr()); err == nil {
		nc.Close()
		t.Error("somebody listens after Stop")
	}
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	if b.URI() != uri {
		t.Errorf("moved to %s", b.Addr())
	}
	c = openRaw(t, b)
	if err := b.RestartOnNewPort(); err != nil {
		t.Fatal(err)
	}
	c.expectEnd()
	if b.URI() == uri {
		t.Error("still on the old port")
	}
	c = openRaw(t, b)
	c.send(&wire.QueryOffset{Reference: "c", Stream: "s"})
	var resp wire.QueryOffsetResponse
	c.decode(&resp)
	if id, _ := b.Sequence("ref", "s"); resp.Offset != 1 || id != 1 || !slices.Equal(b.Bodies("s"), []string{"m1"}) {
		t.Errorf("kept offset %+v, sequence %d, messages %q", resp, id, b.Bodies("s"))
	}
}

func TestStreamFaults(t *testing.T) {
	b, c := published(t)
	b.MoveLeader("s")
	c.expect(wire.KeyMetadataUpdate)
	c.declare(1, "ref", "s")
	b.SetAvailable("s", false)
	c.expect(wire.KeyMetadataUpdate)
	if code := c.call(&wire.DeclarePublisher{Correlation: c.next(), PublisherID: 1, Stream: "s"}); code != wire.CodeStreamNotAvailable {
		t.Errorf("unavailable: %v", code)
	}
	b.SetAvailable("s", true)
	c.declare(1, "ref", "s")
	b.SkipOffsets("s", 3)
	c.publish(1, 1)
	c.confirmed()
	if got := b.Messages("s"); got[0].Offset != 3 {
		t.Errorf("offset %d after a gap", got[0].Offset)
	}
	b.DeleteStream("s")
	c.expect(wire.KeyMetadataUpdate)
	if len(b.Streams()) != 0 {
		t.Errorf("left %q", b.Streams())
	}
}

func TestInspection(t *testing.T) {
	b, c := published(t)
	c.subscribe(3, "s", fromFirst, 0)
	list := b.Connections()
	if len(list) != 1 {
		t.Fatalf("%d connections", len(list))
	}
	got := list[0]
	if got.ClientName != t.Name() || got.User != "guest" || got.VHost != "/" || got.Publishers != 1 ||
		got.Subscriptions != 1 || !got.Ready || !strings.Contains(got.Name, " -> ") {
		t.Errorf("%+v", got)
	}
	if n := b.Received(Subscribe); n != 1 {
		t.Errorf("%d Subscribe", n)
	}
	for range maxJournal {
		c.send(&wire.Credit{SubscriptionID: 3})
	}
	c.quiet()
	all := b.Commands()
	if len(all) != maxJournal || all[0].Command != Credit || all[maxJournal-1].Command != Metadata || all[0].Connection != got.Name {
		t.Errorf("%d commands, from %v to %v", len(all), all[0], all[len(all)-1])
	}
}
