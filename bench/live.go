package main

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// live measures from sending a message to its handler, at the end of the
// streams, with Rate messages a second in each. The messages come from bare
// connections in the same process, alike for every implementation.
func live(read crowdReader) runner {
	return func(ctx context.Context, j job, m *meter) error {
		each := max(1, j.N/j.streams())
		c := newCrowd(j, m, each+1) // and the message that the stream was filled with
		for _, f := range c.members {
			f.latencies = make([]float64, 0, each)
		}
		p, err := newPublishers(j)
		if err != nil {
			return err
		}
		defer p.close()
		err = c.run(ctx, j, read, func(ctx context.Context) error {
			if err := c.begun.wait(ctx); err != nil {
				return err
			}
			m.begin()
			err := p.publish(ctx, each, c.base)
			if err == nil {
				err = c.full.wait(ctx)
			}
			m.end(each * j.Consumers)
			return err
		})
		if err != nil {
			return err
		}
		var all []float64
		for _, f := range c.members {
			all = append(all, f.latencies...)
		}
		m.sample.P50, m.sample.P99, m.sample.Worst = percentile(all, 0.5), percentile(all, 0.99), statOf(all).max
		return c.readMarks(j)
	}
}

// publishersPerConn is the most that RabbitMQ numbers on a connection.
const publishersPerConn = 250

// publishers publishes to every stream of a job, over as few connections as
// can be.
type publishers struct {
	job     job
	conns   []*raw
	confirm sync.WaitGroup
}

func newPublishers(j job) (*publishers, error) {
	p := &publishers{job: j}
	for i := range j.streams() {
		if i%publishersPerConn == 0 {
			conn, err := dialRaw(j.URI)
			if err != nil {
				p.close()
				return nil, err
			}
			p.conns = append(p.conns, conn)
		}
		err := p.conns[i/publishersPerConn].ask(&wire.DeclarePublisher{PublisherID: uint8(i % publishersPerConn), Stream: j.streamOf(i)})
		if err != nil {
			p.close()
			return nil, err
		}
	}
	for _, conn := range p.conns {
		p.confirm.Go(func() {
			for {
				if _, err := conn.confirms(); err != nil {
					return // closed; what did not arrive is missed by the readers
				}
			}
		})
	}
	return p, nil
}

func (p *publishers) close() {
	for _, conn := range p.conns {
		conn.close()
	}
	p.confirm.Wait()
}

// publish publishes so many messages to each stream, in turns and evenly spaced.
// Each holds when it was sent, counted from base.
func (p *publishers) publish(ctx context.Context, each int, base time.Time) error {
	streams := p.job.streams()
	pause := time.Second / time.Duration(p.job.Rate*streams)
	body := make([]byte, max(8, p.job.Size))
	begin := time.Now()
	var frame, message []byte
	for i := range each * streams {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * pause)))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		binary.BigEndian.PutUint64(body, uint64(time.Since(base)))
		message = appendMessage(message[:0], body)
		to := i % streams
		frame = wire.BeginPublish(frame[:0], wire.Version1, uint8(to%publishersPerConn))
		frame = wire.FinishPublish(wire.AppendPublishEntry(frame, uint64(i), message), 0, 1)
		if _, err := p.conns[to/publishersPerConn].nc.Write(frame); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
	return nil
}
