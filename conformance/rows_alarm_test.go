package conformance

import (
	"github.com/tidemark-go/tidemark/internal/wire"
)

// These rows fill the broker's disk, as it believes, so no other row runs beside
// them.
var alarmRows = []row{
	{name: "DeclarePublisher is refused, whatever it asks for", section: "20", alone: true, run: func(r *run) {
		s := r.stream()
		c, d := r.open(), r.openAs(reader, "/")
		r.fillDisk(s)
		is(r, c.declare(1, "ref", s), precondition)
		is(r, c.declare(1, "", r.name()), precondition)
		is(r, d.declare(1, "", s), precondition)
		r.setAlarm(false)
		r.eventually("accepted again", func() bool { return r.open().declare(1, "", s) == ok })
	}},
	{name: "who does not publish is served", section: "20", alone: true, run: func(r *run) {
		s := r.filled(1)
		r.fillDisk(s)
		c := r.open()
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{0})
		is(r, c.create(r.name()), ok)
		c.store("ref", s, 0)
		is(r, c.query("ref", s), number{ok, 0})
	}},
	{name: "a connection with a publisher is read once more, then not", section: "20", alone: true, run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		r.fillDisk(s)
		c.publish(1, 5)
		c.confirmed(1, 5)
		c.publish(1, 6)
		d := r.open()
		for range 50 {
			is(r, d.sequence("ref", s), number{ok, 5})
		}
		r.setAlarm(false)
		c.confirmed(1, 6)
	}},
	{name: "a renewed login ends the connection", section: "20", alone: true, run: func(r *run) {
		c := r.open()
		r.fillDisk(r.stream())
		c.send(&wire.SaslAuthenticate{Correlation: c.next(), Mechanism: "PLAIN", Data: []byte("\x00guest\x00guest")})
		c.closed(wire.CodeUnknownFrame)
	}},
}

// fillDisk makes the broker believe that its disk is full, until the row ends,
// and waits until it refuses publishers of a stream.
func (r *run) fillDisk(stream string) {
	r.Helper()
	r.Cleanup(func() { r.setAlarm(false) })
	r.setAlarm(true)
	r.eventually("an alarm", func() bool { return r.open().declare(1, "", stream) == precondition })
}

// setAlarm makes the broker believe that its disk is full, or has room.
func (r *run) setAlarm(on bool) {
	r.Helper()
	if r.alarm == nil {
		r.Skip("the disk alarm of this broker cannot be set")
	}
	if err := r.alarm(on); err != nil {
		r.Fatal(err)
	}
}
