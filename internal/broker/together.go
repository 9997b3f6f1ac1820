package broker

import (
	"context"
	"sync"
	"time"
)

// together asks a question once for all who ask it at the same moment. Many
// consumers that begin at once would ask where their stream lives, and whether a
// connection answers, once each.
type together[K comparable, T any] struct {
	mu   sync.Mutex
	open map[K]*askedOnce[T]
}

// askedOnce is a question that was not answered yet.
type askedOnce[T any] struct {
	began       time.Time
	answered    chan struct{} // closed once the rest is set
	answer      T
	err         error
	interrupted bool // the one who asked was told to end
}

// togetherFor is for how long others join a question: by so much an answer may
// be older than the question of who gets it.
const togetherFor = 20 * time.Millisecond

// ask returns the answer to a question that somebody else has just asked, or
// asks it.
func (t *together[K, T]) ask(ctx context.Context, key K, question func(context.Context) (T, error)) (T, error) {
	for {
		q, first := t.join(key)
		if first {
			return t.answer(ctx, key, q, question)
		}
		select {
		case <-q.answered:
		case <-ctx.Done():
			var none T
			return none, ContextError(ctx)
		}
		if !q.interrupted {
			return q.answer, q.err
		}
	}
}

// join returns the question, and whether the caller is to ask it.
func (t *together[K, T]) join(key K) (q *askedOnce[T], first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if q = t.open[key]; q != nil && now.Sub(q.began) < togetherFor {
		return q, false
	}
	if t.open == nil {
		t.open = map[K]*askedOnce[T]{}
	}
	q = &askedOnce[T]{began: now, answered: make(chan struct{}), interrupted: true}
	t.open[key] = q
	return q, true
}

// answer asks the question. Who waits for it asks again if ctx ends before the
// answer, or if the question panics.
func (t *together[K, T]) answer(ctx context.Context, key K, q *askedOnce[T], question func(context.Context) (T, error)) (T, error) {
	defer func() {
		t.mu.Lock()
		if t.open[key] == q {
			delete(t.open, key)
		}
		t.mu.Unlock()
		close(q.answered)
	}()
	q.answer, q.err = question(ctx)
	q.interrupted = q.err != nil && ctx.Err() != nil
	return q.answer, q.err
}
