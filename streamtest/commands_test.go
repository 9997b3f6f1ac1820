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
		{"plain", []string{"stream-filter-size-bytes", "20"}, wire.CodePreconditionFailed},
		{"plain", []string{"whatever", "1"}, wire.CodeStreamAlreadyExists},
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

// checkFrame fails the test unless both frames have the same encoding.
func checkFrame(t *testing.T, got, want wire.Frame) {
	t.Helper()
	x, errX := wire.Append(nil, got)
	y, errY := wire.Append(nil, want)
	if errX != nil || errY != nil || !bytes.Equal(x, y) {
		t.Errorf("got %+v, want %+v", got, want)
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
	// The values are: committed chunk, committed offset, first chunk, last
	// chunk.
	if got := stats(); !slices.Equal(got, []int64{3, 4, 0, 3}) {
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

func TestPermissions(t *testing.T) {
	b := NewBroker(t, WithUser(User{Name: "root", Password: "r"}),
		WithUser(User{Name: "guest", Password: "guest", Permissions: map[string]Permission{"/": {Configure: "^my-", Write: "^w-", Read: "^r-"}}}))
	for _, name := range []string{"w-s", "r-s", "x"} {
		if err := b.CreateStream(name); err != nil {
			t.Fatal(err)
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
	if _, stored := b.Offset("c", "w-s"); stored {
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
