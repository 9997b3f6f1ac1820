package wire

import (
	"encoding/binary"
	"fmt"
)

// AppendPublishConfirm appends a PublishConfirm frame.
func AppendPublishConfirm(b []byte, publisherID uint8, ids []uint64) []byte {
	start := len(b)
	b = append(appendHead(b, KeyPublishConfirm, Version1), publisherID)
	b = binary.BigEndian.AppendUint32(b, uint32(len(ids)))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return finishFrame(b, start)
}

// AppendPublishError appends a PublishError frame with the same code for all
// ids.
func AppendPublishError(b []byte, publisherID uint8, code Code, ids []uint64) []byte {
	start := len(b)
	b = append(appendHead(b, KeyPublishError, Version1), publisherID)
	b = binary.BigEndian.AppendUint32(b, uint32(len(ids)))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
		b = binary.BigEndian.AppendUint16(b, uint16(code))
	}
	return finishFrame(b, start)
}

// Outcomes is a decoded PublishConfirm or PublishError: a list of publishing
// ids and their codes. It aliases the frame.
type Outcomes struct {
	PublisherID uint8
	items       []byte
	itemLen     int
}

// The lengths of an item: a publishing id, in a PublishError also its code.
const (
	confirmItemLen = 8
	errorItemLen   = 10
)

// DecodePublishConfirm reads the fields of a PublishConfirm, each of whose ids
// has CodeOK.
func DecodePublishConfirm(fields []byte) (Outcomes, error) {
	return decodeOutcomes(fields, confirmItemLen, KeyPublishConfirm)
}

// DecodePublishError reads the fields of a PublishError.
func DecodePublishError(fields []byte) (Outcomes, error) {
	return decodeOutcomes(fields, errorItemLen, KeyPublishError)
}

func decodeOutcomes(fields []byte, itemLen int, key Key) (Outcomes, error) {
	if len(fields) < 5 {
		return Outcomes{}, fmt.Errorf("decode %v: %w: short frame", key, ErrMalformed)
	}
	items := fields[5:]
	if uint64(binary.BigEndian.Uint32(fields[1:]))*uint64(itemLen) != uint64(len(items)) {
		return Outcomes{}, fmt.Errorf("decode %v: %w: count and length differ", key, ErrMalformed)
	}
	return Outcomes{PublisherID: fields[0], items: items, itemLen: itemLen}, nil
}

// Len returns how many ids there are.
func (o *Outcomes) Len() int {
	if o.itemLen == 0 {
		return 0
	}
	return len(o.items) / o.itemLen
}

// At returns the i-th publishing id and its code. i is at least 0 and less than
// Len.
func (o *Outcomes) At(i int) (uint64, Code) {
	item := o.items[i*o.itemLen:][:o.itemLen]
	if o.itemLen == confirmItemLen {
		return binary.BigEndian.Uint64(item), CodeOK
	}
	return binary.BigEndian.Uint64(item), Code(binary.BigEndian.Uint16(item[8:]))
}
