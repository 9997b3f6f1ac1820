package stream

// flow decides how much credit a subscription gives, so that the chunks that
// are under way, wait, or are in the hands of the dispatcher have about limit
// bytes. Credit counts chunks, whose size is not known before they come, so that
// it goes by the last ones. One may always be under way while what is in hand is
// less than limit, so that the next one comes meanwhile; behind a larger one,
// nothing is asked for. It is pure: no I/O, no clock, no lock.
type flow struct {
	limit   int // bytes
	waiting int // chunks that came and were not taken
	hand    int // bytes of the chunk in hand
	size    int // bytes of those that wait, and of the one in hand
	granted int // chunks that credit was given for and that have not come
	typical int // bytes of a chunk to come, as far as one can tell
}

// maxChunks bounds how many large chunks may follow small ones before anybody
// knows, and what a round trip costs where they are small.
const maxChunks = 32

// arrived counts a chunk in. It reports whether there was credit for it.
func (f *flow) arrived(n int) bool {
	if f.granted == 0 {
		return false
	}
	f.granted--
	f.waiting++
	f.size += n
	switch {
	case f.typical == 0:
		f.typical = max(n, 1)
	case n > f.typical: // upwards soon, downwards by and by
		f.typical += (n - f.typical + 1) / 2
	default:
		f.typical -= (f.typical - n) / 8
	}
	return true
}

// taken says that a chunk is in hand, and returns the credit to give now.
func (f *flow) taken(n int) (credit int) {
	f.waiting--
	f.hand = n
	return f.grant()
}

// done says that the chunk in hand is no more, and returns the credit to give
// now.
func (f *flow) done() (credit int) {
	f.size -= f.hand
	f.hand = 0
	return f.grant()
}

func (f *flow) grant() int {
	typical := max(f.typical, 1)
	most := min(max(f.limit/typical, 1), maxChunks)
	room := min(most-f.waiting, (f.limit-f.size)/typical) - f.granted
	if f.waiting+f.granted == 0 && f.hand < f.limit {
		room = max(room, 1)
	}
	if room <= 0 || f.granted > 0 && room < most/4 {
		return 0 // a frame for each chunk is worth it only where they are large
	}
	f.granted += room
	return room
}
