package stream

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// TestFieldsThatDoNotFit: a field that its place in AMQP 1.0 cannot hold is
// refused by its name and value; it does not wrap around and is not cut.
func TestFieldsThatDoNotFit(t *testing.T) {
	const bad = "\xff"
	late, early, farthest := maxTime.Add(time.Millisecond), minTime.Add(-time.Millisecond), time.Unix(math.MaxInt64, 0)
	header := func(h Header) Message { return Message{Header: &h} }
	props := func(p Properties) Message { return Message{Properties: &p} }
	for _, test := range []struct {
		m     Message
		names []string
	}{
		{header(Header{TTL: -time.Nanosecond}), []string{"Header.TTL", "-1ns"}},
		{header(Header{TTL: time.Nanosecond}), []string{"Header.TTL", "1ns", "from 1ms"}},
		{header(Header{TTL: math.MaxUint32*time.Millisecond + 1}), []string{"Header.TTL", "1193h2m47.295000001s"}},
		{header(Header{TTL: math.MaxInt64}), []string{"Header.TTL", time.Duration(math.MaxInt64).String()}},
		{header(Header{TTL: math.MinInt64}), []string{"Header.TTL", time.Duration(math.MinInt64).String()}},
		{props(Properties{CreationTime: late}), []string{"Properties.CreationTime", late.String(), maxTime.String()}},
		{props(Properties{CreationTime: early}), []string{"Properties.CreationTime", early.String(), minTime.String()}},
		{props(Properties{CreationTime: farthest}), []string{"Properties.CreationTime", farthest.String()}},
		{props(Properties{AbsoluteExpiryTime: late}), []string{"Properties.AbsoluteExpiryTime", late.String()}},
		{props(Properties{MessageID: 5}), []string{"Properties.MessageID", "int 5"}},
		{props(Properties{MessageID: bad}), []string{"Properties.MessageID", `"\xff"`}},
		{props(Properties{CorrelationID: -1.5}), []string{"Properties.CorrelationID", "float64 -1.5"}},
		{props(Properties{To: bad}), []string{"Properties.To", `"\xff"`}},
		{props(Properties{Subject: bad}), []string{"Properties.Subject", `"\xff"`}},
		{props(Properties{ReplyTo: bad}), []string{"Properties.ReplyTo", `"\xff"`}},
		{props(Properties{ContentType: "ü"}), []string{"Properties.ContentType", `"ü"`, "ASCII"}},
		{props(Properties{ContentEncoding: "ü"}), []string{"Properties.ContentEncoding", `"ü"`, "ASCII"}},
		{props(Properties{GroupID: bad}), []string{"Properties.GroupID", `"\xff"`}},
		{props(Properties{ReplyToGroupID: bad}), []string{"Properties.ReplyToGroupID", `"\xff"`}},
		{props(Properties{Subject: strings.Repeat("x", 1000) + bad}), []string{"Properties.Subject", `xxx"...`}},
	} {
		refused(t, test.m, test.names...)
	}
}

// TestValuesThatDoNotFit is the same for values, wherever a message has them.
func TestValuesThatDoNotFit(t *testing.T) {
	late := maxTime.Add(time.Millisecond)
	nils := make(Array, maxEmpty+1)
	for _, test := range []struct {
		v     any
		names []string
	}{
		{late, []string{late.String()}}, {[]time.Time{noon, late}, []string{late.String()}},
		{Char(-1), []string{"Char -1"}}, {Char(0x110000), []string{"Char 1114112"}}, {Char(0xd800), []string{"Char 55296"}}, {[]Char{'a', -2}, []string{"Char -2"}},
		{Symbol("ü"), []string{`symbol "ü"`}}, {[]Symbol{"a", "ü"}, []string{`symbol "ü"`}}, {map[Symbol]any{"ü": 1}, []string{`symbol "ü"`}},
		{"\xff", []string{`string "\xff"`}}, {[]string{"a", "\xff"}, []string{"UTF-8"}}, {map[string]any{"\xff": 1}, []string{`string "\xff"`}},
		{map[any]any{"\xff": 1}, []string{`string "\xff"`}},
		{map[any]any{int(1): "a", int64(1): "b"}, []string{"two keys", " 1"}}, {map[any]any{uint(1): "a", uint64(1): "b"}, []string{"two keys", " 1"}},
		{map[any]any{noon: 1, noon.Add(time.Nanosecond): 2}, []string{"two keys", noon.String()[:19]}},
		{map[any]any{math.NaN(): 1, math.Float64frombits(math.Float64bits(math.NaN())): 2}, []string{"two keys", "NaN"}},
		{nils, []string{"65536"}}, {[]any{nils[1:], Array{nil}}, []string{"65536"}}, {Array{nils[1:], Array{nil}}, []string{"65536"}},
		{deepValue(maxDepth + 1), []string{"100 levels"}},
	} {
		in := map[string]any{"key": test.v}
		refused(t, Message{Value: test.v}, append(test.names, "Value")...)
		refused(t, Message{Sequences: [][]any{{}, {test.v}}}, append(test.names, "Sequences[1]")...)
		refused(t, Message{ApplicationProperties: in}, append(test.names, `ApplicationProperties["key"]`)...)
		refused(t, Message{Annotations: in}, append(test.names, `Annotations["key"]`)...)
		refused(t, Message{DeliveryAnnotations: in}, append(test.names, `DeliveryAnnotations["key"]`)...)
		refused(t, Message{Footer: in}, append(test.names, `Footer["key"]`)...)
	}
	refused(t, Message{ApplicationProperties: map[string]any{"\xff": 1}}, `ApplicationProperties["\xff"]`, "UTF-8")
	refused(t, Message{Annotations: map[string]any{"ü": 1}}, `Annotations["ü"]`, "ASCII")
	refused(t, Message{DeliveryAnnotations: map[string]any{"ü": 1}}, `DeliveryAnnotations["ü"]`, "ASCII")
	refused(t, Message{Footer: map[string]any{"ü": 1}}, `Footer["ü"]`, "ASCII")
}

// refused checks that a message is refused with an error that names things.
func refused(t *testing.T, m Message, names ...string) {
	t.Helper()
	_, err := appendMessage(nil, &m, time.Time{})
	wantErr(t, err, ErrInvalidMessage)
	for _, name := range names {
		if !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

// TestFieldsThatJustFit: the ends of the ranges come back as they are.
func TestFieldsThatJustFit(t *testing.T) {
	longest := time.Duration(math.MaxUint32) * time.Millisecond
	for _, ttl := range []time.Duration{0, time.Millisecond, longest} {
		h, err := deliveryOf((&Message{Header: &Header{TTL: ttl}}).mustEncode()).Header()
		if must(t, err); h.TTL != ttl {
			t.Errorf("a TTL of %v came back as %v", ttl, h.TTL)
		}
	}
	for _, at := range []time.Time{minTime, time.UnixMilli(-1).UTC(), maxTime} {
		p, err := deliveryOf((&Message{Properties: &Properties{CreationTime: at, AbsoluteExpiryTime: at}}).mustEncode()).Properties()
		if must(t, err); !p.CreationTime.Equal(at) || !p.AbsoluteExpiryTime.Equal(at) {
			t.Errorf("%v came back as %v and %v", at, p.CreationTime, p.AbsoluteExpiryTime)
		}
	}
	nils := make(Array, maxEmpty)
	for _, v := range []any{nils, map[any]any{int(1): "a", uint(1): "b", "1": "c"}, Char(0x10ffff)} {
		_, err := deliveryOf((&Message{Value: v}).mustEncode()).Value()
		must(t, err)
	}
}
