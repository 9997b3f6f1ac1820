package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// CloseTimeout bounds how long the end of a run or of an Env waits for the
// broker: to store the last mark and read it back, and to confirm what was
// published.
const CloseTimeout = 5 * time.Second

// Env is the entry to a broker or cluster: it administers streams and makes
// producers and consumers. It is safe for concurrent use and meant to live as
// long as the program.
//
// An Env keeps one connection for administration and replaces it when it is
// lost. Its consumers share connections: to each node as many as the program has
// cores (GOMAXPROCS), with up to 256 consumers on each, and more only where these
// are full. Consumers with StorePolicy.Every share one more connection to each
// node for their stores. A producer has a connection of its own.
type Env struct {
	cfg     Config
	cluster *broker.Cluster
	states  *states

	// life ends with Close, and with it whatever the Env owns.
	life  context.Context
	end   context.CancelCauseFunc
	owned sync.WaitGroup

	mu        sync.Mutex
	closing   bool
	closed    chan struct{} // closed when Close has waited for everything
	producers map[*Producer]struct{}

	corruptChunks atomic.Uint64
}

// Connect connects to one of the nodes in cfg.URIs, logs in and returns when
// that has worked, so that a mistake in the configuration shows at once. It
// blocks for cfg.DialTimeout at most for each node.
//
// Errors wrap [ErrInvalidConfig], [ErrUnreachable], [ErrProtocol], [ErrTLS],
// [ErrAuthentication] or [ErrVirtualHost], or are the context's.
func Connect(ctx context.Context, cfg Config) (*Env, error) {
	cfg, endpoints, err := cfg.withDefaults()
	if err != nil {
		return nil, opErr("connect", "", "", err)
	}
	cluster := broker.NewCluster(cfg.brokerOptions(), endpoints)
	if err := cluster.Connect(ctx); err != nil {
		return nil, opErr("connect", "", "", err)
	}
	life, end := context.WithCancelCause(context.Background())
	return &Env{
		cfg: cfg, cluster: cluster, states: startStates(cfg), life: life, end: end,
		closed: make(chan struct{}), producers: map[*Producer]struct{}{},
	}, nil
}

// Close ends every consumer and producer of the Env, waits for them, and then
// closes its connections. Consumers stop as if their context had been cancelled:
// the handler at work finishes and the mark is stored. Producers get
// [CloseTimeout] to have their messages confirmed. What is not confirmed by then
// is reported to its callback as [ErrUnconfirmed], and Close returns the first
// producer's error about it.
//
// Close is idempotent; a further call waits for the first and returns nil. A
// handler or callback must not call it, because Close would wait for them.
func (e *Env) Close() error {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		<-e.closed
		return nil
	}
	e.closing = true
	producers := make([]*Producer, 0, len(e.producers))
	for p := range e.producers {
		producers = append(producers, p)
	}
	e.mu.Unlock()
	defer close(e.closed)

	err := closeAll(producers)
	e.end(ErrClosed)
	e.owned.Wait()
	e.cluster.Close()
	return opErr("close", "", "", errors.Join(err, e.states.drain()))
}

// CorruptChunks returns how many chunks did not match their checksum since the
// Env was made. None was delivered; each was fetched again. See [ErrCorruptChunk].
func (e *Env) CorruptChunks() uint64 { return e.corruptChunks.Load() }

func closeAll(producers []*Producer) error {
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	errs := make([]error, len(producers))
	var wg sync.WaitGroup
	for i, p := range producers {
		wg.Go(func() { errs[i] = p.Close(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// own registers something that Close has to wait for. The caller calls
// e.owned.Done when that has ended.
func (e *Env) own() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return fmt.Errorf("%w: the Env is closed", ErrClosed)
	}
	e.owned.Add(1)
	return nil
}

// isClosing reports whether Close was called. A failure may then be its doing.
func (e *Env) isClosing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closing
}

// under returns a context that ends with ctx, and with the Env.
func (e *Env) under(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.life, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// ask runs an administrative call of the user's, which has to be idempotent.
func (e *Env) ask(ctx context.Context, op, stream, name string, exchange func(context.Context, *broker.Conn) error) error {
	if err := e.own(); err != nil {
		return opErr(op, stream, name, err)
	}
	defer e.owned.Done()
	ctx, cancel := e.under(ctx)
	defer cancel()
	return opErr(op, stream, name, e.cluster.Ask(ctx, exchange))
}
