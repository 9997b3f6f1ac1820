package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/go-amqp"
)

// This file turns Go values into the bytes of AMQP 1.0 values. The bytes of
// values that hold no others come from go-amqp's codec. Our own code writes
// what holds others, because the codec recurses without a limit, and the few
// values that the codec does not write, or writes wrong: char, decimals, and
// arrays of int32 and int64 below -128 or of times beyond 2262.

// maxSections is how many bytes the sections of a message that is published may
// have, data aside. Lists that hold each other may be without end when they are
// written out.
const maxSections = 16 << 20

// appendValue appends a value, around which there are depth others.
func appendValue(b []byte, v any, depth int) ([]byte, error) {
	switch {
	case depth > maxDepth:
		return nil, errDepth
	case len(b) > maxSections:
		return nil, fmt.Errorf("its sections have more than %d bytes", maxSections)
	}
	switch v := v.(type) {
	case []any:
		return appendList(b, v, depth)
	case map[string]any:
		return appendMap(b, v, depth)
	case map[Symbol]any:
		return appendMap(b, v, depth)
	case map[any]any:
		return appendMap(b, v, depth)
	case []map[any]any:
		return appendArray(b, mapSlice(v, func(m map[any]any) any { return m }), depth)
	case Array:
		return appendArray(b, v, depth)
	case Described:
		return appendDescribed(b, v, depth)
	}
	if b, ok := appendOwn(b, v); ok {
		return b, nil
	}
	return appendLeaf(b, v)
}

// appendLeaf appends a value that holds no others, by the codec.
func appendLeaf(b []byte, v any) ([]byte, error) {
	switch t := v.(type) {
	case nil:
		return append(b, 0x40), nil
	case UUID:
		v = amqp.UUID(t)
	case []UUID:
		v = mapSlice(t, func(u UUID) amqp.UUID { return amqp.UUID(u) })
	case Symbol:
		v = amqp.Symbol(t)
	case []Symbol:
		v = mapSlice(t, func(s Symbol) amqp.Symbol { return amqp.Symbol(s) })
	case BinaryKey:
		v = []byte(t)
	case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, string, []byte, time.Time,
		[]bool, []int8, []int16, []uint16, []uint32, []uint64, []float32, []float64, []string, [][]byte:
	default:
		return nil, fmt.Errorf("AMQP 1.0 has no type for a %T", v)
	}
	section, err := (&amqp.Message{Value: v}).MarshalBinary()
	if err != nil {
		return nil, err
	}
	return append(b, section[sectionHead:]...), nil
}

// appendOwn appends a value that the codec does not write, or writes wrong. ok
// is false for any other value.
func appendOwn(b []byte, v any) (out []byte, ok bool) {
	switch v := v.(type) {
	case Char:
		return binary.BigEndian.AppendUint32(append(b, 0x73), uint32(v)), true
	case Decimal32:
		return append(append(b, 0x74), v[:]...), true
	case Decimal64:
		return append(append(b, 0x84), v[:]...), true
	case Decimal128:
		return append(append(b, 0x94), v[:]...), true
	case UbyteArray:
		return appendFixed(b, 0x50, v, func(b []byte, e byte) []byte { return append(b, e) }), true
	case []int32:
		return appendFixed(b, 0x71, v, func(b []byte, e int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(e)) }), true
	case []int64:
		return appendFixed(b, 0x81, v, func(b []byte, e int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(e)) }), true
	case []time.Time:
		return appendFixed(b, 0x83, v, func(b []byte, e time.Time) []byte {
			return binary.BigEndian.AppendUint64(b, uint64(e.UnixMilli()))
		}), true
	case []Char:
		return appendFixed(b, 0x73, v, func(b []byte, e Char) []byte { return binary.BigEndian.AppendUint32(b, uint32(e)) }), true
	case []Decimal32:
		return appendFixed(b, 0x74, v, func(b []byte, e Decimal32) []byte { return append(b, e[:]...) }), true
	case []Decimal64:
		return appendFixed(b, 0x84, v, func(b []byte, e Decimal64) []byte { return append(b, e[:]...) }), true
	case []Decimal128:
		return appendFixed(b, 0x94, v, func(b []byte, e Decimal128) []byte { return append(b, e[:]...) }), true
	}
	return b, false
}

// openCompound appends the head of a list, map or array in its long form, with
// room for its size. closeCompound fills the size in.
func openCompound(b []byte, constructor byte, count int) []byte {
	return binary.BigEndian.AppendUint32(append(b, constructor, 0, 0, 0, 0), uint32(count))
}

// closeCompound fills in the size of the list, map or array that was opened at
// an index of b.
func closeCompound(b []byte, opened int) []byte {
	binary.BigEndian.PutUint32(b[opened+1:], uint32(len(b)-opened-5))
	return b
}

// appendFixed appends an array of elements that all have one size.
func appendFixed[T any](b []byte, constructor byte, list []T, element func([]byte, T) []byte) []byte {
	opened := len(b)
	b = append(openCompound(b, 0xf0, len(list)), constructor)
	for _, v := range list {
		b = element(b, v)
	}
	return closeCompound(b, opened)
}

func appendList(b []byte, list []any, depth int) (_ []byte, err error) {
	if len(list) == 0 {
		return append(b, 0x45), nil
	}
	opened := len(b)
	b = openCompound(b, 0xd0, len(list))
	for _, v := range list {
		if b, err = appendValue(b, v, depth+1); err != nil {
			return nil, err
		}
	}
	return closeCompound(b, opened), nil
}

func appendMap[K comparable](b []byte, m map[K]any, depth int) (_ []byte, err error) {
	opened := len(b)
	b = openCompound(b, 0xd1, 2*len(m))
	for k, v := range m {
		if b, err = appendValue(b, k, depth+1); err != nil {
			return nil, err
		}
		if b, err = appendValue(b, v, depth+1); err != nil {
			return nil, err
		}
	}
	return closeCompound(b, opened), nil
}

func appendDescribed(b []byte, d Described, depth int) ([]byte, error) {
	b, err := appendValue(append(b, 0), d.Descriptor, depth+1)
	if err != nil {
		return nil, err
	}
	return appendValue(b, d.Value, depth+1)
}

// appendArray appends an array of lists, maps, arrays or nulls. All elements
// have the constructor of the first one, which each is written with and which
// is then cut off.
func appendArray(b []byte, list Array, depth int) ([]byte, error) {
	opened := len(b)
	b = append(openCompound(b, 0xf0, len(list)), 0x40)
	for i, v := range list {
		element, err := appendValue(nil, v, depth+1)
		if err != nil {
			return nil, err
		}
		switch constructor := element[0]; {
		case constructor == 0x45: // an empty list, which the others may be too
			element = closeCompound(openCompound(nil, 0xd0, 0), 0)
		case constructor == 0xe0: // the codec's form of a short array
			element = longArray(element)
		case constructor != 0x40 && constructor < 0xd0:
			return nil, fmt.Errorf("an Array has a %T; its elements must be lists, maps, arrays or nil", v)
		}
		if constructor := &b[opened+9]; i == 0 {
			*constructor = element[0]
		} else if *constructor != element[0] {
			return nil, errors.New("the elements of an Array are not of one type")
		}
		b = append(b, element[1:]...)
		if len(b) > maxSections {
			return nil, fmt.Errorf("its sections have more than %d bytes", maxSections)
		}
	}
	return closeCompound(b, opened), nil
}

// longArray returns an array in its long form, given its short one.
func longArray(short []byte) []byte {
	return closeCompound(append(openCompound(nil, 0xf0, int(short[2])), short[3:]...), 0)
}

func mapSlice[T, U any](in []T, f func(T) U) []U {
	out := make([]U, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}
