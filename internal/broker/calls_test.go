package broker

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// Each call sends what it is asked to, and makes an error of a refusal.
func TestCalls(t *testing.T) {
	for _, test := range []struct {
		name string
		key  wire.Key
		call func(context.Context, *Conn) error
		sent string
	}{
		{"Create", wire.KeyCreate, func(ctx context.Context, c *Conn) error {
			return c.Create(ctx, "s", wire.Properties{{Key: "k", Value: "v"}})
		}, "create s[{k v}]"},
		{"Delete", wire.KeyDelete, func(ctx context.Context, c *Conn) error { return c.Delete(ctx, "s") }, "delete s"},
		{"Stats", wire.KeyStreamStats, func(ctx context.Context, c *Conn) error { _, err := c.Stats(ctx, "s"); return err }, "stats s"},
		{"Locate", wire.KeyMetadata, func(ctx context.Context, c *Conn) error { _, err := c.Locate(ctx, "s"); return err }, "metadata [s]"},
		{"QueryOffset", wire.KeyQueryOffset, func(ctx context.Context, c *Conn) error {
			_, err := c.QueryOffset(ctx, "me", "s")
			return err
		}, "query me s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				c := b.dial(t, hooks{})
				b.stored["me"] = 5
				ctx, cancel := context.WithCancelCause(t.Context())
				check.Nil(t, test.call(ctx, c))
				b.took(t, test.sent)
				b.refuse(test.key, wire.CodeAccessRefused)
				err := test.call(ctx, c)
				check.Err(t, err, ErrAccessRefused)
				says(t, err, `user "u"`, `"s"`)
				b.refuse(test.key, wire.CodeStreamDoesNotExist)
				check.Err(t, test.call(ctx, c), ErrStreamNotFound)
				b.took(t, test.sent, test.sent)
				b.mute(test.key)
				time.AfterFunc(time.Second, func() { cancel(check.ErrTest) })
				check.Err(t, test.call(ctx, c), check.ErrTest)
				c.Abort()
				check.Err(t, test.call(t.Context(), c), ErrClosed)
			})
		})
	}
}

func TestCreateWhatExists(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		b.refuse(wire.KeyCreate, wire.CodeStreamAlreadyExists)
		check.Nil(t, c.Create(t.Context(), "s", nil))
		b.refuse(wire.KeyCreate, wire.CodePreconditionFailed)
		check.Err(t, c.Create(t.Context(), "s", nil), ErrStreamMismatch)
		b.refuse(wire.KeyDelete, wire.CodeStreamAlreadyExists) // which means nothing there
		if c.Delete(t.Context(), "s") == nil {
			t.Error("Delete took a refusal for success")
		}
	})
}

func TestStats(t *testing.T) {
	first, committed := "first_chunk_id", "committed_chunk_id"
	for _, test := range []struct {
		stats []wire.Stat
		want  Extent
	}{
		{[]wire.Stat{{Key: first, Value: 3}, {Key: "last_chunk_id", Value: 9}, {Key: committed, Value: 7}}, Extent{FirstOffset: 3, CommittedChunk: 7}},
		{[]wire.Stat{{Key: committed, Value: 0}, {Key: first, Value: 0}}, Extent{}},
		{[]wire.Stat{{Key: first, Value: -1}, {Key: committed, Value: -1}}, Extent{Empty: true}},
		{[]wire.Stat{{Key: first, Value: 0}, {Key: committed, Value: -1}}, Extent{Empty: true}},
		{[]wire.Stat{{Key: first, Value: -1}, {Key: committed, Value: 0}}, Extent{Empty: true}},
		{[]wire.Stat{{Key: first, Value: 4}}, Extent{Empty: true}},
		{[]wire.Stat{{Key: committed, Value: 4}}, Extent{Empty: true}},
		{nil, Extent{Empty: true}},
	} {
		virtual(t, func(t *testing.T, b *fake) {
			c := b.dial(t, hooks{})
			b.on(func(p *script.Peer, _ wire.Key, fields []byte) bool {
				id, _ := wire.Correlation(fields)
				p.Send(&wire.StreamStatsResponse{Correlation: id, Code: wire.CodeOK, Stats: test.stats})
				return true
			})
			if got, err := c.Stats(t.Context(), "s"); got != test.want || err != nil {
				t.Errorf("%v means %+v, %v; want %+v", test.stats, got, err, test.want)
			}
		})
	}
}

func TestLocate(t *testing.T) {
	brokers := []wire.BrokerAddress{{Reference: 1, Host: "a", Port: 11}, {Reference: 2, Host: "b", Port: 22}, {Reference: 3, Host: "c", Port: 33}}
	other := wire.StreamMetadata{Stream: "other", Code: wire.CodeStreamDoesNotExist, Leader: wire.NoLeader}
	for _, test := range []struct {
		name    string
		streams []wire.StreamMetadata
		want    Location
		err     error
		says    string
	}{
		{"found", []wire.StreamMetadata{other, {Stream: "s", Code: wire.CodeOK, Leader: 2, Replicas: []uint16{3, 1}}},
			Location{Leader: Node{"b", 22}, Replicas: []Node{{"c", 33}, {"a", 11}}}, nil, ""},
		{"a replica that is away", []wire.StreamMetadata{{Stream: "s", Code: wire.CodeOK, Leader: 1, Replicas: []uint16{9, 3}}},
			Location{Leader: Node{"a", 11}, Replicas: []Node{{"c", 33}}}, nil, ""},
		{"no leader", []wire.StreamMetadata{{Stream: "s", Code: wire.CodeOK, Leader: wire.NoLeader, Replicas: []uint16{1}}}, Location{}, ErrStreamUnavailable, "no leader"},
		{"an unknown leader", []wire.StreamMetadata{{Stream: "s", Code: wire.CodeOK, Leader: 9}}, Location{}, ErrStreamUnavailable, "no leader"},
		{"not found", []wire.StreamMetadata{{Stream: "s", Code: wire.CodeStreamDoesNotExist, Leader: wire.NoLeader}}, Location{}, ErrStreamNotFound, ""},
		{"another stream", []wire.StreamMetadata{other}, Location{}, ErrProtocol, "does not mention"},
		{"nothing", nil, Location{}, ErrProtocol, "does not mention"},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				c := b.dial(t, hooks{})
				b.on(func(p *script.Peer, _ wire.Key, fields []byte) bool {
					id, _ := wire.Correlation(fields)
					p.Send(&wire.MetadataResponse{Correlation: id, Brokers: brokers, Streams: test.streams})
					return true
				})
				got, err := c.Locate(t.Context(), "s")
				if test.err != nil {
					check.Err(t, err, test.err)
					says(t, err, test.says)
					if got.Leader != (Node{}) || got.Replicas != nil {
						t.Errorf("beside an error: %+v", got)
					}
					return
				}
				check.Nil(t, err)
				if got.Leader != test.want.Leader || !slices.Equal(got.Replicas, test.want.Replicas) || got.Contact != c.Contact() {
					t.Errorf("%+v, want %+v", got, test.want)
				}
			})
		})
	}
}

func TestContact(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		if got, want := c.Contact(), (Contact{Endpoint{Host: "h", Port: 1, User: "u"}, "h:1", 1000}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestPing(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		check.Nil(t, c.Ping(t.Context()))
		b.took(t, "metadata []")
		b.mute(wire.KeyMetadata)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		check.Err(t, c.Ping(ctx), context.DeadlineExceeded)
	})
}

// A call on a peer that is alive and does not answer ends after callTimeout. The
// connection goes on.
func TestCallTimeout(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		b.mute(wire.KeyMetadata)
		begin := time.Now()
		err := c.Ping(t.Context())
		check.Err(t, err, ErrUnreachable)
		says(t, err, "h:1", "10s")
		took(t, begin, callTimeout)
		if !c.Alive() || len(c.pending) != 0 {
			t.Errorf("alive %v, with %d calls pending", c.Alive(), len(c.pending))
		}
		b.on(nil)
		check.Nil(t, c.Ping(t.Context()))
	})
}

// Names that do not fit a frame are the caller's mistake, and nothing is sent.
func TestCallsTooLong(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		long := strings.Repeat("n", 1<<16)
		check.Err(t, c.Delete(t.Context(), long), ErrInvalidConfig)
		check.Err(t, c.StoreOffset(t.Context(), long, "s", 1), ErrInvalidConfig)
		b.took(t)
	})
}

func TestStoreOffset(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		check.Nil(t, c.StoreOffset(t.Context(), "me", "s", 7))
		b.took(t, "store me s 7")
		check.Nil(t, c.VerifyOffset(t.Context(), "me", "s", 7))
		b.took(t, "query me s")
		b.refuse(wire.KeyStoreOffset, 0)
		begin := time.Now()
		check.Err(t, c.VerifyOffset(t.Context(), "me", "s", 8), ErrNotStored)
		took(t, begin, verifyTries*verifyPause)
		want := slices.Repeat([]string{"query me s"}, verifyTries)
		b.took(t, slices.Insert(want, verifyTries/2+1, "store me s 8")...)
	})
}

// TestReadBack: what the broker has, try by try, and what comes of it.
func TestReadBack(t *testing.T) {
	const half = verifyTries/2 + 1 // tries before resend
	for _, test := range []struct {
		name    string
		has     func(try int, resent bool) (wire.Code, uint64)
		resend  error
		tries   int
		resends int
		want    []error
		says    string
	}{
		{"at once", func(int, bool) (wire.Code, uint64) { return wire.CodeOK, 7 }, nil, 1, 0, nil, ""},
		{"at the third try", func(try int, _ bool) (wire.Code, uint64) { return wire.CodeOK, uint64(try) + 4 }, nil, 3, 0, nil, ""},
		{"after the election", func(try int, _ bool) (wire.Code, uint64) {
			if try < 5 {
				return wire.CodeStreamNotAvailable, 0
			}
			return wire.CodeOK, 7
		}, nil, 5, 0, nil, ""},
		{"none, until it is sent again", func(_ int, resent bool) (wire.Code, uint64) {
			if resent {
				return wire.CodeOK, 7
			}
			return wire.CodeNoOffset, 0
		}, nil, half + 1, 1, nil, ""},
		{"another one", func(int, bool) (wire.Code, uint64) { return wire.CodeOK, 6 }, nil, verifyTries, 1, []error{ErrNotStored}, "7 was sent, but on being asked: the broker has offset 6"},
		{"none", func(int, bool) (wire.Code, uint64) { return wire.CodeNoOffset, 7 }, nil, verifyTries, 1, []error{ErrNotStored, ErrNoOffset}, "7 was sent"},
		{"unavailable", func(int, bool) (wire.Code, uint64) { return wire.CodeStreamNotAvailable, 7 }, nil, verifyTries, 1, []error{ErrNotStored, ErrStreamUnavailable}, ""},
		{"refused", func(int, bool) (wire.Code, uint64) { return wire.CodeAccessRefused, 7 }, nil, 1, 0, []error{ErrAccessRefused}, ""},
		{"gone", func(int, bool) (wire.Code, uint64) { return wire.CodeStreamDoesNotExist, 7 }, nil, 1, 0, []error{ErrStreamNotFound}, ""},
		{"resend fails", func(int, bool) (wire.Code, uint64) { return wire.CodeNoOffset, 0 }, check.ErrTest, half, 1, []error{check.ErrTest}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				c := b.dial(t, hooks{})
				tries, resends := 0, 0
				b.on(func(p *script.Peer, _ wire.Key, fields []byte) bool {
					tries++
					id, _ := wire.Correlation(fields)
					code, offset := test.has(tries, resends > 0)
					p.Send(&wire.QueryOffsetResponse{Correlation: id, Code: code, Offset: offset})
					return true
				})
				begin := time.Now()
				err := c.readBack(t.Context(), "me", "s", 7, func() error { resends++; return test.resend })
				if tries != test.tries || resends != test.resends {
					t.Errorf("asked %d times and resent %d times, want %d and %d", tries, resends, test.tries, test.resends)
				}
				pauses := test.tries - 1
				if test.tries == verifyTries {
					pauses++
				}
				took(t, begin, time.Duration(pauses)*verifyPause)
				if test.want == nil {
					check.Nil(t, err)
					return
				}
				check.Err(t, err, test.want...)
				says(t, err, test.says)
			})
		})
	}
}

func TestReadBackContext(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.dial(t, hooks{})
		ctx, cancel := context.WithCancelCause(t.Context())
		begin := time.Now()
		time.AfterFunc(verifyPause+time.Millisecond, func() { cancel(check.ErrTest) })
		check.Err(t, c.VerifyOffset(ctx, "me", "s", 7), check.ErrTest)
		took(t, begin, verifyPause+time.Millisecond)
		b.took(t, "query me s", "query me s")
	})
}
