package stream

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestRunMovedStreamStoresNothing: once the broker has said that the stream is
// gone, there may be a new one under its name, to which the mark means nothing.
func TestRunMovedStreamStoresNothing(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 100
	var swallow atomic.Bool
	var reader atomic.Pointer[script.Peer]
	b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
		if nth > 0 {
			p.Write(script.LaterChunk(0, "z"))
			return
		}
		reader.Store(p)
		p.Write(script.Chunk(100, "a", "b", "c"))
	}
	b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
		if key == wire.KeyQueryOffset && swallow.Load() {
			id, _ := wire.Correlation(fields)
			p.Send(&wire.QueryOffsetResponse{Correlation: id, Code: wire.CodeOK, Offset: 100})
			return true
		}
		return key == wire.KeyStoreOffset && swallow.Load()
	}
	r := b.run(t, ConsumerConfig{Name: "billing", Store: StorePolicy{Interval: time.Nanosecond}}, func(r *running, d *Delivery) error {
		if d.Offset == 101 {
			eventually(t, "the store of 100 is through", patience, func() bool { got, _ := b.storedOffset("billing"); return got == 100 })
			swallow.Store(true)
			b.recreate()
			reader.Load().Send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: testStream})
			_ = r.Commit(soon(t)) // the answer comes after the update
			swallow.Store(false)
		}
		return nil
	})
	r.want(t, 100, 101)
	wantErr(t, recv(t, b.recreated, "the change"), ErrStreamRecreated)
	r.want(t, 102, 0) // what was there already is handled too
	r.stop(errTest)
	must(t, r.end(t))
	if !slices.Equal(b.history, []uint64{100, 0}) && !slices.Equal(b.history, []uint64{100, 0, 0}) {
		t.Errorf("stored %v; of the old stream only 100 may be", b.history)
	}
}

// TestRunEndedBeforeReconnecting: the mark belongs to a stream that may be
// gone by the time the run's last connection stores it.
func TestRunEndedBeforeReconnecting(t *testing.T) {
	beside(t)
	for name, test := range map[string]struct {
		again func(p *script.Peer) // what there is at the place
		want  error
	}{
		"grown":   {func(p *script.Peer) { p.Write(script.LaterChunk(100, "x", "y")) }, ErrStreamRecreated},
		"shorter": {func(*script.Peer) {}, ErrStreamUnavailable},
		"young":   {func(p *script.Peer) { p.Write(script.Chunk(0, "x")) }, ErrStreamUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			besideSubtest(t)
			noLeaks(t)
			b := startScripted(t)
			b.committed = 100
			b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
				if nth > 0 {
					test.again(p)
					return
				}
				p.Write(script.Chunk(100, "a", "b"))
			}
			r := b.run(t, ConsumerConfig{Name: "billing", Store: StorePolicy{Interval: time.Hour}}, func(r *running, d *Delivery) error {
				if d.Offset == 101 { // with 100 as the mark
					b.drop()
					b.recreate()
					for r.Commit(context.Background()) == nil {
						// the loss is not noticed yet
					}
					b.recreate()
					r.stop(errTest)
				}
				return nil
			})
			r.want(t, 100, 101)
			wantErr(t, r.end(t), ErrNotStored, test.want)
			if got, ok := b.storedOffset("billing"); ok {
				t.Errorf("offset %d of the old stream is stored in the new one", got)
			}
		})
	}
}

// TestRunNoticesARecreatedStreamBeforeTheFirstMessage: a consumer that waits
// at the end of a stream would wait for ever in a new, shorter one.
func TestRunNoticesARecreatedStreamBeforeTheFirstMessage(t *testing.T) {
	for name, start := range map[string]Start{"stored": {}, "next": Next()} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			b := startScripted(t)
			b.committed, b.stored["billing"] = 100, 104
			const begun = 1 // after it has looked where the stream ends
			b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
				if nth < begun {
					p.Write(script.Chunk(100, "a", "b", "c", "d", "e"))
					return
				}
				if nth == begun {
					p.Write(script.Chunk(100, "a", "b", "c", "d", "e"))
					b.recreate()
					b.drop()
					return
				}
				p.Write(script.LaterChunk(0, "z"))
			}
			r := b.run(t, ConsumerConfig{Name: "billing", Start: start}, nil)
			wantErr(t, recv(t, b.recreated, "the change"), ErrStreamRecreated)
			r.want(t, 0)
			r.stop(errTest)
			must(t, r.end(t))
		})
	}
}

// TestRunStoresNothingBeforeItKnowsTheStream: what comes first of a new stream
// may be consistent with the old one, which is no reason to store the old mark.
func TestRunStoresNothingBeforeItKnowsTheStream(t *testing.T) {
	beside(t)
	noLeaks(t)
	b := startScripted(t)
	b.committed = 100
	began, grow := make(chan struct{}), make(chan struct{})
	b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
		switch nth {
		case 0:
			p.Write(script.Chunk(100, "a", "b"))
		case 1: // from 100, which the new stream does not have yet
			p.Write(script.Chunk(0, "x"))
			close(began)
			<-grow
			p.Write(script.LaterChunk(100, "y"))
		default:
			p.Write(script.Chunk(0, "x"))
		}
	}
	r := b.run(t, ConsumerConfig{Name: "billing", Store: StorePolicy{Manual: true}}, func(r *running, d *Delivery) error {
		if d.Offset == 101 { // with 100 as the mark
			b.drop()
			b.set(func() { b.stored = map[string]uint64{} })
		}
		return nil
	})
	r.want(t, 100, 101)
	recv(t, began, "the new stream's first chunk")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantErr(t, r.Commit(ctx), context.DeadlineExceeded)
	close(grow)
	wantErr(t, recv(t, b.recreated, "the change"), ErrStreamRecreated)
	r.want(t, 0)
	r.stop(errTest)
	must(t, r.end(t))
	if len(b.history) > 0 {
		t.Errorf("stored %v in the new stream", b.history)
	}
}
