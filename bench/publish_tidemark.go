package main

import (
	"context"
	"errors"
	"sync"

	"github.com/tidemark-go/tidemark/stream"
)

// producerTidemark runs f with a producer of this library.
func producerTidemark(ctx context.Context, j job, cfg stream.ProducerConfig, f func(*stream.Producer) error) (err error) {
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{j.URI}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	if j.InFlight > 0 {
		cfg.MaxInFlight = j.InFlight
	}
	p, err := env.NewProducer(ctx, j.Stream, cfg)
	if err != nil {
		return err
	}
	return errors.Join(f(p), p.Close(ctx))
}

func messagesOf(size int) []stream.Message {
	list := make([]stream.Message, bodyRing)
	for i, b := range bodies(size) {
		list[i].Body = b
	}
	return list
}

// firstError keeps the first error that callbacks report.
type firstError struct {
	once sync.Once
	err  error
}

func (f *firstError) report(err error) {
	if err != nil {
		f.once.Do(func() { f.err = err })
	}
}

// get returns the error. Every callback must have returned.
func (f *firstError) get() error {
	f.once.Do(func() {})
	return f.err
}

func publishAsyncTidemark(ctx context.Context, j job, m *meter) error {
	return producerTidemark(ctx, j, stream.ProducerConfig{}, func(p *stream.Producer) error {
		return publishAsync(ctx, j, m, p)
	})
}

// publishAsync measures PublishAsync.
func publishAsync(ctx context.Context, j job, m *meter, p *stream.Producer) error {
	list := bodies(j.Size)
	m.begin()
	err := publishWithCallbacks(ctx, p, list, j.N)
	m.end(j.N)
	return err
}

func publishWithCallbacks(ctx context.Context, p *stream.Producer, list [][]byte, n int) error {
	var failed firstError
	done := failed.report // allocated once
	for i := range n {
		if err := p.PublishAsync(ctx, stream.Message{Body: list[i%len(list)]}, done); err != nil {
			return err
		}
	}
	if err := p.Flush(ctx); err != nil {
		return err
	}
	return failed.get()
}

// batchCalls is how many calls of Publish with a batch each are made at a time.
const batchCalls = 10

func publishBatchTidemark(ctx context.Context, j job, m *meter) error {
	batch := messagesOf(j.Size) // batchSize of them
	return producerTidemark(ctx, j, stream.ProducerConfig{}, func(p *stream.Producer) error {
		m.begin()
		err := allOf(batchCalls, func(k int) error {
			for sent := k * batchSize; sent < j.N; sent += batchCalls * batchSize {
				if err := p.Publish(ctx, batch[:min(batchSize, j.N-sent)]...); err != nil {
					return err
				}
			}
			return nil
		})
		m.end(j.N)
		return err
	})
}

func publishOneTidemark(ctx context.Context, j job, m *meter) error {
	list := messagesOf(j.Size)
	return producerTidemark(ctx, j, stream.ProducerConfig{}, func(p *stream.Producer) error {
		return oneByOne(j, m, func(i int) error { return p.Publish(ctx, list[i%len(list)]) })
	})
}

func publishPacedTidemark(ctx context.Context, j job, m *meter) error {
	list := messagesOf(j.Size)
	return producerTidemark(ctx, j, stream.ProducerConfig{}, func(p *stream.Producer) error {
		pace := newPacer(j.N)
		done := func(err error) {
			if err != nil {
				pace.fail(err)
				return
			}
			pace.confirmed(1)
		}
		return pace.run(ctx, j, m, func(i int) error { return p.PublishAsync(ctx, list[i%len(list)], done) })
	})
}

// tidemarkPool is many producers of one Env.
type tidemarkPool struct {
	env       *stream.Env
	producers []*stream.Producer
	bodies    [][]byte
	inFlight  int // MaxInFlight; 0: the default
}

func openTidemarkPool(ctx context.Context, j job) (pool, error) {
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{j.URI}})
	return &tidemarkPool{env: env, producers: make([]*stream.Producer, j.Producers), bodies: bodies(j.Size), inFlight: j.InFlight}, err
}

func (p *tidemarkPool) add(ctx context.Context, i int, name string) (err error) {
	p.producers[i], err = p.env.NewProducer(ctx, name, stream.ProducerConfig{MaxInFlight: p.inFlight})
	return err
}

func (p *tidemarkPool) publish(ctx context.Context, each int) error {
	return allOf(len(p.producers), func(i int) error {
		return publishWithCallbacks(ctx, p.producers[i], p.bodies, each)
	})
}

func (p *tidemarkPool) close() error { return p.env.Close() }

func republishTidemark(ctx context.Context, j job, m *meter) error {
	message := stream.Message{Body: bodyOf(0, j.Size)}
	return republish(j, m, func(uri string) (func() error, func() error, error) {
		env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}})
		if err != nil {
			return nil, nil, err
		}
		p, err := env.NewProducer(ctx, j.Stream, stream.ProducerConfig{})
		if err != nil {
			return nil, nil, errors.Join(err, env.Close())
		}
		return func() error { return p.Publish(ctx, message) }, env.Close, nil
	})
}
