package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// CloseTimeout bounds each wait for the broker when a run or an Env ends: for
// the last mark to be stored and read back, and for published messages to be
// confirmed.
const CloseTimeout = 5 * time.Second

// Env is the entry to a broker or cluster: it administers streams and makes
// producers and consumers. It is safe for concurrent use and meant to live as
// long as the program.
//
// An Env keeps one connection for administration and replaces it when it is
// lost. Its consumers share connections: up to GOMAXPROCS to each node, and more
// once each of these has 16 subscriptions: up to 64, and up to 256 if these are to
// one stream. More than 256 subscriptions do not fit on a connection.
// RabbitMQ below 4.2.2 delays the subscriptions of a connection by 1 ms for each of
// them, so there a subscription has a connection of its own as long as the node
// has fewer than 256. Consumers that read a stream at the same place share a
// subscription; see ConsumerConfig.OwnSubscription. Consumers with
// StorePolicy.Every share one more connection to each node for their stores. Its
// producers share connections that carry nothing else, because a broker that takes
// no messages does not read the connection: up to GOMAXPROCS to each node, and more
// once each of these has 256 producers or is held up by a stream that confirms
// nothing. See ProducerConfig.OwnConnection.
type Env struct {
	cfg     Config
	vhost   string
	cluster *broker.Cluster
	states  *states
	memory  *memory
	supers  superWatches

	// life ends with Close, which ends the runs and calls of the Env. Close
	// then waits for runs, whose handlers may still publish, closes the
	// producers, and waits for owned: the runs, the calls and the producers.
	life  context.Context
	end   context.CancelCauseFunc
	runs  sync.WaitGroup
	owned sync.WaitGroup

	mu        sync.Mutex
	closing   bool
	closed    chan struct{} // closed when the first Close returns
	producers map[*Producer]struct{}
	consuming map[nameOnStream]nameUse // by consumers with a name that run
	readers   map[string]int           // consumers that run, by stream
	tees      tees

	corruptChunks atomic.Uint64
	publishing    envBytes
	compressors   compressors
}

// Connect connects to one of the nodes in cfg.URIs and logs in, so that a
// mistake in the configuration shows at once. It tries the nodes one after the
// other and blocks for cfg.DialTimeout at most for each. With cfg.Wait it tries
// again until ctx ends, and the error then also wraps that of the last attempt.
//
// Errors wrap [ErrInvalidConfig], [ErrUnreachable], [ErrProtocol], [ErrTLS],
// [ErrAuthentication] or [ErrVirtualHost], or are the context's.
func Connect(ctx context.Context, cfg Config) (*Env, error) {
	cfg, endpoints, err := cfg.withDefaults()
	if err != nil {
		return nil, opErr("connect", "", "", err)
	}
	cluster := broker.NewCluster(cfg.brokerOptions(), endpoints)
	if err := connectCluster(ctx, cfg, cluster); err != nil {
		return nil, opErr("connect", "", "", err)
	}
	life, end := context.WithCancelCause(context.Background())
	e := &Env{
		cfg: cfg, vhost: endpoints[0].VHost, cluster: cluster, states: startStates(cfg), memory: newMemory(cfg.MaxBuffered), life: life, end: end,
		closed: make(chan struct{}), producers: map[*Producer]struct{}{},
	}
	e.publishing.most = int64(cfg.MaxInFlightBytes)
	return e, nil
}

// connectCluster connects once or, with Config.Wait, until it works, ctx ends, or
// trying again is useless. A peer that speaks another protocol is a mistake in
// the configuration here, where none was reached before.
func connectCluster(ctx context.Context, cfg Config, cluster *broker.Cluster) error {
	for failures := 1; ; failures++ {
		err := cluster.Connect(ctx)
		hopeless := isFatal(err) || errors.Is(err, ErrProtocol) && !errors.Is(err, ErrUnreachable)
		if err == nil || !cfg.Wait || hopeless || ctx.Err() != nil {
			return err
		}
		pause := cfg.Backoff.pause(failures, rand.Float64)
		cfg.Logger.Warn("no broker yet; connecting again", "attempts", failures, "pause", pause, "error", err)
		if sleep(ctx, pause) != nil {
			return fmt.Errorf("%w; the last attempt: %w", broker.ContextError(ctx), err)
		}
	}
}

// Close ends every consumer and producer of the Env, waits for them, and then
// closes its connections. Consumers stop as if their context had been
// cancelled: the handlers at work finish (see ConsumerConfig.Drain) and the mark
// is stored, for which all of them together take [CloseTimeout] at most. A
// handler at work may publish with a producer of the Env. After that, producers
// get another CloseTimeout to have their messages confirmed. Each message that is not
// confirmed by then gets [ErrUnconfirmed], and Close returns the producers'
// errors. At last Close waits for Config.OnState, for another CloseTimeout, and
// returns an error if OnState is still at work.
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
		if p.part == nil { // a super stream's producer closes those of its partitions
			producers = append(producers, p)
		}
	}
	e.mu.Unlock()
	defer close(e.closed)

	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	e.end(errEnvClosed)
	e.runs.Wait()
	err := closeAll(producers)
	e.owned.Wait()
	e.compressors.wait()
	e.cluster.CloseWithin(ctx) // a broker that has let all of that time pass gets no goodbye
	return opErr("close", "", "", errors.Join(err, e.states.drain()))
}

// CorruptChunks returns how many chunks did not match their checksum since the
// Env was made. None was delivered; each was fetched again. See
// [ErrCorruptChunk].
func (e *Env) CorruptChunks() uint64 { return e.corruptChunks.Load() }

// closeAll closes the producers side by side, in CloseTimeout together.
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

// own makes Close wait until the caller calls e.owned.Done. It fails once Close
// was called.
func (e *Env) own() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return errEnvClosed
	}
	e.owned.Add(1)
	return nil
}

// ownRun is own for a run. The caller calls e.disownRun at its end.
func (e *Env) ownRun() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return errEnvClosed
	}
	e.owned.Add(1)
	e.runs.Add(1)
	return nil
}

func (e *Env) disownRun() {
	e.runs.Done()
	e.owned.Done()
}

// nameOnStream is a consumer's name on a stream, under which an offset is
// stored.
type nameOnStream struct{ stream, name string }

// nameUse is who uses a name on a stream: one consumer, or the members of a group.
type nameUse struct {
	members int
	group   bool
}

// useName keeps other consumers of the Env from using a name on a stream, unless
// all of them are members of its group. It fails if one does.
func (e *Env) useName(stream, name string, group bool) error {
	if name == "" {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	key := nameOnStream{stream, name}
	use := e.consuming[key]
	if use.members > 0 && !(group && use.group) {
		return fmt.Errorf("%w: another consumer of this Env runs under it on this stream: each would overwrite the other's offset (unless both have SingleActive)", ErrNameInUse)
	}
	if e.consuming == nil {
		e.consuming = map[nameOnStream]nameUse{}
	}
	e.consuming[key] = nameUse{use.members + 1, group}
	return nil
}

// giveBackName ends useName.
func (e *Env) giveBackName(stream, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := nameOnStream{stream, name}
	use := e.consuming[key]
	if use.members--; use.members > 0 {
		e.consuming[key] = use
	} else {
		delete(e.consuming, key)
	}
}

// countReader counts the consumers that run on a stream.
func (e *Env) countReader(stream string, by int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.readers == nil {
		e.readers = map[string]int{}
	}
	if e.readers[stream] += by; e.readers[stream] == 0 {
		delete(e.readers, stream)
	}
}

// errEnvClosed ends what is in progress at Close.
var errEnvClosed = fmt.Errorf("%w: the Env is closed", ErrClosed)

// under returns a context that ends with ctx or with the Env, whichever is
// first.
func (e *Env) under(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.life, func() { cancel(broker.OwnReason(errEnvClosed)) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// ask runs an idempotent administrative call for the user.
func (e *Env) ask(ctx context.Context, op, stream, name string, exchange func(context.Context, *broker.Conn) error) error {
	if err := e.own(); err != nil {
		return opErr(op, stream, name, err)
	}
	defer e.owned.Done()
	asking, cancel := e.under(ctx)
	defer cancel()
	return opErr(op, stream, name, e.cluster.Ask(asking, exchange))
}
