package stream

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// TestStoredBeyondTheEnd: the consumer goes on behind the end of the stream. It
// gets what came while it made sure, though that lies below the stored offset.
func TestStoredBeyondTheEnd(t *testing.T) {
	beside(t)
	for name, n := range map[string]int{"five messages": 5, "empty": 0} {
		t.Run(name, func(t *testing.T) {
			besideSubtest(t)
			b := streamtest.NewBroker(t)
			direct := connect(t, b.URI())
			env, changes := watched(t, b.URI())
			stream := newStream(t, direct)
			if n > 0 {
				publish(t, direct, stream, 0, n)
			}
			must(t, direct.StoreOffset(soon(t), "billing", stream, 50))
			handled := make(chan uint64, 100)
			stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "billing"}, func(d *Delivery) { handled <- d.Offset })
			must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.StreamStats) > 2 })) // it has looked once
			publish(t, direct, stream, n, n+3)
			var c StateChange
			select {
			case c = <-changes:
			case <-time.After(2 * mark.BeyondEndTime):
				t.Fatal("no change")
			}
			if c.State != StateOffsetBeyondEnd || c.Name != "billing" || !strings.Contains(c.Err.Error(), "offset 50 ") || !strings.Contains(c.Err.Error(), "at offset "+string(rune('0'+n))) {
				t.Errorf("%v: %v", c.State, c.Err)
			}
			for want := uint64(n); want < uint64(n+3); want++ {
				if got := recv(t, handled, "a message"); got != want {
					t.Errorf("handled %d, want %d", got, want)
				}
			}
			_ = stop()
			if got, ok := b.Offset("billing", stream); !ok || got != uint64(n+2) {
				t.Errorf("stored %d, %v", got, ok)
			}
		})
	}
}

// TestStoredWithin costs a look at most: the offset lies in the last chunk, or
// comes while the run looks.
func TestStoredWithin(t *testing.T) {
	b, env, name := inStream(t, 100)
	bodies := make(chan uint64, 10)
	must(t, env.StoreOffset(soon(t), "billing", name, 99))
	stop, _ := runConsumer(t, env, name, ConsumerConfig{Name: "billing"}, func(d *Delivery) { bodies <- d.Offset })
	must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.Subscribe) > 0 }))
	publish(t, env, name, 100, 101)
	if got := recv(t, bodies, "the next message"); got != 100 {
		t.Errorf("handled %d", got)
	}
	_ = stop()
}

// TestEndOnLeader: the last chunk counts with all its messages, and not while it
// is not committed.
func TestEndOnLeader(t *testing.T) {
	beside(t)
	for name, test := range map[string]struct {
		last, committed int64
		frame           []byte
		end             uint64
		known           bool
	}{
		"nothing":                       {-1, -1, nil, 0, true},
		"messages":                      {90, 90, script.Chunk(90, "a", "b"), 92, true},
		"an entry":                      {90, 90, nil, 91, true},
		"an entry, and a message comes": {90, 95, script.Chunk(91, "a"), 91, true},
		"not committed":                 {90, 80, nil, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			besideSubtest(t)
			b := startScripted(t)
			b.onSubscribe = func(p *script.Peer, _ int, _ wire.OffsetSpec) { p.Write(test.frame) }
			b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
				if key != wire.KeyStreamStats {
					return false
				}
				id, _ := wire.Correlation(fields)
				p.Send(&wire.StreamStatsResponse{Correlation: id, Code: wire.CodeOK, Stats: []wire.Stat{
					{Key: "first_chunk_id", Value: 0}, {Key: "last_chunk_id", Value: test.last}, {Key: "committed_chunk_id", Value: test.committed},
				}})
				return true
			}
			s := openOn(t, b, 100)
			r := aloneRun(t, ConsumerConfig{})
			end, known, err := r.endOnLeader(soon(t), s)
			if must(t, err); end != test.end || known != test.known {
				t.Errorf("ends at %d, %v, want %d, %v", end, known, test.end, test.known)
			}
			b.drop()
			<-s.lease.Ended()
			if _, _, err = r.endOnLeader(soon(t), s); !errors.Is(err, ErrUnreachable) {
				t.Error(err)
			}
		})
	}
}
