package stream

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/murmur3"
)

// Routing says to which partitions of a super stream a message goes. The zero
// value is [RouteByHash].
type Routing struct{ by *routing }

// routing is one that is not by hash. choose is nil for that by key.
type routing struct {
	choose func(m *Message, partitions []string) ([]string, error)
}

var keyRouting = &routing{}

// RouteByHash sends each message to the partition that the hash of its Key names:
// MurmurHash3 (x86, 32 bits, seed 104729) over the key's bytes, modulo the number
// of partitions, in the order of [Env.Partitions]. RabbitMQ's clients for Java,
// .NET, Go, JavaScript and Rust choose the same partition; rstream (Python) does
// not. A key stays in its partition as long as the number of partitions is the
// same. Messages without a Key have an empty one, and are all in one partition.
func RouteByHash() Routing { return Routing{} }

// RouteByKey sends each message to the partitions that are bound with its Key, as
// [Env.Route] names them: a copy to each. The producer remembers the answers, and
// asks again for those that it uses as often as for the partitions, see
// ProducerConfig.SuperStream. A key that nothing is bound with is [ErrNoRoute].
func RouteByKey() Routing { return Routing{keyRouting} }

// RouteBy sends each message to the partitions that choose returns, which are
// among those that it is given: a copy to each. It must leave the message and the
// list as they are. It runs on the goroutine that publishes, and on several at a
// time if they publish at a time. No partition, one that is not in the list, and an
// error of choose, which the error then wraps, are [ErrNoRoute]. A nil choose is
// RouteByHash.
func RouteBy(choose func(m *Message, partitions []string) ([]string, error)) Routing {
	if choose == nil {
		return RouteByHash()
	}
	return Routing{&routing{choose}}
}

// partitionTable is the partitions at one time, each with its producer.
type partitionTable struct {
	names []string // in their order
	parts []*Producer
	of    map[string]*Producer
}

func newPartitionTable(names []string, of map[string]*Producer) *partitionTable {
	t := &partitionTable{names: names, of: of}
	for _, name := range names {
		t.parts = append(t.parts, of[name])
	}
	return t
}

// hashed returns the producer for the hash of a key, or nil if there is no
// partition.
func (t *partitionTable) hashed(key string) *Producer {
	if len(t.parts) == 0 {
		return nil
	}
	return t.parts[murmur3.Partition(key, len(t.parts))]
}

// named returns the producers of some partitions, each once. missing is one that
// there is none of.
func (t *partitionTable) named(names []string) (parts []*Producer, missing string) {
	for _, name := range names {
		p := t.of[name]
		if p == nil {
			return nil, name
		}
		if !slices.Contains(parts, p) {
			parts = append(parts, p)
		}
	}
	return parts, ""
}

// has reports whether all of some partitions are there.
func (t *partitionTable) has(names []string) bool {
	for _, name := range names {
		if t.of[name] == nil {
			return false
		}
	}
	return true
}

// route returns the producers that a message is for: one, or the first one and
// others.
func (s *superProducer) route(ctx context.Context, t *partitionTable, m *Message) (first *Producer, others []*Producer, err error) {
	if s.cfg.Routing.by == nil {
		if first = t.hashed(m.Key); first == nil {
			return nil, nil, fmt.Errorf("%w: the super stream has no partition", ErrNoRoute)
		}
		return first, nil, nil
	}
	names, err := s.chosen(ctx, t, m)
	if err != nil {
		return nil, nil, err
	}
	parts, missing := t.named(names)
	switch {
	case missing != "":
		return nil, nil, &missingError{missing}
	case len(parts) == 0 && s.cfg.Routing.by == keyRouting:
		return nil, nil, fmt.Errorf("%w: no partition is bound with the key %.40q", ErrNoRoute, m.Key)
	case len(parts) == 0:
		return nil, nil, fmt.Errorf("%w: ProducerConfig.Routing has chosen no partition for the key %.40q", ErrNoRoute, m.Key)
	}
	return parts[0], parts[1:], nil
}

// missingError is about a partition that is not in the table: it may be a new one.
type missingError struct{ partition string }

func (e *missingError) Error() string {
	return fmt.Sprintf("%v: %q is not one of the partitions", ErrNoRoute, e.partition)
}

func (e *missingError) Unwrap() error { return ErrNoRoute }

// chosen returns the partitions for a message, by key or by the user's function.
func (s *superProducer) chosen(ctx context.Context, t *partitionTable, m *Message) ([]string, error) {
	if s.cfg.Routing.by == keyRouting {
		return s.routes.find(ctx, t, m.Key)
	}
	own := *m // m stays where it is: by hash a message costs no allocation
	names, err := s.cfg.Routing.by.choose(&own, t.names)
	if err != nil {
		return nil, fmt.Errorf("%w: ProducerConfig.Routing: %w", ErrNoRoute, err)
	}
	return names, nil
}

// maxRoutes is how many routing keys a producer remembers the partitions of.
const maxRoutes = 10_000

// routes remembers which partitions are bound with a routing key.
type routes struct {
	ask func(ctx context.Context, key string) ([]string, error)

	mu sync.RWMutex
	of map[string]*routeOf
}

type routeOf struct {
	partitions []string
	used       atomic.Bool // since the last refresh
}

// find returns the partitions of a key. It asks for them if they are not known, or
// if one that is known is not in the table any more: the key may have moved.
func (r *routes) find(ctx context.Context, t *partitionTable, key string) ([]string, error) {
	r.mu.RLock()
	known := r.of[key]
	r.mu.RUnlock()
	if known != nil && t.has(known.partitions) {
		known.used.Store(true)
		return known.partitions, nil
	}
	if !canBind(key) {
		return nil, nil
	}
	partitions, err := r.ask(ctx, key)
	if err == nil {
		r.remember(key, partitions)
	}
	return partitions, err
}

// canBind reports whether the broker can have a binding with the key.
func canBind(key string) bool { return len(key) <= maxName && utf8.ValidString(key) }

// remember keeps an answer. A key that leads nowhere is asked for each time.
func (r *routes) remember(key string, partitions []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(partitions) == 0 {
		delete(r.of, key)
		return
	}
	if r.of == nil {
		r.of = map[string]*routeOf{}
	}
	if _, known := r.of[key]; known || len(r.of) < maxRoutes {
		r.of[key] = &routeOf{partitions: partitions}
	}
}

// askers is how many keys a refresh asks for at a time, on one connection: 1,000
// keys cost 32 round trips.
const askers = 32

// refresh asks again for the keys that were used since the last time, and forgets
// the others. An answer that does not come ends it, and leaves what is known.
func (r *routes) refresh(ctx context.Context) {
	keys := r.usedKeys()
	var begun atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range min(askers, len(keys)) {
		wg.Go(func() {
			for i := begun.Add(1); i <= int64(len(keys)) && !failed.Load(); i = begun.Add(1) {
				key := keys[i-1]
				partitions, err := r.ask(ctx, key)
				if err != nil {
					failed.Store(true)
					return
				}
				r.remember(key, partitions)
			}
		})
	}
	wg.Wait()
}

func (r *routes) usedKeys() (keys []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, route := range r.of {
		if route.used.Swap(false) {
			keys = append(keys, key)
		} else {
			delete(r.of, key)
		}
	}
	return keys
}

// askRoute asks the broker for the partitions of a key.
func (s *superProducer) askRoute(ctx context.Context, key string) (partitions []string, err error) {
	err = s.env.cluster.Ask(ctx, func(ctx context.Context, c *broker.Conn) (err error) {
		partitions, err = c.Route(ctx, s.name, key)
		return err
	})
	return partitions, err
}
