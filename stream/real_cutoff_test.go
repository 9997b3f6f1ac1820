package stream

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// cutOff takes a node out of its cluster, as a broken network between the nodes
// does: it drops its connections to the others, and each refuses the other's
// cookie from then on. Clients reach it as before. heal starts the node again,
// which takes it back; the end of the test does so too.
func cutOff(t *testing.T, b *rabbit.Instance, node string) (heal func()) {
	t.Helper()
	heal = sync.OnceFunc(func() {
		if err := restart(b, node); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(heal)
	var peers []string
	for _, n := range b.Nodes() {
		if n.Name != node {
			peers = append(peers, "'"+n.Name+"@localhost'")
		}
	}
	_, err := b.Ctl(t.Context(), node, "eval", `[begin erlang:set_cookie(N, 'cut off'), erlang:disconnect_node(N) end || N <- [`+strings.Join(peers, ",")+`]].`)
	must(t, err)
	return heal
}

// urlOf returns the URI of one node.
func urlOf(b *rabbit.Instance, node string) string {
	urls := strings.Split(b.StreamURL(), ",")
	for i, n := range b.Nodes() {
		if n.Name == node {
			return urls[i]
		}
	}
	return ""
}

// TestRealLeaderCutOff: the leader's node is cut off from its cluster. It confirms
// nothing, and goes on naming itself the leader, and no replica (4.0.5), or does
// not answer (4.3.6), while the others elect one of them. The producer finds that
// one after ConfirmTimeout, though the only URI leads to the node that is cut off.
// The stream gets each message once.
func TestRealLeaderCutOff(t *testing.T) {
	b := runningCluster(t)
	direct := connect(t, b.StreamURL())
	stream := newStream(t, direct)
	leader := leaderOf(t, direct, b, stream)
	env := connect(t, urlOf(b, leader))
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: "orders", ConfirmTimeout: 2 * time.Second})
	must(t, err)
	must(t, p.Publish(inTime(t), Message{Body: number(0)}))
	heal := cutOff(t, b, leader)
	for i := 1; i < 20; i++ {
		must(t, p.Publish(inTime(t), Message{Body: number(i)}))
	}
	must(t, p.Close(inTime(t)))
	heal()
	if got := leaderOf(t, direct, b, stream); got == leader {
		t.Error("the node that was cut off leads again")
	}
	wantNumbers(t, readAll(t, direct, stream), 0, 20)
}
