package streamtest

import (
	"cmp"
	"maps"
	"slices"
)

// This file handles writes that a leader has taken and that are not committed: no
// majority of its replicas has them. As in RabbitMQ nobody can read such a write
// and it is not confirmed, but the sequence of its publisher counts it. So a
// repeat of it is dropped, and confirmed together with it.

// uncommitted is what a stream holds that is not committed.
type uncommitted struct {
	chunks []tailChunk
	waits  []waitingConfirm
	size   int64 // of the chunks
	// before holds the committed sequence of each reference under which something
	// is not committed.
	before map[string]sequence
}

// tailChunk is a chunk with the time of its write.
type tailChunk struct {
	pending
	now int64
}

// waitingConfirm confirms messages once everything is committed.
type waitingConfirm struct {
	conn      *conn
	publisher *publisher
	ids       []uint64
}

// sequence is the highest publishing id of a reference.
type sequence struct {
	id    uint64
	write uint64 // number of the write that had it, see stream.writes
}

// noteSequence makes id the highest one of a reference.
func (s *stream) noteSequence(reference string, id uint64) {
	if s.quorumLost {
		if _, noted := s.tail.before[reference]; !noted {
			if s.tail.before == nil {
				s.tail.before = make(map[string]sequence)
			}
			s.tail.before[reference] = s.sequences[reference]
		}
	}
	s.sequences[reference] = sequence{id, s.writes}
}

// add stores a chunk that is not committed.
func (u *uncommitted) add(p pending, now int64) (cost int64) {
	u.chunks = append(u.chunks, tailChunk{p, now})
	u.size += p.chunk.cost()
	return p.chunk.cost()
}

// confirmWhenWritten confirms messages that were stored, or dropped as
// duplicates, as soon as they are committed.
func (c *conn) confirmWhenWritten(p *publisher, ids []uint64, duplicates bool) {
	s := p.stream
	waits := s.quorumLost
	if duplicates {
		_, waits = s.tail.before[p.reference]
	}
	if !waits || len(ids) == 0 {
		c.confirm(p, ids)
		return
	}
	s.tail.waits = append(s.tail.waits, waitingConfirm{c, p, slices.Clone(ids)})
}

// commitTail commits what is not committed. It confirms it if the leader is still
// the same.
func (b *Broker) commitTail(s *stream, sameLeader bool) {
	tail := s.tail
	s.tail, s.quorumLost = uncommitted{}, false
	b.trackSize(s, func() {
		s.log.size -= tail.size
		for _, c := range tail.chunks {
			s.append(c.pending, c.now)
		}
	})
	if len(tail.chunks) > 0 {
		s.wakeReaders()
	}
	if !sameLeader {
		return
	}
	for _, w := range tail.waits {
		w.conn.confirm(w.publisher, w.ids)
	}
}

// dropTail loses what is not committed. The sequences fall back.
func (b *Broker) dropTail(s *stream) {
	tail := s.tail
	s.tail, s.quorumLost = uncommitted{}, false
	b.trackSize(s, func() {
		s.log.size -= tail.size
		for reference, committed := range tail.before {
			if committed.write == 0 {
				s.forgetWriter(reference)
				continue
			}
			s.sequences[reference] = committed
		}
	})
}

// forgetWriter drops a publisher reference.
func (s *stream) forgetWriter(reference string) {
	delete(s.sequences, reference)
	s.log.size -= referenceCost + int64(len(reference))
}

// maxWriters is how many publisher references a stream remembers when it begins
// a segment: the latest that wrote. RabbitMQ has the same limit, and also keeps
// more until then.
const maxWriters = 255

// forgetWriters drops all publisher references but the latest.
func (s *stream) forgetWriters() {
	surplus := len(s.sequences) - maxWriters
	if surplus <= 0 {
		return
	}
	names := slices.SortedFunc(maps.Keys(s.sequences), func(a, b string) int {
		return cmp.Compare(s.sequences[a].write, s.sequences[b].write)
	})
	for _, name := range names[:surplus] {
		s.forgetWriter(name)
	}
}

// SetQuorum with false takes the majority of its replicas away from a stream,
// while its leader goes on. As in RabbitMQ the leader takes what is published and
// commits nothing: it confirms nothing, nobody can read it, and the publishing
// ids count. With true the stream commits and confirms what has waited. MoveLeader
// ends it too, as a new leader has a majority, and commits what has waited, but
// nobody confirms that; LoseLeader loses it. Offsets are stored as always.
// SetQuorum returns a *StreamError if the stream does not exist.
func (b *Broker) SetQuorum(name string, quorum bool) error {
	return b.withStream("set quorum of", name, func(s *stream) {
		b.writeAll()
		if !quorum {
			s.quorumLost = true
			return
		}
		b.commitTail(s, true)
	})
}

// LoseLeader is MoveLeader to a node that lacks what is not committed: what was
// published since SetQuorum with false. It is gone, and the publishing ids of its
// producers fall back to those of committed messages. LoseLeader returns a
// *StreamError if the stream does not exist.
func (b *Broker) LoseLeader(name string) error {
	return b.withStream("lose leader of", name, func(s *stream) {
		b.writeAll()
		b.dropTail(s)
		b.evict(s)
	})
}

// writeAll writes what all connections have published.
func (b *Broker) writeAll() {
	for c := range b.conns {
		c.writePublished()
	}
}
