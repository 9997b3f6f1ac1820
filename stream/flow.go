package stream

// flow decides how much credit a subscription gives, so that the chunks that
// wait for their handler have about limit bytes. Credit counts chunks, whose
// size is not known before they come, so that it goes by the last ones; two
// chunks may always be under way, and never more than maxChunks. It is pure: no
// I/O, no clock, no lock.
type flow struct {
	limit   int // bytes
	waiting int // chunks that came and were not taken
	size    int // bytes of these
	granted int // chunks that credit was given for and that have not come
	typical int // bytes of a chunk to come, as far as one can tell
}

const (
	minChunks = 2
	// maxChunks bounds how many large chunks may follow small ones before
	// anybody knows, and what a round trip costs where they are small.
	maxChunks = 32
)

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

// taken counts a chunk out and returns the credit to give now.
func (f *flow) taken(n int) (credit int) {
	f.waiting--
	f.size -= n
	most := min(max(f.limit/f.typical, minChunks), maxChunks)
	room := min(most-f.waiting, (f.limit-f.size)/f.typical) - f.granted
	room = max(room, minChunks-f.waiting-f.granted)
	if room <= 0 || f.granted > 0 && room < most/4 {
		return 0 // a frame for each chunk is worth it only where they are large
	}
	f.granted += room
	return room
}
