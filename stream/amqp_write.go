package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/go-amqp"
)

// This file turns Go values into the bytes of AMQP 1.0 values. amqp_scalar.go
// writes those that hold no others. Our own code writes what holds others,
// because go-amqp's codec recurses without a limit. The codec writes the arrays
// of simple types, except for the few that it writes wrong: int32 and int64
// below -128, and times beyond 2262.

// maxSections is how many bytes the sections of a message that is published may
// have, data aside. Lists that hold each other may be without end when they are
// written out.
const maxSections = 16 << 20

// valueWriter writes the values of one section.
type valueWriter struct {
	limit int // how long the buffer may become
	empty int // how many further elements of arrays may have no bytes
}

// value appends a value, around which there are depth others.
func (w *valueWriter) value(b []byte, v any, depth int) ([]byte, error) {
	switch {
	case depth > maxDepth:
		return nil, errDepth
	case len(b) > w.limit:
		return nil, errSections
	}
	switch v := v.(type) {
	case []any:
		return w.list(b, v, depth)
	case map[string]any:
		return appendMap(w, b, v, depth, appendText)
	case map[Symbol]any:
		return appendMap(w, b, v, depth, appendSymbol)
	case map[any]any:
		return w.mapOfAny(b, v, depth)
	case []map[any]any:
		return w.array(b, mapSlice(v, func(m map[any]any) any { return m }), depth)
	case Array:
		return w.array(b, v, depth)
	case Described:
		return w.described(b, v, depth)
	}
	if out, ok, err := appendScalar(b, v); ok {
		return out, err
	}
	if out, ok, err := appendOwnArray(b, v); ok {
		return out, err
	}
	return appendCodecArray(b, v)
}

// errSections ends a value that is too large, or without end.
var errSections = fmt.Errorf("the sections have more than %d bytes", maxSections)

// appendCodecArray appends an array of a simple type, by the codec.
func appendCodecArray(b []byte, v any) (_ []byte, err error) {
	switch t := v.(type) {
	case []UUID:
		v = mapSlice(t, func(u UUID) amqp.UUID { return amqp.UUID(u) })
	case []Symbol:
		err = each(t, checkSymbol[Symbol])
		v = mapSlice(t, func(s Symbol) amqp.Symbol { return amqp.Symbol(s) })
	case []bool, []int8, []int16, []uint16, []uint32, []uint64, []float32, []float64, []string, [][]byte:
	default:
		return nil, fmt.Errorf("AMQP 1.0 has no type for a %T", v)
	}
	if err != nil {
		return nil, err
	}
	section, err := (&amqp.Message{Value: v}).MarshalBinary()
	if err != nil {
		return nil, err
	}
	return append(b, section[sectionHead:]...), nil
}

// appendOwnArray appends an array that the codec does not write, or writes
// wrong. ok is false for any other value.
func appendOwnArray(b []byte, v any) (out []byte, ok bool, err error) {
	switch v := v.(type) {
	case UbyteArray:
		b = appendFixed(b, 0x50, v, func(b []byte, e byte) []byte { return append(b, e) })
	case []int32:
		b = appendFixed(b, 0x71, v, func(b []byte, e int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(e)) })
	case []int64:
		b = appendFixed(b, 0x81, v, func(b []byte, e int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(e)) })
	case []time.Time:
		err = each(v, checkTime)
		b = appendFixed(b, 0x83, v, func(b []byte, e time.Time) []byte {
			return binary.BigEndian.AppendUint64(b, uint64(e.UnixMilli()))
		})
	case []Char:
		err = each(v, checkChar)
		b = appendFixed(b, 0x73, v, func(b []byte, e Char) []byte { return binary.BigEndian.AppendUint32(b, uint32(e)) })
	case []Decimal32:
		b = appendFixed(b, 0x74, v, func(b []byte, e Decimal32) []byte { return append(b, e[:]...) })
	case []Decimal64:
		b = appendFixed(b, 0x84, v, func(b []byte, e Decimal64) []byte { return append(b, e[:]...) })
	case []Decimal128:
		b = appendFixed(b, 0x94, v, func(b []byte, e Decimal128) []byte { return append(b, e[:]...) })
	default:
		return b, false, nil
	}
	return b, true, err
}

// each returns the first error of a check among the elements.
func each[T any](list []T, check func(T) error) error {
	for _, v := range list {
		if err := check(v); err != nil {
			return err
		}
	}
	return nil
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

func (w *valueWriter) list(b []byte, list []any, depth int) (_ []byte, err error) {
	if len(list) == 0 {
		return append(b, 0x45), nil
	}
	opened := len(b)
	b = openCompound(b, 0xd0, len(list))
	for _, v := range list {
		if b, err = w.value(b, v, depth+1); err != nil {
			return nil, err
		}
	}
	return closeCompound(b, opened), nil
}

// appendMap appends a map whose keys a function appends.
func appendMap[K comparable](w *valueWriter, b []byte, m map[K]any, depth int, key func([]byte, K) ([]byte, error)) (_ []byte, err error) {
	opened := len(b)
	b = openCompound(b, 0xd1, 2*len(m))
	for k, v := range m {
		if b, err = key(b, k); err != nil {
			return nil, err
		}
		if b, err = w.value(b, v, depth+1); err != nil {
			return nil, err
		}
	}
	return closeCompound(b, opened), nil
}

// mapOfAny appends a map whose keys have several types. It refuses two keys that
// are different in Go and the same in AMQP, as int(1) and int64(1) are.
func (w *valueWriter) mapOfAny(b []byte, m map[any]any, depth int) ([]byte, error) {
	seen := make(map[string]struct{}, len(m))
	return appendMap(w, b, m, depth, func(b []byte, k any) ([]byte, error) {
		start := len(b)
		b, err := w.value(b, k, depth+1)
		if err != nil {
			return nil, err
		}
		if _, found := seen[string(b[start:])]; found {
			return nil, fmt.Errorf("a map has two keys that AMQP 1.0 does not tell apart, one of them the %T %v", k, k)
		}
		seen[string(b[start:])] = struct{}{}
		return b, nil
	})
}

func (w *valueWriter) described(b []byte, d Described, depth int) ([]byte, error) {
	b, err := w.value(append(b, 0), d.Descriptor, depth+1)
	if err != nil {
		return nil, err
	}
	return w.value(b, d.Value, depth+1)
}

// array appends an array of lists, maps, arrays or nulls. All elements have the
// constructor of the first one, which each is written with and which is then cut
// off.
func (w *valueWriter) array(b []byte, list Array, depth int) ([]byte, error) {
	opened := len(b)
	b = append(openCompound(b, 0xf0, len(list)), 0x40)
	for i, v := range list {
		element, err := w.element(v, len(b), depth)
		if err != nil {
			return nil, err
		}
		if constructor := &b[opened+9]; i == 0 {
			*constructor = element[0]
		} else if *constructor != element[0] {
			return nil, errors.New("the elements of an Array are not of one type")
		}
		b = append(b, element[1:]...)
		if len(b) > w.limit {
			return nil, errSections
		}
	}
	return closeCompound(b, opened), nil
}

// element returns an element of an Array, which has used bytes of the limit
// already.
func (w *valueWriter) element(v any, used, depth int) ([]byte, error) {
	inner := valueWriter{limit: w.limit - used, empty: w.empty}
	element, err := inner.value(nil, v, depth+1)
	if err != nil {
		return nil, err
	}
	w.empty = inner.empty
	switch constructor := element[0]; {
	case constructor == 0x45: // an empty list, which the others may be too
		return closeCompound(openCompound(nil, 0xd0, 0), 0), nil
	case constructor == 0xe0: // the codec's form of a short array
		return longArray(element), nil
	case constructor == 0x40:
		if w.empty--; w.empty < 0 {
			return nil, fmt.Errorf("its arrays have more than %d elements that are nil", maxEmpty)
		}
	case constructor < 0xd0:
		return nil, fmt.Errorf("an Array has a %T; its elements must be lists, maps, arrays or nil", v)
	}
	return element, nil
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
