package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/stream"
)

// consumeTidemark reads with this library.
func consumeTidemark(how mode) runner {
	return func(ctx context.Context, j job, m *meter) (err error) {
		env, err := stream.Connect(ctx, stream.Config{URIs: []string{j.URI}})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, env.Close()) }()
		m.untilStored = how == storeEach
		return together(m.counters(how.consumers(), j.N), func(c *counter) error {
			return consumeOne(ctx, env, j, how, c)
		})
	}
}

// together runs f for each counter at the same time.
func together(counters []*counter, f func(*counter) error) error {
	errs := make([]error, len(counters))
	var wg sync.WaitGroup
	for i, c := range counters {
		wg.Go(func() { errs[i] = f(c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func consumeOne(ctx context.Context, env *stream.Env, j job, how mode, c *counter) error {
	cfg := stream.ConsumerConfig{Start: stream.First(), ReuseDelivery: j.Reuse && how != inBatches}
	if how.named() {
		cfg.Name = j.Name
	}
	if how == storeEach {
		cfg.Store.Every = 1
	}
	consumer, err := env.NewConsumer(j.Stream, cfg)
	if err != nil {
		return err
	}
	run, enough := context.WithCancel(ctx)
	defer enough()
	c.done = enough
	switch how {
	case inParallel:
		return consumeInParallel(run, env, j, c)
	case inBatches:
		return consumer.RunBatch(run, func(_ context.Context, batch []stream.Delivery) error {
			c.messages(len(batch))
			return nil
		})
	}
	handle := func(context.Context, *stream.Delivery) error {
		c.message()
		return nil
	}
	if how == slow {
		handle = func(context.Context, *stream.Delivery) error {
			c.n++
			time.Sleep(slowHandler)
			return nil
		}
		return slowly(run, c, func(ctx context.Context) error { return consumer.Run(ctx, handle) })
	}
	err = consumer.Run(run, handle)
	if err == nil && how == storeEach {
		err = c.m.stored(ctx)
	}
	return err
}

// consumeInParallel counts under a lock, which is a part of what it costs to be
// called from several goroutines.
func consumeInParallel(ctx context.Context, env *stream.Env, j job, c *counter) error {
	consumer, err := env.NewConsumer(j.Stream, stream.ConsumerConfig{Start: stream.First(), Workers: parallelWorkers})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	return consumer.Run(ctx, func(context.Context, *stream.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		c.message()
		return nil
	})
}

// slowly runs f for slowTime and notes the memory meanwhile.
func slowly(ctx context.Context, c *counter, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, slowTime)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { c.m.watchMemory(ctx) })
	err := f(ctx)
	wg.Wait()
	c.m.sample.N = c.n
	return err
}

func reconnectTidemark(ctx context.Context, j job, m *meter) error {
	return reconnect(j, m, func(uri string, handled chan<- struct{}) (func() error, error) {
		env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}})
		if err != nil {
			return nil, err
		}
		consumer, err := env.NewConsumer(j.Stream, stream.ConsumerConfig{})
		if err != nil {
			return nil, errors.Join(err, env.Close())
		}
		run, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			ended <- consumer.Run(run, func(context.Context, *stream.Delivery) error {
				handled <- struct{}{}
				return nil
			})
		}()
		return func() error {
			stop()
			return errors.Join(<-ended, env.Close())
		}, nil
	})
}

// reconnectTimeout is how long a client may take to come back.
const reconnectTimeout = 30 * time.Second

// reconnect measures how long a consumer takes from a reset of its connection
// to the next message, which is published at that time. start starts it at
// uri, a proxy; each message it handles is one send.
func reconnect(j job, m *meter, start func(uri string, handled chan<- struct{}) (stop func() error, err error)) (err error) {
	publisher, err := dialRaw(j.URI)
	if err != nil {
		return err
	}
	defer publisher.close()
	if err := publisher.declare(j.Stream); err != nil {
		return err
	}
	proxy, uri, err := proxyTo(j.URI)
	if err != nil {
		return err
	}
	defer proxy.Close()
	message := appendMessage(nil, make([]byte, j.Size))
	handled := make(chan struct{}, j.N+1)
	stop, err := start(uri, handled)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for i := range j.N + 1 {
		began := time.Now()
		if i > 0 {
			proxy.Drop()
		}
		if err := publisher.publishOne(uint64(i), message); err != nil {
			return err
		}
		select {
		case <-handled:
		case <-time.After(reconnectTimeout):
			return fmt.Errorf("reset number %d: no message within %v", i, reconnectTimeout)
		}
		if i > 0 { // the first message shows that it reads
			m.sample.Latencies = append(m.sample.Latencies, time.Since(began).Seconds()*1000)
		}
	}
	m.sample.N = j.N
	return nil
}
