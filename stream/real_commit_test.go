package stream

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// onLeader is a stream of a cluster of three with a consumer that stores only when
// it is asked to, or ends.
type onLeader struct {
	trio
	env      *Env
	stream   string
	consumer *Consumer
	handled  chan uint64
	stop     context.CancelFunc
	ended    chan error
}

// startOnLeader publishes ten messages and has a consumer handle them.
func startOnLeader(t *testing.T, b *rabbit.Instance, store StorePolicy) *onLeader {
	t.Helper()
	env := connect(t, b.StreamURL())
	o := &onLeader{env: env, stream: newStream(t, env), handled: make(chan uint64, 100)}
	publish(t, env, o.stream, 0, 10)
	o.trio = trioOf(t, env, b, o.stream)
	o.run(store)
	wantNext(t, o.handled, 0, 10)
	return o
}

// run begins a run.
func (o *onLeader) run(store StorePolicy) {
	o.t.Helper()
	c, err := o.env.NewConsumer(o.stream, ConsumerConfig{Name: "billing", Start: Stored(First()), Store: store})
	must(o.t, err)
	ctx, stop := context.WithCancel(o.t.Context())
	o.consumer, o.stop, o.ended = c, stop, make(chan error, 1)
	ended := o.ended
	go func() {
		ended <- c.Run(ctx, func(_ context.Context, d *Delivery) error { o.handled <- d.Offset; return nil })
	}()
}

// end ends the run.
func (o *onLeader) end() error {
	o.t.Helper()
	o.stop()
	return recv(o.t, o.ended, "the end of Run")
}

// holdBack keeps what the leader writes from both replicas.
func (o *onLeader) holdBack() {
	o.t.Helper()
	o.eval(o.leader, suspendReaders, o.next)
	o.eval(o.leader, suspendReaders, o.behind)
}

// storedOnNextLeader kills the leader and returns what the next one has stored.
func (o *onLeader) storedOnNextLeader() (offset uint64, err error) {
	o.t.Helper()
	must(o.t, o.Kill(o.t.Context(), o.leader))
	eventually(o.t, "another leader answers", time.Minute, func() bool {
		l, findErr := o.env.cluster.Find(o.t.Context(), o.stream)
		if findErr != nil || nodeAt(o.Instance, l.Leader.Port) == o.leader {
			return false
		}
		offset, err = o.env.QueryOffset(o.t.Context(), "billing", o.stream)
		return err == nil || errors.Is(err, ErrNoOffset)
	})
	return offset, err
}

// atEnd stores when a run ends, and on Commit.
var atEnd = StorePolicy{Interval: time.Hour}

// TestRealStoreGoesBack is what StorePolicy warns of: the run has ended in order,
// and its mark dies with the leader.
func TestRealStoreGoesBack(t *testing.T) {
	o := startOnLeader(t, runningCluster(t), atEnd)
	o.holdBack()
	must(t, o.end())
	wantStored(t, o.env, "billing", o.stream, 9)
	if offset, err := o.storedOnNextLeader(); !errors.Is(err, ErrNoOffset) {
		t.Errorf("offset %d (%v) is stored, though no replica could have it", offset, err)
	}
}

// TestRealCommitted: with StorePolicy.Committed the run says that its mark is not
// stored, Commit waits until a majority has it, and what a run has stored is there
// when the leader is killed right after.
func TestRealCommitted(t *testing.T) {
	committed := atEnd
	committed.Committed = true
	o := startOnLeader(t, runningCluster(t), committed)
	o.holdBack()
	wantErr(t, o.end(), ErrNotStored)
	wantStored(t, o.env, "billing", o.stream, 9)
	o.eval(o.leader, resumeReaders)

	o.run(committed)
	publish(t, o.env, o.stream, 10, 20)
	wantNext(t, o.handled, 10, 10)
	o.holdBack()
	done := make(chan error, 1)
	go func() { done <- o.consumer.Commit(inTime(t)) }()
	eventually(t, "the leader has the offset", time.Minute, func() bool {
		offset, err := o.env.QueryOffset(t.Context(), "billing", o.stream)
		return err == nil && offset > 9
	})
	select {
	case err := <-done:
		t.Errorf("Commit has not waited: %v", err)
	case <-time.After(commitWait):
	}
	o.eval(o.leader, resumeReaders)
	must(t, recv(t, done, "the end of Commit"))

	publish(t, o.env, o.stream, 20, 30)
	wantNext(t, o.handled, 20, 10)
	must(t, o.end())
	want, err := o.env.QueryOffset(t.Context(), "billing", o.stream)
	must(t, err)
	if offset, err := o.storedOnNextLeader(); err != nil || offset != want || want < 29 {
		t.Errorf("offset %d (%v) is stored, and the run has stored %d", offset, err, want)
	}
}

// commitWait is far longer than a Commit takes that does not wait for replicas.
const commitWait = time.Second
