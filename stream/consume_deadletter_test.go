package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestReason: 4 KiB at most, and valid UTF-8.
func TestReason(t *testing.T) {
	const most = 4 << 10
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"why", "why"},
		{strings.Repeat("x", most-1), strings.Repeat("x", most-1)},
		{strings.Repeat("x", most), strings.Repeat("x", most)},
		{strings.Repeat("x", most+1), strings.Repeat("x", most)},
		{strings.Repeat("x", most-1) + "ü", strings.Repeat("x", most-1)}, // cut within the ü
		{strings.Repeat("x", most-2) + "ü", strings.Repeat("x", most-2) + "ü"},
		{"a\xffb", "ab"},
	} {
		if got := reason(errors.New(test.text)); got != test.want || !utf8.ValidString(got) {
			t.Errorf("%d bytes became %d", len(test.text), len(got))
		}
	}
}

// withoutProperties returns a message without its application properties.
func withoutProperties(raw []byte) []byte {
	return appendReplaced(nil, raw, [places][]byte{placeApplicationProperties: {}})
}

// TestReplaceSections: what replaces a section stands in its place. What the
// message did not have comes where the standard puts it.
func TestReplaceSections(t *testing.T) {
	section := func(code byte) string { return "\x00\x53" + string([]byte{code}) + "\xa0\x01" + string([]byte{code}) }
	header, notes, std := section(sectionHeader), section(sectionAnnotations), section(sectionProperties)
	app, data, value, footer := section(sectionApplicationProperties), section(sectionData), section(sectionValue), section(sectionFooter)
	for _, test := range []struct{ raw, want string }{
		{data, "NEW" + data},
		{value, "NEW" + value},
		{std + data, std + "NEW" + data},
		{header + notes + std + data + footer, header + notes + std + "NEW" + data + footer},
		{app, "NEW"},
		{app + data, "NEW" + data},
		{header + app + data + footer, header + "NEW" + data + footer},
		{header + app + app + data, header + "NEW" + data},
		{std, std + "NEW"},
		{footer, "NEW" + footer},
		{data + app + std, "NEW" + data + std}, // in no order at all
		{"", "NEW"},
	} {
		if got := appendReplaced(nil, []byte(test.raw), [places][]byte{placeApplicationProperties: []byte("NEW")}); string(got) != test.want {
			t.Errorf("%q became %q, want %q", test.raw, got, test.want)
		}
		if got := appendReplaced(nil, []byte(test.raw), [places][]byte{}); string(got) != test.raw {
			t.Errorf("%q became %q", test.raw, got)
		}
	}
	if got := appendReplaced(nil, []byte(std+data+data+footer), [places][]byte{placeBody: []byte("B"), placeHeader: []byte("H")}); string(got) != "H"+std+"B"+footer {
		t.Errorf("two sections of data became %q", got)
	}
}

// TestLetter: the letter has the reason and the origin, and everything else as it
// was. What is not AMQP, in whole or in a part, becomes a body.
func TestLetter(t *testing.T) {
	full := &Message{
		Body: []byte("b"), Properties: &Properties{To: "x"}, Footer: map[string]any{"f": "g"},
		ApplicationProperties: map[string]any{"tenant": "a", "n": int64(-5), DeadLetterStream: "an older one", DeadLetterAttempts: "many"},
	}
	damaged := append((&Message{ApplicationProperties: map[string]any{"k": "v"}}).mustEncode()[:3], "\xa0\x01xmore"...)
	split := []byte("\x00\x53\x74\xa0\x01x" + "\x00\x53\x75\xa0\x01b") // properties that are not a map
	for _, test := range []struct {
		name string
		d    Delivery
		own  map[string]any
		body string
	}{
		{"data alone", Delivery{Body: []byte("b")}, nil, "b"},
		{"all sections", *deliveryOf(full.mustEncode()), map[string]any{"tenant": "a", "n": int64(-5)}, "b"},
		{"bare bytes", *deliveryOf([]byte("bare")), nil, "bare"},
		{"damaged", *deliveryOf(damaged), nil, string(damaged)},
		{"damaged properties", *deliveryOf(split), nil, string(split)},
		{"nothing", *deliveryOf(nil), nil, ""},
	} {
		test.d.Stream, test.d.Offset, test.d.Timestamp = "orders", 7, noon
		raw, err := letter(&test.d, &HandlerError{Attempts: 3, Err: fmt.Errorf("why: %w", errTest)}, "billing", 0)
		must(t, err)
		got := deliveryOf(raw)
		props, err := got.ApplicationProperties()
		want := map[string]any{
			DeadLetterReason: "why: " + errTest.Error(), DeadLetterAttempts: int64(3), DeadLetterConsumer: "billing",
			DeadLetterStream: "orders", DeadLetterOffset: int64(7),
		}
		for k, v := range test.own {
			want[k] = v
		}
		at, _ := props[DeadLetterTimestamp].(interface{ UnixMilli() int64 })
		delete(props, DeadLetterTimestamp)
		if err != nil || string(got.Body) != test.body || !reflect.DeepEqual(props, want) || at == nil || at.UnixMilli() != noon.UnixMilli() {
			t.Errorf("%s: body %q, properties %v at %v, %v", test.name, got.Body, props, at, err)
		}
	}
	d := deliveryOf(full.mustEncode())
	raw, err := letter(d, &HandlerError{Err: errTest}, "", 0)
	must(t, err)
	if !bytes.Equal(withoutProperties(raw), withoutProperties(d.Raw())) {
		t.Errorf("the other sections of %q became %q", d.Raw(), raw)
	}
}

// TestLetterKeepsForeignValues: what the codec cannot read stays, byte for byte,
// and whatever way it is written.
func TestLetterKeepsForeignValues(t *testing.T) {
	pairs := "\xa1\x01c\x73\x00\x00\x00x" + "\xa3\x01d\x84abcdefgh" + "\xa1\x01e\x00\x53\x07\x41" + "\x45\x46" // a list as a key, an unknown value
	old := "\xa1\x11x-tidemark-reason\xa1\x01x" + "\xb3\x00\x00\x00\x13x-tidemark-consumer\x74abcd"
	content := pairs[:8] + old + pairs[8:]
	for name, head := range map[string]string{
		"as usual": "\x00\x53\x74\xc1" + string([]byte{byte(1 + len(content)), 12}),
		"long":     "\x00\xa3\x1famqp:application-properties:map\xd1\x00\x00\x00" + string([]byte{byte(4 + len(content))}) + "\x00\x00\x00\x0c",
	} {
		before, after := "\x00\x53\x72\xc1\x04\x02\xa3\x00\x73", "\x00\x80\x00\x00\x00\x00\x00\x00\x00\x77\x00\x53\x75\x94abcdefghijklmnop"
		before = before[:4] + "\x08" + before[5:] + "\x00\x00\x00x"
		raw, err := letter(deliveryOf([]byte(before+head+content+after)), &HandlerError{Err: errTest, Attempts: 1}, "billing", 0)
		must(t, err)
		if !strings.HasPrefix(string(raw), before+"\x00\x53\x74\xd1") || !strings.HasSuffix(string(raw), after) || strings.Count(string(raw), pairs) != 1 {
			t.Errorf("%s: %q", name, raw)
		}
		s, _, ok := cutSection(raw[len(before):])
		if !ok || binary.BigEndian.Uint32(s.value[5:]) != 2*4+2*6 || strings.Count(string(raw), "x-tidemark-reason") != 1 {
			t.Errorf("%s: the properties are %q", name, s.value)
		}
	}
}

// TestLetterFits: the reason becomes shorter, then it is left out, and then
// everything that was added.
func TestLetterFits(t *testing.T) {
	h := &HandlerError{Attempts: 2, Err: errors.New(strings.Repeat("ü", maxReason))}
	for name, d := range map[string]*Delivery{
		"data": {Body: make([]byte, 1000)}, "bare": deliveryOf(bytes.Repeat([]byte("bare"), 100)),
		"sections": deliveryOf((&Message{ApplicationProperties: map[string]any{"k": "v"}, Footer: map[string]any{"f": "g"}}).mustEncode()),
	} {
		d.Stream, d.Offset, d.Timestamp = "orders", 7, noon
		whole, err := letter(d, h, "billing", 0)
		must(t, err)
		kinds := map[string]int{}
		for room := len(whole); room >= len(d.Raw()); room-- {
			raw, err := letter(d, h, "billing", room)
			must(t, err)
			if len(raw) > room {
				t.Fatalf("%s: %d bytes where %d fit", name, len(raw), room)
			}
			if bytes.Equal(raw, d.Raw()) {
				kinds["as it came"]++
				continue
			}
			props, err := deliveryOf(raw).ApplicationProperties()
			must(t, err)
			text, found := props[DeadLetterReason].(string)
			switch {
			case !found:
				kinds["without a reason"]++
			case len(text) == maxReason:
				kinds["whole"]++
			case room-len(raw) > 8: // what a cut ü and shorter lengths may leave
				t.Fatalf("%s: the reason has %d bytes, and %d are free", name, len(text), room-len(raw))
			case !utf8.ValidString(text) || !strings.HasPrefix(reason(h.Err), text):
				t.Fatalf("%s: %q", name, text)
			default:
				kinds["shorter"]++
			}
			if len(props) < 5 {
				t.Fatalf("%s: %v", name, props)
			}
		}
		if kinds["whole"] == 0 || kinds["shorter"] < maxReason-10 || kinds["without a reason"] == 0 || kinds["as it came"] == 0 {
			t.Errorf("%s: %v", name, kinds)
		}
		if raw, err := letter(d, h, "billing", 1); err != nil || !bytes.Equal(raw, d.Raw()) {
			t.Errorf("%s: no room: %q, %v", name, raw, err)
		}
	}
}

// TestDeadLetterThatHardlyFits: a message that fits its stream is published,
// with as much of the reason as there is room for.
func TestDeadLetterThatHardlyFits(t *testing.T) {
	b, env, name := faulty(t, 0)
	to := newStream(t, env)
	p, err := env.NewProducer(inTime(t), name, ProducerConfig{})
	must(t, err)
	for _, free := range []int{3000, 800, 0} {
		must(t, p.Publish(inTime(t), Message{Body: make([]byte, p.largestMessage()-8-free)}))
	}
	must(t, p.Close(inTime(t)))
	runUntil(t, b, env, name, 2, ConsumerConfig{OnError: ErrorPolicy{DeadLetter: to}}, func(context.Context, *Delivery) error {
		return errors.New(strings.Repeat("x", maxReason))
	})
	var reasons []int
	for i, m := range b.Messages(to) {
		d := deliveryOf(m.Raw)
		props, err := d.ApplicationProperties()
		must(t, err)
		text, _ := props[DeadLetterReason].(string)
		reasons = append(reasons, len(text))
		if original := b.Messages(name)[i]; !bytes.Equal(d.Body, original.Data()) {
			t.Errorf("the body of %d is not what it was", i)
		}
	}
	if len(reasons) != 3 || reasons[0] < 2000 || reasons[1] < 100 || reasons[2] != 0 {
		t.Errorf("the reasons have %v bytes", reasons)
	}
}

// lettersOf returns the dead letters of a consumer whose log is kept.
func lettersOf(t *testing.T, env *Env, to string) (l *deadLetters, logged *[]string) {
	t.Helper()
	c, err := env.NewConsumer(testStream, ConsumerConfig{Name: "billing", OnError: ErrorPolicy{DeadLetter: to}})
	must(t, err)
	logged = new([]string)
	r := newRun(c)
	r.letters.log = slog.New(records{lines: logged}).Warn
	return r.letters, logged
}

// closeLetters ends the letters as their only run does.
func closeLetters(t *testing.T, l *deadLetters) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l.leave(ctx)
	l.closed.Wait()
}

// TestDeadLettersKeepTrying: until there is a producer, which is made once and
// closed with the run.
func TestDeadLettersKeepTrying(t *testing.T) {
	b, env, to := faulty(t, 0)
	l, logged := lettersOf(t, env, to)
	closeLetters(t, l) // which have no producer
	l.join()
	b.AnswerWith(streamtest.DeclarePublisher, streamtest.StreamNotAvailable, 2)
	h := &HandlerError{Err: errTest, Attempts: 1}
	must(t, l.publish(t.Context(), h, []Delivery{{Body: []byte("0")}, {Body: []byte("1")}}))
	must(t, l.publish(t.Context(), h, []Delivery{{Body: []byte("2")}}))
	if got := b.Bodies(to); len(got) != 3 {
		t.Errorf("the dead letters are %q", got)
	}
	if n := b.Received(streamtest.DeclarePublisher); n != 3 {
		t.Errorf("%d producers were declared, want one at the third attempt", n)
	}
	if len(*logged) != 2 || !strings.Contains((*logged)[0], "attempt=1") || !strings.Contains((*logged)[1], "attempt=2") {
		t.Errorf("logged %q", *logged)
	}
	p := l.producer
	closeLetters(t, l)
	wantErr(t, p.Publish(t.Context(), Message{}), ErrClosed)
}

// TestDeadLettersHoldUpNoOther: while a partition's run waits for the producer,
// others join and leave. One that leaves has no time to lose before its last store.
func TestDeadLettersHoldUpNoOther(t *testing.T) {
	b, env, to := faulty(t, 0)
	l, _ := lettersOf(t, env, to)
	b.AnswerWith(streamtest.DeclarePublisher, streamtest.StreamNotAvailable, streamtest.Forever)
	tried := make(chan struct{}, 100)
	l.log = func(string, ...any) { tried <- struct{}{} }
	ctx, cancel := context.WithCancelCause(t.Context())
	publish := func(done chan<- error) {
		done <- l.publish(ctx, &HandlerError{Err: errTest, Attempts: 1}, []Delivery{{}})
	}
	first, second, other := make(chan error, 1), make(chan error, 1), make(chan struct{})
	go publish(first)
	recv(t, tried, "the first attempt")
	go publish(second)
	go func() {
		defer close(other)
		l.join()
		l.leave(inTime(t))
	}()
	recv(t, other, "who joins and leaves")
	cancel(errTest)
	wantErr(t, recv(t, first, "who makes the producer"), errTest)
	wantErr(t, recv(t, second, "who waits for it"), errTest)
}

// TestDeadLettersGiveUp: when trying again cannot help, and when the run ends.
func TestDeadLettersGiveUp(t *testing.T) {
	b, env, to := faulty(t, 0)
	h := &HandlerError{Err: errTest, Attempts: 1}
	l, logged := lettersOf(t, env, "nowhere")
	wantErr(t, l.publish(t.Context(), h, []Delivery{{}}), ErrStreamNotFound)
	if l.producer != nil || len(*logged) != 0 {
		t.Errorf("tried again: %q", *logged)
	}
	l, _ = lettersOf(t, env, to)
	b.AnswerWith(streamtest.DeclarePublisher, streamtest.StreamNotAvailable, streamtest.Forever)
	ctx, cancel := context.WithCancelCause(t.Context())
	l.log = func(string, ...any) { cancel(errTest) }
	wantErr(t, l.publish(ctx, h, []Delivery{{}}), errTest)
	wantErr(t, l.publish(ctx, h, []Delivery{{}}), errTest)
	if n := b.Received(streamtest.DeclarePublisher); n != 1 {
		t.Errorf("%d attempts, want one", n)
	}
}
