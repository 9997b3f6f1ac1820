package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
	"github.com/tidemark-go/tidemark/stream"
)

// superConsumeCase reads a super stream from its beginning. The bare socket reads
// its partitions, over a connection for each.
func superConsumeCase() benchCase {
	return benchCase{family: "superstream", name: "superstream-consume", about: "read a super stream of 100 partitions with chunks of 1,000 messages, with one handler and a name (the socket: the same streams, nothing stored)",
		content: contentSuper, n: upTo(2_000_000, 400_000_000), schedules: allSchedules, super: true, streams: superPartitions, consumers: superPartitions,
		run: map[string]runner{implTidemark: consumeSuper(superTidemark), implOfficial: consumeSuper(superOfficial), implSocket: wholeFanOut(crowdSocket)}}
}

// superKeptCase is superConsumeCase in which the sockets do for a handler what this
// library does by default: all messages go through one goroutine, and may be kept.
func superKeptCase() benchCase {
	c := superConsumeCase()
	c.name, c.about = "superstream-consume-kept", "the same (the sockets: each chunk is copied, since its messages may be kept, and one goroutine gets all)"
	c.run = map[string]runner{implTidemark: consumeSuper(superTidemark), implSocket: wholeFanOut(crowdKept)}
	return c
}

// keptMessage is a message that a bare socket gives away.
type keptMessage struct {
	of     *member
	offset uint64
	body   []byte
}

// crowdKept reads with a bare connection for each consumer. The goroutine that
// calls it gets all messages, in copies.
func crowdKept(ctx context.Context, j job, c *crowd) error {
	chunks := make(chan []keptMessage)
	var handling sync.WaitGroup
	handling.Go(func() {
		for list := range chunks {
			for _, m := range list {
				m.of.message(m.offset, m.body)
			}
		}
	})
	defer handling.Wait()
	defer close(chunks)
	s, err := parseSchedule(j.Credit)
	if err != nil {
		return err
	}
	places := make(chan struct{}, connecting)
	return c.each(ctx, func(f *member) error { return readKept(ctx, j, f, s, places, chunks) })
}

// readKept passes on copies of what comes for a member until ctx ends.
func readKept(ctx context.Context, j job, f *member, s schedule, places chan struct{}, chunks chan<- []keptMessage) error {
	var list []keptMessage
	r := reader{kept: true, each: func(offset uint64, body []byte) error {
		list = append(list, keptMessage{f, offset, dataOf(body)})
		return nil
	}}
	r.done = func() error {
		select {
		case chunks <- list:
		case <-ctx.Done():
		}
		list = make([]keptMessage, 0, len(list))
		return nil
	}
	return readMember(ctx, j, f, s, places, &r)
}

// superLatencyCase reads a super stream live. Its partitions get as many messages in
// all as the one stream of tail-latency-1 does, which it is to be compared with.
func superLatencyCase() benchCase {
	return benchCase{family: "superstream", name: "superstream-latency", about: "a live named consumer of a super stream of 100 partitions with a message a second in each: as tail-latency-1, whose stream has 100 a second",
		content: contentLive, n: fixed(superPartitions * liveTime), rate: 1, super: true, streams: superPartitions, consumers: superPartitions,
		run: map[string]runner{implTidemark: live(asOne(superTidemark)), implOfficial: live(asOne(superOfficial)), implSocket: live(crowdSocket)}}
}

// consumeSuper is wholeFanOut in which all members are one consumer.
func consumeSuper(read crowdReader) runner { return wholeFanOut(asOne(read)) }

// asOne makes all members of a crowd one consumer, with one name.
func asOne(read crowdReader) crowdReader {
	return func(ctx context.Context, j job, c *crowd) error {
		for _, f := range c.members {
			f.name = j.Name
		}
		err := read(ctx, j, c)
		c.last = time.Now()
		if context.Cause(ctx) == errEnough && (err == nil || errors.Is(err, errEnough) || errors.Is(err, context.Canceled)) {
			return nil
		}
		return err
	}
}

// byPartition returns the members by the streams that they read.
func (c *crowd) byPartition() map[string]*member {
	members := make(map[string]*member, len(c.members))
	for _, f := range c.members {
		members[f.stream] = f
	}
	return members
}

func superTidemark(ctx context.Context, j job, c *crowd) (err error) {
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{j.URI}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	consumer, err := env.NewConsumer(j.Stream, stream.ConsumerConfig{SuperStream: true, Name: j.Name, ReuseDelivery: j.Reuse})
	if err != nil {
		return err
	}
	members, f := c.byPartition(), c.members[0]
	return consumer.Run(ctx, func(_ context.Context, d *stream.Delivery) error {
		if d.Stream != f.stream { // a look into the map for each message costs a tenth of the whole
			f = members[d.Stream]
		}
		f.message(d.Offset, d.Body)
		return nil
	})
}

// superOfficial has the handler called on a goroutine for each partition.
func superOfficial(ctx context.Context, j job, c *crowd) (err error) {
	env, err := environmentWith(j.URI, superPartitions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	members := c.byPartition()
	o := official.NewSuperStreamConsumerOptions().SetConsumerName(j.Name).SetOffset(official.OffsetSpecification{}.First()).
		SetAutoCommit(official.NewAutoCommitStrategy())
	consumer, err := env.NewSuperStreamConsumer(j.Stream, func(cc official.ConsumerContext, m *amqp.Message) {
		members[cc.Consumer.GetStreamName()].official(cc, m)
	}, o)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return consumer.Close()
}
