package stream

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// bothWays are values that come back as they were published.
var bothWays = []any{
	true, int8(-1), int16(-300), int32(-1), int32(math.MinInt32), int64(0), int64(math.MinInt64), uint8(255), uint16(65535), uint32(0), uint32(math.MaxUint32),
	uint64(0), uint64(math.MaxUint64), float32(1.5), math.Pi, "", "ü", strings.Repeat("long", 100), []byte{}, []byte{0, 255}, noon,
	time.UnixMilli(-1 << 60).UTC(), time.Time{}, UUID{1}, Symbol("s"), Symbol(strings.Repeat("long", 100)), Char('😀'), Decimal32{1}, Decimal64{2}, Decimal128{3},
	[]any{}, []any{nil, "a", []any{UUID{2}}}, map[string]any{}, map[string]any{"k": map[string]any{"deep": UUID{1}}}, map[Symbol]any{"k": int64(1)},
	map[any]any{UUID{1}: "a", BinaryKey("\x00"): nil, int64(-5): Symbol("s"), "k": []any{}}, map[any]any{Char('x'): Decimal32{1}, true: noon},
	Described{Symbol("d"), []any{"x"}}, Described{uint64(0x77), nil}, Described{Described{uint64(1), "a"}, Described{"b", UUID{1}}},
	[]bool{true, false}, []int8{-1}, []int16{-300}, []int32{-1}, []int32{-300, 5}, []int32{math.MaxInt32}, []int64{-1, 1}, []int64{math.MinInt64}, []int64{},
	UbyteArray{}, UbyteArray{1, 2}, []uint16{65535}, []uint32{1}, []uint32{math.MaxUint32}, []uint64{1}, []uint64{math.MaxUint64}, []float32{1.5}, []float64{math.Pi},
	[]string{}, []string{"", ""}, []string{"a", strings.Repeat("long", 100)}, [][]byte{{}, {1}}, []time.Time{noon, time.UnixMilli(1 << 50).UTC(), {}}, []UUID{{1}, {2}}, []Symbol{"a", ""},
	[]Char{'a', 'ü'}, []Decimal32{{1}}, []Decimal64{{1}}, []Decimal128{{1}},
	Array{[]any{"a"}, []any{}}, Array{map[string]any{"k": true}, map[any]any{UUID{}: "b"}}, Array{[]string{"a"}, []int64{-1000}, Array{[]any{}}}, Array{nil, nil}, Array{},
	make([]int64, 1000), []string{strings.Repeat("x", 200), strings.Repeat("y", 200)},
}

// TestValuesBothWays: each value comes back from wherever a message can have it,
// with its type.
func TestValuesBothWays(t *testing.T) {
	for i, v := range bothWays {
		t.Run(fmt.Sprintf("%d %T", i, v), func(t *testing.T) {
			m := Message{
				Value: v, ApplicationProperties: map[string]any{"k": v}, Annotations: map[string]any{"x-k": v},
				DeliveryAnnotations: map[string]any{"d": v}, Footer: map[string]any{"f": []any{v}},
			}
			raw, err := m.encode()
			must(t, err)
			d := deliveryOf(raw)
			value, e1 := d.Value()
			props, e2 := d.ApplicationProperties()
			notes, e3 := d.Annotations()
			delivery, e4 := d.DeliveryAnnotations()
			footer, e5 := d.Footer()
			must(t, errors.Join(e1, e2, e3, e4, e5))
			got := Message{Value: value, ApplicationProperties: props, Annotations: notes, DeliveryAnnotations: delivery, Footer: footer}
			if !reflect.DeepEqual(got, m) {
				t.Errorf("%#v came back as %#v", m, got)
			}
		})
	}
}

func TestValuesThatChangeType(t *testing.T) {
	for _, test := range []struct{ given, want any }{
		{int(-5), int64(-5)}, {uint(5), uint64(5)}, {[]byte(nil), []byte{}}, {[]any(nil), []any{}}, {map[Symbol]any{}, map[string]any{}},
		{noon.In(time.FixedZone("", 3600)).Add(time.Microsecond), noon}, {[]map[any]any{{"k": 1}}, Array{map[string]any{"k": int64(1)}}},
	} {
		if got, err := deliveryOf((&Message{Value: test.given}).mustEncode()).Value(); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%#v came back as %#v, %v", test.given, got, err)
		}
	}
}

// TestValuesRefused: what cannot be encoded, or not within bounds, is an error
// wherever it is.
func TestValuesRefused(t *testing.T) {
	list, mapping, array := make([]any, 1), map[string]any{}, make(Array, 1)
	list[0], mapping["self"], array[0] = list, mapping, array
	anyMap := map[any]any{}
	anyMap["self"] = Described{"d", anyMap}
	laughs := []any{"lol"}
	for range 50 {
		laughs = []any{laughs, laughs}
	}
	laughingArray := Array{[]any{"lol"}}
	for range 50 {
		laughingArray = Array{laughingArray, laughingArray}
	}
	type custom map[string]any
	for name, v := range map[string]any{
		"a list in itself": list, "a map in itself": mapping, "a described map in itself": anyMap, "an array in itself": array,
		"too deep": deepValue(maxDepth + 1), "a channel": make(chan int), "a struct": struct{ X int }{1}, "a type of the user's": custom{},
		"a pointer": new(string), "a nil pointer": (*int)(nil), "a key that is a struct": map[any]any{struct{}{}: 1}, "an array of two types": Array{[]any{}, map[string]any{}},
		"an array of numbers": Array{int64(1)}, "an array of described": Array{Described{"d", "v"}}, "text that is not UTF-8": "\xff", "a key that is not": map[string]any{"\xff": UUID{}},
	} {
		for where, m := range map[string]Message{
			"the value": {Value: v}, "a property": {ApplicationProperties: map[string]any{"k": v}}, "an annotation": {Annotations: map[string]any{"k": v}},
			"a delivery annotation": {DeliveryAnnotations: map[string]any{"k": v}}, "the footer": {Footer: map[string]any{"k": v}}, "a sequence": {Sequences: [][]any{{v}}},
		} {
			if _, err := m.encode(); !errors.Is(err, ErrInvalidMessage) {
				t.Errorf("%s in %s: %v", name, where, err)
			}
		}
	}
	for _, v := range []any{laughs, laughingArray} {
		_, err := (&Message{Value: v}).encode()
		wantErr(t, err, ErrInvalidMessage)
	}
	if _, err := (&Message{Value: deepValue(maxDepth)}).encode(); err != nil {
		t.Errorf("%d levels: %v", maxDepth, err)
	}
}

// deepValue returns a value within so many others.
func deepValue(levels int) any {
	var v any = "deep"
	for i := range levels {
		switch i % 3 {
		case 0:
			v = []any{v}
		case 1:
			v = map[string]any{"k": v}
		case 2:
			v = Described{uint64(1), v}
		}
	}
	return v
}

// TestUsualSectionsAreTheCodecs: the usual properties have the bytes that other
// clients know.
func TestUsualSectionsAreTheCodecs(t *testing.T) {
	raw := (&Message{ApplicationProperties: map[string]any{"k": "v"}, Footer: map[string]any{"f": int64(1)}, Body: []byte("b")}).mustEncode()
	want := "\x00\x53\x74\xd1\x00\x00\x00\x0a\x00\x00\x00\x02\xa1\x01k\xa1\x01v" + "\x00\x53\x75\xa0\x01b" + "\x00\x53\x78\xd1\x00\x00\x00\x09\x00\x00\x00\x02\xa3\x01f\x55\x01"
	if string(raw) != want {
		t.Errorf("%q, want %q", raw, want)
	}
}

// TestDeliveryMessage: publishing it gives the same bytes, whatever they are.
func TestDeliveryMessage(t *testing.T) {
	full := Message{
		Body: []byte("b"), Header: &Header{Priority: 4}, Properties: &Properties{MessageID: UUID{1}}, ApplicationProperties: map[string]any{"c": Char('x'), "k": "v"},
		Annotations: map[string]any{"x-a": []UUID{{1}}}, DeliveryAnnotations: map[string]any{}, Footer: map[string]any{"f": Described{uint64(1), nil}},
	}
	for name, raw := range map[string][]byte{
		"data": appendData(nil, []byte("body")), "no data": appendData(nil, nil), "all sections": full.mustEncode(), "a value": (&Message{Value: "v"}).mustEncode(),
		"sequences": (&Message{Sequences: [][]any{{1}, {2}}}).mustEncode(), "several data sections": []byte("\x00\x53\x75\xa0\x01a\x00\x53\x75\xb0\x00\x00\x00\x01b"),
		"long descriptors": []byte("\x00\xa3\x10amqp:data:binary\xa0\x02hi"), "bare": []byte("bare"), "nothing": {}, "broken properties": []byte("\x00\x53\x74\x41\x00\x53\x75\xa0\x01b"),
	} {
		d := deliveryOf(raw)
		if body, ok := plainBody(raw); ok {
			d = &Delivery{Body: body}
		}
		m := d.Message()
		if got, err := m.encode(); err != nil || !bytes.Equal(got, raw) || !bytes.Equal(m.Body, d.Body) {
			t.Errorf("%s: %q became %q with the body %q, %v", name, raw, got, m.Body, err)
		}
	}
}

// TestDeliveryMessageChanged: a field that is set replaces its section, and only
// that.
func TestDeliveryMessageChanged(t *testing.T) {
	sections := []string{
		"\x00\x53\x70\xc0\x03\x02\x41\x40", "\x00\x53\x71\xc1\x01\x00", "\x00\x53\x72\xc1\x07\x02\xa3\x03x-a\x41", "\x00\x53\x73\xc0\x04\x01\xa1\x01i",
		"\x00\x53\x74\xc1\x09\x02\xa1\x01c\x73\x00\x00\x00x", "\x00\x53\x75\xa0\x01a\x00\x53\x75\xa0\x01b", "\x00\x53\x78\xc1\x05\x02\xa3\x01f\x41",
	}
	raw := strings.Join(sections, "")
	for place, change := range []func(*Message){
		func(m *Message) { m.Header = &Header{Priority: 7} }, func(m *Message) { m.DeliveryAnnotations = map[string]any{"new": Char('x')} },
		func(m *Message) { m.Annotations = map[string]any{"new": true} }, func(m *Message) { m.Properties = &Properties{To: "new"} },
		func(m *Message) { m.ApplicationProperties = map[string]any{} }, func(m *Message) { m.Value = "new" }, func(m *Message) { m.Footer = map[string]any{"new": true} },
		func(m *Message) {},
		func(m *Message) { m.Body = []byte("new") }, func(m *Message) { m.Body = []byte{} }, func(m *Message) { m.Sequences = [][]any{{"new"}} },
	} {
		m := deliveryOf([]byte(raw)).Message()
		if string(m.Body) != "ab" {
			t.Fatalf("the body is %q", m.Body)
		}
		change(&m)
		got, err := m.encode()
		must(t, err)
		if place > places {
			place = placeBody
		}
		fresh := m
		if fresh.Raw = nil; place == placeBody && string(m.Body) == "ab" {
			fresh.Body = nil
		}
		want := raw
		if place < places {
			section, err := fresh.appendSection(nil, place, time.Time{}, maxSections)
			must(t, err)
			want = strings.Join(sections[:place], "") + string(section) + strings.Join(sections[place+1:], "")
		}
		if string(got) != want {
			t.Errorf("change %d: %q, want %q", place, got, want)
		}
	}
}

// TestDeliveryMessageOfBareBytes: they become the body once something else is
// set.
func TestDeliveryMessageOfBareBytes(t *testing.T) {
	m := deliveryOf([]byte("bare")).Message()
	m.ApplicationProperties = map[string]any{"k": "v"}
	d := deliveryOf(m.mustEncode())
	if props, err := d.ApplicationProperties(); err != nil || props["k"] != "v" || string(d.Body) != "bare" {
		t.Errorf("%q, %v, %v", d.Body, props, err)
	}
	m.Body = []byte("new")
	if d := deliveryOf(m.mustEncode()); string(d.Body) != "new" {
		t.Errorf("%q", d.Body)
	}
	m.Value = "both"
	_, err := m.encode()
	wantErr(t, err, ErrInvalidMessage)
}

// FuzzReplaceSections: a section that is set in any message is there, and the
// body stays.
func FuzzReplaceSections(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, ok := bodyOf(raw); !ok {
			return
		}
		if got := appendReplaced(nil, raw, [places][]byte{}); !bytes.Equal(got, raw) {
			t.Fatalf("%q became %q", raw, got)
		}
		got := appendReplaced(nil, raw, [places][]byte{placeHeader: []byte("\x00\x53\x70\x45"), placeFooter: []byte("\x00\x53\x78\xc1\x01\x00")})
		h, err := deliveryOf(got).Header()
		must(t, err)
		footer, err := deliveryOf(got).Footer()
		must(t, err)
		before, _ := bodyOf(raw)
		if after, ok := bodyOf(got); !ok || h == nil || footer == nil || !bytes.Equal(before, after) {
			t.Fatalf("%q became %q", raw, got)
		}
	})
}
