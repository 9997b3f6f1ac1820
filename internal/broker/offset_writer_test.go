package broker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

const testRenewal = 10 * time.Second

// writers returns a cluster with one connection for stores, to the fake, and the
// lease that opened it, whose id is 1.
func writers(t *testing.T, b *fake) (*Cluster, *Lease) {
	t.Helper()
	o := testOptions()
	o.PermitRenewal = testRenewal
	c := NewCluster(o, nil)
	return c, b.join(t, c.stores, &recorder{})
}

// writer returns an offset writer of a cluster that has a connection to the fake.
// Its id is 2.
func (b *fake) writer(t *testing.T, c *Cluster) *OffsetWriter {
	t.Helper()
	w, err := c.NewOffsetWriter(t.Context(), Contact{}, testNode, "me", "s", nil)
	check.Nil(t, err)
	b.took(t, "metadata []", permitted)
	return w
}

const permitted = "subscribe 2 s {3 0} credit 0 [{name me}]"

func TestOffsetWriter(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, other := writers(t, b)
		w := b.writer(t, cluster)
		for offset := range uint64(3) {
			check.Nil(t, w.Store(t.Context(), offset<<40, false))
		}
		check.Nil(t, w.Verify(t.Context(), 2<<40, nil))
		b.took(t, "store me s 0", "store me s 1099511627776", "store me s 2199023255552", "query me s")
		if w.Reason() != nil {
			t.Error(w.Reason())
		}
		w.Close(true)
		b.took(t, "unsubscribe 2")
		other.Release(true)
		b.took(t, "close ok")
		check.Err(t, w.Reason(), ErrClosed)
		check.Err(t, w.Store(t.Context(), 9, false), ErrClosed)
		if n := cluster.SharedConns(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// The last writer closes the connection, with a goodbye if it is to be polite.
func TestOffsetWriterClosesAlone(t *testing.T) {
	for polite, sent := range map[bool][]string{true: {"close ok"}, false: nil} {
		virtual(t, func(t *testing.T, b *fake) {
			cluster, other := writers(t, b)
			w := b.writer(t, cluster)
			other.Release(true)
			b.took(t, "unsubscribe 1")
			w.Close(polite)
			b.took(t, sent...)
			check.Err(t, w.Reason(), ErrClosed)
		})
	}
}

// TestOffsetWriterOfALease stores over the lease's connection, without a
// subscription, and leaves the connection alone.
func TestOffsetWriterOfALease(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		_, l := onlyConn(t, b)
		w, err := l.Offsets("me", "s")
		check.Nil(t, err)
		check.Nil(t, w.Store(t.Context(), 4, true))
		time.Sleep(time.Hour) // there is nothing to renew
		check.Nil(t, w.Store(t.Context(), 5, false))
		check.Nil(t, w.Verify(t.Context(), 5, nil))
		w.Close(true)
		b.took(t, "store me s 4", "store me s 5", "query me s")
		check.Nil(t, w.Reason())
		l.conn.fail(check.ErrTest)
		check.Err(t, w.Reason(), check.ErrTest)
	})
}

func TestOffsetWriterNameTooLong(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		long := strings.Repeat("n", 1<<16)
		_, l := onlyConn(t, b)
		_, err := l.Offsets(long, "s")
		check.Err(t, err, ErrInvalidConfig)
		cluster, _ := writers(t, b)
		_, err = cluster.NewOffsetWriter(t.Context(), Contact{}, testNode, "me", long, nil)
		check.Err(t, err, ErrInvalidConfig)
		b.took(t)
	})
}

// TestPermitRenewal: the subscription is made anew by the first store after so
// long, and by none before.
func TestPermitRenewal(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := writers(t, b)
		w := b.writer(t, cluster)
		for range 3 {
			check.Nil(t, w.Store(t.Context(), 1, false))
			time.Sleep(testRenewal)
			check.Nil(t, w.Store(t.Context(), 2, false))
			b.took(t, "store me s 1", "store me s 2")
			time.Sleep(time.Nanosecond)
			check.Nil(t, w.Store(t.Context(), 3, false))
			b.took(t, "unsubscribe 2", permitted, "store me s 3")
		}
	})
}

// TestPermitRefused: stores go on, and the subscription is asked for again by the
// first one after permitRetry.
func TestPermitRefused(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		b.refuse(wire.KeySubscribe, wire.CodeStreamNotAvailable)
		cluster, _ := writers(t, b)
		w := b.writer(t, cluster)
		for range 2 {
			time.Sleep(permitRetry)
			check.Nil(t, w.Store(t.Context(), 1, false))
			b.took(t, "store me s 1")
			time.Sleep(time.Nanosecond)
			check.Nil(t, w.Store(t.Context(), 2, false))
			b.took(t, "unsubscribe 2", permitted, "store me s 2")
		}
		b.refuse(wire.KeySubscribe, wire.CodeOK)
		time.Sleep(permitRetry + 1)
		check.Nil(t, w.Store(t.Context(), 3, false))
		b.took(t, "unsubscribe 2", permitted, "store me s 3")
		time.Sleep(testRenewal)
		check.Nil(t, w.Store(t.Context(), 4, false))
		b.took(t, "store me s 4")
	})
}

// A renewal that fails is the store's error, and nothing is stored.
func TestPermitRenewalFails(t *testing.T) {
	for _, silent := range []wire.Key{wire.KeyUnsubscribe, wire.KeySubscribe} {
		virtual(t, func(t *testing.T, b *fake) {
			cluster, _ := writers(t, b)
			w := b.writer(t, cluster)
			time.Sleep(testRenewal + 1)
			b.mute(silent)
			begin := time.Now()
			check.Err(t, w.Store(t.Context(), 1, false), ErrUnreachable)
			took(t, begin, callTimeout)
			want := []string{"unsubscribe 2", permitted}
			if silent == wire.KeyUnsubscribe {
				want = want[:1]
			}
			b.took(t, want...)
		})
	}
}

// A writer that gets no answer at its beginning leaves the connection.
func TestOffsetWriterWithoutAnswer(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, other := writers(t, b)
		b.mute(wire.KeySubscribe)
		_, err := cluster.NewOffsetWriter(second(t), Contact{}, testNode, "me", "s", nil)
		if err == nil || len(other.conn.leases) != 1 || other.Reason() != nil {
			t.Errorf("%v, and %d leases; %v", err, len(other.conn.leases), other.Reason())
		}
		b.took(t, "metadata []", permitted, "unsubscribe 2")
		other.conn.fail(check.ErrTest)
		b.on(nil)
		_, err = cluster.NewOffsetWriter(t.Context(), Contact{Endpoint: Endpoint{Host: "127.0.0.1", Port: 1}}, Node{"127.0.0.1", 1}, "me", "s", nil)
		check.Err(t, err, ErrUnreachable)
		if n := cluster.stores.size(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestOffsetWriterMoved(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := writers(t, b)
		var moved []string
		b.on(func(p *script.Peer, key wire.Key, _ []byte) bool {
			if key == wire.KeySubscribe {
				p.Send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: "s"})
			}
			return false
		})
		_, err := cluster.NewOffsetWriter(t.Context(), Contact{}, testNode, "me", "s", func(stream string) { moved = append(moved, stream) })
		check.Nil(t, err)
		synctest.Wait()
		if len(moved) != 1 || moved[0] != "s" {
			t.Errorf("moved: %v", moved)
		}
	})
}

// TestOffsetWriterVerify: a store that was lost is sent again half-way, by resend.
func TestOffsetWriterVerify(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := writers(t, b)
		w := b.writer(t, cluster)
		b.refuse(wire.KeyStoreOffset, 0) // it is lost
		check.Nil(t, w.Store(t.Context(), 6, false))
		b.took(t, "store me s 6")
		b.refuse(wire.KeyStoreOffset, wire.CodeOK)
		resent := 0
		begin := time.Now()
		check.Nil(t, w.Verify(t.Context(), 6, func() error { resent++; return w.Store(t.Context(), 6, false) }))
		took(t, begin, (verifyTries/2+1)*verifyPause)
		if resent != 1 || b.stored["me"] != 6 {
			t.Errorf("resent %d times; the broker has %d", resent, b.stored["me"])
		}
	})
}

// TestOffsetWriterCorks: while stores follow each other closely the kernel keeps
// them, and whatever else is sent lets them go.
func TestOffsetWriterCorks(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		cluster, _ := writers(t, b)
		w := b.writer(t, cluster)
		w.conn.direct.socket = &fakeRaw{err: check.ErrTest} // so that everything goes through the pipe
		store := func(more, want bool) {
			t.Helper()
			check.Nil(t, w.Store(t.Context(), 1, more))
			if w.conn.direct.corked != want {
				t.Errorf("corked: %v", w.conn.direct.corked)
			}
		}
		burst := func() {
			t.Helper()
			store(true, true)
			store(true, true)
		}
		open := func(what string) {
			t.Helper()
			if w.conn.direct.corked {
				t.Errorf("corked after %s", what)
			}
		}
		store(true, false) // the first of a burst goes at once
		burst()
		store(false, false) // and so does the last
		time.Sleep(burstGap)
		store(true, false) // a burst that stops ends with its time
		time.Sleep(burstGap - 1)
		burst()
		check.Nil(t, w.Verify(t.Context(), 1, nil))
		open("Verify")
		burst()
		check.Nil(t, w.permit(t.Context()))
		open("permit")
		burst()
		b.mute(wire.KeyUnsubscribe)
		if w.renewPermit(second(t)) == nil {
			t.Error("it was renewed")
		}
		open("renewPermit")
		b.on(nil)
		store(true, false)
		burst()
		w.Close(true)
		open("Close")
	})
}

// A writer of a lease never corks: chunks and credit share its connection.
func TestOffsetWriterOfALeaseDoesNotCork(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		_, l := onlyConn(t, b)
		w, err := l.Offsets("me", "s")
		check.Nil(t, err)
		l.conn.direct.socket = &fakeRaw{err: check.ErrTest}
		for range 3 {
			check.Nil(t, w.Store(t.Context(), 1, true))
		}
		if l.conn.direct.corked {
			t.Error("corked")
		}
	})
}
