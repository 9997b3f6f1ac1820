package stream

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// seenOf are the offsets that a consumer has handled, by partition.
type seenOf struct {
	t  *testing.T
	mu sync.Mutex
	n  map[string]int
}

// handle expects the messages of a partition in order, each once.
func (s *seenOf) handle(_ context.Context, d *Delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := fmt.Sprint(s.n[d.Stream]); string(d.Body) != want {
		s.t.Errorf("%s: message %s, want %s", d.Stream, d.Body, want)
	}
	s.n[d.Stream]++
	return nil
}

func (s *seenOf) has(want map[string]int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Equal(s.n, want)
}

// TestRealSuperConsumer: a run of a super stream on RabbitMQ, with a partition that
// is added and one that is deleted by AMQP, goes on in the next one.
func TestRealSuperConsumer(t *testing.T) {
	b := realBroker(t)
	env := connect(t, b.StreamURL())
	name := fmt.Sprintf("orders-%d", rand.Uint64())
	must(t, env.DeclareSuperStream(inTime(t), name, SuperStreamConfig{Partitions: 3}))
	t.Cleanup(func() { _ = env.DeleteSuperStream(soon(t), name) })
	partition := func(i int) string { return fmt.Sprintf("%s-%d", name, i) }
	want, seen := map[string]int{}, &seenOf{t: t, n: map[string]int{}}
	fill := func(partitions ...int) {
		for _, i := range partitions {
			publish(t, env, partition(i), want[partition(i)], want[partition(i)]+1000)
			want[partition(i)] += 1000
		}
	}
	runs := func() (stop func() error) {
		c, err := env.NewConsumer(name, ConsumerConfig{SuperStream: true, Name: "billing"})
		must(t, err)
		ctx, cancel := context.WithCancel(inTime(t))
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx, seen.handle) }()
		return func() error { cancel(); return recv(t, ended, "the end") }
	}
	all := func() {
		t.Helper()
		eventually(t, "all messages", timeLimit(), func() bool { return seen.has(want) })
	}
	fill(0, 1, 2)
	stop := runs()
	all()

	conn, err := amqp.Dial(b.AMQPURL())
	must(t, err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(t, err)
	_, err = ch.QueueDeclare(partition(3), true, false, false, false, amqp.Table{"x-queue-type": "stream"})
	must(t, err)
	fill(3) // before anybody knows of it
	must(t, ch.QueueBind(partition(3), "3", name, false, amqp.Table{"x-stream-partition-order": int32(3)}))
	all()
	must(t, stop())
	for i := range 4 {
		wantStored(t, env, "billing", partition(i), 999)
	}

	fill(0, 1, 2, 3)
	stop = runs()
	all()
	_, err = ch.QueueDelete(partition(1), false, false, false)
	must(t, err)
	fill(0, 2, 3)
	all()
	must(t, env.DeleteSuperStream(inTime(t), name))
	eventually(t, "the end", timeLimit(), func() bool { return len(env.supers.names()) == 0 })
	wantErr(t, stop(), ErrStreamDeleted)
}

// names returns which super streams are watched.
func (a *superWatches) names() (list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.byName {
		list = append(list, name)
	}
	return list
}
