package main

import (
	"errors"
	"fmt"
	"time"
)

// calmMessages is how many messages are confirmed between two resets.
const calmMessages = 20

// republish measures how long a producer takes from a reset of its connections
// to the confirm of the message that it publishes at that time. start makes the
// producer at uri, a proxy. Its publish returns when a message is confirmed.
func republish(j job, m *meter, start func(uri string) (publish, stop func() error, err error)) (err error) {
	proxy, uri, err := proxyTo(j.URI)
	if err != nil {
		return err
	}
	defer proxy.Close()
	publish, stop, err := start(uri)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for i := range j.N {
		for range calmMessages {
			if err := publish(); err != nil {
				return fmt.Errorf("before reset number %d: %w", i+1, err)
			}
		}
		began := time.Now()
		proxy.Drop()
		if err := publish(); err != nil {
			return fmt.Errorf("reset number %d: %w", i+1, err)
		}
		m.sample.Latencies = append(m.sample.Latencies, milliseconds(time.Since(began)))
	}
	m.sample.N = j.N
	return nil
}
