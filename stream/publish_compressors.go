package stream

import (
	"encoding/binary"
	"runtime"
	"sync"
)

// compressors compress the sub-batches of an Env's producers, beside each other
// and beside whoever writes. Their goroutines begin with the work and end with it,
// so an Env at rest has none. There are as many as cores at most.
type compressors struct {
	mu      sync.Mutex
	queue   []*Producer // each once for a sub-batch that is complete
	working int         // goroutines
	wg      sync.WaitGroup
}

// add has a sub-batch of a producer compressed. It never waits.
func (c *compressors) add(p *Producer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, p)
	if c.working < runtime.GOMAXPROCS(0) {
		c.working++
		c.wg.Go(c.run)
	}
}

// wait returns when the goroutines have ended. Nothing may be added any more.
func (c *compressors) wait() { c.wg.Wait() }

func (c *compressors) run() {
	for p := c.next(); p != nil; p = c.next() {
		p.compressNext()
	}
}

// next returns whose sub-batch is next. With nil the goroutine has to end.
func (c *compressors) next() *Producer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.queue = nil
		c.working--
		return nil
	}
	p := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	return p
}

// compressAhead has the sub-batches compressed that are complete and that the
// connection does not come to yet. The caller holds the lock.
func (p *Producer) compressAhead() {
	for ; p.box.complete > 0; p.box.complete-- {
		if p.cfg.Compression != CompressionNone {
			p.env.compressors.add(p)
		}
	}
}

// compressBeside has a sub-batch, the next to be sent, compressed where the frames
// before it are not held up by that. It reports false if there is nothing to
// compress. The caller holds the lock.
func (p *Producer) compressBeside(b *publishFrame) bool {
	if len(b.records) == 0 || p.cfg.Compression == CompressionNone {
		return false
	}
	b.sealed = true
	p.env.compressors.add(p)
	return true
}

// compressNext compresses the first sub-batch that nobody has begun with.
func (p *Producer) compressNext() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.box.claim(); b != nil {
		p.compress(b)
	}
}

// compress makes the records of a sub-batch the entry of its frame, and then tells
// the connection if that waits for it. The caller holds the lock, which compress
// gives up meanwhile, and is the only one to compress the sub-batch.
func (p *Producer) compress(b *publishFrame) {
	b.sealed, b.preparing = true, true
	var frame []byte
	var err error
	p.unlocked(func() {
		frame = binary.BigEndian.AppendUint64(b.frame, b.last())
		frame, err = appendSubBatch(frame, p.cfg.Compression, len(b.slots), b.records)
	})
	p.box.prepared(b, frame, err, p.tell)
	p.told()
	if l := p.toOffer(); l != nil {
		l.pub.Ready()
	}
}
