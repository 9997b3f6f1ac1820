package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pool is many producers of one process. Each of them publishes messages of
// its own.
type pool interface {
	// add makes producer i. It may be called by several goroutines.
	add(ctx context.Context, i int, stream string) error
	// publish publishes so many messages with each producer at the same time, and
	// returns when all are confirmed.
	publish(ctx context.Context, each int) error
	close() error
}

// publishMany measures many producers: the rate of all together, their
// connections, and the memory that they hold while they publish nothing.
func publishMany(open func(context.Context, job) (pool, error)) runner {
	return func(ctx context.Context, j job, m *meter) (err error) {
		p, err := open(ctx, j)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.close()) }()
		before, began := heldMiB(), time.Now()
		if err := addAll(ctx, p, j); err != nil {
			return err
		}
		m.sample.Producers, m.sample.Made = j.Producers, time.Since(began).Seconds()
		m.sample.Connections = connectionsTo(j.URI)
		m.sample.NewHeld = heldMiB() - before
		each := max(1, j.N/j.Producers)
		m.begin()
		err = p.publish(ctx, each)
		m.end(each * j.Producers)
		m.sample.IdleHeld = heldMiB() - before
		return err
	}
}

// addAll makes the producers, several at a time.
func addAll(ctx context.Context, p pool, j job) error {
	return allOf(min(connecting, j.Producers), func(k int) error {
		for i := k; i < j.Producers; i += connecting {
			if err := p.add(ctx, i, j.streamOf(i)); err != nil {
				return fmt.Errorf("producer %d of %d: %w", i+1, j.Producers, err)
			}
		}
		return nil
	})
}

// manyRunners are the runners of a case with many producers.
func manyRunners() map[string]runner {
	return map[string]runner{
		implTidemark: publishMany(openTidemarkPool),
		implOfficial: publishMany(openOfficialPool),
		implSocket:   publishMany(openSocketPool),
	}
}
