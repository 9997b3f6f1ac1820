package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// wantGot compares the outcomes that a source was told.
func (f *feed) wantGot(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := look(f, func() []string { return slices.Clone(f.got) }); !slices.Equal(got, want) {
		t.Errorf("outcomes %q came, want %q", got, want)
	}
}

// TestPublisher: publishers of a node share a connection. Their frames go out in
// the order in which they were ready, and outcomes go to whom they are for.
func TestPublisher(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		p, f := b.publisher(t, c, "s")
		q, g := b.publisher(t, c, "other")
		b.took(t, `declare 1 "" s`, "metadata []", `declare 2 "" other`)
		if p.Node() != testNode || p.Address() != "h:1" || p.FrameMax() != 1<<19 || p.Reason() != nil || c.SharedConns() != 1 {
			t.Errorf("%v at %s takes %d, %v; %d connections", p.Node(), p.Address(), p.FrameMax(), p.Reason(), c.SharedConns())
		}
		f.give(1, 2)
		p.Ready()
		b.took(t, "publish 1 [1 2]")
		g.give(1, 1)
		q.SendNow()
		b.took(t, "publish 2 [1]")
		peer := b.peers[0]
		peer.Write(wire.AppendPublishConfirm(nil, 2, []uint64{1}))
		peer.Write(wire.AppendPublishConfirm(nil, 1, []uint64{2, 1}))
		peer.Write(wire.AppendPublishError(nil, 1, wire.CodePublisherDoesNotExist, []uint64{3}))
		f.wantGot(t, "2 1", "1 1", "3 18")
		g.wantGot(t, "1 1")
		peer.Send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"})
		synctest.Wait()
		if !slices.Equal(f.moved, []string{"s"}) || !slices.Equal(g.moved, []string{"s"}) {
			t.Errorf("%q and %q moved", f.moved, g.moved)
		}
		p.Release()
		b.took(t, "undeclare 1")
		q.Release()
		b.took(t, "close ok")
		if c.SharedConns() != 0 {
			t.Errorf("%d connections are left", c.SharedConns())
		}
		check.Err(t, q.Reason(), ErrClosed)
		<-q.Ended()
	})
}

// Publish frames that come together are written together, whoever has them.
func TestPublisherBatches(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		p, f := b.publisher(t, c, "s")
		q, g := b.publisher(t, c, "other")
		b.took(t, `declare 1 "" s`, "metadata []", `declare 2 "" other`)
		read := make(chan struct{})
		b.on(func(*script.Peer, wire.Key, []byte) bool { <-read; return true })
		for id := range uint64(4) { // the broker has the first, and does not read the second
			f.give(id, id)
			p.Ready()
			synctest.Wait()
			g.give(id, id)
			q.SendNow()
			synctest.Wait()
		}
		if n, m := look(f, func() int { return f.sent }), look(g, func() int { return g.sent }); n != 1 || m != 0 {
			t.Errorf("%d and %d turns have ended", n, m)
		}
		close(read)
		b.took(t, "publish 1 [0]", "publish 2 [0]", "publish 1 [1]", "publish 1 [2]", "publish 1 [3]", "publish 2 [1]", "publish 2 [2]", "publish 2 [3]")
		if n := look(f, func() int { return f.sent }); n != 2 {
			t.Errorf("%d turns", n)
		}
		p.Release()
		q.Release()
	})
}

// TestDeclarePublisher: what the broker's refusals mean.
func TestDeclarePublisher(t *testing.T) {
	for code, want := range map[wire.Code]struct {
		err  error
		text string
	}{
		wire.CodeStreamDoesNotExist: {ErrStreamNotFound, "Env.DeclareStream"},
		wire.CodeStreamNotAvailable: {ErrStreamUnavailable, "no leader"},
		wire.CodeAccessRefused:      {ErrAccessRefused, `user "me" lacks the permission to write to "s"`},
		wire.CodePreconditionFailed: {ErrBlocked, "disk alarm"},
	} {
		t.Run(fmt.Sprint(uint16(code)), func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				p, _ := b.publisher(t, b.publishing(t, time.Hour), "s")
				defer p.Release()
				b.refuse(wire.KeyDeclarePublisher, code)
				err := p.Declare(t.Context(), "me")
				check.Err(t, err, want.err)
				says(t, err, want.text)
				b.took(t, `declare 1 "" s`, `declare 1 "me" s`)
			})
		})
	}
	virtual(t, func(t *testing.T, b *fake) {
		p, _ := b.publisher(t, b.publishing(t, time.Hour), "s")
		defer p.Release()
		b.mute(wire.KeyDeclarePublisher)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, check.ErrTest)
		defer cancel()
		check.Err(t, p.Declare(ctx, "me"), check.ErrTest)
	})
}

// TestDeclareSilent: a broker that takes no messages does not read a connection that
// has a publisher. Who joins that notices soon, and finds another one.
func TestDeclareSilent(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		c.publishers.perNode = oneConn
		p, _ := b.publisher(t, c, "s")
		defer p.Release()
		join := func() *Publisher {
			q, err := c.Publish(t.Context(), testContact, testNode, "s", &feed{}, false)
			check.Nil(t, err)
			t.Cleanup(q.Release)
			return q
		}
		b.mute(wire.KeyDeclarePublisher)
		q := join()
		begin := time.Now()
		check.Err(t, q.Declare(t.Context(), "me"), ErrSilent, ErrUnreachable)
		took(t, begin, callTimeout/2)
		if q.lease.conn != p.lease.conn {
			t.Fatal("the second has another connection")
		}
		check.Nil(t, p.Reason())
		anew := join()
		if anew.lease.conn == p.lease.conn {
			t.Error("the third has joined a silent connection")
		}
		begin = time.Now()
		if err := anew.Declare(t.Context(), "me"); errors.Is(err, ErrSilent) || err == nil {
			t.Errorf("on a connection of its own: %v", err)
		}
		took(t, begin, callTimeout)
	})
}

// TestSequence: the highest publishing id of a reference.
func TestSequence(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		p, _ := b.publisher(t, b.publishing(t, time.Hour), "s")
		defer p.Release()
		b.took(t, `declare 1 "" s`)
		b.sequence = 42
		got, err := p.Sequence(t.Context(), "me")
		if err != nil || got != 42 {
			t.Errorf("%d, %v", got, err)
		}
		b.took(t, "sequence me s")
		b.refuse(wire.KeyQueryPublisherSequence, wire.CodeAccessRefused)
		_, err = p.Sequence(t.Context(), "me")
		check.Err(t, err, ErrAccessRefused)
		says(t, err, `user "me" lacks the permission to read "s"`)
		b.refuse(wire.KeyQueryPublisherSequence, wire.CodeStreamDoesNotExist)
		_, err = p.Sequence(t.Context(), "me")
		check.Err(t, err, ErrStreamNotFound)
		// RabbitMQ hangs up where the stream has no leader.
		b.on(func(p *script.Peer, _ wire.Key, _ []byte) bool { _ = p.Conn.Close(); return true })
		_, err = p.Sequence(t.Context(), "me")
		check.Err(t, err, ErrUnreachable)
	})
}

// TestRound: a publisher stores a number and reads two and the sequence, in one
// round trip. An error says why once, whatever failed for the same reason.
func TestRound(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		p, _ := b.publisher(t, b.publishing(t, time.Hour), "s")
		defer p.Release()
		b.took(t, `declare 1 "" s`)
		b.sequence = 42
		entries := [2]string{"x", "y"}
		round := func(store string, n uint64, want [2]uint64) {
			t.Helper()
			numbers, sequence, err := p.Round(t.Context(), store, n, entries, "me")
			if err != nil || numbers != want || sequence != 42 {
				t.Errorf("%v, %d, %v; want %v", numbers, sequence, err, want)
			}
		}
		round("", 0, [2]uint64{})
		b.took(t, "query x s", "query y s", "sequence me s")
		round("y", 7, [2]uint64{0, 7})
		b.took(t, "store y s 7", "query x s", "query y s", "sequence me s")
		round("x", 1<<63+1, [2]uint64{1<<63 + 1, 7})
		for key, want := range map[wire.Key]error{wire.KeyQueryOffset: ErrAccessRefused, wire.KeyQueryPublisherSequence: ErrAccessRefused} {
			b.refuse(key, wire.CodeAccessRefused)
			_, _, err := p.Round(t.Context(), "", 0, entries, "me")
			check.Err(t, err, want)
			b.refuse(key, wire.CodeOK)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, check.ErrTest)
		defer cancel()
		b.mute(wire.KeyQueryOffset)
		_, _, err := p.Round(ctx, "", 0, entries, "me")
		check.Err(t, err, check.ErrTest)
		if len(p.lease.conn.pending) != 0 {
			t.Error("an answer is waited for")
		}
		b.on(func(p *script.Peer, _ wire.Key, _ []byte) bool { _ = p.Conn.Close(); return true })
		_, _, err = p.Round(t.Context(), "y", 8, entries, "me")
		check.Err(t, err, ErrUnreachable)
		if strings.Count(err.Error(), ErrUnreachable.Error()) != 1 { // of the reader, or of a write that it overtakes
			t.Errorf("%v", err)
		}
		_, _, err = p.Round(t.Context(), "y", 8, entries, "me")
		check.Err(t, err, ErrUnreachable)
	})
}

// TestReleaseDoesNotWait: the id of a publisher that leaves is free once the broker
// has answered, and what comes for it until then is dropped.
func TestReleaseDoesNotWait(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		p, f := b.publisher(t, c, "s")
		q, _ := b.publisher(t, c, "s")
		conn := p.lease.conn
		b.mute(wire.KeyDeletePublisher)
		begin := time.Now()
		p.Release()
		p.Release()
		b.took(t, `declare 1 "" s`, "metadata []", `declare 2 "" s`, "undeclare 1")
		took(t, begin, 0)
		peer := b.peers[0]
		peer.Write(wire.AppendPublishConfirm(nil, 1, []uint64{5}))
		peer.Write(wire.AppendPublishConfirm(nil, 200, []uint64{5})) // there is none of this id
		f.wantGot(t)
		if conn.byID[1].Load() == nil {
			t.Error("the id is free before the broker has answered")
		}
		peer.Send(&wire.Response{Key: wire.KeyDeletePublisher, Correlation: conn.Conn.lastID, Code: wire.CodeOK})
		synctest.Wait()
		if conn.byID[1].Load() != nil {
			t.Error("the id is not free though the broker has answered")
		}
		peer.Write(wire.AppendPublishConfirm(nil, 1, []uint64{5}))
		f.wantGot(t)
		b.on(nil)
		q.Release()
		b.took(t, "close ok")
	})
}

// A goodbye that the connection has no room for would have the broker refuse the
// publisher's reference there, so nobody comes to that connection any more.
func TestReleaseWithoutRoom(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		p, _ := b.publisher(t, c, "s")
		q, _ := b.publisher(t, c, "s")
		conn := p.lease.conn
		read := make(chan struct{})
		b.on(func(*script.Peer, wire.Key, []byte) bool { <-read; return true })
		check.Nil(t, conn.StoreOffset(t.Context(), "me", "s", 1))
		for conn.offer(mustEncode(&wire.Heartbeat{})) {
			synctest.Wait()
		}
		if conn.lost() {
			t.Fatal("it is lost")
		}
		p.Release()
		if !conn.lost() || conn.byID[1].Load() == nil || len(conn.pending) != 0 {
			t.Errorf("lost: %v", conn.lost())
		}
		close(read)
		q.Release()
	})
}

// TestPublishersApart: a publisher apart has its connection for itself, and the
// 257th one of a node has to have another one.
func TestPublishersApart(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		var all []*Publisher
		for range maxIDs {
			p, _ := b.publisher(t, c, "s")
			all = append(all, p)
		}
		if n := c.SharedConns(); n != 1 {
			t.Errorf("%d connections", n)
		}
		p, _ := b.publisher(t, c, "s")
		if n := c.SharedConns(); n != 2 || p.lease.conn == all[0].lease.conn {
			t.Errorf("%d connections", n)
		}
		apart, err := c.Publish(t.Context(), testContact, testNode, "s", &feed{}, true)
		check.Nil(t, err)
		if n := c.SharedConns(); n != 2 || apart.lease.conn == p.lease.conn {
			t.Errorf("%d connections", n)
		}
		// An id that is free again is the next one's.
		id := all[100].ID()
		all[100].Release()
		p.Release()
		synctest.Wait()
		again, f := b.publisher(t, c, "s")
		if all[100] = again; again.ID() != id {
			t.Errorf("the id is %d, want %d", again.ID(), id)
		}
		f.give(9, 9)
		again.SendNow()
		apart.Release()
		for _, p := range all {
			p.Release()
		}
		synctest.Wait()
		if n := c.SharedConns(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// beating has a peer send heartbeats until it is told to stop.
func beating(p *script.Peer, every time.Duration, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(every):
			p.Send(&wire.Heartbeat{})
		}
	}
}

// TestPublisherBlocked: a broker that takes no messages does not read, and its
// heartbeats go on. The connection lives, nobody comes to it, and all goes on when
// it reads again. Without heartbeats the connection ends.
func TestPublisherBlocked(t *testing.T) {
	const heartbeat = 10 * time.Second
	blocked := func(t *testing.T, b *fake) (c *Cluster, p *Publisher, f *feed, read chan struct{}) {
		c = b.publishing(t, heartbeat)
		p, f = b.publisher(t, c, "s")
		b.took(t, `declare 1 "" s`)
		read = make(chan struct{})
		b.on(func(*script.Peer, wire.Key, []byte) bool { <-read; return false })
		for id := range uint64(3) {
			f.give(id, id)
			p.Ready()
			synctest.Wait()
		}
		return c, p, f, read
	}
	t.Run("heartbeats go on", func(t *testing.T) {
		virtual(t, func(t *testing.T, b *fake) {
			c, p, f, read := blocked(t, b)
			stop := make(chan struct{})
			go beating(b.peers[0], heartbeat/2, stop)
			time.Sleep(24 * time.Hour)
			check.Nil(t, p.Reason())
			if !p.lease.conn.lost() {
				t.Error("others would come to the connection")
			}
			b.on(nil)
			q, _ := b.publisher(t, c, "s")
			if q.lease.conn == p.lease.conn {
				t.Error("another one came to the connection")
			}
			close(read)
			close(stop)
			b.took(t, "publish 1 [0]", `declare 1 "" s`, "publish 1 [1]", "publish 1 [2]")
			time.Sleep(2 * lookPause)
			if n := look(f, func() int { return f.sent }); n != 3 || p.lease.conn.lost() {
				t.Errorf("%d turns have ended; lost: %v", n, p.lease.conn.lost())
			}
			q.Release()
			p.Release()
		})
	})
	t.Run("silence", func(t *testing.T) {
		virtual(t, func(t *testing.T, b *fake) {
			_, p, f, read := blocked(t, b)
			begin := time.Now()
			<-p.Ended()
			if d := time.Since(begin); d < 3*heartbeat/2 || d > 2*heartbeat {
				t.Errorf("it took %v", d)
			}
			check.Err(t, p.Reason(), ErrUnreachable)
			says(t, p.Reason(), "silent")
			synctest.Wait()
			if n := look(f, func() int { return f.sent }); n != 2 {
				t.Errorf("%d turns have ended", n)
			}
			p.Ready()
			p.SendNow()
			synctest.Wait()
			if n := look(f, func() int { return f.taken }); n != 2 {
				t.Errorf("%d frames were taken, by a connection that has ended", n)
			}
			close(read)
			p.Release()
		})
	})
	t.Run("released", func(t *testing.T) {
		virtual(t, func(t *testing.T, b *fake) {
			c, p, _, read := blocked(t, b)
			begin := time.Now()
			p.Release()
			took(t, begin, 0)
			c.Close()
			took(t, begin, closeTimeout)
			if c.SharedConns() != 0 {
				t.Error("the connection is left")
			}
			close(read)
		})
	})
	t.Run("released without time", func(t *testing.T) {
		virtual(t, func(t *testing.T, b *fake) {
			c, p, _, read := blocked(t, b)
			ctx, cancel := context.WithTimeout(t.Context(), closeTimeout/2)
			defer cancel()
			begin := time.Now()
			p.Release()
			c.CloseWithin(ctx)
			took(t, begin, closeTimeout/2)
			close(read)
		})
	})
	t.Run("the peer hangs up", func(t *testing.T) {
		virtual(t, func(t *testing.T, b *fake) {
			_, p, _, read := blocked(t, b)
			for p.lease.conn.offer(mustEncode(&wire.Heartbeat{})) {
				synctest.Wait()
			}
			begin := time.Now()
			b.peers[0].Send(&wire.Close{Correlation: 1, Code: wire.CodeAccessRefused, Reason: "go"})
			<-p.Ended()
			took(t, begin, lastWords)
			says(t, p.Reason(), "closed the connection: go")
			close(read)
			p.Release()
		})
	})
}

// TestPublisherRetires: one stream confirms nothing. The publishers of others are
// asked to leave, also by a sender that always has something to write.
func TestPublisherRetires(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		p, stuck := b.publisher(t, c, "stuck")
		q, f := b.publisher(t, c, "s")
		b.on(func(p *script.Peer, key wire.Key, fields []byte) bool {
			time.Sleep(10 * time.Millisecond) // so that the sender is never idle
			if id, ids, err := published(fields); key == wire.KeyPublish && err == nil && id == 2 {
				p.Write(wire.AppendPublishConfirm(nil, id, ids))
			}
			return key == wire.KeyPublish
		})
		stuck.give(1, 1)
		p.Ready()
		f.give(1, 1)
		f.endless, f.padding = true, turnBytes
		begin := time.Now()
		q.Ready()
		for look(f, func() int { return f.retired }) == 0 {
			if time.Since(begin) > time.Minute {
				t.Fatal("nobody is asked to leave")
			}
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(begin); d < stillLooks*lookPause || d > (stillLooks+2)*lookPause {
			t.Errorf("it took %v", d)
		}
		if n := look(stuck, func() int { return stuck.retired }); n != 0 || !p.lease.conn.lost() {
			t.Errorf("the stream that confirms nothing was asked %d times; nobody comes: %v", n, p.lease.conn.lost())
		}
		q.Release()
		p.Release()
	})
}

// A publisher whose stream lost its leader takes credit with it, so the others
// leave, and nobody comes.
func TestLostCredit(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		p, f := b.publisher(t, c, "s")
		q, g := b.publisher(t, c, "other")
		f.give(1, 3)
		p.SendNow()
		synctest.Wait()
		time.Sleep(5 * lookPause / 2)
		if g.retired != 0 {
			t.Error("it is asked to leave without a cause")
		}
		p.Release()
		r, _ := b.publisher(t, c, "s") // at once, as after the loss of a leader
		time.Sleep(lookPause)
		synctest.Wait()
		if g.retired != 1 {
			t.Errorf("it was asked to leave %d times", g.retired)
		}
		if r.lease.conn == q.lease.conn {
			t.Error("another one came to the connection")
		}
		q.Release()
		r.Release()
		synctest.Wait()
		if c.SharedConns() != 0 {
			t.Errorf("%d connections are left", c.SharedConns())
		}
	})
}

// Outcomes that are cut short end the connection.
func TestMalformedOutcomes(t *testing.T) {
	for name, frame := range map[string][]byte{
		"confirm": wire.AppendPublishConfirm(nil, 1, []uint64{1, 2}),
		"error":   wire.AppendPublishError(nil, 1, wire.CodeInternalError, []uint64{1, 2}),
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				p, f := b.publisher(t, b.publishing(t, time.Hour), "s")
				frame := bytes.Clone(frame)
				frame[12] = 7 // ids, by its count
				b.peers[0].Write(frame)
				<-p.Ended()
				check.Err(t, p.Reason(), ErrProtocol)
				f.wantGot(t)
				p.Release()
			})
		})
	}
	// A connection that is not for publishing takes no notice of others.
	virtual(t, func(t *testing.T, b *fake) {
		c, theirs := piped(t, time.Hour)
		p := script.NewPeer(t, theirs)
		p.Write(wire.AppendPublishConfirm(nil, 1, []uint64{1}))
		go b.serve(p)
		check.Nil(t, c.Ping(t.Context()))
	})
}
