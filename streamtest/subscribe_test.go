package streamtest

import (
	"slices"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// threeChunks starts a broker with a stream "s" of three chunks, an hour apart
// from start on. They hold the offsets 0 to 2, 3 to 5 and 6 to 8.
func threeChunks(t *testing.T, start time.Time) (*Broker, *rawClient) {
	t.Helper()
	b := NewBroker(t, WithStartTime(start))
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "", "s")
	for i := range uint64(3) {
		c.publish(1, 3*i, 3*i+1, 3*i+2)
		c.confirmed()
		b.Advance(time.Hour)
	}
	return b, c
}

// TestFirstChunkDoesNotComeWithTheAnswer expects that the broker leaves the
// client time to handle the answer before it sends the first chunk.
func TestFirstChunkDoesNotComeWithTheAnswer(t *testing.T) {
	_, c := threeChunks(t, time.Now())
	start := time.Now()
	c.subscribe(1, "s", fromFirst, 10)
	c.chunk()
	if took := time.Since(start); took < firstChunkAfter {
		t.Errorf("first chunk %v after Subscribe was sent, want at least %v", took, firstChunkAfter)
	}
}

func TestOffsetSpecs(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) wire.OffsetSpec {
		return wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: uint64(start.Add(d).UnixMilli())}
	}
	offset := func(n uint64) wire.OffsetSpec { return wire.OffsetSpec{Type: wire.OffsetAt, Value: n} }
	_, c := threeChunks(t, start)
	tests := map[string]struct {
		spec wire.OffsetSpec
		want uint64 // first offset of the chunk; 9: the next chunk
	}{
		"first":            {fromFirst, 0},
		"last":             {wire.OffsetSpec{Type: wire.OffsetLast}, 6},
		"next":             {fromNext, 9},
		"offset 0":         {offset(0), 0},
		"inside a chunk":   {offset(4), 3},
		"end of a chunk":   {offset(5), 3},
		"the last":         {offset(8), 6},
		"the next offset":  {offset(9), 9},
		"beyond the end":   {offset(1<<64 - 1), 9},
		"before all":       {at(-time.Hour), 0},
		"before the epoch": {wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: 1 << 63}, 0},
		"between two":      {at(30 * time.Minute), 3},
		"after all":        {at(5 * time.Hour), 9},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c.send(&wire.ResolveOffsetSpec{Correlation: c.next(), Stream: "s", Spec: tt.spec})
			var resp wire.ResolveOffsetSpecResponse
			if c.decode(&resp); resp.Code != wire.CodeOK || resp.Type != wire.OffsetAt || resp.Offset != tt.want {
				t.Errorf("resolved %+v, want %d", resp, tt.want)
			}
			c.subscribe(1, "s", tt.spec, 1)
			if tt.want < 9 {
				if _, chunk := c.chunk(); chunk.FirstOffset != tt.want {
					t.Errorf("delivered %d, want %d", chunk.FirstOffset, tt.want)
				}
			}
			c.quiet()
			c.must(&wire.Unsubscribe{Correlation: c.next(), SubscriptionID: 1})
		})
	}
}

func TestEmptyStreamWaits(t *testing.T) {
	c := openRaw(t, NewBroker(t))
	c.create("s")
	c.declare(1, "", "s")
	for id, spec := range []wire.OffsetSpec{fromFirst, fromNext, {Type: wire.OffsetLast}, {Type: wire.OffsetAt, Value: 100}, {Type: wire.OffsetTimestamp}} {
		c.subscribe(uint8(id), "s", spec, 1)
	}
	c.publish(1, 1)
	c.confirmed()
	for range 5 {
		if _, chunk := c.chunk(); chunk.FirstOffset != 0 {
			t.Errorf("delivered %d", chunk.FirstOffset)
		}
	}
}

func TestCredit(t *testing.T) {
	_, c := threeChunks(t, time.Now())
	c.subscribe(1, "s", fromFirst, 0)
	c.quiet()
	c.send(&wire.Credit{SubscriptionID: 1, Credit: 2})
	for _, want := range []uint64{0, 3} {
		if d, chunk := c.chunk(); chunk.FirstOffset != want || d.SubscriptionID != 1 {
			t.Errorf("delivered %d", chunk.FirstOffset)
		}
	}
	c.send(&wire.Credit{SubscriptionID: 1, Credit: -1}, &wire.Credit{SubscriptionID: 1, Credit: 1})
	c.quiet()
	c.send(&wire.Credit{SubscriptionID: 1, Credit: 1})
	if _, chunk := c.chunk(); chunk.FirstOffset != 6 {
		t.Errorf("delivered %d", chunk.FirstOffset)
	}
	if code := c.call(&wire.Subscribe{Correlation: c.next(), SubscriptionID: 1, Stream: "s", Spec: fromFirst}); code != wire.CodeSubscriptionIDExists {
		t.Errorf("id in use: %v", code)
	}
}

func TestFilter(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "", "s")
	for _, values := range [][]string{{"red"}, {"blue"}, {"red", "blue"}, {""}, {"", "green"}} {
		c.publishFiltered(1, values...)
	}
	prop := func(kv ...string) (p []wire.Property) {
		for i := 0; i < len(kv); i += 2 {
			p = append(p, wire.Property{Key: kv[i], Value: kv[i+1]})
		}
		return p
	}
	tests := map[string]struct {
		props []wire.Property
		want  []uint64
	}{
		"none":                  {nil, []uint64{0, 1, 2, 4, 5}},
		"red":                   {prop("filter.0", "red"), []uint64{0, 2}},
		"red or green":          {prop("filter.a", "red", "filter.b", "green"), []uint64{0, 2, 5}},
		"red or none":           {prop("filter.0", "red", "match-unfiltered", "true"), []uint64{0, 2, 4, 5}},
		"only match-unfiltered": {prop("match-unfiltered", "true"), []uint64{0, 1, 2, 4, 5}},
		"empty value":           {prop("filter.0", ""), []uint64{4, 5}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c.subscribe(1, "s", fromFirst, uint16(len(tt.want)), tt.props...)
			var got []uint64
			for range tt.want {
				_, chunk := c.chunk()
				got = append(got, chunk.FirstOffset)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("chunks %d, want %d", got, tt.want)
			}
			c.must(&wire.Unsubscribe{Correlation: c.next(), SubscriptionID: 1})
		})
	}
}

func TestReaderBehindRetention(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s", "max-length-bytes", "100", "stream-max-segment-size-bytes", "1")
	c.declare(1, "", "s")
	c.subscribe(1, "s", fromFirst, 0)
	for i := range uint64(10) {
		c.publish(1, i)
		c.confirmed()
	}
	c.send(&wire.Credit{SubscriptionID: 1, Credit: 1})
	if _, chunk := c.chunk(); chunk.FirstOffset < 8 || chunk.FirstOffset != b.Messages("s")[0].Offset {
		t.Errorf("jumped to %d", chunk.FirstOffset)
	}
}

// sacMember subscribes as a member of group "g". If stream is a partition,
// super is the name of its super stream.
func sacMember(c *rawClient, id uint8, stream, super string) {
	c.t.Helper()
	props := []wire.Property{{Key: "name", Value: "g"}, {Key: "single-active-consumer", Value: "true"}}
	if super != "" {
		props = append(props, wire.Property{Key: "super-stream", Value: super})
	}
	c.subscribe(id, stream, fromFirst, 10, props...)
}

// update reads the next frame, which must be this ConsumerUpdate, and returns
// its correlation id.
func (c *rawClient) update(id uint8, active bool) uint32 {
	c.t.Helper()
	var u wire.ConsumerUpdate
	if c.decode(&u); u.SubscriptionID != id || u.Active != active {
		c.t.Fatalf("%+v, want subscription %d, active %v", u, id, active)
	}
	return u.Correlation
}

func (c *rawClient) answer(correlation uint32, spec wire.OffsetSpec) {
	c.t.Helper()
	c.send(&wire.ConsumerUpdateResponse{Correlation: correlation, Code: wire.CodeOK, Spec: spec})
}

func TestSingleActiveConsumer(t *testing.T) {
	b, c := threeChunks(t, time.Now())
	sacMember(c, 1, "s", "")
	id := c.update(1, true)
	c.quiet() // the broker sends no chunk before the answer
	c.answer(id, wire.OffsetSpec{Type: wire.OffsetAt, Value: 6})
	if _, chunk := c.chunk(); chunk.FirstOffset != 6 {
		t.Errorf("delivered %d", chunk.FirstOffset)
	}
	second := openRaw(t, b)
	sacMember(second, 7, "s", "")
	second.send(&wire.Credit{SubscriptionID: 7, Credit: 1})
	var credit wire.CreditResponse
	if second.decode(&credit); credit.Code != wire.CodePreconditionFailed {
		t.Errorf("credit of a waiting member: %v", credit.Code)
	}
	second.quiet()
	c.must(&wire.Unsubscribe{Correlation: c.next(), SubscriptionID: 1})
	second.answer(second.update(7, true), wire.OffsetSpec{})
	for _, want := range []uint64{0, 3, 6} {
		if _, chunk := second.chunk(); chunk.FirstOffset != want {
			t.Errorf("delivered %d, want %d", chunk.FirstOffset, want)
		}
	}
	c.quiet()
	if code := c.call(&wire.Subscribe{Correlation: c.next(), SubscriptionID: 2, Stream: "s", Spec: fromFirst,
		Properties: wire.Properties{{Key: "single-active-consumer", Value: "true"}}}); code != wire.CodePreconditionFailed {
		t.Errorf("without a name: %v", code)
	}
}

// TestUpdateAnswerWithOffset answers like the client rstream, which sends eight
// bytes of offset for every offset type.
func TestUpdateAnswerWithOffset(t *testing.T) {
	_, c := threeChunks(t, time.Now())
	sacMember(c, 1, "s", "")
	c.update(1, true)
	c.write([]byte{0, 0, 0, 20, 0x80, 0x1a, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0})
	if _, chunk := c.chunk(); chunk.FirstOffset != 6 {
		t.Errorf("delivered %d", chunk.FirstOffset)
	}
}

func TestSuperStreamConsumers(t *testing.T) {
	b := NewBroker(t)
	c1, c2 := openRaw(t, b), openRaw(t, b)
	c1.must(&wire.CreateSuperStream{Correlation: c1.next(), Name: "sup", Partitions: []string{"p0", "p1"}, BindingKeys: []string{"0", "1"}})
	for id, p := range []string{"p0", "p1"} {
		sacMember(c1, uint8(id), p, "sup")
		c1.answer(c1.update(uint8(id), true), wire.OffsetSpec{})
	}
	sacMember(c2, 0, "p0", "sup")
	sacMember(c2, 1, "p1", "sup")
	// Partition 1 moves to the second member. The broker tells c2 only
	// after c1 has stopped.
	stop := c1.update(1, false)
	c2.quiet()
	c1.answer(stop, wire.OffsetSpec{})
	c2.answer(c2.update(1, true), wire.OffsetSpec{})
	c1.quiet()
	if code := c2.call(&wire.Subscribe{Correlation: c2.next(), SubscriptionID: 9, Stream: "p0", Spec: fromFirst, Properties: wire.Properties{
		{Key: "name", Value: "g"}, {Key: "single-active-consumer", Value: "true"}}}); code != wire.CodePreconditionFailed {
		t.Errorf("other partition index: %v", code)
	}
	c1.nc.Close()
	c2.answer(c2.update(0, true), wire.OffsetSpec{})
	c2.quiet()
}

func TestStepDownInterrupted(t *testing.T) {
	b := NewBroker(t)
	c1, c2 := openRaw(t, b), openRaw(t, b)
	c1.must(&wire.CreateSuperStream{Correlation: c1.next(), Name: "sup", Partitions: []string{"p0", "p1"}, BindingKeys: []string{"0", "1"}})
	sacMember(c1, 1, "p1", "sup")
	start := c1.update(1, true)
	sacMember(c2, 1, "p1", "sup")
	c1.update(1, false)
	// This late answer belongs to the start, not to the stop.
	c1.answer(start, wire.OffsetSpec{})
	c1.quiet()
	c2.quiet()
	c1.must(&wire.Unsubscribe{Correlation: c1.next(), SubscriptionID: 1})
	c2.update(1, true)
	b.AdvanceHeartbeats(replyTimeout)
	c2.expectEnd()
}

// TestHalfOfTheFirstCreditIsAThreshold expects that the broker sends only while
// a subscription holds more than half of the credit that Subscribe gave, and
// then all that it has credit for.
func TestHalfOfTheFirstCreditIsAThreshold(t *testing.T) {
	_, c := threeChunks(t, time.Now())
	credit := func(n int16) { c.send(&wire.Credit{SubscriptionID: 1, Credit: n}) }
	c.subscribe(1, "s", fromFirst, 5)
	for range 3 {
		c.chunk()
	}
	c.publish(1, 100) // 2 of 5 are left, not more than half
	c.confirmed()
	c.quiet()
	credit(1)
	c.chunk()
	c.publish(1, 101)
	c.confirmed()
	c.quiet()
	c.subscribe(2, "s", fromFirst, 1) // a threshold of 0
	c.chunk()
	c.send(&wire.Credit{SubscriptionID: 2, Credit: 1})
	if d, _ := c.chunk(); d.SubscriptionID != 2 {
		t.Errorf("a chunk for subscription %d, want 2", d.SubscriptionID)
	}
}
