package stream

import (
	"context"
	"fmt"
	"slices"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// Filter lets a consumer get a part of a stream, and keeps the broker from
// sending the rest. A producer gives each message a Message.FilterValue. The
// broker sends only the chunks that may have a message with one of Values:
// whole chunks, and a few by mistake, because it keeps the values of a chunk in
// a Bloom filter (see StreamConfig.FilterSize). A delivery does not carry its
// filter value, so Match picks the messages. [FilterBy] makes both from one
// function. The zero Filter lets everything through.
//
// A filter saves the more, the fewer chunks have a wanted value. It suits
// streams in which messages of one value come together.
//
// What the filter leaves out counts as handled. The mark passes it, and so does
// the stored offset: at once where it lies in a chunk that was sent, and else
// once the consumer has found out how far the broker has looked. It asks for
// that when no chunk has come for 1 s, again after up to 8 s while none comes,
// and at the end of the run. If there are new messages, that reads one chunk,
// the stream's last.
//
// So the offset that is stored may be that of a message which the filter has
// left out. A later run under the same name with another Filter begins behind
// it, and gets none of the earlier messages that only the new Filter lets
// through. To read these, give the consumer another Name, or rewind it with
// Env.StoreOffset.
//
// What retention takes counts in [StateMessagesLost] whatever the filter, unless
// the consumer knew that the broker had looked at it.
//
// Filters need RabbitMQ 3.13 or newer; the error is [ErrUnsupported] otherwise.
type Filter struct {
	// Values are the filter values that are wanted, up to 255, of 1 to 255 bytes
	// each. They need Match. Default nil: the broker sends every chunk.
	Values []string
	// Unfiltered asks also for the chunks with a message that has no filter
	// value. Messages of a sub-batch have none. It needs Values: without them
	// the broker would send everything. Default false.
	Unfiltered bool
	// Match reports whether the handler is to get a message. It sees each
	// message of a chunk that is sent, and must accept those with a wanted
	// value; Unfiltered says nothing about it. It runs on the goroutine that
	// called Run, and for a SuperStream on goroutines of the consumer's, for
	// several partitions at a time. It comes before ConsumerConfig.KeyOf and any
	// handler of the message, once for each time that the message is read. It
	// must not block, keep the Delivery or change it. A panic ends the run with
	// a [*HandlerError], once the messages before are handled. Match can be used
	// without Values. Default nil: every message.
	Match func(*Delivery) bool
}

// maxFilterValues is far more values than a broker's Bloom filter tells apart.
const maxFilterValues = 255

// isSet reports whether the filter leaves out anything.
func (f Filter) isSet() bool { return f.Match != nil } // Values need it

// atBroker reports whether the broker skips chunks.
func (f Filter) atBroker() bool { return len(f.Values) > 0 }

// checked returns a copy of the filter that nobody else can change. It fails if
// the filter cannot work.
func (f Filter) checked() (Filter, error) {
	f.Values = slices.Clone(f.Values)
	switch {
	case len(f.Values) == 0 && f.Unfiltered:
		return f, fmt.Errorf("%w: Filter.Unfiltered without Values filters nothing: set Values, or leave Unfiltered out", ErrInvalidConfig)
	case len(f.Values) > 0 && f.Match == nil:
		return f, fmt.Errorf("%w: Filter.Values needs Match: the broker sends whole chunks, and a message does not carry its filter value; FilterBy makes both", ErrInvalidConfig)
	case len(f.Values) > maxFilterValues:
		return f, fmt.Errorf("%w: Filter.Values has %d values; at most %d can be asked for", ErrInvalidConfig, len(f.Values), maxFilterValues)
	}
	for i, value := range f.Values {
		switch {
		case value == "":
			return f, fmt.Errorf("%w: Filter.Values[%d] is empty: set Unfiltered for messages without a filter value", ErrInvalidConfig, i)
		case len(value) > maxName:
			return f, fmt.Errorf("%w: Filter.Values[%d] has %d bytes; at most %d can be asked for", ErrInvalidConfig, i, len(value), maxName)
		case slices.Contains(f.Values[:i], value):
			return f, fmt.Errorf("%w: Filter.Values has %q twice", ErrInvalidConfig, value)
		}
	}
	return f, nil
}

// filters reports whether the broker skips chunks for the run.
func (r *run) filters() bool { return r.consumer.cfg.Filter.atBroker() }

// checkFilters fails if the run's filter needs what the session's broker does
// not have: that broker would send everything.
func (r *run) checkFilters(ctx context.Context, s *subscription) error {
	if !r.filters() {
		return nil
	}
	offered, err := s.lease.Filters(ctx)
	if err == nil && !offered {
		err = fmt.Errorf("%w: Filter.Values needs RabbitMQ 3.13 or newer at %s: leave Values out, and Match alone picks the messages", ErrUnsupported, s.lease.Address())
	}
	return err
}

// subscribeOptions are what the broker is told of the run's subscriptions.
func (r *run) subscribeOptions() broker.SubscribeOptions {
	f := r.consumer.cfg.Filter
	return broker.SubscribeOptions{Name: r.consumer.cfg.Name, FilterValues: f.Values, Unfiltered: f.Unfiltered}
}
