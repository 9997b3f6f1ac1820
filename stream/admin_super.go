package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// maxPartitions is how many partitions RabbitMQ creates at a time.
const maxPartitions = 1000

// SuperStreamConfig says which partitions a super stream has, and what each of
// them keeps. Either Partitions or BindingKeys is set.
type SuperStreamConfig struct {
	// Partitions is how many partitions there are, 1000 at most. They are named
	// after the super stream and their number, orders-0, orders-1 and so on, and
	// are bound with their number as the key, as in RabbitMQ's tools and other
	// clients.
	Partitions int
	// BindingKeys has the key of each partition, for producers that route by key
	// (see [RouteByKey]). The partitions are named after the super stream and the
	// key: orders-amer, orders-emea. Each key is there once. 1000 keys at most,
	// of 255 bytes each.
	BindingKeys []string
	// StreamConfig is that of each partition. Where LeaderLocator is not set,
	// RabbitMQ takes "balanced" for a super stream.
	StreamConfig
}

// plan returns the names and keys of the partitions.
func (c SuperStreamConfig) plan(super, vhost string) (names, keys []string, err error) {
	keys = c.BindingKeys
	switch {
	case c.Partitions != 0 && len(keys) > 0:
		return nil, nil, fmt.Errorf("%w: Partitions and BindingKeys are both set: set one of them", ErrInvalidConfig)
	case c.Partitions < 0 || c.Partitions > maxPartitions:
		return nil, nil, fmt.Errorf("%w: Partitions is %d; it must be from 1 to %d", ErrInvalidConfig, c.Partitions, maxPartitions)
	case c.Partitions == 0 && len(keys) == 0:
		return nil, nil, fmt.Errorf("%w: a super stream needs partitions: set Partitions or BindingKeys", ErrInvalidConfig)
	case len(keys) > maxPartitions:
		return nil, nil, fmt.Errorf("%w: there are %d BindingKeys; there may be %d", ErrInvalidConfig, len(keys), maxPartitions)
	}
	for i := range c.Partitions {
		keys = append(keys, strconv.Itoa(i))
	}
	if err := checkNewSuper(super); err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	for _, key := range keys {
		if seen[key] {
			return nil, nil, fmt.Errorf("%w: BindingKeys has %q twice", ErrInvalidConfig, key)
		}
		seen[key] = true
		if err := checkLength("binding key", key); err != nil {
			return nil, nil, err
		}
		name := super + "-" + key
		if err := checkNewStream(name, vhost); err != nil {
			return nil, nil, fmt.Errorf("a partition: %w", err)
		}
		names = append(names, name)
	}
	return names, keys, nil
}

// checkNewSuper rejects a name that no super stream can have: it is an exchange's
// on the broker.
func checkNewSuper(name string) error {
	if name == "" {
		return fmt.Errorf("%w: the super stream's name is empty", ErrInvalidConfig)
	}
	return checkLength("super stream's name", name)
}

// DeclareSuperStream creates a super stream with its partitions and blocks until
// the broker has answered. The broker creates all of it or nothing. It returns nil
// for a super stream that exists with the same partitions and arguments, and
// [ErrStreamMismatch] for one that exists with others, or if a stream has the name
// of one of its partitions.
//
// The user needs permission to configure and read the super stream's exchange,
// which has its name, and to configure and write the partitions.
//
// Other errors wrap [ErrInvalidConfig], as for [Env.DeclareStream] and each
// partition, [ErrAccessRefused] or [ErrClosed], or are those of [Connect].
func (e *Env) DeclareSuperStream(ctx context.Context, name string, cfg SuperStreamConfig) error {
	const op = "declare super stream"
	args, err := cfg.arguments()
	var partitions, keys []string
	if err == nil {
		partitions, keys, err = cfg.plan(name, e.vhost)
	}
	if err != nil {
		return opErr(op, name, "", err)
	}
	return e.ask(ctx, op, name, "", func(ctx context.Context, c *broker.Conn) error {
		existed, err := c.CreateSuper(ctx, name, partitions, keys, args)
		if existed {
			return compareSuper(ctx, c, name, partitions, keys, args)
		}
		return err
	})
}

// compareSuper returns nil if a super stream that exists is the one that was to be
// created. The broker has no command that says so. To create a partition that
// exists compares its arguments; all were created with those of the first.
func compareSuper(ctx context.Context, c *broker.Conn, name string, partitions, keys []string, args wire.Properties) error {
	has, err := c.Partitions(ctx, name)
	switch {
	case errors.Is(err, ErrStreamNotFound):
		return fmt.Errorf("%w: a stream has the name of one of the partitions, %q to %q, or another exchange that of the super stream: delete it, or choose another name", ErrStreamMismatch, partitions[0], partitions[len(partitions)-1])
	case err != nil:
		return err
	case !slices.Equal(has, partitions):
		return fmt.Errorf("%w: the super stream exists with other partitions, %s, and not %s", ErrStreamMismatch, shortList(has), shortList(partitions))
	}
	for i, key := range keys {
		if bound, err := c.Route(ctx, name, key); err != nil {
			return err
		} else if !slices.Contains(bound, partitions[i]) {
			return fmt.Errorf("%w: the super stream exists, and its partition %q is not bound with the key %q", ErrStreamMismatch, partitions[i], key)
		}
	}
	if _, given := args.Get("queue-leader-locator"); !given {
		args = append(args, wire.Property{Key: "queue-leader-locator", Value: "balanced"})
	}
	if err := c.Create(ctx, partitions[0], args); errors.Is(err, ErrStreamMismatch) {
		return fmt.Errorf("%w: the super stream exists with other arguments; declare it with those, or delete it first", err)
	} else if err != nil {
		return err
	}
	return nil
}

// shortList shows the first few of several names.
func shortList(names []string) string {
	const shown = 5
	if len(names) > shown {
		return fmt.Sprintf("%q and %d more", names[:shown], len(names)-shown)
	}
	return fmt.Sprintf("%q", names)
}

// DeleteSuperStream deletes a super stream with its partitions, their messages and
// stored offsets, and blocks until the broker has answered. For one that does not
// exist it returns [ErrStreamNotFound], which can also mean that a first attempt
// worked, as for [Env.DeleteStream].
//
// Other errors are those of DeleteStream.
func (e *Env) DeleteSuperStream(ctx context.Context, name string) error {
	return e.ask(ctx, "delete super stream", name, "", func(ctx context.Context, c *broker.Conn) error {
		return c.DeleteSuper(ctx, name)
	})
}

// Partitions returns the names of a super stream's partitions, in the order that
// the hash of a key chooses from, and blocks until the broker has answered. For
// what is no super stream it returns [ErrStreamNotFound].
//
// Other errors wrap [ErrInvalidConfig], [ErrAccessRefused] or [ErrClosed], or are
// those of [Connect].
func (e *Env) Partitions(ctx context.Context, superStream string) ([]string, error) {
	return e.streamsOf(ctx, "partitions of super stream", superStream, func(ctx context.Context, c *broker.Conn) ([]string, error) {
		return c.Partitions(ctx, superStream)
	})
}

// Route returns the partitions of a super stream that are bound with a key, and
// blocks until the broker has answered. No partition is no error. [RouteByKey]
// makes a producer do that; it is not where the hash of the key leads to.
//
// Errors are those of [Env.Partitions].
func (e *Env) Route(ctx context.Context, superStream, key string) ([]string, error) {
	const op = "route in super stream"
	if err := checkLength("routing key", key); err != nil {
		return nil, opErr(op, superStream, "", err)
	}
	return e.streamsOf(ctx, op, superStream, func(ctx context.Context, c *broker.Conn) ([]string, error) {
		return c.Route(ctx, superStream, key)
	})
}

// streamsOf asks for streams of a super stream.
func (e *Env) streamsOf(ctx context.Context, op, superStream string, exchange func(context.Context, *broker.Conn) ([]string, error)) (streams []string, err error) {
	if err := checkStream(superStream); err != nil {
		return nil, opErr(op, superStream, "", err)
	}
	err = e.ask(ctx, op, superStream, "", func(ctx context.Context, c *broker.Conn) (err error) {
		streams, err = exchange(ctx, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return streams, nil
}
