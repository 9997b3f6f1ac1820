package streamtest

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestRemoveBefore: what is left begins with the chunk that holds the offset, and
// stored offsets below it are forgotten.
func TestRemoveBefore(t *testing.T) {
	b := NewBroker(t)
	if b.RemoveBefore("orders", 1) == nil {
		t.Error("removed something of a stream that does not exist")
	}
	_ = b.CreateStream("orders")
	if b.RemoveBefore("orders", 1) != nil {
		t.Error("an empty stream does not exist")
	}
	_ = b.withStream("test", "orders", func(s *stream) {
		s.log.limits.segmentBytes = 150
		for range 10 {
			b.trackSize(s, func() {
				s.log.append(chunk{bytes: make([]byte, wire.ChunkHeaderLen+10)}, 1, 2, 0)
			})
		}
		s.offsets["low"], s.offsets["high"], s.offsets["beyond"] = 5, 6, 1<<63+1
	})
	for _, test := range []struct{ before, first uint64 }{{0, 0}, {1, 0}, {2, 2}, {7, 6}, {3, 6}, {1000, 18}} {
		_ = b.RemoveBefore("orders", test.before)
		_ = b.withStream("test", "orders", func(s *stream) {
			l := &s.log
			if got := l.chunks[0].first; got != test.first {
				t.Errorf("before %d: begins with %d, want %d", test.before, got, test.first)
			}
			var size, bytes int64
			for i := range l.chunks {
				size += l.chunks[i].cost()
				bytes += int64(len(l.chunks[i].bytes))
			}
			for _, s := range l.segments {
				bytes -= s.bytes
			}
			if l.size != size+streamCost || bytes != 0 || l.segments[0].first != l.removed || l.end() != 10 {
				t.Errorf("before %d: size %d, want %d; %d bytes in no segment; %+v, %d removed", test.before, l.size, size+streamCost, bytes, l.segments, l.removed)
			}
		})
	}
	for name, want := range map[string]bool{"low": false, "high": false, "beyond": true} {
		if _, ok := b.Offset(name, "orders"); ok != want {
			t.Errorf("the offset of %s is there: %v", name, ok)
		}
	}
}
