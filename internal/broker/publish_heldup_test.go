package broker

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestNobodyComesBesideAStillStream: nobody is asked to leave a connection on which
// nothing but streams that confirm nothing are left. Publishers of other streams do
// not come to it, for they would be asked to leave; those of such a stream do.
func TestNobodyComesBesideAStillStream(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		c := b.publishing(t, time.Hour)
		p, f := b.publisher(t, c, "still")
		b.on(func(_ *script.Peer, key wire.Key, _ []byte) bool { return key == wire.KeyPublish })
		f.give(1, 1)
		p.SendNow()
		soon, _ := b.publisher(t, c, "s")
		if soon.lease.conn != p.lease.conn {
			t.Error("a stream counts as one that confirms nothing at once")
		}
		soon.Release()
		time.Sleep((stillLooks + 2) * lookPause)
		if p.lease.conn.lost() {
			t.Error("nobody comes to the connection, though nobody is asked to leave it")
		}
		same, _ := b.publisher(t, c, "still")
		other, _ := b.publisher(t, c, "s")
		if same.lease.conn != p.lease.conn || other.lease.conn == p.lease.conn {
			t.Error("the stream's own went elsewhere, or another stream's came")
		}
		p.Settled(1) // the quorum is back
		time.Sleep(2 * lookPause)
		other.Release()
		back, _ := b.publisher(t, c, "s")
		if back.lease.conn != p.lease.conn {
			t.Error("nobody comes to the connection though its stream goes on")
		}
		for _, l := range []*Publisher{p, same, back} {
			l.Release()
		}
	})
}

// TestNobodyHoldsUpWhatIsDialed: who comes while a connection is dialed waits for that
// one, and dials no other.
func TestNobodyHoldsUpWhatIsDialed(t *testing.T) {
	if c := (&sharedConn{dialed: make(chan struct{})}); c.heldUpFor(&Lease{stream: "s"}) {
		t.Error("a connection that is being dialed counts as held up")
	}
}
