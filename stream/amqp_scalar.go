package stream

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

// This file writes the AMQP 1.0 values that hold no others, straight into the
// caller's buffer, in the shortest form (OASIS AMQP 1.0, part 1, section 1.6).
// A value that the form cannot hold is an error; none wraps around.

// The first and the last time that an AMQP timestamp can hold, which is 64 bits
// of milliseconds.
var (
	minTime = time.UnixMilli(math.MinInt64).UTC()
	maxTime = time.UnixMilli(math.MaxInt64).UTC()
)

// appendScalar appends a value that holds no others. ok is false for any other
// value.
func appendScalar(b []byte, v any) (out []byte, ok bool, err error) {
	switch v := v.(type) {
	case nil:
		return append(b, 0x40), true, nil
	case bool:
		return appendBool(b, v), true, nil
	case string:
		out, err = appendText(b, v)
	case []byte:
		out, err = appendBinary(b, v)
	case BinaryKey:
		out, err = appendBinary(b, v)
	case Symbol:
		out, err = appendSymbol(b, v)
	case time.Time:
		out, err = appendTime(b, v)
	case Char:
		out, err = appendChar(b, v)
	default:
		return appendNumber(b, v)
	}
	return out, true, err
}

// appendNumber appends a number, or bytes that stand for one.
func appendNumber(b []byte, v any) (out []byte, ok bool, err error) {
	switch v := v.(type) {
	case int:
		b = appendLong(b, int64(v))
	case int8:
		b = append(b, 0x51, byte(v))
	case int16:
		b = binary.BigEndian.AppendUint16(append(b, 0x61), uint16(v))
	case int32:
		b = appendInt(b, v)
	case int64:
		b = appendLong(b, v)
	case uint:
		b = appendUlong(b, uint64(v))
	case uint8:
		b = append(b, 0x50, v)
	case uint16:
		b = binary.BigEndian.AppendUint16(append(b, 0x60), v)
	case uint32:
		b = appendUint(b, v)
	case uint64:
		b = appendUlong(b, v)
	case float32:
		b = binary.BigEndian.AppendUint32(append(b, 0x72), math.Float32bits(v))
	case float64:
		b = binary.BigEndian.AppendUint64(append(b, 0x82), math.Float64bits(v))
	case UUID:
		b = append(append(b, 0x98), v[:]...)
	case Decimal32:
		b = append(append(b, 0x74), v[:]...)
	case Decimal64:
		b = append(append(b, 0x84), v[:]...)
	case Decimal128:
		b = append(append(b, 0x94), v[:]...)
	default:
		return b, false, nil
	}
	return b, true, nil
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 0x41)
	}
	return append(b, 0x42)
}

func appendInt(b []byte, n int32) []byte {
	if n == int32(int8(n)) {
		return append(b, 0x54, byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0x71), uint32(n))
}

func appendLong(b []byte, n int64) []byte {
	if n == int64(int8(n)) {
		return append(b, 0x55, byte(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0x81), uint64(n))
}

func appendUint(b []byte, n uint32) []byte {
	switch {
	case n == 0:
		return append(b, 0x43)
	case n <= 255:
		return append(b, 0x52, byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0x70), n)
}

func appendUlong(b []byte, n uint64) []byte {
	switch {
	case n == 0:
		return append(b, 0x44)
	case n <= 255:
		return append(b, 0x53, byte(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0x80), n)
}

// appendVariable appends a binary, string or symbol, given the constructor of
// its short form.
func appendVariable[T ~string | ~[]byte](b []byte, short byte, v T) ([]byte, error) {
	switch n := len(v); {
	case n > maxEncoded:
		return nil, fmt.Errorf("it has %d bytes; a message has %d at most", n, maxEncoded)
	case n <= 255:
		b = append(b, short, byte(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, short+0x10), uint32(n))
	}
	return append(b, v...), nil
}

func appendBinary[T ~string | ~[]byte](b []byte, v T) ([]byte, error) {
	return appendVariable(b, 0xa0, v)
}

func appendText(b []byte, s string) ([]byte, error) {
	if len(s) <= maxEncoded && !utf8.ValidString(s) {
		return nil, fmt.Errorf("the string %s is not UTF-8", quoted(s))
	}
	return appendVariable(b, 0xa1, s)
}

func appendSymbol[T ~string](b []byte, s T) ([]byte, error) {
	if len(s) <= maxEncoded {
		if err := checkSymbol(s); err != nil {
			return nil, err
		}
	}
	return appendVariable(b, 0xa3, s)
}

func checkSymbol[T ~string](s T) error {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return fmt.Errorf("the symbol %s has a character that is not ASCII", quoted(string(s)))
		}
	}
	return nil
}

func appendTime(b []byte, t time.Time) ([]byte, error) {
	if err := checkTime(t); err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(append(b, 0x83), uint64(t.UnixMilli())), nil
}

// checkTime compares with Before and After, for which the times that Unix makes
// wrap around are out of the range too.
func checkTime(t time.Time) error {
	if t.Before(minTime) || t.After(maxTime) {
		return fmt.Errorf("the time %v does not fit into 64 bits of milliseconds; it must be from %v to %v", t, minTime, maxTime)
	}
	return nil
}

func appendChar(b []byte, c Char) ([]byte, error) {
	if err := checkChar(c); err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint32(append(b, 0x73), uint32(c)), nil
}

func checkChar(c Char) error {
	if !utf8.ValidRune(rune(c)) {
		return fmt.Errorf("the Char %d is not a Unicode character", rune(c))
	}
	return nil
}

// quoted returns the beginning of a text for an error.
func quoted(s string) string {
	const enough = 40
	if len(s) > enough {
		return fmt.Sprintf("%q...", s[:enough])
	}
	return fmt.Sprintf("%q", s)
}
