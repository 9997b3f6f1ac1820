package broker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// The properties of a member are what RabbitMQ knows a group by. A super stream is
// named for a group alone: without one the broker refuses it.
func TestSubscribeOptions(t *testing.T) {
	for want, o := range map[string]SubscribeOptions{
		"[]":          {},
		"[{name me}]": {Name: "me", SuperStream: "sup"},
		"[{name me} {single-active-consumer true}]":                    {Name: "me", SingleActive: true},
		"[{name me} {single-active-consumer true} {super-stream sup}]": {Name: "me", SingleActive: true, SuperStream: "sup"},
	} {
		virtual(t, func(t *testing.T, b *fake) {
			cluster, _ := onlyConn(t, b)
			l := b.lease(t, cluster, &recorder{})
			b.took(t, "metadata []")
			check.Nil(t, l.Subscribe(t.Context(), "s", wire.OffsetSpec{Type: wire.OffsetNext}, o))
			b.took(t, "subscribe 2 s {3 0} credit 1 "+want)
		})
	}
}

// What the broker says of a member is answered when the member says so. A member
// that has left, or wants nothing of it, is answered for at once: the broker would
// end the connection after a minute, and with it the other subscriptions.
func TestConsumerUpdate(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		var to *script.Peer
		b.on(func(p *script.Peer, _ wire.Key, _ []byte) bool { to = p; return false })
		cluster, _ := onlyConn(t, b)
		r := &recorder{}
		l := b.lease(t, cluster, r)
		b.took(t, "metadata []")
		say := func(correlation uint32, active bool) {
			to.Send(&wire.ConsumerUpdate{Correlation: correlation, SubscriptionID: 2, Active: active})
			synctest.Wait()
		}
		say(7, true)
		b.took(t)
		if len(r.updates) != 1 || !r.updates[0].Active {
			t.Fatalf("the member was told %v", r.updates)
		}
		check.Nil(t, l.Answer(t.Context(), r.updates[0], wire.OffsetSpec{Type: wire.OffsetAt, Value: 9}))
		b.took(t, "answer 7 ok {4 9}")
		r.mu.Lock()
		r.declines = true
		r.mu.Unlock()
		say(8, false)
		b.took(t, "answer 8 ok {0 0}")
		l.Release(true)
		b.took(t, "unsubscribe 2")
		say(9, true)
		b.took(t, "answer 9 ok {0 0}")
	})
}

// The peer has been silent too long if either clock says so, and what comes after
// that does not make up for it.
func TestHearing(t *testing.T) {
	began := time.Now()
	fresh := func() *hearing {
		h := &hearing{limit: 20 * time.Second, began: began}
		h.watched.Store(true)
		h.set(began)
		return h
	}
	if h := fresh(); h.silentAt(began.Add(20*time.Second)) || !h.silentAt(began.Add(20*time.Second+1)) {
		t.Error("both clocks: silent before the limit, or not after it")
	}
	if !fresh().silentAt(began.Round(0).Add(time.Minute)) {
		t.Error("the wall clock alone went on, as in a suspend, and nobody noticed")
	}
	back := fresh()
	back.wall.Store(began.Add(time.Hour).UnixNano()) // the wall clock was set back
	if !back.silentAt(began.Add(time.Minute)) {
		t.Error("the monotonic clock alone went on, and nobody noticed")
	}
	late := fresh()
	late.silentAt(began.Add(time.Minute))
	if late.set(began.Add(time.Minute)); !late.silentAt(began.Add(time.Minute)) {
		t.Error("what waited in the socket made up for the pause")
	}
}

// A peer counts from WatchPeer on.
func TestSilentPeer(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, first := onlyConn(t, b)
		conn := first.conn
		l := b.lease(t, cluster, &recorder{})
		time.Sleep(10 * time.Minute)
		l.WatchPeer()
		if l.SilentPeer() {
			t.Error("silent at once")
		}
		time.Sleep(conn.heartbeat)
		check.Nil(t, conn.Ping(t.Context()))
		time.Sleep(conn.heartbeat + 10*time.Minute)
		if l.SilentPeer() {
			t.Error("silent although it has answered")
		}
	})
}

// A connection whose peer was silent for too long stays so, whatever comes. Who
// joins anew gets another one, although the first one lives and others use it.
func TestSilentPeerIsNotJoined(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, first := onlyConn(t, b)
		l := b.lease(t, cluster, &recorder{})
		l.WatchPeer()
		time.Sleep(first.conn.heartbeat)
		l.conn.hearing.set(time.Now().Add(-3 * first.conn.heartbeat)) // as if the process had been stopped
		check.Nil(t, first.conn.Ping(t.Context()))
		if !l.SilentPeer() || !l.conn.Alive() {
			t.Fatal("the pause was not noticed, or has ended the connection")
		}
		l.Release(false)
		anew := b.join(t, cluster.readers, &recorder{})
		anew.WatchPeer()
		if anew.SilentPeer() {
			t.Error("the member that joined anew is on the connection that it has left")
		}
	})
}

func TestForgetsMembers(t *testing.T) {
	for version, want := range map[string]bool{
		"4.0.5": false, "4.1.1": false, "4.1.2": true, "4.1.8": true, "4.1.9": false, "4.2": true, "4.2.0": true, "4.2.7": true,
		"4.3.0": true, "4.3.3": true, "4.3.3-rc.1": true, "4.3.4": false, "4.3.6": false, "5.0.0": false, "": false, "x": false,
	} {
		if got := ForgetsMembers(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
