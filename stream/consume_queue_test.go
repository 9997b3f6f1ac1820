package stream

import (
	"slices"
	"testing"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// arriveTogether delivers chunks of one message as the reader does that has
// read them at once. Their buffers are the subscription's.
func arriveTogether(t *testing.T, s *subscription, first uint64, bodies ...string) error {
	t.Helper()
	for i, body := range bodies {
		frame := script.Chunk(first+uint64(i), body)[deliverHead-1:] // with a byte before the chunk
		buffer := s.Buffer(len(frame))
		copy(buffer, frame)
		must(t, s.Deliver(wire.Deliver{Chunk: buffer[1:]}, buffer))
	}
	return s.Flush()
}

// TestQueueInOrder: what comes while the consumer is at work waits behind what
// it has taken, and each chunk is whole.
func TestQueueInOrder(t *testing.T) {
	s := openOn(t, startScripted(t), 1<<20)
	s.flow.granted = 1000
	var got []uint64
	take := func(n int) {
		t.Helper()
		for range n {
			c, err := s.receive(soon(t), nil)
			if must(t, err); c.Check() != nil || c.Records != 1 {
				t.Fatalf("received %+v", c.ChunkHeader)
			}
			got = append(got, c.FirstOffset)
			s.giveBack(soon(t), c)
		}
	}
	must(t, arriveTogether(t, s, 1, "a", "b", "c"))
	take(2)
	must(t, arriveTogether(t, s, 4, "d"))
	must(t, arriveTogether(t, s, 5, "e", "f"))
	take(2)
	must(t, arriveTogether(t, s, 7, "g"))
	s.end(errTest)
	take(3)
	if want := []uint64{1, 2, 3, 4, 5, 6, 7}; !slices.Equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
	}
	_, err := s.receive(soon(t), nil)
	if wantErr(t, err, errTest); s.flow.held != 0 || s.flow.bytes != 0 || len(s.queue) != 0 {
		t.Errorf("left behind: %+v, %d chunks", s.flow, len(s.queue))
	}
}

// TestQueueGivesBackManyAtATime: the lock is taken, and credit looked after,
// once for an eighth of the window or of the memory.
func TestQueueGivesBackManyAtATime(t *testing.T) {
	s := openOn(t, startScripted(t), 1<<20)
	s.flow.granted, s.flow.window = 1000, 80
	bodies := make([]string, 100)
	must(t, arriveTogether(t, s, 1, bodies...))
	for i := range 25 {
		c, err := s.receive(soon(t), nil)
		must(t, err)
		s.giveBack(soon(t), c)
		if want := 100 - (i+1)/10*10; s.flow.held != want {
			t.Fatalf("%d of 100 are held after %d, want %d", s.flow.held, i+1, want)
		}
	}
	c, err := s.receive(soon(t), nil)
	must(t, err)
	s.taken.returnAfterCost = s.taken.returnedCost + 1
	if s.giveBack(soon(t), c); s.flow.held != 74 {
		t.Errorf("%d are held after the memory of many was given back", s.flow.held)
	}
}

// TestQueueForgetsWhatIsHandled, so that its memory can go.
func TestQueueForgetsWhatIsHandled(t *testing.T) {
	s := openOn(t, startScripted(t), 1<<20)
	s.flow.granted = 1000
	must(t, arriveTogether(t, s, 1, "a", "b"))
	if !slices.ContainsFunc(s.queue, func(w waitingChunk) bool { return w.buffer != nil }) || s.came[:1][0].buffer != nil {
		t.Error("the reader keeps what it has queued")
	}
	for range 2 {
		c, err := s.receive(soon(t), nil)
		must(t, err)
		s.giveBack(soon(t), c)
	}
	if s.taken.list[0].buffer != nil || s.taken.list[1].buffer != nil {
		t.Error("the consumer keeps what it has handled")
	}
	for n, kept := range map[int]bool{1: true, 16: true, 64: true} {
		if got := (&takenChunks{list: make([]waitingChunk, n)}).reuse() != nil; got != kept {
			t.Errorf("a list of %d is kept: %v", n, got)
		}
	}
	if (&takenChunks{list: make([]waitingChunk, 1, 100)}).reuse() != nil {
		t.Error("a quiet subscription keeps a long list")
	}
}

// TestChunksGrow: large chunks behind small ones are dropped once they are too
// much, and the consumer gets what came before. Then it subscribes anew.
func TestChunksGrow(t *testing.T) {
	s := openOn(t, startScripted(t), 10_000)
	s.flow.granted = 100
	large := string(make([]byte, 9000))
	for i := range 30 {
		must(t, arriveTogether(t, s, uint64(i), large))
	}
	if s.alive() || s.whyEnded() != errTooMuch || isFatal(errTooMuch) {
		t.Fatalf("it ended with %v", s.whyEnded())
	}
	for i := range minWindow {
		c, err := s.receive(soon(t), nil)
		if must(t, err); c.FirstOffset != uint64(i) {
			t.Fatalf("received %d, want %d", c.FirstOffset, i)
		}
	}
	if _, err := s.receive(soon(t), nil); err != errTooMuch {
		t.Errorf("then came %v", err)
	}
}

// TestFlushKeepsItsListInABurst, and gives a long one up behind it.
func TestFlushKeepsItsListInABurst(t *testing.T) {
	s := openOn(t, startScripted(t), 1<<20)
	s.flow.granted = 1000
	for _, test := range []struct {
		chunks int
		before int  // room of the list
		kept   bool // it still has that room
	}{
		{chunks: 1, before: minWindow, kept: true},
		{chunks: 1, before: minWindow + 1, kept: false},
		{chunks: 8, before: minWindow + 1, kept: true}, // a burst, by smallChunks
	} {
		s.came = make([]waitingChunk, 0, test.before)
		must(t, arriveTogether(t, s, 0, slices.Repeat([]string{"a"}, test.chunks)...))
		if room := cap(s.came); len(s.came) != 0 || (room == test.before) != test.kept || (room == 0) == test.kept {
			t.Errorf("%d chunks: room for %d, was %d", test.chunks, room, test.before)
		}
		for _, w := range s.came[:cap(s.came)] {
			if w.buffer != nil {
				t.Error("the list keeps a chunk")
			}
		}
	}
}
