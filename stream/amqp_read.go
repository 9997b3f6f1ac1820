package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
)

// This file turns the bytes of AMQP 1.0 values into Go values. Another client
// may have published any bytes, so every length, count and depth is hostile.
// go-amqp does not read char, decimal, most described values, some arrays and
// lists of more than 65,536 elements. It recurses without a limit, and a stack
// that overflows ends the process. FuzzReadValue compares the two.

const (
	// maxDepth is how many containers and descriptors may stand around a value
	// that is read or published.
	maxDepth = 100
	// maxEmpty is how many elements without bytes the arrays of one section may
	// have in all. An array of 10 bytes may announce 2^32 of them.
	maxEmpty = 1 << 16
	// maxGuess bounds the room for elements that are announced and not seen
	// yet. Lists in lists may each announce as many as there are bytes.
	maxGuess = 32
)

var (
	errDepth = fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	errCut   = errors.New("a value is cut off, or its constructor is unknown")
	errCount = errors.New("a list, map or array has not the elements that it announces")
)

// readValue returns the AMQP value that b consists of.
func readValue(b []byte) (any, error) {
	r := valueReader{empty: maxEmpty}
	v, rest, err := r.value(b, 0)
	if err == nil && len(rest) > 0 {
		err = errors.New("bytes follow the value")
	}
	return v, err
}

// valueReader reads the values of one section.
type valueReader struct {
	empty int // how many further elements of arrays may have no bytes
}

// value returns the value at the front of b, and what follows it.
func (r *valueReader) value(b []byte, depth int) (v any, rest []byte, err error) {
	if depth > maxDepth {
		return nil, nil, errDepth
	}
	if len(b) > 0 && b[0] == 0 {
		return r.described(b[1:], depth)
	}
	size, head := valueSize(b)
	if size < 0 {
		return nil, nil, errCut
	}
	v, err = r.content(b[0], b[head:size], depth)
	return v, b[size:], err
}

// described returns the descriptor and value at the front of b.
func (r *valueReader) described(b []byte, depth int) (v any, rest []byte, err error) {
	descriptor, rest, err := r.value(b, depth+1)
	if err != nil {
		return nil, nil, err
	}
	v, rest, err = r.value(rest, depth+1)
	return Described{Descriptor: descriptor, Value: v}, rest, err
}

// content returns the value with a constructor and a content of the size that
// belongs to it.
func (r *valueReader) content(constructor byte, c []byte, depth int) (any, error) {
	switch constructor >> 4 {
	case 0xc, 0xd:
		if constructor&0xf == 1 {
			return r.mapping(constructor, c, depth)
		} else if constructor&0xf == 0 {
			return r.list(constructor, c, depth)
		}
	case 0xe, 0xf:
		if constructor&0xf == 0 {
			return r.array(constructor, c, depth)
		}
	case 0xa, 0xb:
		return variable(constructor, c)
	}
	return fixed(constructor, c)
}

// variable returns a binary, string or symbol.
func variable(constructor byte, c []byte) (any, error) {
	switch constructor & 0xf {
	case 0:
		return append(make([]byte, 0, len(c)), c...), nil
	case 1:
		return string(c), nil
	case 3:
		return Symbol(c), nil
	}
	return nil, errCut
}

// fixed returns a value whose constructor determines its size, which is that of
// c.
func fixed(constructor byte, c []byte) (any, error) {
	switch constructor {
	case 0x40:
		return nil, nil
	case 0x41:
		return true, nil
	case 0x42:
		return false, nil
	case 0x43:
		return uint32(0), nil
	case 0x44:
		return uint64(0), nil
	case 0x45:
		return []any{}, nil
	case 0x50:
		return c[0], nil
	case 0x51:
		return int8(c[0]), nil
	case 0x52:
		return uint32(c[0]), nil
	case 0x53:
		return uint64(c[0]), nil
	case 0x54:
		return int32(int8(c[0])), nil
	case 0x55:
		return int64(int8(c[0])), nil
	case 0x56:
		return c[0] != 0, nil
	case 0x60:
		return binary.BigEndian.Uint16(c), nil
	case 0x61:
		return int16(binary.BigEndian.Uint16(c)), nil
	case 0x70:
		return binary.BigEndian.Uint32(c), nil
	case 0x71:
		return int32(binary.BigEndian.Uint32(c)), nil
	case 0x72:
		return math.Float32frombits(binary.BigEndian.Uint32(c)), nil
	case 0x73:
		return Char(binary.BigEndian.Uint32(c)), nil
	case 0x74:
		return Decimal32(c), nil
	case 0x80:
		return binary.BigEndian.Uint64(c), nil
	case 0x81:
		return int64(binary.BigEndian.Uint64(c)), nil
	case 0x82:
		return math.Float64frombits(binary.BigEndian.Uint64(c)), nil
	case 0x83:
		return time.UnixMilli(int64(binary.BigEndian.Uint64(c))).UTC(), nil
	case 0x84:
		return Decimal64(c), nil
	case 0x94:
		return Decimal128(c), nil
	case 0x98:
		return UUID(c), nil
	}
	return nil, errCut
}

// elements splits the content of a list, map or array into the count and the
// elements.
func elements(constructor byte, c []byte) (count uint32, items []byte, ok bool) {
	if constructor>>4 == 0xc || constructor>>4 == 0xe {
		if len(c) < 1 {
			return 0, nil, false
		}
		return uint32(c[0]), c[1:], true
	}
	if len(c) < 4 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(c), c[4:], true
}

func (r *valueReader) list(constructor byte, c []byte, depth int) ([]any, error) {
	count, items, ok := elements(constructor, c)
	if !ok || uint64(count) > uint64(len(items)) { // each has a byte at least
		return nil, errCount
	}
	list := make([]any, 0, min(count, maxGuess))
	for range count {
		v, rest, err := r.value(items, depth+1)
		if err != nil {
			return nil, err
		}
		list, items = append(list, v), rest
	}
	if len(items) > 0 {
		return nil, errCount
	}
	return list, nil
}

// mapping returns a map[string]any, a map[Symbol]any, or if the keys are of
// other types or of several, a map[any]any.
func (r *valueReader) mapping(constructor byte, c []byte, depth int) (any, error) {
	flat, err := r.list(constructor, c, depth)
	if err != nil {
		return nil, err
	}
	if len(flat)%2 != 0 {
		return nil, errCount
	}
	if m, ok := mapOf[string](flat); ok {
		return m, nil
	}
	if m, ok := mapOf[Symbol](flat); ok {
		return m, nil
	}
	m := make(map[any]any, len(flat)/2)
	for i := 0; i < len(flat); i += 2 {
		key := flat[i]
		if b, ok := key.([]byte); ok {
			key = BinaryKey(b)
		}
		if key != nil && !reflect.ValueOf(key).Comparable() {
			return nil, fmt.Errorf("the key of a map is a %T, which Go cannot compare", key)
		}
		m[key] = flat[i+1]
	}
	return m, nil
}

// mapOf returns the map of keys and values that alternate, if all keys are of
// one type.
func mapOf[K comparable](flat []any) (m map[K]any, ok bool) {
	m = make(map[K]any, len(flat)/2)
	for i := 0; i < len(flat); i += 2 {
		key, ok := flat[i].(K)
		if !ok {
			return nil, false
		}
		m[key] = flat[i+1]
	}
	return m, true
}

// array returns the slice of an array.
func (r *valueReader) array(constructor byte, c []byte, depth int) (any, error) {
	count, items, ok := elements(constructor, c)
	if !ok {
		return nil, errCount
	}
	descriptors, element, items, err := r.arrayConstructor(items, depth)
	if err != nil {
		return nil, err
	}
	list, err := r.arrayElements(element, count, items, depth+len(descriptors)+1)
	if err != nil {
		return nil, err
	}
	if descriptors == nil {
		return sliceOf(element, list), nil
	}
	for i := range list {
		for _, d := range descriptors {
			list[i] = Described{Descriptor: d, Value: list[i]}
		}
	}
	return Array(list), nil
}

// arrayConstructor returns the constructor that an array's elements have in
// common, with its descriptors, the innermost one first.
func (r *valueReader) arrayConstructor(b []byte, depth int) (descriptors []any, constructor byte, rest []byte, err error) {
	for len(b) > 0 && b[0] == 0 {
		var d any
		if d, b, err = r.value(b[1:], depth+len(descriptors)+1); err != nil {
			return nil, 0, nil, err
		}
		descriptors = append([]any{d}, descriptors...)
	}
	if len(b) == 0 {
		return nil, 0, nil, errCut
	}
	return descriptors, b[0], b[1:], nil
}

// arrayElements returns the elements of an array, of which items has the
// contents.
func (r *valueReader) arrayElements(constructor byte, count uint32, items []byte, depth int) ([]any, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	if constructor>>4 == 0x4 {
		if uint64(count) > uint64(r.empty) {
			return nil, fmt.Errorf("its arrays have more than %d elements without bytes", maxEmpty)
		}
		r.empty -= int(count)
	} else if uint64(count) > uint64(len(items)) {
		return nil, errCount
	}
	list := make([]any, 0, min(count, maxGuess))
	for range count {
		size, head := contentSize(constructor, items)
		if size < 0 {
			return nil, errCut
		}
		v, err := r.content(constructor, items[head:size], depth)
		if err != nil {
			return nil, err
		}
		list, items = append(list, v), items[size:]
	}
	if len(items) > 0 {
		return nil, errCount
	}
	return list, nil
}

// sliceOf returns the elements of an array as a slice of the type that belongs
// to their constructor.
func sliceOf(constructor byte, list []any) any {
	switch constructor {
	case 0x41, 0x42, 0x56:
		return typed[bool](list)
	case 0x50:
		return UbyteArray(typed[byte](list))
	case 0x60:
		return typed[uint16](list)
	case 0x43, 0x52, 0x70:
		return typed[uint32](list)
	case 0x44, 0x53, 0x80:
		return typed[uint64](list)
	case 0x51:
		return typed[int8](list)
	case 0x61:
		return typed[int16](list)
	case 0x54, 0x71:
		return typed[int32](list)
	case 0x55, 0x81:
		return typed[int64](list)
	case 0x72:
		return typed[float32](list)
	case 0x82:
		return typed[float64](list)
	case 0x73:
		return typed[Char](list)
	case 0x74:
		return typed[Decimal32](list)
	case 0x84:
		return typed[Decimal64](list)
	case 0x94:
		return typed[Decimal128](list)
	case 0x83:
		return typed[time.Time](list)
	case 0x98:
		return typed[UUID](list)
	case 0xa0, 0xb0:
		return typed[[]byte](list)
	case 0xa1, 0xb1:
		return typed[string](list)
	case 0xa3, 0xb3:
		return typed[Symbol](list)
	}
	return Array(list)
}

func typed[T any](list []any) []T {
	out := make([]T, len(list))
	for i, v := range list {
		out[i] = v.(T)
	}
	return out
}
