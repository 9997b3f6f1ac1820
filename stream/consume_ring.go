package stream

import "sync"

// ring is the memory for a subscription's chunks. It hands out pieces one
// behind the other, and hands them out again once they are given back in that
// order.
//
// New memory for each chunk made the heap grow and shrink by megabytes with
// each garbage collection. The runtime then gave pages back to the operating
// system only to take them again, which was half of the CPU time. With a ring
// the heap keeps its size. What the user may keep is copied out of the ring, a
// block of messages at a time, so a message that is kept holds its block in
// memory and not its chunk.
type ring struct {
	mu     sync.Mutex
	size   int
	mem    []byte  // size bytes; nil before the first piece, and after trim
	pieces []piece // in use, the oldest first
	used   bool    // get has handed out a piece since the last trim
}

// piece is a part of the ring's memory.
type piece struct{ start, end int }

// minPiece is the size below which a chunk gets new memory. Quiet streams have
// such chunks, and so need no ring.
const minPiece = 8 << 10

// get returns n bytes with any content. They lie in the ring if it has room,
// and are new otherwise.
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

// room returns where n free bytes lie in one piece. The caller holds r.mu.
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

// put takes back the oldest piece if b is that piece. It leaves memory outside
// the ring to the garbage collector.
func (r *ring) put(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pieces) == 0 || len(b) == 0 || &b[0] != &r.mem[r.pieces[0].start] {
		return
	}
	r.pieces = r.pieces[:copy(r.pieces, r.pieces[1:])]
}

// trim gives up the memory if no piece was in use since the last trim.
func (r *ring) trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.used && len(r.pieces) == 0 {
		r.mem = nil
	}
	r.used = false
}
