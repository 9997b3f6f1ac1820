package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/ha"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

// environment connects as the README of the official client says, except for
// the socket buffers: that client's own, 8 KiB, stall on loopback.
func environment(uri string) (*official.Environment, error) { return environmentWith(uri, 1) }

// environmentWith lets so many producers share a connection.
func environmentWith(uri string, producers int) (*official.Environment, error) {
	env, err := official.NewEnvironment(official.NewEnvironmentOptions().SetUri(uri).SetReadBuffer(-1).SetWriteBuffer(-1).SetMaxProducersPerClient(producers))
	if err != nil && env != nil {
		err = errors.Join(err, env.Close())
	}
	return env, err
}

// consumeOfficial reads with the official client.
func consumeOfficial(how mode) runner {
	return func(ctx context.Context, j job, m *meter) (err error) {
		env, err := environment(j.URI)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, env.Close()) }()
		m.untilStored = how == storeEach
		made := newLatch(how.consumers())
		return together(m.counters(how.consumers(), j.N), func(c *counter) error {
			return consumeOneOfficial(ctx, env, j, how, c, made)
		})
	}
}

// consumeOneOfficial closes its consumer once all consumers are made. The client
// closes a connection with the last consumer on it, and may give that connection
// to a consumer that it makes at this time: its Subscribe then times out after
// 10 s (7 of 600 short runs).
func consumeOneOfficial(ctx context.Context, env *official.Environment, j job, how mode, c *counter, made latch) error {
	o := official.NewConsumerOptions().SetOffset(official.OffsetSpecification{}.First())
	if how.named() {
		o.SetConsumerName(j.Name)
	}
	if how == tracked {
		o.SetAutoCommit(official.NewAutoCommitStrategy())
	}
	run, enough := context.WithCancel(ctx)
	defer enough()
	c.done = enough
	var failed atomic.Pointer[error]
	handle := func(official.ConsumerContext, *amqp.Message) { c.message() }
	switch how {
	case storeEach:
		handle = func(cc official.ConsumerContext, _ *amqp.Message) {
			if c.n == c.want {
				return
			}
			if err := cc.Consumer.StoreCustomOffset(cc.Consumer.GetOffset()); err != nil {
				failed.Store(&err)
				enough()
			}
			c.message()
		}
	case inBatches:
		batch := make([]*amqp.Message, 0, batchSize)
		left := c.want
		handle = func(_ official.ConsumerContext, m *amqp.Message) {
			batch = append(batch, m)
			if left--; len(batch) == batchSize || left == 0 {
				c.messages(len(batch))
				batch = make([]*amqp.Message, 0, batchSize)
			}
		}
	case slow:
		handle = func(official.ConsumerContext, *amqp.Message) {
			c.n++ // read once Close has returned, roughly
			time.Sleep(slowHandler)
		}
	}
	consume := func(until context.Context) error {
		consumer, err := env.NewConsumer(j.Stream, handle, o)
		made.arrive()
		if err != nil {
			return err
		}
		<-until.Done()
		if err := made.wait(ctx); err != nil {
			return err
		}
		if how == storeEach && failed.Load() == nil { // before Close, with which the broker drops what it has not read
			err = c.m.stored(ctx)
		}
		return errors.Join(err, consumer.Close())
	}
	var err error
	if how == slow {
		err = slowly(run, c, consume)
	} else {
		err = consume(run)
	}
	if f := failed.Load(); f != nil {
		err = errors.Join(err, *f)
	}
	return err
}

// reconnectOfficial uses the official client's ReliableConsumer, the one that
// connects again.
func reconnectOfficial(_ context.Context, j job, m *meter) error {
	return reconnect(j, m, func(uri string, handled chan<- struct{}) (func() error, error) {
		env, err := environment(uri)
		if err != nil {
			return nil, err
		}
		o := official.NewConsumerOptions().SetOffset(official.OffsetSpecification{}.First())
		consumer, err := ha.NewReliableConsumer(env, j.Stream, o, func(official.ConsumerContext, *amqp.Message) { handled <- struct{}{} })
		if err != nil {
			return nil, errors.Join(err, env.Close())
		}
		return func() error { return errors.Join(consumer.Close(), env.Close()) }, nil
	})
}
