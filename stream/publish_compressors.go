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
	queue   []toCompress
	working int // goroutines
	wg      sync.WaitGroup
}

// toCompress is a sub-batch of a producer.
type toCompress struct {
	of    *Producer
	batch *publishFrame
}

// add has a sub-batch compressed. It never waits.
func (c *compressors) add(t toCompress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, t)
	if c.working < runtime.GOMAXPROCS(0) {
		c.working++
		c.wg.Go(c.run)
	}
}

// wait returns when the goroutines have ended. Nothing may be added any more.
func (c *compressors) wait() { c.wg.Wait() }

func (c *compressors) run() {
	for t, ok := c.next(); ok; t, ok = c.next() {
		t.of.compressNow(t.batch)
	}
}

// next returns what is next. With false the goroutine has to end.
func (c *compressors) next() (t toCompress, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.queue = nil
		c.working--
		return t, false
	}
	t, c.queue[0] = c.queue[0], toCompress{}
	c.queue = c.queue[1:]
	return t, true
}

// worthHandingOver reports whether a compression takes so long that another goroutine
// should do it. For the others the hand-over takes about as long.
func worthHandingOver(c Compression) bool {
	return c == CompressionGzip || c == CompressionZstd
}

// compressBeside has a complete sub-batch compressed by a goroutine of the Env, and
// reports whether it will be. It does nothing with nil. The caller holds the lock.
func (p *Producer) compressBeside(b *publishFrame) bool {
	if b == nil || len(b.records) == 0 || !worthHandingOver(p.cfg.Compression) {
		return false
	}
	b.sealed, b.preparing = true, true
	p.env.compressors.add(toCompress{p, b})
	return true
}

// compressNow compresses a sub-batch, unless its messages have their outcomes by
// now.
func (p *Producer) compressNow(b *publishFrame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.open > 0 {
		p.compress(b)
	}
}

// compressAtOnce is how many sub-batches are compressed without the producer's
// lock in between, at the most. With one, the connection waited for the lock of a
// busy producer for as long as a compression by snappy takes.
const compressAtOnce = 16

// compressNext compresses the sub-batch that is to be sent next, and the complete
// ones behind it. The caller holds the lock, which compressNext gives up meanwhile.
func (p *Producer) compressNext() {
	var next [compressAtOnce]*publishFrame
	p.compress(next[:p.box.uncompressed(next[:])]...)
}

// compress makes the records of each sub-batch the entry of its frame, and then
// tells the connection if that waits for them. The caller holds the lock, which
// compress gives up meanwhile, and is the only one to compress them.
func (p *Producer) compress(list ...*publishFrame) {
	for _, b := range list {
		b.sealed, b.preparing = true, true
	}
	var frames [compressAtOnce][]byte
	var errs [compressAtOnce]error
	p.unlocked(func() {
		for i, b := range list {
			frame := binary.BigEndian.AppendUint64(b.frame, b.last())
			frames[i], errs[i] = appendSubBatch(frame, p.cfg.Compression, len(b.slots), b.records)
		}
	})
	for i, b := range list {
		p.box.prepared(b, frames[i], errs[i], p.tell)
	}
	p.told()
	if l := p.toOffer(); l != nil {
		l.pub.Ready()
	}
}
