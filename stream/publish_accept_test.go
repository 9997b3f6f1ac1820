package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestAcceptBounds: the largest publishing id, the longest filter value and the
// largest message that fits into a frame are accepted, and one more is not.
func TestAcceptBounds(t *testing.T) {
	const room = 1000
	filter := strings.Repeat("f", 255)
	for _, test := range []struct {
		name       string
		subEntries int
		room       int
		m          Message
		want       error
	}{
		{"the largest id", 0, 0, Message{PublishingID: math.MaxInt64}, nil},
		{"one above it", 0, 0, Message{PublishingID: math.MaxInt64 + 1}, ErrInvalidMessage},
		{"the largest that 64 bits have", 0, 0, Message{PublishingID: math.MaxUint64}, ErrInvalidMessage},
		{"the longest filter value", 0, 0, Message{FilterValue: filter}, nil},
		{"one byte more", 0, 0, Message{FilterValue: filter + "f"}, ErrInvalidMessage},
		{"a filter value with sub-batches of one", 1, 0, Message{FilterValue: "f"}, nil},
		{"a filter value with sub-batches", 2, 0, Message{FilterValue: "f"}, ErrInvalidMessage},
		{"no filter value with sub-batches", 2, 0, Message{}, nil},
		{"the largest message", 0, room, Message{Raw: make([]byte, room-messageOverhead)}, nil},
		{"one byte more than the frame", 0, room, Message{Raw: make([]byte, room-messageOverhead+1)}, ErrMessageTooLarge},
		{"the largest body", 0, room, Message{Body: make([]byte, room-messageOverhead-8)}, nil},
		{"a body of one byte more", 0, room, Message{Body: make([]byte, room-messageOverhead-7)}, ErrMessageTooLarge},
		{"the largest with a filter value", 0, room, Message{Raw: make([]byte, room-messageOverhead-2-255), FilterValue: filter}, nil},
		{"one byte more with a filter value", 0, room, Message{Raw: make([]byte, room-messageOverhead-2-255+1), FilterValue: filter}, ErrMessageTooLarge},
		{"any size before there is a connection", 0, 0, Message{Body: make([]byte, 2<<20)}, nil},
		{"two bodies", 0, 0, Message{Body: []byte("x"), Value: 1}, ErrInvalidMessage},
		{"no AMQP type", 0, 0, Message{Value: struct{}{}}, ErrInvalidMessage},
	} {
		p := offlineOf(unconnected(), ProducerConfig{SubEntries: test.subEntries})
		p.room.Store(int64(test.room))
		called := false
		err := p.PublishAsync(t.Context(), test.m, func(error) { called = true })
		accepted := 1
		if test.want != nil {
			accepted = 0
			if err := p.Publish(t.Context(), test.m, Message{}); !errors.Is(err, test.want) {
				t.Errorf("%s: Publish returned %v", test.name, err)
			}
		}
		if !errors.Is(err, test.want) || p.box.open != accepted || p.admission.used.n != accepted || called {
			t.Errorf("%s: %v, %d accepted, %d places, called %v", test.name, err, p.box.open, p.admission.used.n, called)
		}
	}
}

// TestTooLargeNamesTheLimit: the error has the encoded size and the largest one
// that fits beside the message's filter value.
func TestTooLargeNamesTheLimit(t *testing.T) {
	p := offlineOf(unconnected(), ProducerConfig{})
	p.room.Store(int64(roomIn(1000, false)))
	err := p.PublishAsync(t.Context(), Message{Raw: make([]byte, 975), FilterValue: "abc"}, nil)
	if err == nil || !strings.Contains(err.Error(), "975 bytes encoded; at most 970 fit") {
		t.Errorf("%v", err)
	}
}

// TestAcceptWhileTheFramesShrink: a message that waits for room while its producer
// comes to a connection with smaller frames is measured by that.
func TestAcceptWhileTheFramesShrink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{MaxInFlight: 2, SubEntries: 2})
		for range 2 {
			must(t, p.PublishAsync(t.Context(), text("x"), nil))
		}
		errs := make(chan error, 2)
		go func() { errs <- p.PublishAsync(t.Context(), Message{Body: make([]byte, 5000)}, nil) }()
		synctest.Wait()
		go func() {
			errs <- p.PublishBatch(t.Context(), Message{Body: make([]byte, 2500)}, Message{Body: make([]byte, 2500)})
		}()
		synctest.Wait()
		p.room.Store(3000)
		confirm(p, nil, 2) // the entry of both
		for range 2 {
			wantErr(t, <-errs, ErrMessageTooLarge)
		}
		if p.box.open != 0 || p.admission.used.n != 0 {
			t.Errorf("%d accepted, %d places", p.box.open, p.admission.used.n)
		}
		endOffline(t, p)
	})
}

// TestPublishBatchIsWhole: a sub-batch is published as it is, or refused and
// nothing of it is accepted.
func TestPublishBatchIsWhole(t *testing.T) {
	with := func(ids ...uint64) (list []Message) {
		for _, id := range ids {
			list = append(list, Message{PublishingID: id})
		}
		return list
	}
	large := Message{Body: make([]byte, 5000)}
	for _, test := range []struct {
		name       string
		subEntries int
		list       []Message
		want       error
	}{
		{"without ids", 10, with(0, 0, 0), nil},
		{"with ids", 10, with(11, 12, 20), nil},
		{"as many as fit", 3, with(0, 0, 0), nil},
		{"the largest id", 10, with(11, math.MaxInt64), nil},
		{"one more than SubEntries", 2, with(0, 0, 0), ErrInvalidConfig},
		{"one", 10, with(0), nil},
		{"no sub-batches", 0, with(0), ErrInvalidConfig},
		{"sub-batches of one", 1, with(0), ErrInvalidConfig},
		{"more than MaxInFlight", 10, with(0, 0, 0, 0, 0, 0), ErrInvalidConfig},
		{"ids for some", 10, with(11, 0), ErrInvalidMessage},
		{"ids for others", 10, with(0, 11), ErrInvalidMessage},
		{"an id that was", 10, with(10, 11), ErrInvalidMessage},
		{"an id twice", 10, with(11, 12, 12), ErrInvalidMessage},
		{"an id beyond", 10, with(11, math.MaxInt64+1), ErrInvalidMessage},
		{"a filter value", 10, []Message{{}, {FilterValue: "f"}}, ErrInvalidMessage},
		{"too large a message", 10, []Message{{}, large, large, large, large}, ErrMessageTooLarge},
		{"no AMQP type", 10, []Message{{}, {Value: struct{}{}}}, ErrInvalidMessage},
	} {
		p := offlineOf(unconnected(), ProducerConfig{SubEntries: test.subEntries, MaxInFlight: 5})
		p.room.Store(int64(roomIn(16<<10, test.subEntries > 1)))
		must(t, p.PublishAsync(t.Context(), Message{PublishingID: 10}, nil))
		confirm(p, nil, 10)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := newWaiter(len(test.list))
		err := p.acceptBatch(t.Context(), test.list, w)
		accepted := len(test.list)
		if test.want != nil {
			accepted = 0
		}
		if !errors.Is(err, test.want) || p.box.open != accepted || p.admission.used.n != accepted {
			t.Errorf("%s: %v, %d accepted, %d places", test.name, err, p.box.open, p.admission.used.n)
		}
		if n := len(p.box.batches); test.want == nil && n != 1 {
			t.Errorf("%s: it is in %d frames", test.name, n)
		}
		if err := p.acceptBatch(ctx, test.list, w); test.want == nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: with a context that has ended: %v", test.name, err)
		}
	}
	must(t, offlineOf(unconnected(), ProducerConfig{}).PublishBatch(t.Context()))
}

// TestPublishBatchSharesWithNobody: what is published before and after it is in
// other sub-batches.
func TestPublishBatchSharesWithNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{SubEntries: 10})
		must(t, p.PublishAsync(t.Context(), text("before"), nil))
		batch := make(chan error, 1)
		go func() { batch <- p.PublishBatch(t.Context(), text("1"), text("2")) }()
		synctest.Wait()
		must(t, p.PublishAsync(t.Context(), text("after"), nil))
		var got []string
		for _, b := range p.box.batches {
			got = append(got, fmt.Sprint(b.first(), b.last()))
		}
		if fmt.Sprint(got) != "[1 1 2 3 4 4]" {
			t.Errorf("the frames have the ids %v", got)
		}
		confirm(p, ErrRefused, 3)
		e := asPublishError(<-batch)
		if e == nil || len(e.Outcomes) != 2 || e.Outcomes[0] != ErrRefused || e.Outcomes[1] != ErrRefused {
			t.Errorf("%v", e)
		}
		confirmAll(p)
		endOffline(t, p)
	})
}

// TestPublishStopsInTheMiddle: what was accepted before a bad message is waited
// for, and what comes after it is not accepted.
func TestPublishStopsInTheMiddle(t *testing.T) {
	for _, outcome := range []error{nil, ErrRefused} {
		synctest.Test(t, func(t *testing.T) {
			p := offlineOf(unconnected(), ProducerConfig{})
			got := make(chan error, 1)
			go func() { got <- p.Publish(t.Context(), Message{}, Message{PublishingID: 1 << 63}, Message{}) }()
			synctest.Wait()
			if len(got) > 0 || p.LastPublishingID() != 1 {
				t.Fatalf("returned with a message on its way, or accepted %d", p.LastPublishingID())
			}
			confirm(p, outcome, 1)
			e := asPublishError(<-got)
			if e == nil || e.Outcomes[0] != outcome || !errors.Is(e.Outcomes[1], ErrInvalidMessage) || e.Outcomes[2] != e.Outcomes[1] {
				t.Errorf("%v", e)
			}
			endOffline(t, p)
		})
	}
}

// TestPublishContext: when it ends, what was accepted is unconfirmed and goes on,
// and what waits for room is not accepted.
func TestPublishContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{MaxInFlight: 2})
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 1)
		go func() { got <- p.Publish(ctx, text("1"), text("2"), text("3")) }()
		synctest.Wait()
		cancel(errTest)
		e := asPublishError(<-got)
		if e == nil || !errors.Is(e.Outcomes[0], ErrUnconfirmed) || !errors.Is(e.Outcomes[1], ErrUnconfirmed) ||
			errors.Is(e.Outcomes[2], ErrUnconfirmed) || !errors.Is(e.Outcomes[2], errTest) {
			t.Errorf("%v", e)
		}
		if err := p.Publish(ctx, text("x")); !errors.Is(err, errTest) || errors.Is(err, ErrUnconfirmed) {
			t.Errorf("nothing was accepted, and Publish returned %v", err)
		}
		if p.box.open != 2 || len(p.quota.line) != 0 {
			t.Errorf("%d are on their way, %d in the line", p.box.open, len(p.quota.line))
		}
		confirm(p, nil, 1, 2)
		if p.admission.used.n != 0 {
			t.Errorf("%d places are taken", p.admission.used.n)
		}
		endOffline(t, p)
	})
}

// TestPublishAsyncWaitsForRoom: in turn, under its context.
func TestPublishAsyncWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{MaxInFlight: 1})
		must(t, p.PublishAsync(t.Context(), text("0"), nil))
		ctx, cancel := context.WithCancelCause(t.Context())
		left, stays := make(chan error, 1), make(chan error, 3)
		go func() { left <- p.PublishAsync(ctx, text("x"), nil) }()
		synctest.Wait()
		for range 3 {
			go func() { stays <- p.PublishAsync(t.Context(), text("y"), nil) }()
			synctest.Wait()
		}
		if len(left)+len(stays) > 0 || p.box.open != 1 {
			t.Fatalf("%d accepted, there is room for one", p.box.open)
		}
		cancel(errTest)
		wantErr(t, <-left, errTest)
		for id := range uint64(4) {
			confirm(p, nil, id+1)
			synctest.Wait()
			if want := int(min(id+1, 3)); len(stays) != want || p.inLine.Load() != int32(3-want) {
				t.Errorf("after %d outcomes %d went on and %d wait", id+1, len(stays), p.inLine.Load())
			}
		}
		endOffline(t, p)
	})
}

// TestPublishAsyncOutcome: done gets nil, or the error with the operation.
func TestPublishAsyncOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{Name: "p"})
		var got []error
		for id := range uint64(2) {
			must(t, p.PublishAsync(t.Context(), Message{PublishingID: id + 1}, func(err error) { got = append(got, err) }))
		}
		must(t, p.PublishAsync(t.Context(), Message{PublishingID: 3}, nil))
		confirm(p, nil, 1, 3)
		confirm(p, ErrRefused, 2)
		must(t, p.calls.drain(t.Context()))
		var op *OpError
		if len(got) != 2 || got[0] != nil || !errors.As(got[1], &op) || *op != (OpError{"publish to stream", "s", "p", ErrRefused}) {
			t.Errorf("outcomes %v", got)
		}
		endOffline(t, p)
	})
}

// TestCreationTime: a message without a creation time gets that of the call, and
// everything else stays as it is.
func TestCreationTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		encoded := func(m Message) (*Properties, string) {
			t.Helper()
			out, err := p.outgoingOf(&m)
			must(t, err)
			record := out.appendWithLength(nil)
			raw, _, ok := wire.NextRecord(record)
			if !ok || len(raw) != out.size() || len(record) != len(raw)+lengthBytes {
				t.Fatalf("%d bytes encoded, size says %d", len(raw), out.size())
			}
			d := deliveryOf(raw)
			props, _ := d.Properties()
			return props, string(d.Body)
		}
		for _, n := range []int{0, 1, 255, 256, 1000} {
			if props, body := encoded(Message{Body: []byte(strings.Repeat("b", n))}); props != nil || len(body) != n {
				t.Errorf("without the option there are %+v and %d bytes, want %d", props, len(body), n)
			}
		}
		p.cfg.CreationTime = true
		now := time.Now()
		own := &Properties{Subject: "s"}
		for _, test := range []struct {
			props *Properties
			want  Properties
		}{
			{nil, Properties{CreationTime: now}},
			{own, Properties{Subject: "s", CreationTime: now}},
			{&Properties{CreationTime: noon}, Properties{CreationTime: noon}},
		} {
			props, body := encoded(Message{Body: []byte("b"), Properties: test.props})
			if props == nil || props.Subject != test.want.Subject || !props.CreationTime.Equal(test.want.CreationTime) || body != "b" {
				t.Errorf("%+v became %+v, %q", test.props, props, body)
			}
		}
		if !own.CreationTime.IsZero() {
			t.Error("the caller's properties were changed")
		}
		if out, err := p.outgoingOf(&Message{Raw: []byte("as it is")}); string(out.whole) != "as it is" || err != nil {
			t.Errorf("a message that is encoded already became %q, %v", out.whole, err)
		}
		if out, err := p.outgoingOf(&Message{Raw: []byte{}}); out.whole == nil || out.size() != 0 || err != nil {
			t.Errorf("an empty message that is encoded already became %v, %v", out, err)
		}
	})
}

// TestPublishersAtOnce: of many that publish at once, each message has one
// outcome, and no place is lost.
func TestPublishersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		p := offlineOf(e, ProducerConfig{MaxInFlight: 7, MaxInFlightBytes: 200})
		var all, asked sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				for k := range 20 {
					m := Message{Body: make([]byte, (i*k)%50)}
					if i%2 == 0 {
						must(t, p.Publish(t.Context(), m))
						continue
					}
					asked.Add(1)
					must(t, p.PublishAsync(t.Context(), m, func(err error) { must(t, err); asked.Done() }))
				}
			})
		}
		over := make(chan struct{})
		go func() { all.Wait(); asked.Wait(); close(over) }()
		for !isClosed(over) {
			synctest.Wait()
			if p.admission.used.n > 7 || p.admission.used.bytes > 200 {
				t.Errorf("%d messages, %d bytes", p.admission.used.n, p.admission.used.bytes)
			}
			confirmAll(p)
		}
		synctest.Wait()
		if p.admission.used.n != 0 || e.publishing.used.Load() != 0 || len(p.quota.line) != 0 {
			t.Errorf("%d places are taken, %d bytes, %d wait", p.admission.used.n, e.publishing.used.Load(), len(p.quota.line))
		}
		endOffline(t, p)
	})
}

// TestPublishAsyncAllocates: next to nothing.
func TestPublishAsyncAllocates(t *testing.T) {
	p := offlineOf(unconnected(), ProducerConfig{})
	body, done := make([]byte, 100), func(error) {}
	const messages = 1000
	ids := numbers(1, 30*messages)
	var at uint64
	round := func() {
		for range messages {
			if err := p.PublishAsync(context.Background(), Message{Body: body}, done); err != nil {
				t.Fatal(err)
			}
		}
		confirm(p, nil, ids[at:at+messages]...)
		at += messages
		<-p.calls.caughtUp()
	}
	round()
	if per := testing.AllocsPerRun(10, round) / messages; per > 0.1 {
		t.Errorf("%.2f allocations for a message, want 0.1 at most", per)
	}
	endOffline(t, p)
}
