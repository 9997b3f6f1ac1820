package stream

// loan is the memory of deliveries that belong to the handler until it returns (see
// ConsumerConfig.ReuseDelivery): one block, for one chunk after the other.
type loan struct {
	deliveries []Delivery
	sections   []sections // those of the message at the same place, if it has any
	lent       int        // how many of each may not be zero
}

// lentSize is how many messages are lent at a time. With 32 a stream was read an
// eighth more slowly, and with 128 no faster. A hundred partitions have a block
// each.
const lentSize = 64

func newLoan() *loan {
	return &loan{deliveries: make([]Delivery, lentSize), sections: make([]sections, lentSize)}
}

// room returns an empty list with room for n messages, lentSize at most. Those of
// the list before are taken back.
func (l *loan) room(n int) []Delivery {
	l.end()
	l.lent = n
	return l.deliveries[:0:n]
}

// moved gives the message at i, which was copied from a higher place, the sections
// at i. It does nothing with a nil loan.
func (l *loan) moved(list []Delivery, i int) {
	if d := &list[i]; l != nil && d.sections != nil {
		l.sections[i] = *d.sections
		d.sections = &l.sections[i]
	}
}

// end takes everything back, so that nothing of a chunk is held in memory. No
// message has a place outside the room: a chunk has no further ones then, or there
// is room for lentSize.
func (l *loan) end() {
	clear(l.deliveries[:l.lent])
	clear(l.sections[:l.lent])
	l.lent = 0
}
