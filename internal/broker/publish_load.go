package broker

// RabbitMQ gives a connection 50,000 entries of publish credit, for all of its
// publishers. It takes them back only when entries are written, and never those
// that were unconfirmed when their leader died. Without credit it reads nothing
// more from the connection (PROTOCOL-FACTS, section 20).
const (
	// connEntries is how many entries may be unconfirmed on a connection.
	connEntries = 40_000
	// MaxUnconfirmed is how many entries of one stream may be unconfirmed on a
	// connection. It leaves room for the others where a stream confirms nothing.
	MaxUnconfirmed = 30_000
	// highLoad is how many unconfirmed entries of a connection are not many yet. Those
	// of one publisher are few below fewEntries.
	highLoad   = 2_000
	fewEntries = 1_024
)

// load counts the entries on a connection that the broker has neither confirmed
// nor refused. It is pure.
type load struct {
	unconfirmed int
	lost        int // of these, what no broker confirms any more
	streams     map[string]*streamLoad
}

// streamLoad is the part of one stream.
type streamLoad struct {
	publishers  int
	unconfirmed int
	outcomes    uint64 // how often there was one
	seen        uint64 // outcomes at the last look
	still       int    // looks in a row without an outcome, though entries waited
	starved     bool   // a publisher has found no room; until the next look
}

func newLoad() *load { return &load{streams: map[string]*streamLoad{}} }

// join returns the part of a stream, for one more publisher.
func (l *load) join(stream string) *streamLoad {
	s := l.streams[stream]
	if s == nil {
		s = &streamLoad{}
		l.streams[stream] = s
	}
	s.publishers++
	return s
}

// leave ends a publisher's part. What it left unconfirmed stays counted for good:
// the broker may never give the credit back.
func (l *load) leave(stream string, unconfirmed int) {
	s := l.streams[stream]
	l.lost += unconfirmed
	s.unconfirmed -= unconfirmed
	if s.publishers--; s.publishers == 0 {
		delete(l.streams, stream)
	}
}

// room is how many entries of a stream may be sent now.
func (l *load) room(s *streamLoad) int {
	return max(0, min(connEntries-l.unconfirmed, MaxUnconfirmed-s.unconfirmed))
}

// isHigh reports whether the connection has many unconfirmed entries.
func (l *load) isHigh() bool { return l.unconfirmed > highLoad }

// sent counts entries that go out.
func (l *load) sent(s *streamLoad, n int) {
	l.unconfirmed += n
	s.unconfirmed += n
}

// sentForNobody counts entries of a publisher that go out after it has left.
func (l *load) sentForNobody(n int) {
	l.unconfirmed += n
	l.lost += n
}

// settled counts entries that have their outcome.
func (l *load) settled(s *streamLoad, n int) {
	l.unconfirmed -= n
	s.unconfirmed -= n
	s.outcomes++
}

// stillLooks is how many looks in a row make a stream one that confirms nothing.
const stillLooks = 5

// look is called once a second. It reports whether the other streams should
// leave the connection: one stream confirms nothing while another one goes on or
// finds no room, or credit is lost.
func (l *load) look() (crowded bool) {
	still, others := false, false
	for _, s := range l.streams {
		switch {
		case s.outcomes != s.seen:
			s.still, others = 0, true
		case s.unconfirmed == 0:
			s.still, others = 0, others || s.starved
		default:
			s.still++
		}
		s.seen, s.starved = s.outcomes, false
		still = still || s.isStill()
	}
	return l.lost > 0 || still && others
}

// isStill reports whether the stream has confirmed nothing for a while.
func (s *streamLoad) isStill() bool { return s.still >= stillLooks }
