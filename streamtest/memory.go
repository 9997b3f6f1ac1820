package streamtest

// This file bounds the memory of the broker, whatever clients send. At the
// limit the broker acts like RabbitMQ with its disk alarm on, until a deletion
// or retention frees enough: it does not read connections that have a
// publisher, and refuses DeclarePublisher. It also creates no stream and stores
// no offset under a new reference.

// These constants approximate the bytes that bookkeeping takes for each thing.
// A super stream costs as much as a stream.
const (
	streamCost    = 4 << 10
	chunkCost     = 128
	filterCost    = 64
	referenceCost = 128
)

// full reports whether the broker has reached its memory limit.
func (b *Broker) full() bool { return b.stored >= b.cfg.memory }

// fits reports whether the broker can store n more bytes of bookkeeping, piece
// by piece: the limit is reached with the last piece at the earliest.
func (b *Broker) fits(n int64) bool { return b.stored+n-streamCost < b.cfg.memory }

// trackSize calls change, which changes the data of a stream, and updates the
// total size. It also deletes the stored offsets that retention made obsolete.
func (b *Broker) trackSize(s *stream, change func()) {
	before, wasFull, removed := s.log.size, b.full(), s.log.removed
	change()
	if s.log.removed != removed {
		s.dropOffsets()
	}
	b.addStored(s.log.size-before, wasFull)
}

// addStored adds n bytes to the total size, negative ones too. wasFull is the
// result of full before the change. When memory becomes available, addStored
// wakes the connections that wait for it.
func (b *Broker) addStored(n int64, wasFull bool) {
	b.stored += n
	switch {
	case wasFull && !b.full():
		b.nudge()
	case !wasFull && b.full():
		b.cfg.logger.Warn("memory limit reached: publishers are blocked", "limit", b.cfg.memory)
	}
}

// reserveReference adds the size of a new consumer reference to that of the
// stream. It returns false if the memory is full. A known reference needs no
// memory.
func (b *Broker) reserveReference(s *stream, known bool, reference string) bool {
	if known {
		return true
	}
	if b.full() {
		return false
	}
	b.trackSize(s, func() { s.log.size += referenceCost + int64(len(reference)) })
	return true
}
