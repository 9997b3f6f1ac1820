package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/tidemark-go/tidemark/stream"
)

// filterCase reads a hundredth of a stream. Nobody else takes part: what is
// compared is the bytes that come with a filter and without.
var filterCase = benchCase{
	name: "filter", about: "read 1 % of a stream of 100 filter values, sorted by value; and the bytes read with and without the filter",
	content: contentNone, n: upTo(1_000_000, 400_000_000), run: map[string]runner{implTidemark: readFiltered},
}

// filterValues is how many values the messages have, one after the other.
const filterValues = 100

// valueOf is the filter value with a number.
func valueOf(i int) string { return fmt.Sprintf("value-%d", i) }

// readFiltered publishes the messages, reads all of them, and then measures how
// those of one value are read.
func readFiltered(ctx context.Context, j job, m *meter) (err error) {
	each := max(1, j.N/filterValues)
	var read atomic.Int64
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return countedConn{conn, &read}, err
	}
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{j.URI}, Dial: dial})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	if err := publishValues(ctx, env, j, each); err != nil {
		return err
	}
	before := read.Load()
	if err := readOne(ctx, env, j, stream.ConsumerConfig{}, each*filterValues, func() {}); err != nil {
		return err
	}
	m.sample.BytesAll, before = read.Load()-before, read.Load()
	value := valueOf(filterValues / 2)
	// Each body is that of its value, so that the filter is exact.
	matches := func(d *stream.Delivery) bool {
		return len(d.Body) >= len(value) && string(d.Body[:len(value)]) == value
	}
	m.begin()
	err = readOne(ctx, env, j, stream.ConsumerConfig{Name: j.Name, Filter: stream.Filter{Values: []string{value}, Match: matches}}, each, func() { m.end(each) })
	m.sample.BytesFiltered = read.Load() - before
	return err
}

// countedConn counts the bytes that are read.
type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// publishValues publishes the messages of one value after the other. It waits for
// the confirms of each, so that no chunk has two values.
func publishValues(ctx context.Context, env *stream.Env, j job, each int) error {
	producer, err := env.NewProducer(ctx, j.Stream, stream.ProducerConfig{})
	if err != nil {
		return err
	}
	for i := range filterValues {
		value := valueOf(i)
		body := append([]byte(value+" "), bodyOf(i, j.Size)...)[:max(j.Size, len(value)+1)]
		msgs := make([]stream.Message, each)
		for k := range msgs {
			msgs[k] = stream.Message{Body: body, FilterValue: value}
		}
		if err := producer.Publish(ctx, msgs...); err != nil {
			return err
		}
	}
	return producer.Close(ctx)
}

// readOne reads n messages, calls last with the last one, and ends.
func readOne(ctx context.Context, env *stream.Env, j job, cfg stream.ConsumerConfig, n int, last func()) error {
	consumer, err := env.NewConsumer(j.Stream, cfg)
	if err != nil {
		return err
	}
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	return consumer.Run(ctx, func(context.Context, *stream.Delivery) error {
		if n--; n == 0 {
			last()
			enough()
		}
		return nil
	})
}
