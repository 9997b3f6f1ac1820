package stream

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestResendTwice: what a lost connection had goes to the next one, also if that is
// lost before it takes anything, and the one after it. Messages that were sent twice
// count as such, together with which others they go.
func TestResendTwice(t *testing.T) {
	tell := func(*publishFrame, []slot, error) { t.Error("a message has its outcome") }
	for name, subEntries := range map[string]int{"messages": 0, "sub-batches": 10} {
		t.Run(name, func(t *testing.T) {
			o := outbox{subEntries: subEntries, limit: batchBytes}
			add := func(first, last uint64) {
				for id := first; id <= last; id++ {
					o.add(&slot{id: id}, "", &outgoing{body: fmt.Append(nil, id)})
				}
				o.seal()
			}
			hand := func() (entries int) {
				for {
					b, rest := o.next(broker.Allowance{Room: 1000})
					if rest == broker.TookAll {
						return entries
					}
					if len(b.records) > 0 {
						frame, err := appendSubBatch(binary.BigEndian.AppendUint64(b.frame, b.last()), CompressionNone, len(b.slots), b.records)
						must(t, err)
						b.frame, b.records = frame, b.records[:0]
					}
					o.hand(b, 1)
					entries += b.entries()
					walk, n := b.walk(), 0
					for ; walk.Next(new(wire.PublishEntry)); n++ {
					}
					if n != b.entries() {
						t.Errorf("a frame of %d entries has %d", b.entries(), n)
					}
				}
			}
			add(1, 10)
			first := hand()
			o.sent()
			add(11, 20)
			for range 3 {
				o.resend(batchBytes, tell)
			}
			if !o.settledUpTo(0) || o.settledUpTo(1) || o.settledUpTo(20) {
				t.Error("messages without outcome are gone")
			}
			if n := hand(); n != 2*first {
				t.Errorf("%d entries are sent again, want %d", n, 2*first)
			}
			for id, want := range map[uint64]bool{10: false, 20: true} {
				if sent, once := o.sentOnce(id); !sent || once != want {
					t.Errorf("%d was sent: %v, once: %v", id, sent, once)
				}
			}
		})
	}
}

// TestLateSent: a connection that was lost says late that it has written what it was
// given. The next one is still writing, so its memory is not used again for that.
func TestLateSent(t *testing.T) {
	p := offlineOf(unconnected(), ProducerConfig{})
	lost, link := newLink(p), newLink(p)
	must(t, p.PublishAsync(t.Context(), Message{Body: []byte("x")}, nil))
	p.link = link
	b, _ := p.box.next(broker.Allowance{Room: math.MaxInt})
	p.box.hand(b, 1)
	lost.Sent()
	if p.box.written != 0 {
		t.Error("a frame counts as written that the connection is still writing")
	}
	link.Sent()
	if p.box.written != 1 {
		t.Error("a frame that is written does not count as that")
	}
	p.link = nil
	endOffline(t, p)
}
