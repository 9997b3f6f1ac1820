package stream

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestCloseOfManyWithASilentPeer: sixty consumers have handled a message each and
// the broker goes silent. Env.Close takes CloseTimeout at most, for all of them
// together, and each run says that it has not stored.
func TestCloseOfManyWithASilentPeer(t *testing.T) {
	for name, store := range map[string]StorePolicy{"default": {}, "every": {Every: 2}, "interval": {Interval: time.Hour}} {
		for _, reads := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", no answers", false: ", nothing read"}[reads], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testCloseOfMany(t, store, reads) })
			})
		}
	}
}

func testCloseOfMany(t *testing.T, store StorePolicy, reads bool) {
	const consumers = 60
	b := pipedScripted(t)
	var silent atomic.Bool
	ended := make(chan struct{})
	b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
		if silent.Load() && !reads {
			<-ended
		}
		if !silent.Load() && key == wire.KeySubscribe {
			chunkFor(p, fields, script.Chunk(0, "x"))
			return true
		}
		return silent.Load()
	}
	env := b.env(t)
	var handled atomic.Int64
	runs := make(chan error, consumers)
	for i := range consumers {
		c, err := env.NewConsumer(testStream, ConsumerConfig{Name: string(number(i)), Store: store})
		must(t, err)
		go func() {
			runs <- c.Run(context.Background(), func(context.Context, *Delivery) error {
				if handled.Add(1) == consumers {
					silent.Store(true)
				}
				return nil
			})
		}()
	}
	synctest.Wait()
	if n := handled.Load(); n != consumers {
		t.Fatalf("%d messages were handled", n)
	}
	begun := time.Now()
	must(t, env.Close())
	if took := time.Since(begun); took > CloseTimeout {
		t.Errorf("took %v, and CloseTimeout is %v", took, CloseTimeout)
	}
	close(ended)
	for range consumers {
		wantErr(t, <-runs, ErrClosed, ErrNotStored)
	}
}

// chunkFor answers a Subscribe and sends a chunk, unless the subscription is one
// without credit.
func chunkFor(p *script.Peer, fields, chunk []byte) {
	var f wire.Subscribe
	p.Decode(fields, &f)
	p.Send(&wire.Response{Key: wire.KeySubscribe, Correlation: f.Correlation, Code: wire.CodeOK})
	if f.Credit > 0 {
		chunk[8] = f.SubscriptionID
		p.Write(chunk)
	}
}
