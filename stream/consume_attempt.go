package stream

import (
	"bytes"
	"errors"
	"time"
)

// Permanent marks a handler's error as one that no further attempt can mend,
// such as a message that cannot be parsed. A handler that returns it is not
// called again for the message: ErrorPolicy settles the failure at once by Skip
// or DeadLetter, or the run ends. It does so wherever the error is wrapped.
// [errors.Is] and [errors.As] see err through it, and its text is that of err.
// Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// isPermanent reports whether the handler is not to be called again.
func isPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// originals are copies of the messages that a handler is called for, as they
// came. The handler may change what it gets. The memory serves one call after
// the other, so that a message which does not fail costs no allocation.
type originals struct {
	list  []original
	bytes []byte // of all messages, one behind the other
}

type original struct {
	stream    string
	offset    uint64
	timestamp time.Time
	size      int // of the encoded message
}

// maxIdle is how many bytes originals keep from one message to the next. There
// may be thousands of workers. A run has one batch at a time, whose memory is
// kept whatever it is.
const maxIdle = 64 << 10

// originals returns memory for the messages that a handler has, or nil if the
// policy never looks at them again. Both keep and keepOne do nothing with nil.
func (r *run) originals() *originals {
	if p := r.consumer.cfg.OnError; p.Attempts == 1 && p.DeadLetter == "" {
		return nil
	}
	return &originals{}
}

// keepOne copies the message for which the handler is about to be called.
func (o *originals) keepOne(d *Delivery) {
	if o == nil {
		return
	}
	if cap(o.bytes) > maxIdle {
		o.bytes = nil
	}
	o.clear()
	o.add(d)
}

// keep copies the batch for which the handler is about to be called.
func (o *originals) keep(batch []Delivery) {
	if o == nil {
		return
	}
	o.clear()
	for i := range batch {
		o.add(&batch[i])
	}
}

func (o *originals) clear() {
	o.list, o.bytes = o.list[:0], o.bytes[:0]
	if o.bytes == nil {
		o.bytes = []byte{} // because appendData makes memory of its own for nil
	}
}

func (o *originals) add(d *Delivery) {
	before := len(o.bytes)
	if d.sections == nil {
		o.bytes = appendData(o.bytes, d.Body)
	} else {
		o.bytes = append(o.bytes, d.sections.raw...)
	}
	o.list = append(o.list, original{d.Stream, d.Offset, d.Timestamp, len(o.bytes) - before})
}

// deliveries returns the messages as they came, for one more attempt. They have
// memory of their own.
func (o *originals) deliveries(attempt int) []Delivery {
	out := make([]Delivery, len(o.list))
	all, raws := make([]sections, len(o.list)), bytes.Clone(o.bytes)
	for i, m := range o.list {
		raw := raws[:m.size:m.size]
		raws = raws[m.size:]
		all[i] = sections{raw: raw, attempt: attempt}
		body, _ := bodyOf(raw)
		out[i] = Delivery{Stream: m.stream, Offset: m.offset, Timestamp: m.timestamp, Body: body, sections: &all[i]}
	}
	return out
}

// failure is what a handler has failed for.
type failure struct {
	offset uint64     // of the message, or of the first of a batch
	given  []Delivery // what the handler got, and may have changed
	kept   *originals // nil if the policy does not need them
}

// messages returns the messages as they came, for an attempt or as dead
// letters.
func (f *failure) messages(attempt int) []Delivery {
	if f.kept == nil {
		return f.given
	}
	return f.kept.deliveries(attempt)
}
