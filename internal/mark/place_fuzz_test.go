package mark

import (
	"slices"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// FuzzPlace plays one consumer against a stream that is written, cleaned up by
// retention, read from nodes that are behind, and deleted and created again
// under the same name. A step is a byte: three bits say what happens, five how
// much. The place must hold:
//
//   - Chunks of one stream never contradict each other.
//   - Every session goes on behind the last handled message: no message that the
//     stream has is left out, and none is handled twice.
//   - No chunk is taken for the old stream's that shows that it is not.
//   - What retention removes before it is read is told of once.
func FuzzPlace(f *testing.F) {
	const write, retain, recreate, connect, deliver = 0, 1, 2, 3, 4
	step := func(what, much byte) byte { return what | much<<3 }
	f.Add(byte(0), []byte{step(write, 3), step(write, 9), step(connect, 0), step(deliver, 1), step(deliver, 30), step(connect, 0), step(deliver, 30)})
	f.Add(byte(1), []byte{step(write, 6), step(write, 6), step(connect, 0), step(deliver, 0), step(connect, 0), step(deliver, 31), step(recreate, 0), step(write, 20), step(write, 1), step(connect, 0), step(deliver, 31)})
	f.Add(byte(2), []byte{step(write, 4), step(connect, 0), step(deliver, 31), step(write, 4), step(deliver, 3), step(connect, 1), step(deliver, 31), step(deliver, 31)})
	f.Add(byte(3), []byte{step(write, 4), step(write, 4), step(connect, 0), step(connect, 0), step(deliver, 2), step(write, 4), step(retain, 1), step(connect, 0), step(deliver, 31)})
	f.Add(byte(4), []byte{step(write, 6), step(write, 3), step(connect, 0), step(deliver, 4), step(connect, 1), step(deliver, 31), step(retain, 1), step(connect, 0), step(deliver, 31), step(recreate, 0), step(connect, 0), step(write, 1), step(deliver, 31)})
	f.Add(byte(0), []byte{step(write, 6), step(write, 6), step(write, 6), step(connect, 0), step(deliver, 31), step(deliver, 31), step(deliver, 31), step(recreate, 0), step(write, 6), step(write, 6), step(retain, 1), step(connect, 0), step(deliver, 31), step(connect, 0), step(deliver, 31)})
	f.Fuzz(func(t *testing.T, start byte, steps []byte) {
		m := placeModel{t: t, start: start, clock: noon.UnixMilli()}
		for _, step := range steps[:min(len(steps), 100)] {
			much := int(step >> 3)
			switch what := step & 7; what {
			case write:
				m.write(much)
			case retain:
				m.retain(much)
			case recreate:
				m.recreate()
			case connect:
				m.connect(much)
			default:
				m.deliver(much)
			}
		}
	})
}

type placeModel struct {
	t     *testing.T
	start byte
	clock int64

	stream int // counts how often the stream was created again
	chunks []*wire.Chunk
	tail   uint64 // the next offset

	place    Place
	readFrom int    // the stream that the place has read
	received bool   // something of it
	told     uint64 // the place has told of what is lost below
	expected uint64 // the next message in the order of delivery has this offset or a later one

	connected bool
	coming    []*wire.Chunk // what the session will deliver
}

// write appends a chunk to the stream. Timestamps may go back, as far as clocks
// may be apart.
func (m *placeModel) write(much int) {
	m.clock += 100
	m.tail += uint64(much & 1) // a gap
	c := &wire.Chunk{ChunkHeader: wire.ChunkHeader{
		FirstOffset: m.tail,
		Records:     uint32(1 + much%7),
		Timestamp:   m.clock - int64(much)*100,
		Epoch:       1,
	}}
	m.tail += uint64(c.Records)
	m.chunks = append(m.chunks, c)
	m.coming = append(m.coming, c)
}

// retain removes the oldest chunks, of which the last one stays.
func (m *placeModel) retain(much int) {
	m.connected = false
	m.chunks = m.chunks[min(much, max(len(m.chunks)-1, 0)):]
}

// recreate deletes the stream and creates it again. All chunks of the new one
// are younger than those of the old one. A run that has received nothing cannot
// tell.
func (m *placeModel) recreate() {
	m.connected = false
	m.clock += 10 * clockSkew.Milliseconds()
	m.stream++
	m.chunks, m.tail = nil, 0
	if !m.received {
		m.forget()
	}
}

// forget begins the run anew.
func (m *placeModel) forget() { m.place, m.received, m.told, m.connected = Place{}, false, 0, false }

// connect begins a session with a node that lacks the newest chunks.
func (m *placeModel) connect(behind int) {
	node := m.chunks[:len(m.chunks)-min(behind%4, max(len(m.chunks)-1, 0))]
	now := Extent{Empty: len(node) == 0}
	if !now.Empty {
		now.FirstOffset, now.CommittedChunk = node[0].FirstOffset, node[len(node)-1].FirstOffset
	}
	if !m.place.Begun() {
		m.begin(now)
	} else {
		m.place.Resume()
		if m.probe(node, now) {
			m.forget()
			return
		}
	}
	m.lose(now)
	m.connected = true
	m.coming = slices.Clone(m.chunks[find(node, m.place.Next().Spec):])
}

// lose asks the place what retention has removed.
func (m *placeModel) lose(now Extent) {
	lost := m.place.Lost(now)
	if unread := max(m.expected, m.told); m.place.afterHandled && !now.Empty && now.FirstOffset > unread {
		if lost != now.FirstOffset-unread {
			m.t.Fatalf("%d offsets are lost, want %d to %d", lost, unread, now.FirstOffset)
		}
		m.told = now.FirstOffset
	} else if lost != 0 {
		m.t.Fatalf("%d offsets are lost of a stream that begins with %d; %d is expected", lost, now.FirstOffset, m.expected)
	}
}

// begin begins the run where start says.
func (m *placeModel) begin(now Extent) {
	switch m.start % 5 {
	case 1:
		m.expected = 5
		m.place.Begin(AtOffset(5), AtOffset(5))
	case 2:
		m.expected = now.CommittedChunk
		m.place.Begin(AtLast(), AtOffset(now.CommittedChunk))
	case 3:
		if now.Empty {
			m.expected = 0
			m.place.Begin(AtOffset(0), AtOffset(0))
			return
		}
		m.expected = now.CommittedChunk + uint64(m.chunks[find(m.chunks, askFor(now.CommittedChunk))].Records)
		m.place.Begin(AfterChunk(now.CommittedChunk), AfterChunk(now.CommittedChunk))
	case 4:
		m.expected = 8
		m.place.BeginAfterStored(7)
	default:
		m.expected = 0
		m.place.Begin(AtFirst(), AtFirst())
	}
}

// probe looks at the chunk that the place asks for, and reports whether that
// one shows another stream.
func (m *placeModel) probe(node []*wire.Chunk, now Extent) (contradicts bool) {
	spec, suspect := m.place.Probe(now)
	if !suspect {
		return false
	}
	i := find(node, spec)
	if i == len(node) {
		m.t.Fatalf("the place asks for %+v, which a stream of %+v does not have", spec, now)
	}
	c := node[i]
	contradicts = m.place.Contradicts(c)
	switch oldest := m.place.oldestChunk.First; {
	case contradicts && m.readFrom == m.stream:
		m.t.Fatalf("chunk %d contradicts its own stream", c.FirstOffset)
	case !contradicts && m.readFrom != m.stream && c.FirstOffset <= oldest:
		m.t.Fatalf("chunk %d of another stream is taken for one of the stream with chunk %d", c.FirstOffset, oldest)
	}
	return contradicts
}

// find returns the index of the chunk that a subscription begins with. It is
// the next one to come where the stream ends before that.
func find(chunks []*wire.Chunk, spec wire.OffsetSpec) int {
	switch spec.Type {
	case wire.OffsetFirst:
		return 0
	case wire.OffsetLast:
		return max(len(chunks)-1, 0)
	}
	for i, c := range chunks {
		if c.FirstOffset+uint64(c.Records) > spec.Value {
			return i
		}
	}
	return len(chunks)
}

// deliver delivers the next chunk, of which some or all messages are handled.
// The session ends if some are not.
func (m *placeModel) deliver(much int) {
	if !m.connected || len(m.coming) == 0 {
		return
	}
	c := m.coming[0]
	m.coming = m.coming[1:]
	if m.receive(c) {
		m.handle(c, much)
	}
}

// receive shows the place a chunk. It returns false if the run begins anew.
func (m *placeModel) receive(c *wire.Chunk) bool {
	resume, resumes := m.place.resumeChunk, m.place.MustRecognise()
	if !m.received {
		m.received, m.readFrom = true, m.stream
	}
	same := m.readFrom == m.stream
	switch taken := m.place.Receive(c); {
	case taken && same:
		return true
	case taken && resumes && c.FirstOffset < resume.end:
		m.t.Fatalf("chunk %d of another stream is taken for one of the stream with the chunk from %d to %d", c.FirstOffset, resume.First, resume.end)
	case !taken && same:
		m.t.Fatalf("chunk %d contradicts its own stream", c.FirstOffset)
	}
	m.forget() // what retention has left of the other stream shows nothing
	return false
}

// handle handles messages of a chunk that was received.
func (m *placeModel) handle(c *wire.Chunk, much int) {
	next, end := m.place.Next(), c.FirstOffset+uint64(c.Records)
	if !next.Wants(c) || !next.HasNew(c) {
		if end > m.expected {
			m.t.Fatalf("%+v leaves chunk %d out, and message %d is expected", next, c.FirstOffset, m.expected)
		}
		return
	}
	if !m.place.Recognises(c) {
		m.t.Fatalf("the stream is not recognised by chunk %d, of which %+v wants messages", c.FirstOffset, next)
	}
	offset := max(c.FirstOffset, next.From)
	for n := 0; offset < end && (much == 31 || n < much%8); n++ {
		if offset < m.expected || offset > m.expected && offset > c.FirstOffset {
			m.t.Fatalf("message %d is handled, and %d is expected", offset, m.expected)
		}
		m.handled(offset, c)
		offset++
	}
	m.connected = m.connected && offset == end
}

// handled tells the place of a handled message. The next one has to be the next
// that the stream has.
func (m *placeModel) handled(offset uint64, c *wire.Chunk) {
	for _, other := range m.chunks {
		if other.FirstOffset < c.FirstOffset && other.FirstOffset+uint64(other.Records) > m.expected {
			m.t.Fatalf("message %d is handled, and chunk %d before it is left out", offset, other.FirstOffset)
		}
	}
	m.place.HandledTo(offset, IDOf(c))
	m.expected = offset + 1
	if now := m.place.Next(); now.Spec != askFor(c.FirstOffset) || now.From != m.expected {
		m.t.Fatalf("behind message %d of chunk %d the next session begins at %+v", offset, c.FirstOffset, now)
	}
}
