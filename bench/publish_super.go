package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/stream"
)

// superPartitions is how many partitions a super stream has.
const superPartitions = 100

// superCases read a super stream, and publish to one. The bare socket publishes to
// its partitions, as many messages to each, and chooses none.
func superCases() []benchCase {
	return []benchCase{superConsumeCase(), superKeptCase(), superLatencyCase(), {family: "superstream", name: "superstream-publish", about: "publish to a super stream of 100 partitions, by the hash of a key (the socket: to the same streams in turns)",
		content: contentNone, n: upTo(1_000_000, 400_000_000), windows: superWindows, super: true, streams: superPartitions, producers: superPartitions,
		run: map[string]runner{implTidemark: publishSuperTidemark, implOfficial: publishSuperOfficial, implSocket: publishMany(openSocketPool)}}}
}

// superWindows have small frames too: all that is on its way is spread over the
// partitions.
var superWindows = []window{{frame: 10, inFlight: 10_000}, {frame: 100, inFlight: 10_000}, {frame: 100, inFlight: 40_000}, {frame: 100, inFlight: 40_000, conns: 2}, {frame: 1000, inFlight: 40_000, conns: 2}}

// makeSuper creates a super stream with its partitions, which are named as the
// streams of other cases are. Those that are read live have the message that their
// readers begin with.
func (p *plan) makeSuper(name string, g *group) error {
	create := &wire.CreateSuperStream{Name: name}
	for i := range g.streams {
		create.Partitions = append(create.Partitions, streamName(name, g.streams, i))
		create.BindingKeys = append(create.BindingKeys, strconv.Itoa(i))
	}
	err := p.with(func(c *raw) error { return c.ask(create) })
	if err != nil || g.content != contentLive {
		return err
	}
	return p.forEach(name, g.streams, func(c *raw, partition string) error { return p.fillOn(c, partition, g) })
}

// makeFullSuper is makeSuper, with messages in each partition.
func (p *plan) makeFullSuper(name string, g *group) error {
	if err := p.makeSuper(name, g); err != nil {
		return err
	}
	p.mu.Lock()
	p.supers = append(p.supers, name)
	p.mu.Unlock()
	return p.forEach(name, g.streams, func(c *raw, partition string) error { return p.fillOn(c, partition, g) })
}

func (p *plan) deleteSuper(name string) error {
	return p.with(func(c *raw) error { return c.ask(&wire.DeleteSuperStream{Name: name}) })
}

// superKeys are the keys of the messages, in turns: so many that the partitions get
// about as many messages each.
func superKeys() []string {
	keys := make([]string, 10_007) // not a multiple of anything
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	return keys
}

func publishSuperTidemark(ctx context.Context, j job, m *meter) error {
	return producerTidemark(ctx, j, stream.ProducerConfig{SuperStream: true}, func(p *stream.Producer) error {
		m.sample.Connections = connectionsTo(j.URI)
		list, keys := messagesOf(j.Size), superKeys()
		var failed firstError
		done := failed.report
		m.begin()
		for i := range j.N {
			message := list[i%len(list)]
			message.Key = keys[i%len(keys)]
			if err := p.PublishAsync(ctx, message, done); err != nil {
				return err
			}
		}
		err := p.Flush(ctx)
		m.end(j.N)
		return errors.Join(err, failed.get())
	})
}

func publishSuperOfficial(ctx context.Context, j job, m *meter) (err error) {
	env, err := environmentWith(j.URI, superPartitions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	var key string // of the message that is sent at the moment
	route := official.NewHashRoutingStrategy(func(message.StreamMessage) string { return key })
	p, err := env.NewSuperStreamProducer(j.Stream, official.NewSuperStreamProducerOptions(route))
	if err != nil {
		return err
	}
	confirmed := p.NotifyPublishConfirmation(1)
	all := make(chan struct{})
	go func() {
		left := j.N
		for list := range confirmed {
			if left -= len(list.ConfirmationStatus); left == 0 {
				close(all)
			}
		}
	}()
	m.sample.Connections = connectionsTo(j.URI)
	list, keys := officialMessages(j.Size), superKeys()
	m.begin()
	for i := range j.N {
		key = keys[i%len(keys)]
		if err := p.Send(list[i%len(list)]); err != nil {
			return err
		}
	}
	select {
	case <-all:
	case <-ctx.Done():
		err = ctx.Err()
	}
	m.end(j.N)
	return errors.Join(err, p.Close())
}
