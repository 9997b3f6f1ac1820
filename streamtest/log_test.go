package streamtest

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// newLog returns a log with n chunks, a second apart. Each has 100 bytes and
// one record.
func newLog(l limits, n int) *streamLog {
	log := &streamLog{limits: l}
	for i := range n {
		log.append(chunk{bytes: make([]byte, 100)}, 1, 1, int64(i)*1000)
	}
	return log
}

func TestRetentionKeepsWholeSegments(t *testing.T) {
	// A segment is full at 300 bytes, hence it has three chunks of 100
	// bytes.
	tests := map[string]struct {
		limits limits
		now    time.Duration
		want   uint64
	}{
		"none":            {limits{segmentBytes: 300}, time.Hour, 0},
		"bytes":           {limits{segmentBytes: 300, maxBytes: 700}, 0, 15},
		"bytes, all fits": {limits{segmentBytes: 300, maxBytes: 100_000}, 0, 0},
		"bytes, tiny":     {limits{segmentBytes: 300, maxBytes: 1}, 0, 18},
		"age":             {limits{segmentBytes: 300, maxAge: 10 * time.Second}, 20 * time.Second, 9},
		"age, all":        {limits{segmentBytes: 300, maxAge: 10 * time.Second}, time.Hour, 18},
		"both":            {limits{segmentBytes: 300, maxBytes: 700, maxAge: 10 * time.Second}, 20 * time.Second, 15},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			log := newLog(tt.limits, 20)
			log.retain(tt.now.Milliseconds())
			if got := log.chunks[0].first; got != tt.want || log.removed != tt.want || log.next != 20 {
				t.Errorf("first offset %d, %d chunks removed, next %d; want %d", got, log.removed, log.next, tt.want)
			}
			if want := int64(len(log.chunks)) * (100 + chunkCost); log.size != want {
				t.Errorf("size %d, want %d", log.size, want)
			}
		})
	}
}

func TestParseAge(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1s": time.Second, "5m": 5 * time.Minute, "2h": 2 * time.Hour, "7D": 168 * time.Hour, "1M": 720 * time.Hour,
		"1Y": 8760 * time.Hour, "9223372036854775807Y": 1<<63 - 1,
		"": 0, "s": 0, "10": 0, "10x": 0, "-1s": 0, "0s": 0, "1.5h": 0, "99999999999999999999s": 0,
	} {
		if got, ok := parseAge(text); got != want || ok != (want > 0) {
			t.Errorf("%q: %v, %v; want %v", text, got, ok, want)
		}
	}
}

// FuzzResolve compares resolve with slowResolve, on a log with gaps and after
// retention.
func FuzzResolve(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 1}, uint16(4), uint64(3))
	f.Fuzz(func(t *testing.T, sizes []byte, kind uint16, value uint64) {
		log := &streamLog{limits: limits{segmentBytes: 300, maxBytes: 2000}}
		for i, n := range sizes {
			log.next += uint64(n % 3) // a gap of up to two offsets
			log.append(chunk{bytes: make([]byte, 48+int(n))}, 1, uint32(n)+1, int64(i))
		}
		spec := wire.OffsetSpec{Type: wire.OffsetType(1 + kind%5), Value: value}
		if got, want := log.resolve(spec), slowResolve(log, spec); got != want {
			t.Errorf("%+v resolved to chunk %d, want %d", spec, got, want)
		}
	})
}

// slowResolve does what resolve does, but looks at every chunk.
func slowResolve(l *streamLog, spec wire.OffsetSpec) uint64 {
	n := l.end()
	for i := len(l.chunks) - 1; i >= 0; i-- {
		c, number := l.chunks[i], l.removed+uint64(i)
		switch spec.Type {
		case wire.OffsetFirst:
			n = number
		case wire.OffsetLast:
			return number
		case wire.OffsetAt:
			if spec.Value >= l.next {
				return l.end()
			}
			if n = number; c.first <= spec.Value {
				return n
			}
		case wire.OffsetTimestamp:
			if c.timestamp >= int64(spec.Value) {
				n = number
			}
		}
	}
	return n
}
