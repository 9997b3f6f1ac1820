package broker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestAwaitCommitted: the last chunk at the first look has to be committed, by a
// node that leads and has the offset before and after.
func TestAwaitCommitted(t *testing.T) {
	type look struct{ last, committed int64 }
	for name, test := range map[string]struct {
		leaders []uint16 // that the node names, the last one for ever; 7 is itself
		stored  []uint64 // that it has, the last one for ever
		looks   []look   // at the stream, the last one for ever
		asked   int      // how often it is looked at
		want    error
		says    string
	}{
		"at once":                {[]uint16{7}, []uint64{5}, []look{{90, 90}}, 1, nil, ""},
		"later":                  {[]uint16{7}, []uint64{5}, []look{{90, 80}, {95, 89}, {99, 90}}, 3, nil, ""},
		"never":                  {[]uint16{7}, []uint64{5}, []look{{90, 80}}, 0, check.ErrTest, "no majority"},
		"of another node":        {[]uint16{8}, []uint64{5}, []look{{90, 90}}, 0, ErrStreamUnavailable, "from h:1 to r:2"},
		"of a node no more":      {[]uint16{7, 8}, []uint64{5}, []look{{90, 90}}, 1, ErrStreamUnavailable, "from h:1 to r:2"},
		"which it does not have": {[]uint16{7}, []uint64{4}, []look{{90, 90}}, 0, ErrStreamUnavailable, "h:1 does not have the offset 5"},
		"which it has no more":   {[]uint16{7}, []uint64{5, 4}, []look{{90, 90}}, 1, ErrStreamUnavailable, "h:1 does not have the offset 5"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				var asked, named, queried int
				b.on(func(p *script.Peer, key wire.Key, fields []byte) bool {
					id, _ := wire.Correlation(fields)
					switch key {
					case wire.KeyMetadata:
						m := metadata(id, "s", wire.CodeOK)
						m.Streams[0].Leader = test.leaders[min(named, len(test.leaders)-1)]
						named++
						p.Send(m)
					case wire.KeyQueryOffset:
						p.Send(&wire.QueryOffsetResponse{Correlation: id, Code: wire.CodeOK, Offset: test.stored[min(queried, len(test.stored)-1)]})
						queried++
					case wire.KeyStreamStats:
						l := test.looks[min(asked, len(test.looks)-1)]
						asked++
						p.Send(&wire.StreamStatsResponse{Correlation: id, Code: wire.CodeOK, Stats: []wire.Stat{
							{Key: "last_chunk_id", Value: l.last}, {Key: "committed_chunk_id", Value: l.committed},
						}})
					default:
						return false
					}
					return true
				})
				c := b.dial(t, hooks{})
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, check.ErrTest)
				defer cancel()
				err := c.AwaitCommitted(ctx, testNode, "me", "s", 5)
				if check.Err(t, err, test.want); err != nil {
					says(t, err, test.says)
				}
				if test.want != check.ErrTest && asked != test.asked {
					t.Errorf("looked %d times, want %d", asked, test.asked)
				}
			})
		})
	}
}

// TestAwaitCommittedFails where the broker refuses a question, and where the
// connection ends between two.
func TestAwaitCommittedFails(t *testing.T) {
	for key, code := range map[wire.Key]wire.Code{
		wire.KeyMetadata: wire.CodeStreamDoesNotExist, wire.KeyQueryOffset: wire.CodeAccessRefused, wire.KeyStreamStats: wire.CodeStreamNotAvailable,
	} {
		virtual(t, func(t *testing.T, b *fake) {
			c := b.dial(t, hooks{})
			check.Nil(t, c.StoreOffset(t.Context(), "me", "s", 5))
			b.refuse(key, code)
			err := c.AwaitCommitted(t.Context(), testNode, "me", "s", 5)
			if err == nil || strings.Contains(err.Error(), "does not have the offset") {
				t.Errorf("%v refused: %v", key, err)
			}
		})
	}
	virtual(t, func(t *testing.T, b *fake) { // 99 is never committed
		c := b.dial(t, hooks{})
		check.Nil(t, c.StoreOffset(t.Context(), "me", "s", 5))
		time.AfterFunc(time.Second, c.Abort)
		check.Err(t, c.AwaitCommitted(t.Context(), testNode, "me", "s", 5), ErrClosed)
	})
	virtual(t, func(t *testing.T, b *fake) {
		check.Err(t, b.dial(t, hooks{}).AwaitCommitted(t.Context(), testNode, "me", "s", 5), ErrStreamUnavailable)
	})
}
