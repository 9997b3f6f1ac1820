//go:build java

package javatest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/realtest"
	"github.com/tidemark-go/tidemark/stream"
)

// Each publisher publishes rounds, and each messages of each key in a round.
const (
	rounds = 10
	each   = 5
)

// TestJavaKeys: the Java client and ours publish to a super stream at the same
// time, with the same keys. All messages of a key are in one partition, and those
// of each publisher are read in the order in which it published them. A round
// begins when both have published the one before, so the two take turns in each
// partition.
func TestJavaKeys(t *testing.T) {
	for _, tt := range []struct {
		name                   string
		partitions, subEntries int
	}{
		{"Messages", 3, 1},
		{"SubBatches", 7, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := realtest.Broker(t)
			env := realtest.Env(t, b)
			name := superStream(t, env, tt.partitions)
			keys := keys()
			java := startPublisher(t, b.StreamURL(), name, keys, each, tt.subEntries)
			ours := newProducer(t, env, name, tt.subEntries)
			read := startReader(t, env, name, len(keys))
			for round := range rounds {
				java.begin()
				publish(t, ours, keys, round*each)
				java.await("confirmed")
			}
			java.end()
			read.judge(t, keys, tt.partitions)
		})
	}
}

// superStream declares a super stream that is deleted with the test.
func superStream(t *testing.T, env *stream.Env, partitions int) string {
	t.Helper()
	name := "javatest-" + rand.Text()[:8]
	check.Nil(t, env.DeclareSuperStream(check.Soon(t), name, stream.SuperStreamConfig{Partitions: partitions}))
	t.Cleanup(func() { check.Nil(t, env.DeleteSuperStream(check.Soon(t), name)) })
	return name
}

// keys returns an empty key, a long one, usual ones, and one of each 4,096
// characters of Unicode.
func keys() (list []string) {
	list = append(list, "", strings.Repeat("long, ", 1000))
	for i := range 100 {
		list = append(list, fmt.Sprint("order-", i))
	}
	for first := 'A'; first < 0x110000; first += 0x1000 {
		if first < 0xd800 || first >= 0xe000 { // those between are no characters of their own
			list = append(list, string([]rune{first, first + 1, first + 2}))
		}
	}
	return list
}

// newProducer returns one that is closed with the test.
func newProducer(t *testing.T, env *stream.Env, superStream string, subEntries int) *stream.Producer {
	t.Helper()
	cfg := stream.ProducerConfig{SuperStream: true}
	if subEntries > 1 {
		cfg.SubEntries, cfg.Compression = subEntries, stream.CompressionGzip
	}
	p, err := env.NewProducer(check.Soon(t), superStream, cfg)
	check.Nil(t, err)
	t.Cleanup(func() { check.Nil(t, p.Close(check.Soon(t))) })
	return p
}

// publish publishes a round as Publisher.java does. It returns when the broker has
// confirmed the round.
func publish(t *testing.T, p *stream.Producer, keys []string, first int) {
	t.Helper()
	ctx := check.Soon(t)
	for i := range each {
		for _, key := range keys {
			m := stream.Message{
				Key:        key,
				Properties: &stream.Properties{Subject: key},
				Body:       fmt.Append(nil, "tidemark ", first+i),
			}
			check.Nil(t, p.PublishAsync(ctx, m, func(err error) {
				if err != nil {
					t.Errorf("message %q of key %q: %v", m.Body, key, err)
				}
			}))
		}
	}
	check.Nil(t, p.Flush(ctx))
}

// reader is a consumer of the super stream, and what it has seen.
type reader struct {
	want  int
	count int
	// next is how many messages of a key came, by publisher. partition has the
	// first one's.
	next      map[string]map[string]int
	partition map[string]string
	// faults are messages in the wrong place. turns counts how often a message in
	// a partition is not of the publisher of the one before it.
	faults []string
	turns  map[string]int
	latest map[string]string
	cancel context.CancelFunc
	ended  chan error
}

// startReader reads until every message was there, in the background.
func startReader(t *testing.T, env *stream.Env, superStream string, keys int) *reader {
	t.Helper()
	c, err := env.NewConsumer(superStream, stream.ConsumerConfig{SuperStream: true})
	check.Nil(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), javaTimeout)
	r := &reader{
		want:      2 * keys * rounds * each,
		next:      map[string]map[string]int{"java": {}, "tidemark": {}},
		partition: map[string]string{},
		turns:     map[string]int{},
		latest:    map[string]string{},
		cancel:    cancel,
		ended:     make(chan error, 1),
	}
	t.Cleanup(cancel)
	go func() { r.ended <- c.Run(ctx, r.handle) }()
	return r
}

// handle runs on one goroutine.
func (r *reader) handle(_ context.Context, d *stream.Delivery) error {
	properties, err := d.Properties()
	if err != nil {
		return err
	}
	if properties == nil {
		return fmt.Errorf("message %q has no properties", d.Body)
	}
	r.see(properties.Subject, d.Stream, string(d.Body))
	if r.count++; r.count == r.want {
		r.cancel()
	}
	return nil
}

// see judges a message's place.
func (r *reader) see(key, partition, body string) {
	publisher, _, _ := strings.Cut(body, " ")
	next := r.next[publisher]
	if next == nil {
		r.faults = append(r.faults, fmt.Sprintf("a message %q, which nobody published", body))
		return
	}
	if want := fmt.Sprint(publisher, " ", next[key]); body != want {
		r.faults = append(r.faults, fmt.Sprintf("%q of key %.20q where %q comes next", body, key, want))
	}
	next[key]++
	first, seen := r.partition[key]
	if !seen {
		r.partition[key] = partition
	} else if first != partition {
		r.faults = append(r.faults, fmt.Sprintf("%q of key %.20q in %s, not in %s", body, key, partition, first))
	}
	if r.latest[partition] != publisher {
		r.latest[partition] = publisher
		r.turns[partition]++
	}
}

// end waits for the last message, and gives up in time to say what is missing.
func (r *reader) end() error {
	select {
	case err := <-r.ended:
		return err
	case <-time.After(check.Patience):
		r.cancel()
		return <-r.ended
	}
}

// judge fails the test unless every message came, and came in its place.
func (r *reader) judge(t *testing.T, keys []string, partitions int) {
	t.Helper()
	if err := r.end(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(r.faults) > 0 {
		t.Errorf("%d messages are in the wrong place, such as:\n%s", len(r.faults), strings.Join(r.faults[:min(10, len(r.faults))], "\n"))
	}
	for publisher, next := range r.next {
		for _, key := range keys {
			if next[key] != rounds*each {
				t.Errorf("%d messages of %s with key %.20q, want %d", next[key], publisher, key, rounds*each)
			}
		}
	}
	if len(r.turns) != partitions {
		t.Errorf("messages are in %d partitions, want %d", len(r.turns), partitions)
	}
	for partition, turns := range r.turns {
		if turns < rounds {
			t.Errorf("in %s the publisher changes %d times in %d rounds", partition, turns, rounds)
		}
	}
	t.Logf("%d messages of %d keys, %d a key of each publisher, in %d partitions; the publisher changes %d times at least in each",
		r.count, len(r.partition), rounds*each, len(r.turns), slices.Min(slices.Collect(maps.Values(r.turns))))
}
