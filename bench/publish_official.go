package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/ha"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

// producerOfficial runs f with a producer of the official client and its
// confirms, which f has to read.
func producerOfficial(j job, o *official.ProducerOptions, f func(*official.Producer, official.ChannelPublishConfirm) error) (err error) {
	env, err := environment(j.URI)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	p, err := env.NewProducer(j.Stream, o)
	if err != nil {
		return err
	}
	confirms := p.NotifyPublishConfirmation()
	err = f(p, confirms)
	go discard(confirms) // a confirm that nobody reads would keep Close
	return errors.Join(err, p.Close())
}

// discard reads until the channel is closed, which it is with its producer.
func discard(confirms official.ChannelPublishConfirm) {
	for range confirms {
	}
}

// officialMessages are the messages that are published in turns. They are made
// before, as the others' are.
func officialMessages(size int) []message.StreamMessage { return wrapped(bodies(size)) }

// wrapped makes messages with these bodies. They are for one producer, as the
// client writes into what it sends.
func wrapped(bodies [][]byte) []message.StreamMessage {
	list := make([]message.StreamMessage, len(bodies))
	for i, b := range bodies {
		list[i] = amqp.NewMessage(b)
	}
	return list
}

// await waits until n messages are confirmed.
func await(confirms official.ChannelPublishConfirm, n int) error {
	for n > 0 {
		list, ok := <-confirms
		if !ok {
			return fmt.Errorf("closed with %d messages not confirmed", n)
		}
		for _, c := range list {
			if !c.IsConfirmed() {
				return fmt.Errorf("a message is not confirmed: %w", c.GetError())
			}
		}
		n -= len(list)
	}
	return nil
}

// awaitBeside is await on a goroutine, so that confirms never block.
func awaitBeside(confirms official.ChannelPublishConfirm, n int) <-chan error {
	done := make(chan error, 1)
	go func() { done <- await(confirms, n) }()
	return done
}

// largeFrames lets Send put batchSize messages into a frame. The client's default
// of 100 is slower.
func largeFrames() *official.ProducerOptions {
	return official.NewProducerOptions().SetBatchSize(batchSize)
}

func publishAsyncOfficial(_ context.Context, j job, m *meter) error {
	return producerOfficial(j, largeFrames(), func(p *official.Producer, confirms official.ChannelPublishConfirm) error {
		list := officialMessages(j.Size)
		m.begin()
		err := sendAll(p, confirms, list, j.N)
		m.end(j.N)
		return err
	})
}

// sendAll sends n messages one by one.
func sendAll(p *official.Producer, confirms official.ChannelPublishConfirm, list []message.StreamMessage, n int) error {
	done := awaitBeside(confirms, n)
	for i := range n {
		if err := p.Send(list[i%len(list)]); err != nil {
			return err
		}
	}
	return <-done
}

func publishBatchOfficial(_ context.Context, j job, m *meter) error {
	return producerOfficial(j, nil, func(p *official.Producer, confirms official.ChannelPublishConfirm) error {
		return batchSend(j, m, p, confirms)
	})
}

// batchSend measures BatchSend, with as many messages of batchSize at a time as
// fit into a frame.
func batchSend(j job, m *meter, p *official.Producer, confirms official.ChannelPublishConfirm) error {
	list := officialMessages(j.Size)
	size := window{frame: batchSize}.fit(j.Size).frame
	m.begin()
	done := awaitBeside(confirms, j.N)
	for sent := 0; sent < j.N; sent += size {
		if err := p.BatchSend(list[:min(size, j.N-sent)]); err != nil {
			return err
		}
	}
	err := <-done
	m.end(j.N)
	return err
}

func publishOneOfficial(_ context.Context, j job, m *meter) error {
	list := officialMessages(j.Size)
	return producerOfficial(j, nil, func(p *official.Producer, confirms official.ChannelPublishConfirm) error {
		return oneByOne(j, m, func(i int) error {
			if err := p.Send(list[i%len(list)]); err != nil {
				return err
			}
			return await(confirms, 1)
		})
	})
}

func publishPacedOfficial(ctx context.Context, j job, m *meter) error {
	list := officialMessages(j.Size)
	return producerOfficial(j, nil, func(p *official.Producer, confirms official.ChannelPublishConfirm) error {
		pace := newPacer(j.N)
		read := make(chan struct{})
		go func() { // ends with the last confirm, or with the producer
			defer close(read)
			for left := j.N; left > 0; {
				list, ok := <-confirms
				if !ok {
					pace.fail(errors.New("closed with messages not confirmed"))
					return
				}
				pace.confirmed(len(list))
				left -= len(list)
			}
		}()
		err := pace.run(ctx, j, m, func(i int) error { return p.Send(list[i%len(list)]) })
		if err == nil {
			<-read
		}
		return err
	})
}

// officialPool is many producers of one environment. By default each has a
// connection of its own, which is slower where there are hundreds.
type officialPool struct {
	env       *official.Environment
	producers []*official.Producer
	confirms  []official.ChannelPublishConfirm
	messages  [][]message.StreamMessage // of each
}

// poolRing is how many messages each of many producers publishes in turns.
const poolRing = 100

// manyProducers is how many share a connection where there are more of them.
const manyProducers = 100

func openOfficialPool(_ context.Context, j job) (pool, error) {
	perConnection := 1
	if j.Producers > manyProducers {
		perConnection = manyProducers
	}
	env, err := environmentWith(j.URI, perConnection)
	p := &officialPool{env: env, producers: make([]*official.Producer, j.Producers), confirms: make([]official.ChannelPublishConfirm, j.Producers)}
	shared := bodies(j.Size)[:poolRing]
	for range j.Producers {
		p.messages = append(p.messages, wrapped(shared))
	}
	return p, err
}

func (p *officialPool) add(_ context.Context, i int, stream string) (err error) {
	if p.producers[i], err = p.env.NewProducer(stream, largeFrames()); err == nil {
		p.confirms[i] = p.producers[i].NotifyPublishConfirmation()
	}
	return err
}

func (p *officialPool) publish(_ context.Context, each int) error {
	return allOf(len(p.producers), func(i int) error {
		return sendAll(p.producers[i], p.confirms[i], p.messages[i], each)
	})
}

func (p *officialPool) close() error {
	for _, c := range p.confirms {
		if c != nil {
			go discard(c)
		}
	}
	return p.env.Close()
}

// republishOfficial uses the official client's ReliableProducer, the one that
// connects again. It reports what was lost with the connection as not confirmed,
// and leaves sending it again to its user.
func republishOfficial(_ context.Context, j job, m *meter) error {
	body := bodyOf(0, j.Size)
	return republish(j, m, func(uri string) (func() error, func() error, error) {
		env, err := environment(uri)
		if err != nil {
			return nil, nil, err
		}
		outcome := make(chan bool, 1000)
		p, err := ha.NewReliableProducer(env, j.Stream, official.NewProducerOptions(), func(list []*official.ConfirmationStatus) {
			for _, c := range list {
				outcome <- c.IsConfirmed()
			}
		})
		if err != nil {
			return nil, nil, errors.Join(err, env.Close())
		}
		publish := func() error {
			timeout := time.After(reconnectTimeout)
			for {
				if err := p.Send(amqp.NewMessage(body)); err != nil {
					time.Sleep(time.Millisecond) // between two connections
					continue
				}
				select {
				case confirmed := <-outcome:
					if confirmed {
						return nil
					}
				case <-timeout:
					return fmt.Errorf("no message is confirmed within %v", reconnectTimeout)
				}
			}
		}
		return publish, func() error { return errors.Join(p.Close(), env.Close()) }, nil
	})
}
