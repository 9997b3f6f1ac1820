package streamtest

// The broker bounds what it stores, whatever clients send. Beyond the limit it acts like RabbitMQ with its
// disk alarm on: connections that publish are not read and DeclarePublisher is refused, until streams are
// deleted or retention removes enough. Besides, no stream is created and no new reference stored.

// What small things are counted with, roughly: bookkeeping included.
const (
	streamCost    = 4 << 10
	chunkCost     = 128
	filterCost    = 64
	referenceCost = 128
)

// full reports whether the limit is reached.
func (b *Broker) full() bool { return b.stored >= b.cfg.memory }

// account runs a change of what a stream stores and keeps the broker's sum right.
func (b *Broker) account(s *stream, change func()) {
	before, wasFull, removed := s.log.size, b.full(), s.log.removed
	change()
	if s.log.removed != removed {
		s.dropOffsets()
	}
	b.store(s.log.size-before, wasFull)
}

// store adds to the sum. Connections that waited for room go on when there is some again.
func (b *Broker) store(n int64, wasFull bool) {
	b.stored += n
	switch {
	case wasFull && !b.full():
		b.nudge()
	case !wasFull && b.full():
		b.cfg.logger.Warn("memory limit reached: publishers are blocked", "limit", b.cfg.memory)
	}
}

// remember counts a reference that is stored with a stream for the first time; it reports whether there is
// room.
func (b *Broker) remember(s *stream, known bool, reference string) bool {
	if known {
		return true
	}
	if b.full() {
		return false
	}
	b.account(s, func() { s.log.size += referenceCost + int64(len(reference)) })
	return true
}
