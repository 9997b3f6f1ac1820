package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/stream"
)

// pacedRate is how many messages a second are published where latency is
// measured under load.
const pacedRate = 10_000

// oneByOne measures from sending a message to its confirm, one at a time.
func oneByOne(n int, send func(int) error, confirmed <-chan int) ([]float64, error) {
	var list []float64
	for i := range n {
		begin := time.Now()
		if err := send(i); err != nil {
			return nil, err
		}
		if err := await(confirmed, 1); err != nil {
			return nil, err
		}
		list = append(list, time.Since(begin).Seconds()*1000)
	}
	return list, nil
}

// paced sends at pacedRate, whether confirms come or not, and measures from the
// time at which a message was due, so that waiting to send it counts.
func paced(n int, send func(int) error, confirmed <-chan int) ([]float64, error) {
	begin := time.Now()
	due := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second / pacedRate) }
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			time.Sleep(time.Until(due(i)))
			if err := send(i); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	var list []float64
	timeout := time.After(confirmTimeout)
	for len(list) < n {
		select {
		case k, ok := <-confirmed:
			if !ok {
				return nil, errors.New("closed with messages not confirmed")
			}
			for now := time.Now(); k > 0; k-- {
				list = append(list, now.Sub(due(len(list))).Seconds()*1000)
			}
		case err := <-sent:
			if err != nil {
				return nil, err
			}
			sent = nil
		case <-timeout:
			return nil, errors.New("messages were not confirmed in time")
		}
	}
	return list, nil
}

type pattern func(n int, send func(int) error, confirmed <-chan int) ([]float64, error)

func latencyTidemark(how pattern) runner {
	return func(ctx context.Context, j job, m *meter) error {
		body := make([]byte, j.Size)
		return producerTidemark(ctx, j, m, func(p *stream.Producer) (err error) {
			confirmed := make(chan int, j.N)
			done := func(err error) {
				if err == nil {
					confirmed <- 1
				}
			}
			m.sample.Latencies, err = how(j.N, func(int) error { return p.PublishAsync(ctx, stream.Message{Body: body}, done) }, confirmed)
			return err
		})
	}
}

func latencyOfficial(how pattern) runner {
	return func(_ context.Context, j job, m *meter) error {
		body := make([]byte, j.Size)
		return producerOfficial(j, m, func(p *official.Producer, confirmed <-chan int) (err error) {
			m.sample.Latencies, err = how(j.N, func(int) error { return p.Send(amqp.NewMessage(body)) }, confirmed)
			return err
		})
	}
}

func latencySocket(how pattern) runner {
	return func(_ context.Context, j job, m *meter) (err error) {
		c, err := dialRaw(j.URI)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer c.close()
		if err := c.declare(j.Stream); err != nil {
			return err
		}
		message := appendMessage(nil, make([]byte, j.Size))
		confirmed := make(chan int, j.N)
		wg.Go(func() {
			defer close(confirmed)
			for left := j.N; left > 0; {
				n, err := c.confirms()
				if err != nil {
					return // the other side sees the end
				}
				confirmed <- n
				left -= n
			}
		})
		m.begin()
		if m.sample.Latencies, err = how(j.N, func(i int) error { return c.publishOne(uint64(i), message) }, confirmed); err == nil {
			m.end(j.N)
		}
		return err
	}
}

// manyProducers is how many publish to one stream at a time.
const manyProducers = 8

func publishManyTidemark(ctx context.Context, j job, m *meter) (err error) {
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{j.URI}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	var list []*stream.Producer
	for range manyProducers {
		p, err := env.NewProducer(ctx, j.Stream, stream.ProducerConfig{})
		if err != nil {
			return err
		}
		list = append(list, p)
	}
	body, each := make([]byte, j.Size), j.N/manyProducers
	m.begin()
	err = allOf(manyProducers, func(i int) error {
		for range each {
			if err := list[i].PublishAsync(ctx, stream.Message{Body: body}, nil); err != nil {
				return err
			}
		}
		return list[i].Flush(ctx)
	})
	m.end(each * manyProducers)
	return err
}

func publishManyOfficial(_ context.Context, j job, m *meter) (err error) {
	env, err := environment(j.URI)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	body, each := make([]byte, j.Size), j.N/manyProducers
	var list []*official.Producer
	var done []<-chan error
	for range manyProducers {
		p, err := env.NewProducer(j.Stream, nil)
		if err != nil {
			return err
		}
		list = append(list, p)
		done = append(done, awaitBeside(confirmsOf(p), each))
	}
	m.begin()
	err = allOf(manyProducers, func(i int) error {
		for range each {
			if err := list[i].Send(amqp.NewMessage(body)); err != nil {
				return err
			}
		}
		return <-done[i]
	})
	m.end(each * manyProducers)
	return err
}

func publishManySocket(_ context.Context, j job, m *meter) error {
	each := j.N / manyProducers
	var list []*raw
	for range manyProducers {
		c, err := dialRaw(j.URI)
		if err == nil {
			defer c.close()
			err = c.declare(j.Stream)
		}
		if err != nil {
			return err
		}
		list = append(list, c)
	}
	body := appendMessage(nil, make([]byte, j.Size))
	m.begin()
	err := allOf(manyProducers, func(i int) error {
		return list[i].publishAll(each, batchSize, 10, len(body), func(b []byte, k int) []byte {
			return wire.AppendPublishEntry(b, uint64(k), body)
		})
	})
	m.end(each * manyProducers)
	return err
}

// allOf runs f for 0 up to n at the same time.
func allOf(n int, f func(int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// bodies are what is published where it is compressed, made before the clock
// starts.
func bodies(size int) [][]byte {
	list := make([][]byte, 1000)
	for i := range list {
		list[i] = bodyOf(i, size)
	}
	return list
}

func publishZstdTidemark(ctx context.Context, j job, m *meter) error {
	list := bodies(j.Size)
	cfg := stream.ProducerConfig{SubEntries: batchRecords, Compression: stream.CompressionZstd}
	return producerTidemarkWith(ctx, j, m, cfg, func(p *stream.Producer) error {
		for i := range j.N {
			if err := p.PublishAsync(ctx, stream.Message{Body: list[i%len(list)]}, nil); err != nil {
				return err
			}
		}
		return p.Flush(ctx)
	})
}

func publishZstdOfficial(_ context.Context, j job, m *meter) error {
	list := bodies(j.Size)
	o := official.NewProducerOptions().SetSubEntrySize(batchRecords).SetCompression(official.Compression{}.Zstd())
	return producerOfficialWith(j, m, o, func(p *official.Producer, confirmed <-chan int) error {
		done := awaitBeside(confirmed, j.N)
		for i := range j.N {
			if err := p.Send(amqp.NewMessage(list[i%len(list)])); err != nil {
				return err
			}
		}
		return <-done
	})
}

func publishZstdSocket(_ context.Context, j job, m *meter) error {
	c, err := dialRaw(j.URI)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.declare(j.Stream); err != nil {
		return err
	}
	list := bodies(j.Size)
	m.begin()
	if err := c.fillZstd(j.N, j.Size, func(i int) []byte { return list[i%len(list)] }); err != nil {
		return err
	}
	m.end(j.N)
	return nil
}
