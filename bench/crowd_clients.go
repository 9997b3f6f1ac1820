package main

import (
	"context"
	"errors"
	"sync"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/stream"
)

// connecting is how many peers of this library connect at a time, so that
// connections do not wait in the broker's queue of new ones, which is short.
const connecting = 16

// crowdTidemark reads with one Env, and the default store policy.
func crowdTidemark(ctx context.Context, j job, c *crowd) (err error) {
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{j.URI}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	return c.each(ctx, func(f *member) error {
		consumer, err := env.NewConsumer(f.stream, stream.ConsumerConfig{Name: f.name, ReuseDelivery: j.Reuse})
		if err != nil {
			return err
		}
		return consumer.Run(ctx, func(_ context.Context, d *stream.Delivery) error {
			f.message(d.Offset, d.Body)
			return nil
		})
	})
}

// crowdOfficial reads with one environment of the official client, which makes
// a connection for each consumer, and with its automatic commit.
func crowdOfficial(ctx context.Context, j job, c *crowd) (err error) {
	env, err := environment(j.URI)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	return c.each(ctx, func(f *member) error {
		o := official.NewConsumerOptions().SetOffset(official.OffsetSpecification{}.First()).
			SetConsumerName(f.name).SetAutoCommit(official.NewAutoCommitStrategy())
		// It makes one consumer at a time. None of them is closed before all
		// are made: it would give the connection of the closed one to the next.
		consumer, err := env.NewConsumer(f.stream, f.official, o)
		if err != nil {
			return err
		}
		<-ctx.Done()
		return consumer.Close()
	})
}

// official takes a message from the official client. GetOffset takes a lock, so it
// is called for the last message alone.
func (f *member) official(cc official.ConsumerContext, m *amqp.Message) {
	var offset uint64
	if f.n+1 == f.want {
		offset = uint64(cc.Consumer.GetOffset())
	}
	f.message(offset, m.Data[0])
}

// crowdSocket reads with a bare connection for each consumer, and stores
// nothing.
func crowdSocket(ctx context.Context, j job, c *crowd) error {
	s, err := parseSchedule(j.Credit)
	if err != nil {
		return err
	}
	places := make(chan struct{}, connecting)
	return c.each(ctx, func(f *member) error {
		return readMember(ctx, j, f, s, places, &reader{each: func(offset uint64, body []byte) error {
			f.message(offset, dataOf(body))
			return nil
		}})
	})
}

// readMember reads what comes for a member over a bare connection until ctx ends.
func readMember(ctx context.Context, j job, f *member, s schedule, places chan struct{}, r *reader) error {
	conn, err := crowdConn(j, f, s, places)
	if err != nil {
		return err
	}
	var once sync.Once
	end := func() { once.Do(conn.close) }
	defer end()
	defer context.AfterFunc(ctx, end)()
	r.raw, r.ctx, r.credit = conn, ctx, s
	if err := r.read(); ctx.Err() == nil {
		return err
	}
	return nil
}

func crowdConn(j job, f *member, s schedule, places chan struct{}) (*raw, error) {
	places <- struct{}{}
	defer func() { <-places }()
	conn, err := dialRaw(j.URI)
	if err != nil {
		return nil, err
	}
	if err := conn.subscribe(f.stream, s.first); err != nil {
		conn.close()
		return nil, err
	}
	return conn, nil
}

// readMarks asks the broker, on a connection of its own, for the offset that
// each member stored, and counts those that are not of its last message.
func (c *crowd) readMarks(j job) error {
	if j.Impl == implSocket {
		return nil // stores nothing
	}
	conn, err := dialRaw(j.URI)
	if err != nil {
		return err
	}
	defer conn.close()
	for _, f := range c.members {
		var o wire.QueryOffsetResponse
		if err := conn.call(&wire.QueryOffset{Reference: f.name, Stream: f.stream}, &o); err != nil {
			return err
		}
		if o.Code != wire.CodeOK || o.Offset != f.handled {
			c.m.sample.WrongMarks++
		}
	}
	return nil
}
