package streamtest

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestCreate(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	long := strings.Repeat("x", 256)
	tests := []struct {
		name string
		args []string
		want wire.Code
	}{
		{"plain", nil, wire.CodeOK},
		{"plain", nil, wire.CodeStreamAlreadyExists},
		{"plain", []string{"max-age", "1h"}, wire.CodePreconditionFailed},
		{"plain", []string{"stream-filter-size-bytes", "20", "whatever", "1"}, wire.CodeStreamAlreadyExists},
		{"full", []string{"max-length-bytes", "1000", "max-age", "7D", "stream-max-segment-size-bytes", "500", "initial-cluster-size", "3", "queue-leader-locator", "balanced"}, wire.CodeOK},
		{"full", nil, wire.CodePreconditionFailed},
		{"zero", []string{"max-length-bytes", "0"}, wire.CodeOK},
		{"minus", []string{"max-length-bytes", "-1"}, wire.CodeOK},
		{"with space/and slash", nil, wire.CodeOK},
		{"li\r\nne", nil, wire.CodeOK},
		{"line", nil, wire.CodeStreamAlreadyExists},
		{long, nil, wire.CodeOK},
		{"", nil, wire.CodePreconditionFailed},
		{"amq.x", nil, wire.CodePreconditionFailed},
		{"bad", []string{"max-length-bytes", "x"}, wire.CodePreconditionFailed},
		{"bad", []string{"max-age", "10"}, wire.CodePreconditionFailed},
		{"bad", []string{"max-age", "10x"}, wire.CodePreconditionFailed},
		{"bad", []string{"max-age", "0s"}, wire.CodePreconditionFailed},
		{"bad", []string{"stream-max-segment-size-bytes", "3000000001"}, wire.CodePreconditionFailed},
		{"bad", []string{"initial-cluster-size", "0"}, wire.CodePreconditionFailed},
		{"bad", []string{"queue-leader-locator", "here"}, wire.CodePreconditionFailed},
		{"bad", []string{"stream-filter-size-bytes", "15"}, wire.CodePreconditionFailed},
		{"bad", []string{"stream-filter-size-bytes", "256"}, wire.CodePreconditionFailed},
	}
	for _, tt := range tests {
		var args wire.Properties
		for i := 0; i < len(tt.args); i += 2 {
			args = append(args, wire.Property{Key: tt.args[i], Value: tt.args[i+1]})
		}
		if got := c.call(&wire.Create{Correlation: c.next(), Stream: tt.name, Arguments: args}); got != tt.want {
			t.Errorf("create %.20q %q: %v, want %v", tt.name, tt.args, got, tt.want)
		}
	}
	want := []string{"full", "line", "minus", "plain", "with space/and slash", long, "zero"}
	if got := b.Streams(); !slices.Equal(got, want) {
		t.Errorf("streams %q, want %q", got, want)
	}
}

func TestMissingStream(t *testing.T) {
	c := openRaw(t, NewBroker(t))
	missing := wire.CodeStreamDoesNotExist
	for _, f := range []wire.Frame{
		&wire.Delete{Correlation: 1, Stream: "nope"},
		&wire.DeclarePublisher{Correlation: 1, Stream: "nope"},
		&wire.Subscribe{Correlation: 1, Stream: "nope", Spec: fromFirst},
		&wire.DeleteSuperStream{Correlation: 1, Name: "nope"},
	} {
		c.corr = 1
		if code := c.call(f); code != missing {
			t.Errorf("%T: %v", f, code)
		}
	}
	tests := []struct {
		req, resp, want wire.Frame
	}{
		{&wire.QueryOffset{Correlation: 2, Stream: "nope"}, &wire.QueryOffsetResponse{}, &wire.QueryOffsetResponse{Correlation: 2, Code: missing}},
		{&wire.QueryPublisherSequence{Correlation: 2, Stream: "nope"}, &wire.QueryPublisherSequenceResponse{}, &wire.QueryPublisherSequenceResponse{Correlation: 2, Code: missing}},
		{&wire.StreamStats{Correlation: 2, Stream: "nope"}, &wire.StreamStatsResponse{}, &wire.StreamStatsResponse{Correlation: 2, Code: missing}},
		{&wire.Route{Correlation: 2, SuperStream: "nope"}, &wire.StreamsResponse{Key: wire.KeyRoute}, &wire.StreamsResponse{Key: wire.KeyRoute, Correlation: 2, Code: missing}},
		{&wire.Partitions{Correlation: 2, SuperStream: "nope"}, &wire.StreamsResponse{Key: wire.KeyPartitions}, &wire.StreamsResponse{Key: wire.KeyPartitions, Correlation: 2, Code: missing}},
		{&wire.ResolveOffsetSpec{Correlation: 2, Stream: "nope", Spec: fromNext}, &wire.ResolveOffsetSpecResponse{}, &wire.ResolveOffsetSpecResponse{Correlation: 2, Code: missing, Type: wire.OffsetAt}},
		{&wire.Metadata{Correlation: 2, Streams: []string{"nope", "nope"}}, &wire.MetadataResponse{}, &wire.MetadataResponse{Correlation: 2, Streams: []wire.StreamMetadata{{Stream: "nope", Code: missing, Leader: wire.NoLeader}}}},
	}
	for _, tt := range tests {
		c.send(tt.req)
		c.decode(tt.resp)
		checkFrame(t, tt.resp, tt.want)
	}
}

func checkFrame(t *testing.T, got, want wire.Frame) {
	t.Helper()
	x, errX := wire.Append(nil, got)
	y, errY := wire.Append(nil, want)
	if errX != nil || errY != nil || !bytes.Equal(x, y) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

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
	if id, ok := b.Sequence("s", "ref"); !ok || id != 10 {
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

// readPast returns the first frame that is not of key skip.
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

func TestMalformedPublishStoresNothing(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "ref", "s")
	frame := wire.AppendPublishEntry(wire.BeginPublish(nil, 1, 1), 7, []byte("good"))
	frame = append(frame, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 99, 'x')
	c.write(wire.FinishPublish(frame, 0, 2))
	c.expect(wire.KeyClose)
	if _, known := b.Sequence("s", "ref"); known || len(b.Messages("s")) != 0 {
		t.Errorf("stored %q", b.Bodies("s"))
	}
}

func TestOffsets(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	query := func(ref string) wire.QueryOffsetResponse {
		c.send(&wire.QueryOffset{Correlation: c.next(), Reference: ref, Stream: "s"})
		var resp wire.QueryOffsetResponse
		c.decode(&resp)
		return resp
	}
	if got := query("c"); got.Code != wire.CodeNoOffset {
		t.Errorf("nothing stored: %+v", got)
	}
	for _, offset := range []uint64{50, 10, 1<<64 - 1, 0} {
		c.send(&wire.StoreOffset{Reference: "c", Stream: "s", Offset: offset})
		if got := query("c"); got.Code != wire.CodeOK || got.Offset != offset {
			t.Errorf("stored %d: %+v", offset, got)
		}
	}
	long := strings.Repeat("r", 256)
	c.send(&wire.StoreOffset{Reference: long, Stream: "s", Offset: 1}, &wire.StoreOffset{Reference: "c", Stream: "nope", Offset: 1},
		&wire.StoreOffset{Reference: "", Stream: "s", Offset: 3})
	if got := query(long); got.Code != wire.CodeNoOffset {
		t.Errorf("long reference: %+v", got)
	}
	if got := query(""); got.Offset != 3 {
		t.Errorf("empty reference: %+v", got)
	}
}

func TestStreamStats(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	stats := func() []int64 {
		c.send(&wire.StreamStats{Correlation: c.next(), Stream: "s"})
		var resp wire.StreamStatsResponse
		c.decode(&resp)
		var values []int64
		for _, s := range resp.Stats {
			values = append(values, s.Value)
		}
		return values
	}
	if got := stats(); !slices.Equal(got, []int64{-1, -1, -1, -1}) {
		t.Errorf("empty: %d", got)
	}
	c.declare(1, "", "s")
	c.publish(1, 1, 2, 3)
	c.confirmed()
	c.publish(1, 4, 5)
	c.confirmed()
	if got := stats(); !slices.Equal(got, []int64{3, 4, 0, 3}) { // committed chunk and offset, first, last
		t.Errorf("two chunks: %d", got)
	}
}

func TestDeletedStream(t *testing.T) {
	b := NewBroker(t)
	c, bystander := openRaw(t, b), openRaw(t, b)
	c.create("s")
	c.create("other")
	bystander.send(&wire.StreamStats{Correlation: 9, Stream: "s"})
	bystander.expect(wire.KeyStreamStats.Response())
	c.declare(1, "", "s")
	c.subscribe(1, "s", fromFirst, 1)
	c.subscribe(2, "other", fromFirst, 1)
	c.must(&wire.Delete{Correlation: c.next(), Stream: "s"})
	var update wire.MetadataUpdate
	if c.decode(&update); update.Code != wire.CodeStreamNotAvailable || update.Stream != "s" {
		t.Errorf("%+v", update)
	}
	bystander.quiet()
	c.publish(1, 1)
	c.expect(wire.KeyPublishError)
	if code := c.call(&wire.Unsubscribe{Correlation: c.next(), SubscriptionID: 1}); code != wire.CodeSubscriptionIDDoesNotExist {
		t.Errorf("unsubscribe: %v", code)
	}
	c.send(&wire.Credit{SubscriptionID: 1, Credit: 1})
	var credit wire.CreditResponse
	if c.decode(&credit); credit.Code != wire.CodeSubscriptionIDDoesNotExist || credit.SubscriptionID != 1 {
		t.Errorf("%+v", credit)
	}
	c.must(&wire.Unsubscribe{Correlation: c.next(), SubscriptionID: 2})
}

func TestSuperStream(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	create := func(name string, partitions, keys []string) wire.Code {
		return c.call(&wire.CreateSuperStream{Correlation: c.next(), Name: name, Partitions: partitions, BindingKeys: keys})
	}
	for _, tt := range []struct {
		name             string
		partitions, keys []string
		want             wire.Code
	}{
		{"sup", []string{"sup-0", "sup-1", "sup-2"}, []string{"a", "b", "b"}, wire.CodeOK},
		{"sup", []string{"x"}, []string{"a"}, wire.CodeStreamAlreadyExists},
		{"other", []string{"x", "sup-1"}, []string{"a", "b"}, wire.CodeStreamAlreadyExists},
		{"other", []string{"x"}, []string{"a", "b"}, wire.CodePreconditionFailed},
		{"other", []string{"x", "x"}, []string{"a", "b"}, wire.CodePreconditionFailed},
		{"amq.other", []string{"x"}, []string{"a"}, wire.CodePreconditionFailed},
		{"empty", nil, nil, wire.CodeOK},
	} {
		if got := create(tt.name, tt.partitions, tt.keys); got != tt.want {
			t.Errorf("create %q %q %q: %v, want %v", tt.name, tt.partitions, tt.keys, got, tt.want)
		}
	}
	list := func(req wire.Frame, key wire.Key) []string {
		c.send(req)
		resp := wire.StreamsResponse{Key: key}
		c.decode(&resp)
		return resp.Streams
	}
	if got := list(&wire.Partitions{SuperStream: "sup"}, wire.KeyPartitions); !slices.Equal(got, []string{"sup-0", "sup-1", "sup-2"}) {
		t.Errorf("partitions %q", got)
	}
	if got := list(&wire.Route{RoutingKey: "b", SuperStream: "sup"}, wire.KeyRoute); !slices.Equal(got, []string{"sup-1", "sup-2"}) {
		t.Errorf("route %q", got)
	}
	if got := list(&wire.Route{RoutingKey: "none", SuperStream: "sup"}, wire.KeyRoute); len(got) != 0 {
		t.Errorf("route to nowhere %q", got)
	}
	if got := list(&wire.Partitions{SuperStream: "amq.direct"}, wire.KeyPartitions); len(got) != 0 {
		t.Errorf("partitions of an exchange %q", got)
	}
	if got := b.Streams(); len(got) != 3 {
		t.Errorf("a refused creation left %q", got)
	}
	c.subscribe(1, "sup-1", fromFirst, 1)
	c.must(&wire.DeleteSuperStream{Correlation: c.next(), Name: "sup"})
	var update wire.MetadataUpdate
	if c.decode(&update); update.Stream != "sup-1" || len(b.Streams()) != 0 {
		t.Errorf("%+v, left %q", update, b.Streams())
	}
}

func TestPermissions(t *testing.T) {
	b := NewBroker(t, WithUser(User{Name: "root", Password: "r"}),
		WithUser(User{Name: "guest", Password: "guest", Permissions: map[string]Permission{"/": {Configure: "^my-", Write: "^w-", Read: "^r-"}}}))
	for _, name := range []string{"w-s", "r-s", "x"} {
		if code := b.CreateStream(name); code != OK {
			t.Fatal(code)
		}
	}
	c := openRaw(t, b)
	for _, tt := range []struct {
		req  wire.Frame
		want wire.Code
	}{
		{&wire.Create{Correlation: 1, Stream: "my-s"}, wire.CodeOK},
		{&wire.Create{Correlation: 1, Stream: "x"}, wire.CodeAccessRefused},
		{&wire.Delete{Correlation: 1, Stream: "nope"}, wire.CodeAccessRefused},
		{&wire.DeclarePublisher{Correlation: 1, PublisherID: 1, Stream: "w-s"}, wire.CodeOK},
		{&wire.DeclarePublisher{Correlation: 1, PublisherID: 2, Stream: "r-s"}, wire.CodeAccessRefused},
		{&wire.Subscribe{Correlation: 1, SubscriptionID: 1, Stream: "r-s", Spec: fromFirst}, wire.CodeOK},
		{&wire.Subscribe{Correlation: 1, SubscriptionID: 2, Stream: "w-s", Spec: fromFirst}, wire.CodeAccessRefused},
	} {
		c.corr = 1
		if got := c.call(tt.req); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.req, got, tt.want)
		}
	}
	c.send(&wire.StoreOffset{Reference: "c", Stream: "w-s", Offset: 1}, &wire.QueryOffset{Correlation: 2, Reference: "c", Stream: "w-s"})
	var resp wire.QueryOffsetResponse
	if c.decode(&resp); resp.Code != wire.CodeAccessRefused {
		t.Errorf("query: %v", resp.Code)
	}
	if _, stored := b.Offset("w-s", "c"); stored {
		t.Error("stored without permission")
	}
}

func TestRetention(t *testing.T) {
	b := NewBroker(t, WithStartTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
	c := openRaw(t, b)
	c.create("bytes", "max-length-bytes", "4000", "stream-max-segment-size-bytes", "1000")
	c.create("age", "max-age", "1h", "stream-max-segment-size-bytes", "1")
	c.declare(1, "", "bytes")
	c.declare(2, "", "age")
	body := make([]byte, 100)
	for i := range 100 {
		frame := wire.AppendPublishEntry(wire.BeginPublish(nil, 1, 1), uint64(i), body)
		c.write(wire.FinishPublish(frame, 0, 1))
		c.confirmed()
	}
	if got := b.Messages("bytes"); got[0].Offset < 70 || got[0].Offset > 91 || got[len(got)-1].Offset != 99 {
		t.Errorf("retained %d to %d", got[0].Offset, got[len(got)-1].Offset)
	}
	c.publish(2, 1)
	c.confirmed()
	b.Advance(40 * time.Minute)
	c.publish(2, 2)
	c.confirmed()
	b.Advance(40 * time.Minute)
	if got := b.Bodies("age"); !slices.Equal(got, []string{"m2"}) {
		t.Errorf("aged to %q", got)
	}
	if at := b.Messages("age")[0].Timestamp; at.Before(time.Date(2026, 1, 1, 0, 40, 0, 0, time.UTC)) || at.Year() != 2026 {
		t.Errorf("stamped %v", at)
	}
	b.Advance(24 * time.Hour)
	if got := b.Bodies("age"); len(got) != 1 {
		t.Errorf("the newest segment is gone: %q", got)
	}
}
