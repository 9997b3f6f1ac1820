package stream

import (
	"bytes"
	"context"
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
	return replaceSections(raw, [places][]byte{placeApplicationProperties: {}})
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
		if got := replaceSections([]byte(test.raw), [places][]byte{placeApplicationProperties: []byte("NEW")}); string(got) != test.want {
			t.Errorf("%q became %q, want %q", test.raw, got, test.want)
		}
		if got := replaceSections([]byte(test.raw), [places][]byte{}); string(got) != test.raw {
			t.Errorf("%q became %q", test.raw, got)
		}
	}
	if got := replaceSections([]byte(std+data+data+footer), [places][]byte{placeBody: []byte("B"), placeHeader: []byte("H")}); string(got) != "H"+std+"B"+footer {
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

// lettersOf returns the dead letters of a consumer whose log is kept.
func lettersOf(t *testing.T, env *Env, to string) (l *deadLetters, logged *[]string) {
	t.Helper()
	c, err := env.NewConsumer(testStream, ConsumerConfig{Name: "billing", OnError: ErrorPolicy{DeadLetter: to}})
	must(t, err)
	logged = new([]string)
	r := newRun(c)
	r.log = slog.New(records{lines: logged}).Warn
	return r.letters, logged
}

// TestDeadLettersKeepTrying: until there is a producer, which is made once and
// closed with the run.
func TestDeadLettersKeepTrying(t *testing.T) {
	b, env, to := faulty(t, 0)
	l, logged := lettersOf(t, env, to)
	l.closeProducer() // of which there is none
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
	l.closeProducer()
	wantErr(t, p.Publish(t.Context(), Message{}), ErrClosed)
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
	l.run.log = func(string, ...any) { cancel(errTest) }
	wantErr(t, l.publish(ctx, h, []Delivery{{}}), errTest)
	wantErr(t, l.publish(ctx, h, []Delivery{{}}), errTest)
	if n := b.Received(streamtest.DeclarePublisher); n != 1 {
		t.Errorf("%d attempts, want one", n)
	}
}
