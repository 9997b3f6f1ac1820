package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-amqp"
)

// TestReadValue has every constructor of the standard.
func TestReadValue(t *testing.T) {
	for _, test := range []struct {
		raw  string
		want any
	}{
		{"\x40", nil}, {"\x41", true}, {"\x42", false}, {"\x56\x01", true}, {"\x56\x00", false},
		{"\x43", uint32(0)}, {"\x52\xff", uint32(255)}, {"\x70\x00\x01\x00\x00", uint32(65536)},
		{"\x44", uint64(0)}, {"\x53\xff", uint64(255)}, {"\x80\xff\xff\xff\xff\xff\xff\xff\xff", uint64(math.MaxUint64)},
		{"\x50\xff", uint8(255)}, {"\x60\xff\xfe", uint16(65534)},
		{"\x51\xff", int8(-1)}, {"\x61\xff\xfe", int16(-2)}, {"\x54\xff", int32(-1)}, {"\x71\xff\xff\xff\xfe", int32(-2)},
		{"\x55\xff", int64(-1)}, {"\x81\xff\xff\xff\xff\xff\xff\xff\xfe", int64(-2)},
		{"\x72\x3f\xc0\x00\x00", float32(1.5)}, {"\x82\x3f\xf8\x00\x00\x00\x00\x00\x00", 1.5},
		{"\x73\x00\x01\xf6\x00", Char('😀')}, {"\x74abcd", Decimal32{'a', 'b', 'c', 'd'}},
		{"\x84abcdefgh", Decimal64([]byte("abcdefgh"))}, {"\x94abcdefghijklmnop", Decimal128([]byte("abcdefghijklmnop"))},
		{"\x83\x00\x00\x00\x00\x00\x00\x03\xe8", time.Unix(1, 0).UTC()}, {"\x98abcdefghijklmnop", UUID([]byte("abcdefghijklmnop"))},
		{"\xa0\x02hi", []byte("hi")}, {"\xb0\x00\x00\x00\x02hi", []byte("hi")}, {"\xa0\x00", []byte{}},
		{"\xa1\x02hi", "hi"}, {"\xb1\x00\x00\x00\x02hi", "hi"}, {"\xa3\x02hi", Symbol("hi")}, {"\xb3\x00\x00\x00\x02hi", Symbol("hi")},
		{"\x45", []any{}}, {"\xc0\x04\x02\x41\x52\x07", []any{true, uint32(7)}}, {"\xd0\x00\x00\x00\x06\x00\x00\x00\x02\x41\x40", []any{true, nil}},
		{"\xc1\x01\x00", map[string]any{}}, {"\xc1\x05\x02\xa1\x01k\x41", map[string]any{"k": true}}, {"\xc1\x05\x02\xa3\x01k\x41", map[Symbol]any{"k": true}},
		{"\xd1\x00\x00\x00\x08\x00\x00\x00\x02\xa1\x01k\x41", map[string]any{"k": true}},
		{"\xc1\x09\x04\xa3\x01k\x41\xa1\x01k\x42", map[any]any{Symbol("k"): true, "k": false}}, {"\xc1\x05\x02\xa0\x01k\x41", map[any]any{BinaryKey("k"): true}},
		{"\xc1\x13\x02\x98abcdefghijklmnop\x41", map[any]any{UUID([]byte("abcdefghijklmnop")): true}}, {"\xc1\x03\x02\x40\x41", map[any]any{nil: true}},
		{"\x00\x53\x24\x45", Described{uint64(0x24), []any{}}},  // the codec has a type of its own for it
		{"\x00\x53\x77\xa1\x01x", Described{uint64(0x77), "x"}}, // and refuses this
		{"\x00\xa3\x01d\xa1\x01x", Described{Symbol("d"), "x"}}, // a symbol
		{"\x00\x00\x41\x42\x43", Described{Described{true, false}, uint32(0)}},
		{"\xe0\x04\x02\x50\x01\x02", UbyteArray{1, 2}}, {"\xf0\x00\x00\x00\x07\x00\x00\x00\x02\x50\x01\x02", UbyteArray{1, 2}},
		{"\xe0\x04\x02\x51\x01\xff", []int8{1, -1}}, {"\xe0\x04\x01\x60\x01\x02", []uint16{258}}, {"\xe0\x04\x01\x61\xff\xff", []int16{-1}},
		{"\xe0\x04\x02\x52\x01\xff", []uint32{1, 255}}, {"\xe0\x02\x02\x43", []uint32{0, 0}}, {"\xe0\x06\x01\x70\x00\x00\x01\x00", []uint32{256}},
		{"\xe0\x04\x02\x53\x01\xff", []uint64{1, 255}}, {"\xe0\x02\x02\x44", []uint64{0, 0}}, {"\xe0\x0a\x01\x80\x00\x00\x00\x00\x00\x00\x01\x00", []uint64{256}},
		{"\xe0\x04\x02\x54\x01\xff", []int32{1, -1}}, {"\xe0\x06\x01\x71\xff\xff\xff\x00", []int32{-256}},
		{"\xe0\x04\x02\x55\x01\xff", []int64{1, -1}}, {"\xe0\x0a\x01\x81\xff\xff\xff\xff\xff\xff\xff\x00", []int64{-256}},
		{"\xe0\x06\x01\x72\x3f\xc0\x00\x00", []float32{1.5}}, {"\xe0\x0a\x01\x82\x3f\xf8\x00\x00\x00\x00\x00\x00", []float64{1.5}},
		{"\xe0\x04\x02\x56\x01\x00", []bool{true, false}}, {"\xe0\x02\x02\x41", []bool{true, true}}, {"\xe0\x02\x02\x42", []bool{false, false}},
		{"\xe0\x06\x01\x73\x00\x00\x00x", []Char{'x'}}, {"\xe0\x06\x01\x74abcd", []Decimal32{{'a', 'b', 'c', 'd'}}},
		{"\xe0\x0a\x01\x84abcdefgh", []Decimal64{Decimal64([]byte("abcdefgh"))}},
		{"\xe0\x12\x01\x94abcdefghijklmnop", []Decimal128{Decimal128([]byte("abcdefghijklmnop"))}},
		{"\xe0\x12\x01\x98abcdefghijklmnop", []UUID{UUID([]byte("abcdefghijklmnop"))}},
		{"\xe0\x0a\x01\x83\x00\x00\x00\x00\x00\x00\x03\xe8", []time.Time{time.Unix(1, 0).UTC()}},
		{"\xe0\x04\x02\xa1\x00\x00", []string{"", ""}}, {"\xe0\x0a\x01\xb1\x00\x00\x00\x04four", []string{"four"}},
		{"\xe0\x05\x02\xa3\x01x\x00", []Symbol{"x", ""}}, {"\xe0\x05\x02\xa0\x01x\x00", [][]byte{[]byte("x"), {}}},
		{"\xe0\x02\x02\x45", Array{[]any{}, []any{}}}, {"\xe0\x05\x01\xc0\x02\x01\x41", Array{[]any{true}}}, {"\xe0\x02\x02\x40", Array{nil, nil}},
		{"\xe0\x08\x01\xc1\x05\x02\xa1\x01k\x41", Array{map[string]any{"k": true}}}, {"\xe0\x06\x01\xe0\x03\x01\x50\x07", Array{UbyteArray{7}}},
		{"\xe0\x07\x02\x00\x53\x10\x50\x01\x02", Array{Described{uint64(16), uint8(1)}, Described{uint64(16), uint8(2)}}},
		{"\xe0\x08\x01\x00\x41\x00\x42\x50\x01", nil}, // its size is one too many
		{"\xe0\x07\x01\x00\x41\x00\x42\x50\x01", Array{Described{true, Described{false, uint8(1)}}}},
	} {
		got, err := readValue([]byte(test.raw))
		if test.want == nil && test.raw != "\x40" {
			if err == nil {
				t.Errorf("%q is %#v", test.raw, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q is %#v, %v, want %#v", test.raw, got, err, test.want)
		}
		for n := range len(test.raw) {
			if v, err := readValue([]byte(test.raw[:n])); err == nil {
				t.Errorf("%q, the first %d bytes of %q, are %#v", test.raw[:n], n, test.raw, v)
			}
		}
		if v, err := readValue([]byte(test.raw + "\x40")); err == nil {
			t.Errorf("%q and a byte more are %#v", test.raw, v)
		}
	}
}

func TestReadValueRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing": "", "no constructor": "\x3f\x00", "an unknown one without bytes": "\x46", "with one byte": "\x57\x00", "with 16": "\x90" + strings.Repeat("x", 16),
		"an unknown variable one": "\xa2\x01x", "an unknown list": "\xc2\x01\x00", "an unknown long one": "\xd2\x00\x00\x00\x04\x00\x00\x00\x00", "an unknown array": "\xe1\x02\x00\x40",
		"a list without a count": "\xc0\x00", "a long one": "\xd0\x00\x00\x00\x03\x00\x00\x00", "an array without a constructor": "\xe0\x01\x00",
		"more elements than announced": "\xc0\x03\x01\x41\x41", "fewer": "\xc0\x03\x03\x41\x41", "an element beyond the list": "\xc0\x03\x01\xa1\x05hello",
		"a key without a value": "\xc1\x02\x01\x41", "a list as a key": "\xc1\x03\x02\x45\x41", "a key that holds one": "\xc1\x05\x02\x00\x41\x45\x41",
		"elements that are missing": "\xe0\x04\x03\x50\x01\x02", "elements too many": "\xe0\x04\x01\x50\x01\x02", "elements of no kind": "\xe0\x03\x01\x3f\x00",
		"a descriptor alone": "\x00\x41", "4 billion": "\xd0\x00\x00\x00\x05\xff\xff\xff\xff\x41", "an array of 4 billion": "\xf0\x00\x00\x00\x06\xff\xff\xff\xff\x50\x01",
		"4 billion elements without bytes": "\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x41",
	} {
		if v, err := readValue([]byte(raw)); err == nil {
			t.Errorf("%s is %#v", name, v)
		}
	}
}

// nest returns a value within so many others.
func nest(levels int, head string, within ...byte) []byte {
	return append(bytes.Repeat([]byte(head), levels), within...)
}

// nestArrays returns an array within an array, and so on.
func nestArrays(levels int) []byte {
	content := []byte{0, 0, 0, 1, 0x41} // an array of true
	for range levels - 1 {
		head := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 1, 0xf0}, uint32(len(content)))
		content = append(head, content...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0xf0}, uint32(len(content))), content...)
}

// nestLists returns a list within a list, and so on.
func nestLists(levels int) []byte {
	b := []byte{0x45}
	for range levels - 1 {
		head := binary.BigEndian.AppendUint32([]byte{0xd0}, uint32(4+len(b)))
		b = append(append(head, 0, 0, 0, 1), b...)
	}
	return b
}

// TestDepth: what is nested up to the limit is read, and beyond it is refused,
// whichever way it is nested. A stack that overflows would end the process.
func TestDepth(t *testing.T) {
	for name, of := range map[string]func(int) []byte{
		"described":    func(n int) []byte { return nest(n, "\x00\x53\x01", 0x40) },
		"descriptors":  func(n int) []byte { return append(nest(n, "\x00", 0x40), bytes.Repeat([]byte{0x40}, n)...) },
		"arrays":       nestArrays,
		"lists":        func(n int) []byte { return nestLists(n + 1) },
		"constructors": func(n int) []byte { return arrayOf(nest(n-1, "\x00\x53\x01", 0x41)) },
		"in a constructor": func(n int) []byte {
			return arrayOf(append(nest(n, "\x00", 0x41), bytes.Repeat([]byte{0x40}, n)...))
		},
	} {
		if _, err := readValue(of(maxDepth)); err != nil {
			t.Errorf("%s: %d levels: %v", name, maxDepth, err)
		}
		if _, err := readValue(of(maxDepth + 1)); !errors.Is(err, errDepth) {
			t.Errorf("%s: %d levels: %v", name, maxDepth+1, err)
		}
	}
	for name, raw := range map[string][]byte{
		"described": nest(1<<20, "\x00\x53\x01", 0x40), "descriptors": nest(1<<20, "\x00", bytes.Repeat([]byte{0x40}, 1<<20+1)...),
		"constructors": arrayOf(nest(1<<20, "\x00\x53\x01", 0x41)),
	} {
		for _, section := range []byte{sectionValue, sectionApplicationProperties, sectionProperties, sectionHeader, sectionSequence} {
			d := deliveryOf(append([]byte{0, 0x53, section}, raw...))
			_, e1 := d.Value()
			_, e2 := d.ApplicationProperties()
			_, e3 := d.Properties()
			_, e4 := d.Header()
			_, e5 := d.Sequences()
			if err := errors.Join(e1, e2, e3, e4, e5); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, a million times, in section %#x: %v", name, section, err)
			}
		}
	}
}

// arrayOf returns an array with one element, whose constructor and content are
// given.
func arrayOf(element []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{0xf0}, uint32(4+len(element)))
	return append(append(head, 0, 0, 0, 1), element...)
}

// TestReadMemory: a message cannot make its reader allocate much more than it
// has bytes.
func TestReadMemory(t *testing.T) {
	announced := func(constructor byte, count uint32, rest []byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte{constructor}, uint32(4+len(rest)))
		return append(binary.BigEndian.AppendUint32(b, count), rest...)
	}
	var arrays []byte
	for range 10_000 { // each of them has 65,536 elements and 10 bytes
		arrays = append(arrays, announced(0xf0, 1<<16, []byte{0x41})...)
	}
	lists := []byte{0x45}
	for range maxDepth - 1 { // each announces as many elements as it has bytes
		rest := append(lists, bytes.Repeat([]byte{0x40}, 10_000)...)
		lists = announced(0xd0, uint32(len(rest)), rest)
	}
	for name, raw := range map[string][]byte{"arrays without bytes": announced(0xd0, 10_000, arrays), "lists that lie": lists} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := readValue(raw)
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(64*len(raw)+4<<20); err == nil || got > limit {
			t.Errorf("%s: %d bytes for %d, more than %d: %v", name, got, len(raw), limit, err)
		}
	}
}

// TestManyElements: the codec refuses a list of more than 65,536 elements.
func TestManyElements(t *testing.T) {
	list := make([]any, 100_000)
	raw := (&Message{Value: list}).mustEncode()
	if got, err := deliveryOf(raw).Value(); err != nil || !reflect.DeepEqual(got, list) {
		t.Error(err)
	}
}

// TestSectionsApart: what one section has does not concern the others.
func TestSectionsApart(t *testing.T) {
	whole := Message{
		Header: &Header{Priority: 9}, DeliveryAnnotations: map[string]any{"k": "x"}, Annotations: map[string]any{"k": "x"},
		Properties: &Properties{To: "x"}, ApplicationProperties: map[string]any{"k": "x"}, Value: "x", Footer: map[string]any{"k": "x"},
	}
	methods := []func(*Delivery) error{
		func(d *Delivery) error { _, err := d.Header(); return err },
		func(d *Delivery) error { _, err := d.DeliveryAnnotations(); return err },
		func(d *Delivery) error { _, err := d.Annotations(); return err },
		func(d *Delivery) error { _, err := d.Properties(); return err },
		func(d *Delivery) error { _, err := d.ApplicationProperties(); return err },
		func(d *Delivery) error { _, err := d.Value(); return err },
		func(d *Delivery) error { _, err := d.Footer(); return err },
	}
	for place := range places {
		code := []byte{sectionHeader, sectionDeliveryAnnotations, sectionAnnotations, sectionProperties, sectionApplicationProperties, sectionValue, sectionFooter}[place]
		broken := [places][]byte{}
		broken[place] = []byte{0, 0x53, code, 0xc1, 0x03, 0x02, 0x45, 0x41} // a map whose key is a list
		d := deliveryOf(appendReplaced(nil, whole.mustEncode(), broken))
		for i, method := range methods {
			if err := method(d); errors.Is(err, ErrMalformed) != (i == place) || err != nil && i != place {
				t.Errorf("section %d is broken; method %d: %v", place, i, err)
			}
		}
	}
}

// TestForeignValues: one char or decimal among the application properties, a
// described value, and sections whose descriptors are written in other ways.
func TestForeignValues(t *testing.T) {
	raw := "\x00\xa3\x1famqp:application-properties:map" + "\xc1\x17\x06" + "\xa1\x01c\x73\x00\x00\x00x" + "\xa1\x01d\x74abcd" + "\xa1\x01s\xa1\x01v" +
		"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x77" + "\x00\xa3\x03geo\xc0\x03\x02\x41\x42"
	d := deliveryOf([]byte(raw))
	props, err := d.ApplicationProperties()
	must(t, err)
	if want := map[string]any{"c": Char('x'), "d": Decimal32{'a', 'b', 'c', 'd'}, "s": "v"}; !reflect.DeepEqual(props, want) {
		t.Errorf("properties %#v", props)
	}
	v, err := d.Value()
	if want := (Described{Symbol("geo"), []any{true, false}}); err != nil || !reflect.DeepEqual(v, want) {
		t.Errorf("value %#v, %v", v, err)
	}
}

func TestSequences(t *testing.T) {
	for _, lists := range [][][]any{{{}}, {{"a", int64(1)}}, {{"a"}, {}, {[]any{"b"}, nil}}} {
		d := deliveryOf((&Message{Sequences: lists, Annotations: map[string]any{"x-a": "b"}}).mustEncode())
		if got, err := d.Sequences(); err != nil || !reflect.DeepEqual(got, lists) || len(d.Body) != 0 {
			t.Errorf("%v came back as %v, %v", lists, got, err)
		}
	}
	for _, raw := range []string{"\x00\x53\x76\x41", "\x00\x53\x76\x40", "\x00\x53\x76\xc0\x02\x02\x41", "\x00\x53\x76\x45\x00\x53\x76\x41"} {
		_, err := deliveryOf([]byte(raw)).Sequences()
		wantErr(t, err, ErrMalformed)
	}
}

// TestSectionsOfOtherTypes: a null is no section, and nothing but a map, or a
// list, is one.
func TestSectionsOfOtherTypes(t *testing.T) {
	for section, read := range map[byte]func(*Delivery) (any, error){
		sectionProperties:            func(d *Delivery) (any, error) { v, err := d.Properties(); return v, err },
		sectionHeader:                func(d *Delivery) (any, error) { v, err := d.Header(); return v, err },
		sectionApplicationProperties: func(d *Delivery) (any, error) { v, err := d.ApplicationProperties(); return v, err },
		sectionAnnotations:           func(d *Delivery) (any, error) { v, err := d.Annotations(); return v, err },
	} {
		if v, err := read(deliveryOf([]byte{0, 0x53, section, 0x40})); err != nil || !reflect.ValueOf(v).IsNil() {
			t.Errorf("null in %#x: %v, %v", section, v, err)
		}
		_, err := read(deliveryOf([]byte{0, 0x53, section, 0x41}))
		wantErr(t, err, ErrMalformed)
	}
	for name, raw := range map[string]string{
		"a boolean as a subject": "\x00\x53\x73\xc0\x05\x04\x40\x40\x40\x41", "an integer as a time": "\x00\x53\x73\xc0\x0b\x0a\x40\x40\x40\x40\x40\x40\x40\x40\x40\x43",
		"a string as a user": "\x00\x53\x73\xc0\x05\x02\x40\xa1\x01x", "14 fields": "\x00\x53\x73\xc0\x0f\x0e" + strings.Repeat("\x40", 14),
	} {
		if p, err := deliveryOf([]byte(raw)).Properties(); p != nil || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	for name, raw := range map[string]string{"a string as a priority": "\x00\x53\x70\xc0\x05\x02\x40\xa1\x01x", "six fields": "\x00\x53\x70\xc0\x07\x06\x40\x40\x40\x40\x40\x40"} {
		if h, err := deliveryOf([]byte(raw)).Header(); h != nil || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	h, err := deliveryOf([]byte("\x00\x53\x70\x45")).Header()
	if must(t, err); *h != (Header{Priority: 4}) {
		t.Errorf("an empty header is %+v", h)
	}
	notes, err := deliveryOf([]byte("\x00\x53\x72\xc1\x08\x04\x53\x07\x41\xa3\x01k\x42")).Annotations()
	if err != nil || !reflect.DeepEqual(notes, map[string]any{"7": true, "k": false}) {
		t.Errorf("annotations %v, %v", notes, err)
	}
}

// FuzzReadValue: what the codec and our own code both read is the same. What we
// read can be published, and is then the same again.
func FuzzReadValue(f *testing.F) {
	for _, v := range bothWays {
		b, err := appendValue(nil, v)
		must(f, err)
		f.Add(b)
	}
	f.Add([]byte("\x00\x53\x77\xa1\x01x"))
	f.Add(nestArrays(3))
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := readValue(raw)
		if err != nil {
			return
		}
		m, err := codecReads(append([]byte{0, 0x53, sectionValue}, raw...))
		if err == nil && comparableWithCodec(v) {
			if got, want := normal(v), normal(m.Value); !reflect.DeepEqual(got, want) {
				t.Fatalf("%q is %#v, by the codec %#v", raw, got, want)
			}
		}
		b, err := appendValue(nil, v)
		if err != nil {
			return // such as an array of described values, or text that is not UTF-8
		}
		again, err := readValue(b)
		if err != nil || !reflect.DeepEqual(normal(again), normal(v)) {
			t.Fatalf("%q is %#v, and published %#v, %v", raw, v, again, err)
		}
	})
}

// normal returns a value with the differences removed that the codec does not
// make: those between strings and symbols, and between maps. NaN becomes 0.
func normal(v any) any {
	switch v := v.(type) {
	case nil:
		return nil
	case time.Time:
		return v.UnixMilli()
	case float32:
		return math.Float32bits(v)
	case float64:
		return math.Float64bits(v)
	case []byte:
		return string(v)
	case UUID:
		return amqp.UUID(v)
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.String:
		return r.String()
	case reflect.Slice:
		out := make([]any, r.Len())
		for i := range out {
			out[i] = normal(r.Index(i).Interface())
		}
		return out
	case reflect.Map:
		out := map[any]any{}
		for _, k := range r.MapKeys() {
			out[normal(k.Interface())] = normal(r.MapIndex(k).Interface())
		}
		return out
	case reflect.Struct:
		return [2]any{normal(r.Field(0).Interface()), normal(r.Field(1).Interface())}
	}
	return v
}

// comparableWithCodec reports whether the codec has no reading of its own: it
// takes descriptors below 256 for those of the protocol, and NaN and keys that
// differ only in their type cannot be compared.
func comparableWithCodec(v any) bool {
	ok := true
	var look func(v reflect.Value)
	look = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Interface:
			look(v.Elem())
		case reflect.Struct:
			ok = ok && v.Type() == reflect.TypeFor[time.Time]()
		case reflect.Slice:
			for i := range v.Len() {
				look(v.Index(i))
			}
		case reflect.Map:
			ok = ok && (v.Len() == 0 || v.Type().Key().Kind() == reflect.String)
			for _, k := range v.MapKeys() {
				look(v.MapIndex(k))
			}
		}
	}
	look(reflect.ValueOf(v))
	return ok
}
