package main

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/ha"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

// environment connects as the README of the official client says, except for
// the socket buffers: that client's own, 8 KiB, stall on loopback.
func environment(uri string) (*official.Environment, error) {
	env, err := official.NewEnvironment(official.NewEnvironmentOptions().SetUri(uri).SetReadBuffer(-1).SetWriteBuffer(-1))
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

// producerOfficial runs f with a producer. confirmed counts the producer's
// confirms down to 0; then everything is closed.
func producerOfficial(j job, m *meter, f func(p *official.Producer, confirmed <-chan int) error) error {
	return producerOfficialWith(j, m, nil, f)
}

func producerOfficialWith(j job, m *meter, o *official.ProducerOptions, f func(p *official.Producer, confirmed <-chan int) error) (err error) {
	env, err := environment(j.URI)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	p, err := env.NewProducer(j.Stream, o)
	if err != nil {
		return err
	}
	confirmed := confirmsOf(p)
	m.begin()
	if err = f(p, confirmed); err == nil {
		m.end(j.N)
	}
	return errors.Join(err, p.Close())
}

// confirmsOf counts a producer's confirms, until it is closed.
func confirmsOf(p *official.Producer) <-chan int {
	confirms := p.NotifyPublishConfirmation()
	confirmed := make(chan int, 1000)
	go func() { // ends when the producer is closed
		defer close(confirmed)
		for list := range confirms {
			n := 0
			for _, c := range list {
				if c.IsConfirmed() {
					n++
				}
			}
			confirmed <- n
		}
	}()
	return confirmed
}

// confirmTimeout is how long confirms may take; the timeout of the measurement
// mostly ends it before.
const confirmTimeout = maxTimeout

// await waits until n messages are confirmed.
func await(confirmed <-chan int, n int) error {
	timeout := time.After(confirmTimeout)
	for n > 0 {
		select {
		case got, ok := <-confirmed:
			if !ok {
				return errors.New("closed with " + strconv.Itoa(n) + " messages not confirmed")
			}
			n -= got
		case <-timeout:
			return errors.New(strconv.Itoa(n) + " messages were not confirmed in time")
		}
	}
	return nil
}

// awaitBeside is await on a goroutine, so that confirms never block.
func awaitBeside(confirmed <-chan int, n int) <-chan error {
	done := make(chan error, 1)
	go func() { done <- await(confirmed, n) }()
	return done
}

func publishAsyncOfficial(_ context.Context, j job, m *meter) error {
	body := make([]byte, j.Size)
	return producerOfficial(j, m, func(p *official.Producer, confirmed <-chan int) error {
		done := awaitBeside(confirmed, j.N)
		for range j.N {
			if err := p.Send(amqp.NewMessage(body)); err != nil {
				return err
			}
		}
		return <-done
	})
}

// publishBatchOfficial makes the messages anew for each batch, as a service
// does.
func publishBatchOfficial(_ context.Context, j job, m *meter) error {
	body := make([]byte, j.Size)
	// A frame of 1 MiB has to hold a batch.
	size := max(1, min(batchSize, 1_000_000/(j.Size+30)))
	return producerOfficial(j, m, func(p *official.Producer, confirmed <-chan int) error {
		done := awaitBeside(confirmed, j.N)
		for left := j.N; left > 0; left -= size {
			batch := make([]message.StreamMessage, min(left, size))
			for i := range batch {
				batch[i] = amqp.NewMessage(body)
			}
			if err := p.BatchSend(batch); err != nil {
				return err
			}
		}
		return <-done
	})
}

func publishOneOfficial(_ context.Context, j job, m *meter) error {
	body := make([]byte, j.Size)
	return producerOfficial(j, m, func(p *official.Producer, confirmed <-chan int) error {
		for range j.N {
			if err := p.Send(amqp.NewMessage(body)); err != nil {
				return err
			}
			if err := await(confirmed, 1); err != nil {
				return err
			}
		}
		return nil
	})
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
