package broker

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestPublishTogether: publishers of a connection are told that they are ready
// from many goroutines, by Ready and by SendNow, while they come and go. Each frame
// arrives once, whole, in its publisher's order, and none after its publisher's end.
func TestPublishTogether(t *testing.T) {
	for name, slow := range map[string]bool{"at once": false, "a socket that takes little": true} {
		t.Run(name, func(t *testing.T) { publishTogether(t, slow) })
	}
}

func publishTogether(t *testing.T, slow bool) {
	const rounds, at, frames = 4, 8, 60
	o := testOptions()
	o.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
		conn, err := net.Dial(network, address)
		if tcp, ok := conn.(*net.TCPConn); ok && slow {
			_ = tcp.SetWriteBuffer(4 << 10)
		}
		return conn, err
	}
	e := listen(t, func(peer *script.Peer) {
		if peer.Welcome() {
			takePublishers(t, peer)
		}
	})
	c := NewCluster(o, nil)
	t.Cleanup(c.Close)
	c.publishers.perNode = conns(1)
	keep := publishOne(t, c, e, 1) // so that the connection stays
	var wg sync.WaitGroup
	for i := range at {
		wg.Go(func() {
			for range rounds {
				publishOne(t, c, e, frames+i).Release()
			}
		})
	}
	wg.Wait()
	keep.Release()
}

// publishOne publishes frames of its own, from three goroutines, and returns the
// publisher once all are confirmed.
func publishOne(t *testing.T, c *Cluster, e Endpoint, frames int) *Publisher {
	f := &feed{padding: 700}
	p, err := c.Publish(check.Soon(t), Contact{Endpoint: e, Advertised: e.Address()}, Node{e.Host, e.Port}, "s", f, false)
	if err != nil {
		t.Error(err)
		return nil
	}
	f.mu.Lock()
	f.pub, f.id = p, p.ID()
	f.mu.Unlock()
	check.Nil(t, p.Declare(check.Soon(t), ""))
	for first := uint64(1); first <= uint64(3*frames); first += 3 {
		f.give(first, first+2)
		if first%2 == 0 {
			p.SendNow()
		} else {
			go p.Ready()
		}
	}
	p.Ready()
	check.Eventually(t, "all are confirmed", func() bool {
		return p.Reason() != nil || look(f, func() int { return len(f.got) }) == 3*frames
	})
	check.Nil(t, p.Reason())
	return p
}

// takePublishers plays a broker that confirms. The test fails if a publisher's
// frames are not one after the other, or come without a publisher.
func takePublishers(t *testing.T, peer *script.Peer) {
	next := map[uint8]uint64{} // the first publishing id of the next frame
	for {
		key, fields, ok := peer.Next()
		if !ok {
			return
		}
		id, _ := wire.Correlation(fields)
		switch key {
		case wire.KeyPublish:
			publisher, ids, err := published(fields)
			if err != nil || len(ids) != 3 || ids[0] != next[publisher] {
				t.Errorf("publisher %d sent %v (%v), want from %d on", publisher, ids, err, next[publisher])
			}
			next[publisher] += 3
			peer.Write(wire.AppendPublishConfirm(nil, publisher, ids))
			continue
		case wire.KeyDeclarePublisher:
			var f wire.DeclarePublisher
			peer.Decode(fields, &f)
			next[f.PublisherID] = 1
		case wire.KeyDeletePublisher:
			var f wire.DeletePublisher
			peer.Decode(fields, &f)
			delete(next, f.PublisherID)
		case wire.KeyMetadata:
			peer.Send(metadata(id, "s", wire.CodeOK))
			continue
		}
		peer.Send(&wire.Response{Key: key, Correlation: id, Code: wire.CodeOK})
	}
}
