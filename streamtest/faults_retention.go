package streamtest

// RemoveBefore acts as if retention had removed the oldest messages of a stream:
// every chunk that ends before offset. The newest chunk stays, as RabbitMQ keeps
// the newest segment. Stored offsets below the first one that is left are
// forgotten, as RabbitMQ forgets them when it begins a segment: QueryOffset then
// answers as if nothing had ever been stored. A subscription that has not come
// to the removed messages goes on at the first that is left. If the stream does
// not exist, the error is a *StreamError.
func (b *Broker) RemoveBefore(streamName string, offset uint64) error {
	return b.withStream("remove messages of", streamName, func(s *stream) {
		b.trackSize(s, func() { s.log.removeBefore(offset) })
	})
}

// removeBefore removes the chunks that end before offset, but for the newest.
func (l *streamLog) removeBefore(offset uint64) {
	gone := 0
	for gone+1 < len(l.chunks) && l.chunks[gone+1].first <= offset {
		c := &l.chunks[gone]
		l.size -= c.cost()
		for len(l.segments) > 1 && l.segments[1].first <= l.removed+uint64(gone) {
			l.segments = append([]segment(nil), l.segments[1:]...)
		}
		l.segments[0].bytes -= int64(len(c.bytes))
		gone++
	}
	l.chunks = append([]chunk(nil), l.chunks[gone:]...)
	l.removed += uint64(gone)
	for len(l.segments) > 1 && l.segments[1].first <= l.removed {
		l.segments = append([]segment(nil), l.segments[1:]...)
	}
	if len(l.segments) > 0 {
		l.segments[0].first = max(l.segments[0].first, l.removed)
	}
}
