package stream

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// liveHeap returns the bytes of the heap that a collection leaves.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // what sync.Pools keep goes with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// claimed returns the claims of all subscriptions.
func (m *memory) claimed() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.budget.claimed
}

// TestManyConsumersMemory: a thousand consumers of a stream hold what the Env's
// MaxBuffered and 64 KiB for each of them say. They do while every handler
// stands still, and once all are at the stream's end, where they hold nearly
// nothing.
func TestManyConsumersMemory(t *testing.T) {
	for name, own := range map[string]bool{"shared": false, "a subscription each": true} {
		t.Run(name, func(t *testing.T) { testManyConsumersMemory(t, own) })
	}
}

func testManyConsumersMemory(t *testing.T, own bool) {
	noLeaks(t)
	const consumers, messages, frames = 1000, 2000, 40
	const budget, each = 16 << 20, 64 << 10 // the stream has 220 KB: 220 MB for all
	b := streamtest.NewBroker(t)
	env := connectWith(t, b.URI(), Config{MaxBuffered: budget})
	stream := newStream(t, env)
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{})
	must(t, err)
	list := make([]Message, messages/frames)
	for i := range list {
		list[i].Body = bytes.Repeat([]byte{'x'}, 100)
	}
	for range frames {
		must(t, p.Publish(inTime(t), list...))
	}
	must(t, p.Close(inTime(t)))
	before := liveHeap()

	var begun sync.WaitGroup
	var handled atomic.Int64
	release := make(chan struct{})
	begun.Add(consumers)
	for range consumers {
		n := 0
		stop, _ := runConsumer(t, env, stream, ConsumerConfig{OwnSubscription: own}, func(*Delivery) {
			if n++; n == 1 {
				begun.Done()
				<-release
			}
			handled.Add(1)
		})
		defer func() { _ = stop() }()
	}
	begun.Wait()
	settled := func() bool { // every chunk that was asked for has come
		waiting := env.memory.claimed()
		pause(100 * time.Millisecond)
		return env.memory.claimed() == waiting
	}
	eventually(t, "the consumers hold what they may", timeLimit(), settled)
	used := liveHeap() - before
	t.Logf("standing still: %d KiB, %d for each", used>>10, used/consumers)
	if used > budget+consumers*each {
		t.Errorf("%d consumers that stand still hold %d bytes, more than %d and %d each", consumers, used, budget, each)
	}
	close(release)
	eventually(t, "all is handled", time.Minute, func() bool { return handled.Load() == consumers*messages })
	used = liveHeap() - before
	t.Logf("at the end: %d KiB, %d for each", used>>10, used/consumers)
	if used > consumers*each {
		t.Errorf("%d consumers at the end of the stream hold %d bytes, more than %d each", consumers, used, each)
	}
}

// TestMemoryOfSeveralSubscriptions: those of a consumer of a super stream have what
// the consumer may have, however much the Env has.
func TestMemoryOfSeveralSubscriptions(t *testing.T) {
	m, consumer := newMemory(1000), &budget{total: 100}
	one, two, other := m.join(), m.join(), m.join()
	m.group(one, consumer)
	m.group(two, consumer)
	m.group(other, nil)
	if a := m.allowance(one); a != 50 {
		t.Errorf("the first may have %d", a)
	}
	m.change(one, 50)
	if a, b := m.allowance(two), m.allowance(other); a != 25 || b != 475 {
		t.Errorf("then the second may have %d, and another consumer %d", a, b)
	}
	m.change(other, 980)
	if a := m.allowance(two); a != 0 {
		t.Errorf("beyond the Env's the second may have %d", a)
	}
	m.leave(one)
	m.change(other, 0)
	if a := m.allowance(two); a != 50 || m.budget.claimed != 0 || consumer.claimed != 0 {
		t.Errorf("alone the second may have %d", a)
	}
}
