package stream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/tidemark-go/tidemark/internal/murmur3"
)

// partitionBodies reads the first n messages of a stream.
func partitionBodies(t *testing.T, env *Env, stream string, n int) (bodies []string) {
	t.Helper()
	if n == 0 {
		return nil
	}
	c, err := env.NewConsumer(stream, ConsumerConfig{Start: First()})
	must(t, err)
	for d, err := range c.All(inTime(t)) {
		must(t, err)
		if bodies = append(bodies, string(d.Body)); len(bodies) == n {
			break
		}
	}
	return bodies
}

// TestSuperProducer: a named producer publishes to a super stream on both brokers:
// each key's messages are in its partition, in order and once. Its end is that of
// the super stream.
func TestSuperProducer(t *testing.T) {
	onBrokers(t, func(t *testing.T, b testBroker) {
		env := connect(t, b.StreamURL())
		name := fmt.Sprintf("orders-%d", rand.Uint64())
		must(t, env.DeclareSuperStream(inTime(t), name, SuperStreamConfig{Partitions: 3}))
		t.Cleanup(func() { _ = env.DeleteSuperStream(soon(t), name) })
		p, err := env.NewProducer(inTime(t), name, ProducerConfig{SuperStream: true, Name: "shop"})
		must(t, err)
		const keys, each = 50, 40
		for i := range each {
			for k := range keys {
				must(t, p.PublishAsync(inTime(t), keyed(fmt.Sprint("k", k), i), func(err error) { must(t, err) }))
			}
		}
		must(t, p.Flush(inTime(t)))
		of := [3]int{}
		for k := range keys {
			of[murmur3.Partition(fmt.Sprint("k", k), 3)] += each
		}
		for i, want := range of {
			next := map[string]int{}
			for _, body := range partitionBodies(t, env, fmt.Sprintf("%s-%d", name, i), want) {
				key, _, _ := strings.Cut(body, ":")
				if want := fmt.Sprintf("%s:%d", key, next[key]); body != want || murmur3.Partition(key, 3) != i {
					t.Fatalf("partition %d has %s, want %s", i, body, want)
				}
				next[key]++
			}
		}
		if ids := p.LastPublishingIDs(); len(ids) != 3 || p.LastPublishingID() == 0 {
			t.Errorf("the last ids are %v, in all %d", ids, p.LastPublishingID())
		}
		must(t, env.DeleteSuperStream(inTime(t), name))
		eventually(t, "the end", patience, func() bool { return errors.Is(p.Publish(inTime(t), keyed("a", 0)), ErrStreamDeleted) })
		_ = p.Close(soon(t)) // something may have been on its way
	})
}

// TestSuperProducerFollowsBindings: partitions that are bound and deleted by AMQP,
// on RabbitMQ.
func TestSuperProducerFollowsBindings(t *testing.T) {
	b := realBroker(t)
	env := connect(t, b.StreamURL())
	name := fmt.Sprintf("orders-%d", rand.Uint64())
	must(t, env.DeclareSuperStream(inTime(t), name, SuperStreamConfig{Partitions: 2}))
	t.Cleanup(func() { _ = env.DeleteSuperStream(soon(t), name) })
	p, err := env.NewProducer(inTime(t), name, ProducerConfig{SuperStream: true})
	must(t, err)
	byKey, err := env.NewProducer(inTime(t), name, ProducerConfig{SuperStream: true, Routing: RouteByKey()})
	must(t, err)
	wantErr(t, byKey.Publish(inTime(t), keyed("2", 0)), ErrNoRoute)

	conn, err := amqp.Dial(b.AMQPURL())
	must(t, err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(t, err)
	added := name + "-2"
	_, err = ch.QueueDeclare(added, true, false, false, false, amqp.Table{"x-queue-type": "stream"})
	must(t, err)
	must(t, ch.QueueBind(added, "2", name, false, amqp.Table{"x-stream-partition-order": int32(2)}))
	must(t, byKey.Publish(inTime(t), keyed("2", 0)))
	if got := partitionBodies(t, env, added, 1); got[0] != "2:0" {
		t.Errorf("the new partition has %v", got)
	}
	p.super.refreshed(inTime(t)) // in place of waiting for refreshEvery
	key := keyFor("k", 2, 3)
	must(t, p.Publish(inTime(t), keyed(key, 0)))
	if got := partitionBodies(t, env, added, 2); got[1] != key+":0" {
		t.Errorf("the new partition has %v", got)
	}
	_, err = ch.QueueDelete(added, false, false, false)
	must(t, err)
	eventually(t, "another partition", patience, func() bool { return p.Publish(inTime(t), keyed(key, 1)) == nil })
	if n := len(p.LastPublishingIDs()); n != 2 {
		t.Errorf("%d partitions are left", n)
	}
}
