package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// superLook is about how long passes between two looks at the partitions of a
// super stream: superLook less a fifth to superLook plus a fifth.
const superLook = 5 * time.Second

// superWatches are the watches of an Env, by the names of the super streams. The
// zero value is ready for use.
type superWatches struct {
	mu     sync.Mutex
	byName map[string]*superWatch
}

// superWatch asks the broker again and again which partitions a super stream has:
// no frame tells a client. One goroutine asks for all of an Env that use the super
// stream.
type superWatch struct {
	env   *Env
	name  string
	asked chan struct{} // gets an item when somebody wants a look now
	stop  context.CancelFunc
	ended chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	views map[*superView]struct{}
}

// superView is one user's part of a watch.
type superView struct {
	watch   *superWatch
	changed chan struct{} // gets an item after each look

	mu   sync.Mutex
	last superLooked
}

// superLooked is what a look has found.
type superLooked struct {
	partitions []string // each once, in the order of the broker
	err        error
	attempt    int // with err: the number of the look that follows
}

// watchSuper begins to watch a super stream, and looks at once. The caller calls
// leave.
func (e *Env) watchSuper(name string) *superView {
	all := &e.supers
	all.mu.Lock()
	defer all.mu.Unlock()
	w, watched := all.byName[name]
	if !watched {
		w = &superWatch{env: e, name: name, asked: make(chan struct{}, 1), ended: make(chan struct{}), views: map[*superView]struct{}{}}
	}
	v := &superView{watch: w, changed: make(chan struct{}, 1)}
	w.mu.Lock()
	w.views[v] = struct{}{}
	w.mu.Unlock()
	if watched {
		v.lookNow()
		return v
	}
	if all.byName == nil {
		all.byName = map[string]*superWatch{}
	}
	all.byName[name] = w
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	go w.run(ctx)
	return v
}

// leave ends the view. The last one waits for the end of the watch.
func (v *superView) leave() {
	w := v.watch
	all := &w.env.supers
	all.mu.Lock()
	w.mu.Lock()
	delete(w.views, v)
	last := len(w.views) == 0
	w.mu.Unlock()
	if last {
		delete(all.byName, w.name)
	}
	all.mu.Unlock()
	if last {
		w.stop()
		<-w.ended
	}
}

// lookNow makes the watch look without waiting for its time, though not more often
// than once in recreationTime.
func (v *superView) lookNow() {
	select {
	case v.watch.asked <- struct{}{}:
	default:
	}
}

// latest returns what the last look has found.
func (v *superView) latest() superLooked {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

func (w *superWatch) run(ctx context.Context) {
	defer close(w.ended)
	var known []string
	for failures := 0; ; {
		found := w.look(ctx, known)
		if ctx.Err() != nil {
			return
		}
		pause := jitter(superLook)
		if failures++; found.err == nil {
			failures, known = 0, found.partitions
		} else if !isFatal(found.err) {
			found.attempt = failures + 1
			pause = max(w.env.cfg.Backoff.pause(failures, rand.Float64), 0)
		}
		w.publish(found)
		if !w.pause(ctx, pause) {
			return
		}
	}
}

// look asks the broker.
func (w *superWatch) look(ctx context.Context, known []string) (l superLooked) {
	names, err := w.env.lookAtSuper(ctx, w.name, known)
	l.err = err
	for _, name := range names { // one that is bound with two keys is named twice
		if !slices.Contains(l.partitions, name) {
			l.partitions = append(l.partitions, name)
		}
	}
	return l
}

// lookAtSuper asks the broker for the partitions of a super stream. It believes
// that some that are known are missing, or that the super stream is, only after a
// second look, recreationTime later: the node may have just come up.
func (e *Env) lookAtSuper(ctx context.Context, name string, known []string) ([]string, error) {
	names, err := e.askPartitions(ctx, name)
	if covers(names, err, known) {
		return names, err
	}
	if sleep(ctx, recreationTime) != nil {
		return nil, broker.ContextError(ctx)
	}
	return e.askPartitions(ctx, name)
}

// covers reports whether an answer names all partitions that are known, or says
// nothing about them.
func covers(names []string, err error, known []string) bool {
	if err != nil {
		return !errors.Is(err, ErrStreamNotFound) || known == nil
	}
	return !slices.ContainsFunc(known, func(p string) bool { return !slices.Contains(names, p) })
}

// askPartitions asks the broker for the partitions of a super stream, once.
func (e *Env) askPartitions(ctx context.Context, name string) (names []string, err error) {
	err = e.cluster.Ask(ctx, func(ctx context.Context, c *broker.Conn) (err error) {
		names, err = c.Partitions(ctx, name)
		return err
	})
	return names, err
}

// publish tells every view what a look has found.
func (w *superWatch) publish(l superLooked) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for v := range w.views {
		v.mu.Lock()
		v.last = l
		v.mu.Unlock()
		select {
		case v.changed <- struct{}{}:
		default:
		}
	}
}

// pause waits until the next look is due: after d, or after recreationTime if
// somebody wants one. It returns false once ctx has ended.
func (w *superWatch) pause(ctx context.Context, d time.Duration) bool {
	soonest := min(d, recreationTime)
	if sleep(ctx, soonest) != nil {
		return false
	}
	timer := time.NewTimer(d - soonest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.asked:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// jitter returns a time between d less a fifth and d plus a fifth.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + time.Duration(rand.Int64N(int64(d)*2/5))
}
