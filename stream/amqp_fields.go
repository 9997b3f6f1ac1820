package stream

import (
	"fmt"
	"math"
	"time"
)

// fieldWriter writes the section of a Header or of Properties, which is a list.
// Fields without a value are null, and missing at the end.
type fieldWriter struct {
	section string // its Go name
	b       []byte
	opened  int // where the list begins
	fields  int // how many are written
	set     int // how many come up to the last with a value
	end     int // where that one ends
	err     error
}

func openFields(b []byte, code byte, section string) fieldWriter {
	b = append(b, 0, 0x53, code)
	w := fieldWriter{section: section, opened: len(b)}
	w.b = openCompound(b, 0xd0, 0)
	w.end = len(w.b)
	return w
}

// omit writes null for the next field.
func (w *fieldWriter) omit() { w.b, w.fields = append(w.b, 0x40), w.fields+1 }

// put takes what a function has appended to w.b for the next field.
func (w *fieldWriter) put(name string, b []byte, err error) {
	if err != nil {
		if w.err == nil {
			w.err = fmt.Errorf("%s.%s: %w", w.section, name, err)
		}
		return
	}
	w.b, w.fields = b, w.fields+1
	w.set, w.end = w.fields, len(b)
}

func (w *fieldWriter) text(name, v string) {
	if v == "" {
		w.omit()
		return
	}
	b, err := appendText(w.b, v)
	w.put(name, b, err)
}

func (w *fieldWriter) symbol(name, v string) {
	if v == "" {
		w.omit()
		return
	}
	b, err := appendSymbol(w.b, v)
	w.put(name, b, err)
}

func (w *fieldWriter) bytes(name string, v []byte) {
	if len(v) == 0 {
		w.omit()
		return
	}
	b, err := appendBinary(w.b, v)
	w.put(name, b, err)
}

func (w *fieldWriter) time(name string, v time.Time) {
	if v.IsZero() {
		w.omit()
		return
	}
	b, err := appendTime(w.b, v)
	w.put(name, b, err)
}

func (w *fieldWriter) uint(name string, v uint32) {
	if v == 0 {
		w.omit()
		return
	}
	w.put(name, appendUint(w.b, v), nil)
}

// id writes an id of one of the types that the standard allows.
func (w *fieldWriter) id(name string, v any) {
	switch v.(type) {
	case nil:
		w.omit()
	case uint64, UUID, []byte, string:
		b, _, err := appendScalar(w.b, v)
		w.put(name, b, err)
	default:
		w.put(name, nil, fmt.Errorf("it is the %T %v; an id must be a uint64, UUID, []byte or string", v, v))
	}
}

// close returns the bytes up to the section's end.
func (w *fieldWriter) close() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	if w.set == 0 {
		return append(w.b[:w.opened], 0x45), nil
	}
	b := w.b[:w.end]
	openCompound(b[:w.opened], 0xd0, w.set)
	return closeCompound(b, w.opened), nil
}

// appendTo appends the section, unless it is nil.
func (h *Header) appendTo(b []byte) ([]byte, error) {
	if h == nil {
		return b, nil
	}
	w := openFields(b, sectionHeader, "Header")
	w.put("Durable", appendBool(w.b, h.Durable), nil)
	if h.Priority == defaultPriority {
		w.omit()
	} else {
		w.put("Priority", append(w.b, 0x50, h.Priority), nil)
	}
	w.ttl(h.TTL)
	if h.FirstAcquirer {
		w.put("FirstAcquirer", appendBool(w.b, true), nil)
	} else {
		w.omit()
	}
	w.uint("DeliveryCount", h.DeliveryCount)
	return w.close()
}

// ttl writes a number of milliseconds. It refuses a TTL that would become none.
func (w *fieldWriter) ttl(v time.Duration) {
	const longest = math.MaxUint32 * time.Millisecond
	if v < 0 || v > 0 && v < time.Millisecond || v > longest {
		w.put("TTL", nil, fmt.Errorf("it is %v; it must be from 1ms to %v, or 0 for none", v, longest))
		return
	}
	w.uint("TTL", uint32(v.Milliseconds()))
}

// appendProperties appends the section, unless there is nothing to send.
// creation is sent if it is not zero and the properties have no CreationTime.
func appendProperties(b []byte, p *Properties, creation time.Time) ([]byte, error) {
	switch {
	case p == nil && creation.IsZero():
		return b, nil
	case p == nil:
		p = &noProperties
	}
	if !p.CreationTime.IsZero() {
		creation = p.CreationTime
	}
	w := openFields(b, sectionProperties, "Properties")
	w.id("MessageID", p.MessageID)
	w.bytes("UserID", p.UserID)
	w.text("To", p.To)
	w.text("Subject", p.Subject)
	w.text("ReplyTo", p.ReplyTo)
	w.id("CorrelationID", p.CorrelationID)
	w.symbol("ContentType", p.ContentType)
	w.symbol("ContentEncoding", p.ContentEncoding)
	w.time("AbsoluteExpiryTime", p.AbsoluteExpiryTime)
	w.time("CreationTime", creation)
	w.text("GroupID", p.GroupID)
	w.uint("GroupSequence", p.GroupSequence)
	w.text("ReplyToGroupID", p.ReplyToGroupID)
	return w.close()
}

// noProperties stands for those of a message that has none. It is only read.
var noProperties Properties
