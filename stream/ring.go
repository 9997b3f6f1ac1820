package stream

import "sync"

// ring is the memory that a subscription's chunks come in, one behind the
// other, to be used again in that order. What the user may keep is copied out of
// it, a block of messages at a time: a message that is kept holds its block in
// memory and not the chunk. And the heap stays as large as it is: with new memory
// for each chunk it grew and shrank by megabytes with each garbage collection,
// and the runtime gave pages back to the operating system only to take them
// again, which was half of the CPU time.
type ring struct {
	mu     sync.Mutex
	size   int
	mem    []byte  // nil until there is use for it
	pieces []piece // in use, the oldest first
	used   bool    // since the last trim
}

type piece struct{ start, end int }

// minPiece is the least that is worth a place in a ring: streams that are quiet
// need none.
const minPiece = 8 << 10

// get returns n bytes of anything: of the ring if it has room, or new ones.
func (r *ring) get(n int) []byte {
	if n >= minPiece && n <= r.size {
		r.mu.Lock()
		defer r.mu.Unlock()
		if start, ok := r.room(n); ok {
			if r.mem == nil {
				r.mem = make([]byte, r.size)
			}
			r.used = true
			r.pieces = append(r.pieces, piece{start, start + n})
			return r.mem[start : start+n : start+n]
		}
	}
	return make([]byte, n)
}

// room finds n free bytes in one piece.
func (r *ring) room(n int) (start int, ok bool) {
	if len(r.pieces) == 0 {
		return 0, true
	}
	first, last := r.pieces[0].start, r.pieces[len(r.pieces)-1].end
	switch wrapped := last <= first; {
	case wrapped:
		return last, n <= first-last
	case n <= r.size-last:
		return last, true
	}
	return 0, n <= first
}

// put takes back the oldest piece, if b is it: what came from elsewhere is for
// the garbage collector.
func (r *ring) put(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pieces) == 0 || len(b) == 0 || &b[0] != &r.mem[r.pieces[0].start] {
		return
	}
	r.pieces = r.pieces[:copy(r.pieces, r.pieces[1:])]
}

// trim lets go of the memory if there was no use for it since the last time.
func (r *ring) trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.used && len(r.pieces) == 0 {
		r.mem = nil
	}
	r.used = false
}
