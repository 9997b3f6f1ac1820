package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// onlyConn returns a cluster with one connection for reading, to the fake, and
// the lease that opened it, whose id is 1.
func onlyConn(t *testing.T, b *fake) (*Cluster, *Lease) {
	t.Helper()
	o := testOptions()
	o.ReadersPerNode = 1
	c := NewCluster(o, nil)
	return c, b.join(t, c.readers, &recorder{})
}

// lease returns a lease of a cluster that has a connection to the fake.
func (b *fake) lease(t *testing.T, c *Cluster, s Subscriber) *Lease {
	t.Helper()
	l, err := c.Lease(t.Context(), Contact{}, testNode, "s", s)
	check.Nil(t, err)
	return l
}

// second is a context that ends in a second.
func second(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestLeaseCalls(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := onlyConn(t, b)
		l := b.lease(t, cluster, &recorder{})
		b.took(t, "metadata []") // does the connection answer?
		ctx := t.Context()

		from := wire.OffsetSpec{Type: wire.OffsetAt, Value: 9}
		check.Nil(t, l.Subscribe(ctx, "s", from, SubscribeOptions{Name: "me"}))
		check.Nil(t, l.Subscribe(ctx, "s", from, SubscribeOptions{}))
		check.Nil(t, l.Credit(ctx, 3))
		check.Nil(t, l.Unsubscribe(ctx))
		b.took(t, "subscribe 2 s {4 9} credit 1 [{name me}]", "subscribe 2 s {4 9} credit 1 []", "credit 2 3", "unsubscribe 2")

		extent, err := l.Stats(ctx, "s")
		if want := (Extent{FirstOffset: 3, CommittedChunk: 8}); err != nil || extent != want {
			t.Errorf("%+v, %v, want %+v", extent, err, want)
		}
		location, err := l.Locate(ctx, "s")
		if err != nil || location.Leader != testNode {
			t.Errorf("%+v, %v", location, err)
		}
		_, err = l.QueryOffset(ctx, "me", "s")
		check.Err(t, err, ErrNoOffset)
		check.Nil(t, l.StoreOffset(ctx, "me", "s", 5))
		offset, err := l.QueryOffset(ctx, "me", "s")
		if offset != 5 || err != nil {
			t.Errorf("offset %d, %v", offset, err)
		}
		check.Nil(t, l.VerifyOffset(ctx, "me", "s", 5))
		b.took(t, "stats s", "metadata [s]", "query me s", "store me s 5", "query me s", "query me s")

		if l.Node() != testNode || l.Address() != "h:1" || l.Contact().Advertised != "h:1" {
			t.Errorf("node %v at %s, %+v", l.Node(), l.Address(), l.Contact())
		}
	})
}

func TestLeaseRefused(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := onlyConn(t, b)
		l := b.lease(t, cluster, &recorder{})
		b.refuse(wire.KeySubscribe, wire.CodeAccessRefused)
		err := l.Subscribe(t.Context(), "s", wire.OffsetSpec{Type: wire.OffsetNext}, SubscribeOptions{Name: "me"})
		check.Err(t, err, ErrAccessRefused)
		says(t, err, `"u"`, `"s"`)
		b.refuse(wire.KeyUnsubscribe, wire.CodeSubscriptionIDDoesNotExist)
		check.Nil(t, l.Unsubscribe(t.Context()))
		b.mute(wire.KeySubscribe)
		err = l.Subscribe(second(t), "s", wire.OffsetSpec{Type: wire.OffsetNext}, SubscribeOptions{Name: "me"})
		check.Err(t, err, context.DeadlineExceeded)
		b.mute(wire.KeyUnsubscribe)
		check.Err(t, l.Unsubscribe(second(t)), context.DeadlineExceeded)
	})
}

func TestLeaseEnds(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := onlyConn(t, b)
		l := b.lease(t, cluster, &recorder{})
		select {
		case <-l.Ended():
			t.Error("ended from the start")
		default:
		}
		if l.Reason() != nil {
			t.Errorf("ended from the start: %v", l.Reason())
		}
		b.conns[0].fail(check.ErrTest)
		<-l.Ended()
		check.Err(t, l.Reason(), check.ErrTest)
		check.Err(t, l.Unsubscribe(t.Context()), check.ErrTest)
	})
}

// TestRelease: what a lease says when it leaves, and what becomes of the
// connection.
func TestRelease(t *testing.T) {
	for _, test := range []struct {
		name   string
		others bool // use the connection too
		lost   bool
		polite bool
		says   []string
		ended  bool
	}{
		{"polite, among others", true, false, true, []string{"unsubscribe 2"}, false},
		{"among others", true, false, false, []string{"unsubscribe 2"}, false},
		{"polite, alone", false, false, true, []string{"close ok"}, true},
		{"alone", false, false, false, nil, true},
		{"polite, from a lost connection", false, true, true, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				cluster, first := onlyConn(t, b)
				l := b.lease(t, cluster, &recorder{})
				if !test.others {
					first.Release(true)
				}
				if test.lost {
					l.conn.fail(check.ErrTest)
				}
				b.took(t, append([]string{"metadata []"}, map[bool][]string{false: {"unsubscribe 1"}}[test.others]...)...)
				begin := time.Now()
				l.Release(test.polite)
				took(t, begin, 0)
				b.took(t, test.says...)
				left := 1
				if test.ended {
					left = 0
				}
				if ended := l.Reason() != nil; ended != test.ended || cluster.SharedConns() != left {
					t.Errorf("ended: %v, and %d connections; want %v and %d", l.Reason(), cluster.SharedConns(), test.ended, left)
				}
				l.Release(true) // counts for nothing
				b.took(t)
				if test.others {
					first.Release(false)
				}
			})
		})
	}
}

// TestReleaseAfterUnsubscribe: the broker is told once, and again for a
// subscription that was made since.
func TestReleaseAfterUnsubscribe(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := onlyConn(t, b)
		for i, again := range []bool{false, true} {
			l := b.lease(t, cluster, &recorder{})
			check.Nil(t, l.Unsubscribe(t.Context()))
			want := []string{"metadata []", fmt.Sprint("unsubscribe ", 2+i)}
			if again {
				check.Nil(t, l.Subscribe(t.Context(), "s", wire.OffsetSpec{Type: wire.OffsetFirst}, SubscribeOptions{}))
				want = append(want, "subscribe 3 s {1 0} credit 1 []", "unsubscribe 3")
			}
			l.Release(true)
			b.took(t, want...)
		}
		l := b.lease(t, cluster, &recorder{})
		b.mute(wire.KeyUnsubscribe)
		check.Err(t, l.Unsubscribe(second(t)), context.DeadlineExceeded)
		b.on(nil)
		l.Release(true)
		b.took(t, "metadata []", "unsubscribe 4", "unsubscribe 4")
	})
}

// TestReleaseUnanswered: the id of a subscription whose end the broker has not
// answered is nobody else's, and what comes for it is dropped.
func TestReleaseUnanswered(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, first := onlyConn(t, b)
		var gone, stays recorder
		l := b.lease(t, cluster, &gone)
		var peer *script.Peer
		b.on(func(p *script.Peer, key wire.Key, _ []byte) bool {
			peer = p
			return key == wire.KeyUnsubscribe
		})
		begin := time.Now()
		l.Release(true)
		took(t, begin, closeTimeout)
		for want := 3; want <= maxIDs-1; want++ {
			if l := b.lease(t, cluster, &stays); int(l.id) != want {
				t.Fatalf("id %d, want %d", l.id, want)
			}
		}
		if l := b.lease(t, cluster, &stays); l.id != 0 {
			t.Errorf("id %d, want 0", l.id)
		}
		if n := b.dials(); n != 1 {
			t.Fatalf("%d connections", n)
		}
		peer.Write(script.ChunkTo(2, 5, "late"))
		peer.Write(script.ChunkTo(3, 6, "for another"))
		synctest.Wait()
		gone.want(t)
		stays.want(t, 6)
		if gone.buffers != 0 || first.Reason() != nil {
			t.Errorf("%d buffers of who has left; %v", gone.buffers, first.Reason())
		}
		peer.Write(rawFrame(wire.KeyDeliver, 2, 0x51)) // no chunk at all
		synctest.Wait()
		check.Err(t, first.Reason(), ErrProtocol)
	})
}

// Two leave at once, and the broker answers neither: the last one by then closes
// the connection.
func TestReleaseTogether(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, first := onlyConn(t, b)
		l := b.lease(t, cluster, &recorder{})
		b.mute(wire.KeyUnsubscribe)
		done := make(chan struct{})
		go func() { defer close(done); l.Release(true) }()
		synctest.Wait()
		first.Release(true)
		<-done
		check.Err(t, first.Reason(), ErrClosed)
		if n := cluster.SharedConns(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// Of two goroutines that release a lease, one counts, and the others on the
// connection stay.
func TestReleaseTwiceAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, first := onlyConn(t, b)
		l := b.lease(t, cluster, &recorder{})
		b.mute(wire.KeyUnsubscribe)
		done := make(chan struct{})
		go func() { defer close(done); l.Release(true) }()
		synctest.Wait()
		l.Release(true)
		<-done
		if n := len(first.conn.leases); n != 1 || first.Reason() != nil {
			t.Errorf("%d leases are left; %v", n, first.Reason())
		}
	})
}

// TestSharedDelivery: each chunk goes to its subscription, and moves and ticks to
// all.
func TestSharedDelivery(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, first := onlyConn(t, b)
		one := first.subscriber.(*recorder)
		var two recorder
		l := b.lease(t, cluster, &two)
		b.on(func(p *script.Peer, key wire.Key, _ []byte) bool {
			if key == wire.KeySubscribe {
				p.Write(script.ChunkTo(2, 20, "b"))
				p.Write(script.ChunkTo(1, 10, "a"))
				p.Write(script.ChunkTo(2, 21, "c"))
				p.Send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"})
				p.Send(&wire.CreditResponse{Code: wire.CodeSubscriptionIDDoesNotExist, SubscriptionID: 2}, &wire.CreditResponse{Code: wire.CodePreconditionFailed, SubscriptionID: 1}, &wire.CreditResponse{Code: wire.CodeOK, SubscriptionID: 9})
			}
			return false
		})
		check.Nil(t, l.Subscribe(t.Context(), "s", wire.OffsetSpec{Type: wire.OffsetFirst}, SubscribeOptions{}))
		l.conn.Conn.hooks.tick()
		synctest.Wait()
		one.want(t, 10)
		two.want(t, 20, 21)
		for r, code := range map[*recorder]wire.Code{one: wire.CodePreconditionFailed, &two: wire.CodeSubscriptionIDDoesNotExist} {
			if len(r.refused) != 1 || r.refused[0] != code {
				t.Errorf("refused credits: %v, want %v", r.refused, code)
			}
		}
		for i, r := range []*recorder{one, &two} {
			if len(r.moved) != 1 || r.moved[0] != "s" || r.ticks != 1 || r.buffers != len(r.chunks) {
				t.Errorf("subscriber %d: moved %v, %d ticks, %d buffers", i, r.moved, r.ticks, r.buffers)
			}
		}
	})
}

// A chunk for nobody, or one that a subscriber refuses, ends the connection for
// everybody.
func TestSharedConnectionEnds(t *testing.T) {
	for name, chunk := range map[string][]byte{"for nobody": script.ChunkTo(77, 1, "a"), "refused": script.ChunkTo(2, 1, "a")} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				cluster, first := onlyConn(t, b)
				l := b.lease(t, cluster, &recorder{err: wire.ErrMalformed})
				b.on(func(p *script.Peer, key wire.Key, _ []byte) bool { p.Write(chunk); return false })
				_ = l.Credit(t.Context(), 1)
				<-first.Ended()
				check.Err(t, first.Reason(), ErrProtocol)
				if first.Reason() != l.Reason() || errors.Is(l.Reason(), ErrClosed) {
					t.Errorf("%v and %v", first.Reason(), l.Reason())
				}
			})
		})
	}
}

// What stands for a subscription that has ended takes anything.
func TestDropChunks(t *testing.T) {
	var d dropChunks
	d.Moved("s")
	d.Tick()
	if n := len(d.Buffer(5)); n != 5 {
		t.Errorf("%d bytes", n)
	}
}

// TestReleaseWithin: whoever leaves a silent peer, and whoever closes the last
// connection to it, waits no longer than it may.
func TestReleaseWithin(t *testing.T) {
	for name, test := range map[string]struct {
		others bool // use the connection too
		limit  time.Duration
		takes  time.Duration
	}{
		"among others":            {true, closeTimeout / 3, closeTimeout / 3},
		"among others, no time":   {true, -1, lastWords},
		"among others, more time": {true, time.Hour, closeTimeout},
		"alone":                   {false, closeTimeout / 3, closeTimeout / 3},
		"alone, no time":          {false, -1, lastWords},
		"alone, more time":        {false, time.Hour, closeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				cluster, first := onlyConn(t, b)
				l := b.lease(t, cluster, &recorder{})
				if !test.others {
					first.Release(true)
				}
				b.on(func(*script.Peer, wire.Key, []byte) bool { return true })
				ctx, cancel := context.WithTimeout(t.Context(), test.limit)
				defer cancel()
				begin := time.Now()
				l.ReleaseWithin(ctx, true)
				took(t, begin, test.takes)
				first.ReleaseWithin(ctx, false)
			})
		})
	}
}

// TestReleaseAnsweredLate: the id of who had no time for the goodbye is free once the
// broker answers after all.
func TestReleaseAnsweredLate(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, first := onlyConn(t, b)
		defer first.Release(false)
		l := b.lease(t, cluster, &recorder{})
		var late atomic.Bool
		b.on(func(_ *script.Peer, key wire.Key, _ []byte) bool {
			if key == wire.KeyUnsubscribe && !late.Load() {
				late.Store(true)
				return true // the first one is not answered
			}
			time.Sleep(time.Second)
			return false
		})
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		l.ReleaseWithin(ended, true)
		if first.conn.byID[l.id].Load() == nil {
			t.Error("the id is free, although the broker may still send chunks for it")
		}
		time.Sleep(time.Minute)
		if first.conn.byID[l.id].Load() != nil {
			t.Error("the id stays taken")
		}
	})
}

// peerOf returns the fake's end of a lease's connection.
func (b *fake) peerOf(t *testing.T, l *Lease) (peer *script.Peer) {
	t.Helper()
	b.on(func(p *script.Peer, _ wire.Key, _ []byte) bool { peer = p; return false })
	_, err := l.Stats(t.Context(), "s")
	check.Nil(t, err)
	b.on(nil)
	return peer
}

// TestFlush: the subscribers that chunks came for are flushed once for all that
// was read at a time, and before whatever comes behind the chunks is heard of.
func TestFlush(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := onlyConn(t, b)
		first, second := &recorder{}, &recorder{}
		one, two := b.lease(t, cluster, first), b.lease(t, cluster, second)
		chunks := func(l *Lease, n int) []byte { return bytes.Repeat(script.ChunkTo(l.id, 1, "x"), n) }
		p := b.peerOf(t, one)
		p.Write(slices.Concat(chunks(one, 3), chunks(two, 1), chunks(one, 2), chunks(two, 1)[:30]))
		synctest.Wait()
		if !slices.Equal(first.flushes, []int{5}) || !slices.Equal(second.flushes, []int{1}) {
			t.Errorf("flushed at %v and %v chunks, want once", first.flushes, second.flushes)
		}
		p.Write(chunks(two, 1)[30:])
		synctest.Wait()
		if !slices.Equal(first.flushes, []int{5}) || !slices.Equal(second.flushes, []int{1, 2}) {
			t.Errorf("flushed at %v and %v chunks", first.flushes, second.flushes)
		}
		p.Write(slices.Concat(chunks(one, 1), frames(t, &wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"}), chunks(one, 1)))
		synctest.Wait()
		if !slices.Equal(first.flushes, []int{5, 6, 7}) || !slices.Equal(first.moved, []string{"s"}) {
			t.Errorf("flushed at %v chunks, moved %v", first.flushes, first.moved)
		}
		p.Write(slices.Concat(chunks(one, 2), rawFrame(wire.KeyDeliver)))
		synctest.Wait()
		if got := first.flushes[len(first.flushes)-1]; got != 9 {
			t.Errorf("%d chunks were flushed when the connection ended, want 9", got)
		}
		check.Err(t, one.Reason(), ErrProtocol)
	})
}

// TestFlushFails ends the connection.
func TestFlushFails(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := onlyConn(t, b)
		l := b.lease(t, cluster, &recorder{errFlush: wire.ErrMalformed})
		b.peerOf(t, l).Write(script.ChunkTo(l.id, 1, "x"))
		synctest.Wait()
		check.Err(t, l.Reason(), ErrProtocol)

		cluster, _ = onlyConn(t, b) // with another frame behind the chunk
		l = b.lease(t, cluster, &recorder{errFlush: wire.ErrMalformed})
		b.peerOf(t, l).Write(slices.Concat(script.ChunkTo(l.id, 1, "x"), frames(t, &wire.Heartbeat{}), rawFrame(wire.KeyHeartbeat)[:5]))
		synctest.Wait()
		check.Err(t, l.Reason(), ErrProtocol)
	})
}
