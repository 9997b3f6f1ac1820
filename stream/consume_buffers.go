package stream

import "math/bits"

// buffers keeps memory for chunks until it is used again. It has lists of free
// buffers by size. It is pure: no lock, no clock.
//
// New memory for each chunk made the heap grow and shrink by megabytes with
// each garbage collection. The runtime then gave pages back to the operating
// system only to take them again, which was half of the CPU time. What the user
// may keep is copied out of the buffers, a block of messages at a time, so a
// message that is kept holds its block in memory and not its chunk. Small chunks
// lie elsewhere (see smallChunks).
type buffers map[int]*freeBuffers

// freeBuffers are the free buffers of one size.
type freeBuffers struct {
	list  [][]byte
	least int // the fewest there were since the last trim
}

const (
	// minBuffer and maxBuffer are the smallest and the largest size. Smaller
	// chunks share blocks (see smallChunks); for larger ones the connection's
	// reader allocates itself.
	minBuffer = 8 << 10
	maxBuffer = 4 << 20
)

// bufferSize returns the size of the buffer for n bytes: there are four sizes
// to each doubling, so at most a fifth of a buffer is not used.
func bufferSize(n int) int {
	if n <= minBuffer {
		return minBuffer
	}
	step := 1 << (bits.Len(uint(n-1)) - 3)
	return (n + step - 1) &^ (step - 1)
}

// get returns n bytes with any content, from minBuffer to maxBuffer.
func (b buffers) get(n int) []byte {
	size := bufferSize(n)
	if free := b[size]; free != nil && len(free.list) > 0 {
		last := len(free.list) - 1
		buffer := free.list[last]
		free.list[last] = nil
		free.list = free.list[:last]
		free.least = min(free.least, last)
		return buffer[:n]
	}
	return make([]byte, n, size)
}

// put takes back a buffer that get has returned. It leaves any other memory to
// the garbage collector.
func (b buffers) put(buffer []byte) {
	size := cap(buffer)
	if size < minBuffer || size > maxBuffer || size != bufferSize(size) {
		return
	}
	free := b[size]
	if free == nil {
		free = &freeBuffers{}
		b[size] = free
	}
	free.list = append(free.list, buffer)
}

// trim gives up the buffers that were free all the time since the last trim.
func (b buffers) trim() {
	for size, free := range b {
		rest := len(free.list) - free.least
		clear(free.list[rest:])
		free.list = free.list[:rest]
		if free.least = rest; rest == 0 {
			delete(b, size)
		}
	}
}

// smallChunks hands out memory for chunks that are smaller than minBuffer. Many
// such chunks that come together lie in one block. Messages alias it. The garbage
// collector frees a block when none of its chunks and messages is needed any
// more. Only the connection's reader uses it.
type smallChunks struct {
	block []byte // the rest of the newest block
	count int    // chunks of the present burst
	next  int    // size of the next block
}

// maxBlock is the size of the largest block. A chunk that waits keeps its block
// in memory.
const maxBlock = 16 << 10

// get returns n bytes. The first chunk of a burst gets just its own memory, and
// blocks grow while the burst lasts, so a quiet subscription wastes nothing.
func (s *smallChunks) get(n int) []byte {
	s.count++
	if n > len(s.block) {
		s.block = make([]byte, max(n, s.next))
		s.next = min(max(2*len(s.block), 2*n), maxBlock)
	}
	b := s.block[:n:n]
	s.block = s.block[n:]
	return b
}

// endBurst ends a burst. It keeps the rest of a block only if the next burst
// can be expected to need it.
func (s *smallChunks) endBurst() {
	if s.count < 8 {
		s.block, s.next = nil, 0
	}
	s.count = 0
}
