package official

import (
	"context"
	"fmt"
	"sync"

	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/stream"
)

// gate orders what this package asks of one Environment. A call of the official
// client cannot be cancelled. One that is left behind may still run when the
// broker is back, so nothing of its kind may begin before it has ended: else an
// old store could land on a newer one. So an Environment has one stranded call
// of each kind at most.
type gate struct {
	env   *client.Environment
	calls turn // of the locator's connection: stores, queries, metadata
	opens turn // of making and closing consumers and producers

	// gates.mu guards these.
	users int
	names map[consumerKey]struct{} // consumers that run
}

type consumerKey struct{ stream, name string }

// gates has the gate of each Environment that is in use.
var gates = struct {
	mu sync.Mutex
	of map[*client.Environment]*gate
}{of: map[*client.Environment]*gate{}}

// enter returns the gate of an Environment. The caller calls leave.
func enter(env *client.Environment) *gate {
	gates.mu.Lock()
	defer gates.mu.Unlock()
	g := gates.of[env]
	if g == nil {
		g = &gate{env: env, calls: newTurn(), opens: newTurn(), names: map[consumerKey]struct{}{}}
		gates.of[env] = g
	}
	g.users++
	return g
}

// join is enter for one who has the gate already.
func (g *gate) join() { enter(g.env) }

// leave forgets the gate with its last user.
func (g *gate) leave() {
	gates.mu.Lock()
	defer gates.mu.Unlock()
	if g.users--; g.users == 0 {
		delete(gates.of, g.env)
	}
}

// useName reserves a consumer's name on a stream. It returns ErrNameInUse if
// another consumer of the Environment has it.
func (g *gate) useName(key consumerKey) error {
	gates.mu.Lock()
	defer gates.mu.Unlock()
	if _, used := g.names[key]; used && key.name != "" {
		return fmt.Errorf("%w: another consumer of this Environment runs on the stream under this name; give it another name, or wait for its end", stream.ErrNameInUse)
	}
	g.names[key] = struct{}{}
	return nil
}

func (g *gate) giveBackName(key consumerKey) {
	gates.mu.Lock()
	defer gates.mu.Unlock()
	delete(g.names, key)
}

// ask makes one call of the official client in its turn. If ctx ends first, the
// call is left behind: it keeps the turn until it ends, and late, which may be
// nil, cleans up after what it returns then.
func ask[T any](ctx context.Context, g *gate, t turn, call func() (T, error), late func(T)) (T, error) {
	var none T
	if err := t.lock(ctx); err != nil {
		return none, err
	}
	g.join()
	type answer struct {
		value T
		err   error
	}
	answers, left := make(chan answer), make(chan struct{})
	go func() {
		defer g.leave()
		defer t.unlock()
		value, err := recovered(call)
		select {
		case answers <- answer{value, err}:
		case <-left:
			if err == nil && late != nil {
				_, _ = recovered(func() (T, error) { late(value); return none, nil })
			}
		}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		close(left)
		return none, broker.ContextError(ctx)
	}
}

// shut closes a consumer or producer in its turn and waits for that under ctx.
// It is closed in any case, however late. No other may be opened meanwhile: the
// official client closes a connection with the last one on it, and might give
// the connection to the new one.
func (g *gate) shut(ctx context.Context, closeIt func() error) error {
	g.join()
	done := make(chan error, 1)
	go func() {
		defer g.leave()
		_ = g.opens.lock(context.Background())
		defer g.opens.unlock()
		_, err := recovered(func() (struct{}, error) { return struct{}{}, closeIt() })
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return broker.ContextError(ctx)
	}
}

// recovered makes a call and turns a panic of the official client into an
// error.
func recovered[T any](call func() (T, error)) (value T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the official client panicked: %v", r)
		}
	}()
	return call()
}

// turn is a lock that can be waited for under a context.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) lock(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return broker.ContextError(ctx)
	}
}

func (t turn) unlock() { <-t }
