package stream

import (
	"context"
	"time"
)

// nextMillisecond returns in a later millisecond than it was called in.
func nextMillisecond() {
	for now := time.Now().UnixMilli(); time.Now().UnixMilli() == now; {
		time.Sleep(100 * time.Microsecond)
	}
}

// offlineOf is a producer of an Env, without a connection: what it accepts stays
// with it. It can be closed, and its callbacks run. Its goroutine has ended when
// ended is closed.
func offlineOf(e *Env, cfg ProducerConfig) *Producer {
	cfg, err := cfg.withDefaults()
	if err != nil {
		panic(err)
	}
	p := newProducerOf(e, "s", cfg)
	p.life, p.cancel = context.WithCancel(context.Background())
	e.producers[p] = struct{}{}
	return p
}

// refusalOf returns why a producer accepts nothing more, or nil.
func refusalOf(p *Producer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusal
}
