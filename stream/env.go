package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Env is the entry to a broker or cluster: administration, producers and
// consumers start here. It is safe for concurrent use and meant to live as
// long as the program. It keeps one connection for administration and makes a
// new one when that is lost. Its consumers share connections: as many to each
// node as the program has cores (GOMAXPROCS), with up to 256 consumers on each,
// and more only where these are full. Those with StorePolicy.Every share one
// more to each node for their stores. A producer has a connection of its own.
type Env struct {
	cfg       Config
	endpoints []endpoint

	storeRenewal time.Duration // shorter in tests
	states       *states

	// life ends with Close; what the Env owns lives under it.
	life context.Context
	end  context.CancelCauseFunc
	owns sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	done      chan struct{} // closed when Close has waited for everything
	producers map[*Producer]struct{}

	// dialing is held, under a context, while the admin connection is made.
	dialing chan struct{}
	admin   atomic.Pointer[conn]

	corrupt atomic.Uint64 // chunks

	readers *pool // on which chunks come
	stores  *pool // on which StorePolicy.Every stores, one to a node
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
	life, end := context.WithCancelCause(context.Background())
	e := &Env{
		cfg: cfg, endpoints: endpoints, storeRenewal: storeRenewal, life: life, end: end,
		done: make(chan struct{}), dialing: make(chan struct{}, 1),
		producers: map[*Producer]struct{}{},
	}
	e.readers, e.stores = newPool(runtime.GOMAXPROCS(0), e.answers), newPool(1, e.answers)
	if _, err := e.adminConn(ctx); err != nil {
		end(ErrClosed)
		return nil, opErr("connect", "", "", err)
	}
	e.states = startStates(cfg)
	return e, nil
}

// Close ends every consumer and producer of the Env and waits for them, and
// then closes its connections. Consumers stop as if their context had been
// cancelled: the handler in hand finishes and the mark is stored. Producers
// are given [CloseTimeout] to have their messages confirmed; what is not
// confirmed by then is reported to its callback as [ErrUnconfirmed], and Close
// returns the first producer's error about it.
//
// Close is idempotent; a further call waits for the first and returns nil. It
// must not be called from a handler or callback, for which it would wait.
func (e *Env) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		<-e.done
		return nil
	}
	e.closed = true
	producers := make([]*Producer, 0, len(e.producers))
	for p := range e.producers {
		producers = append(producers, p)
	}
	e.mu.Unlock()
	defer close(e.done)

	err := closeAll(producers)
	e.end(ErrClosed)
	e.owns.Wait()
	if c := e.admin.Swap(nil); c != nil {
		c.close()
	}
	return opErr("close", "", "", errors.Join(err, e.states.close()))
}

// CorruptChunks returns how many chunks did not match their checksum since the
// Env was made. None was delivered; each was fetched again. See [ErrCorruptChunk].
func (e *Env) CorruptChunks() uint64 { return e.corrupt.Load() }

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

// own registers something that Close has to wait for; the caller calls
// e.owns.Done when it has ended.
func (e *Env) own() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("%w: the Env is closed", ErrClosed)
	}
	e.owns.Add(1)
	return nil
}

// closing reports whether Close was called. What fails then may fail for that.
func (e *Env) closing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

// under returns a context that ends with the Env as well.
func (e *Env) under(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.life, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// adminConn returns the connection for administration, making it if need be.
func (e *Env) adminConn(ctx context.Context) (*conn, error) {
	select {
	case e.dialing <- struct{}{}:
		defer func() { <-e.dialing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if c := e.admin.Load(); c != nil {
		if c.alive() {
			return c, nil
		}
		c.abort()
	}
	c, err := dialAny(ctx, e.cfg, e.endpoints, "tidemark-admin", hooks{})
	if err != nil {
		return nil, err
	}
	e.admin.Store(c)
	return c, nil
}

// onAdmin runs an idempotent exchange on the admin connection. A connection that
// turns out to be dead is replaced once; if that fails too, the caller learns.
func (e *Env) onAdmin(ctx context.Context, do func(context.Context, *conn) error) error {
	var err error
	for range 2 {
		var c *conn
		if c, err = e.adminConn(ctx); err != nil {
			break
		}
		if err = do(ctx, c); err == nil || c.alive() || ctx.Err() != nil {
			break
		}
	}
	return err
}

// query is onAdmin for a call of the user's.
func (e *Env) query(ctx context.Context, op, stream, name string, do func(context.Context, *conn) error) error {
	if err := e.own(); err != nil {
		return opErr(op, stream, name, err)
	}
	defer e.owns.Done()
	ctx, cancel := e.under(ctx)
	defer cancel()
	err := e.onAdmin(ctx, do)
	return opErr(op, stream, name, err)
}

// codeError turns a response code into an error that says what to do.
func codeError(code wire.Code, stream, user string) error {
	switch code {
	case wire.CodeOK:
		return nil
	case wire.CodeStreamDoesNotExist:
		return fmt.Errorf("%w: create it with Env.DeclareStream, or check the name and the vhost", ErrStreamNotFound)
	case wire.CodeStreamNotAvailable:
		return fmt.Errorf("%w: it has no leader at the moment; try again", ErrStreamUnavailable)
	case wire.CodeAccessRefused:
		return fmt.Errorf("%w: user %q lacks a permission on %q (rabbitmqctl set_permissions)", ErrAccessRefused, user, stream)
	case wire.CodePreconditionFailed:
		return ErrStreamMismatch
	case wire.CodeNoOffset:
		return ErrNoOffset
	}
	return fmt.Errorf("the broker answered with code %d (%v)", uint16(code), code)
}
