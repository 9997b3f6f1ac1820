package stream

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// What the library does when the broker misbehaves in ways that a real one
// cannot be made to on demand.

// faulty returns an in-process broker, an Env on it, and a stream with the
// numbers from 0 up to n.
func faulty(t *testing.T, n int) (*streamtest.Broker, *Env, string) {
	t.Helper()
	noLeaks(t)
	b := streamtest.NewBroker(t)
	env := connect(t, b.URI())
	stream := newStream(t, env)
	if n > 0 {
		publish(t, env, stream, 0, n)
	}
	return b, env, stream
}

// collector is a handler that keeps what it sees.
type collector struct {
	bodies chan string
	last   int64
	t      *testing.T
}

func newCollector(t *testing.T, room int) *collector {
	return &collector{bodies: make(chan string, room), last: -1, t: t}
}

func (c *collector) handle(d *Delivery) {
	if int64(d.Offset) <= c.last {
		c.t.Errorf("offset %d was handled after %d", d.Offset, c.last)
	}
	c.last = int64(d.Offset)
	c.bodies <- string(d.Body)
}

// want waits for the numbers from first up to end, and for nothing else.
func (c *collector) want(first, end int) {
	c.t.Helper()
	for i := first; i < end; i++ {
		if got := recv(c.t, c.bodies, "message "+strconv.Itoa(i)); got != strconv.Itoa(i) {
			c.t.Fatalf("got %s, want %d", got, i)
		}
	}
}

// A store that the broker loses is noticed on Commit and at the end, and
// repeated.
func TestLostStoreIsRepeated(t *testing.T) {
	beside(t)
	b, env, stream := faulty(t, 10)
	c, _ := env.NewConsumer(stream, ConsumerConfig{Name: "c", Store: StorePolicy{Manual: true}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := c.Run(ctx, func(ctx context.Context, d *Delivery) error {
		if d.Offset == 5 {
			b.LoseStores(1)
			must(t, c.Commit(ctx))
			if got, ok := b.Offset("c", stream); !ok || got != 4 {
				t.Errorf("after Commit the broker has %d, %v; want 4", got, ok)
			}
			cancel()
		}
		return nil
	})
	must(t, err)
	b.LoseStores(1)
	bodies, _ := readN(t, env, stream, ConsumerConfig{Name: "c"}, 5)
	wantNumbers(t, bodies, 5, 10)
	if got, _ := b.Offset("c", stream); got != 9 {
		t.Errorf("at the end the broker has %d, want 9", got)
	}
}

// A store that is lost while nothing follows it is noticed and repeated, without
// Commit and before the end.
func TestLostStoreIsRepeatedWhenQuiet(t *testing.T) {
	beside(t)
	for name, policy := range map[string]StorePolicy{"default": {}, "every": {Every: 1}} {
		t.Run(name, func(t *testing.T) {
			besideSubtest(t)
			b, env, stream := faulty(t, 0)
			handled := make(chan uint64, 10)
			stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c", Store: policy}, func(d *Delivery) { handled <- d.Offset })
			b.LoseStores(1)
			publish(t, env, stream, 0, 1)
			recv(t, handled, "the message")
			must(t, b.Await(soon(t), func() bool { got, ok := b.Offset("c", stream); return ok && got == 0 }))
			_ = stop()
		})
	}
}

// A broker that loses every store is reported, not swallowed.
func TestUnstorableMarkIsReported(t *testing.T) {
	beside(t)
	b, env, stream := faulty(t, 5)
	b.LoseStores(streamtest.Forever)
	c, _ := env.NewConsumer(stream, ConsumerConfig{Name: "c"})
	boom := errors.New("boom")
	err := c.Run(t.Context(), func(_ context.Context, d *Delivery) error {
		if d.Offset == 3 {
			return boom
		}
		return nil
	})
	wantErr(t, err, boom, ErrNotStored)
	wantErr(t, env.StoreOffset(t.Context(), "c", stream, 1), ErrNotStored)
}

// A corrupt chunk is never delivered but fetched again.
func TestCorruptChunkIsFetchedAgain(t *testing.T) {
	beside(t)
	b, env, stream := faulty(t, 500)
	var told atomic.Int64
	env.states = startStates(Config{Logger: env.cfg.Logger, OnState: func(c StateChange) {
		if errors.Is(c.Err, ErrCorruptChunk) {
			told.Add(1)
		}
	}})
	must(t, b.CorruptChunks(stream, 3))
	c := newCollector(t, 500)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c"}, c.handle)
	c.want(0, 500)
	_ = stop()
	must(t, env.Close())
	if env.CorruptChunks() != 3 || told.Load() != 3 {
		t.Errorf("%d corrupt chunks were counted, and %d told; want 3", env.CorruptChunks(), told.Load())
	}
}

// Frames cut off, garbage between frames, a new leader, a stream that is
// unavailable for a while, a broker that restarts: the consumer goes on.
func TestConsumerSurvives(t *testing.T) {
	beside(t)
	for name, fault := range map[string]func(*testing.T, *streamtest.Broker, string){
		"truncated deliver": func(_ *testing.T, b *streamtest.Broker, _ string) { b.TruncateNext(streamtest.Deliver) },
		"garbage": func(_ *testing.T, b *streamtest.Broker, _ string) {
			b.SendGarbage([]byte("\xff\xff\xff\xffgarbage"))
		},
		"zero frames": func(_ *testing.T, b *streamtest.Broker, _ string) { b.SendGarbage(make([]byte, 64)) },
		"reset":       func(_ *testing.T, b *streamtest.Broker, _ string) { b.DropConnections(streamtest.CutRST) },
		"closed":      func(_ *testing.T, b *streamtest.Broker, _ string) { b.DropConnections(streamtest.CutFIN) },
		"moved":       func(_ *testing.T, b *streamtest.Broker, stream string) { b.MoveLeader(stream) },
		"restarted":   func(t *testing.T, b *streamtest.Broker, _ string) { must(t, b.Restart()) },
		"unavailable": func(t *testing.T, b *streamtest.Broker, stream string) {
			must(t, b.SetAvailable(stream, false))
			before := b.Received(streamtest.Metadata)
			must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.Metadata) > before+2 }))
			must(t, b.SetAvailable(stream, true))
		},
		"refusing subscriptions": func(_ *testing.T, b *streamtest.Broker, _ string) {
			b.AnswerWith(streamtest.Subscribe, streamtest.StreamNotAvailable, 2)
			b.DropConnections(streamtest.CutRST)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, env, stream := faulty(t, 100)
			writer := connect(t, b.URI())
			c := newCollector(t, 300)
			stop, done := runConsumer(t, env, stream, ConsumerConfig{Name: "c"}, c.handle)
			c.want(0, 100)
			fault(t, b, stream)
			publish(t, writer, stream, 100, 200)
			select {
			case err := <-done:
				t.Fatalf("the run ended: %v", err)
			default:
			}
			c.want(100, 200)
			if err := stop(); errors.Is(err, ErrNotStored) {
				t.Error(err)
			}
			if got, ok := b.Offset("c", stream); !ok || got != 199 {
				t.Errorf("stored %d, %v; want 199", got, ok)
			}
		})
	}
}

// Permission lost, stream deleted: trying again cannot help.
func TestConsumerGivesUp(t *testing.T) {
	beside(t)
	for name, test := range map[string]struct {
		fault func(*streamtest.Broker, string)
		want  error
	}{
		"deleted": {func(b *streamtest.Broker, stream string) { b.DeleteStream(stream) }, ErrStreamDeleted},
		"refused": {func(b *streamtest.Broker, _ string) {
			b.AnswerWith(streamtest.Subscribe, streamtest.AccessRefused, streamtest.Forever)
			b.DropConnections(streamtest.CutRST)
		}, ErrAccessRefused},
		"login": {func(b *streamtest.Broker, _ string) {
			b.AnswerWith(streamtest.SaslAuthenticate, streamtest.AuthenticationFailure, streamtest.Forever)
			b.DropConnections(streamtest.CutRST)
		}, ErrAuthentication},
	} {
		t.Run(name, func(t *testing.T) {
			b, env, stream := faulty(t, 10)
			c := newCollector(t, 10)
			_, done := runConsumer(t, env, stream, ConsumerConfig{Name: "c"}, c.handle)
			c.want(0, 10)
			test.fault(b, stream)
			err := recv(t, done, "the end of the run")
			wantErr(t, err, test.want)
			done <- err
		})
	}
}

// Offsets have gaps, where the broker's own entries lie. The mark follows what
// was delivered.
func TestGapsInOffsets(t *testing.T) {
	b, env, stream := faulty(t, 3)
	must(t, b.SkipOffsets(stream, 7))
	publish(t, env, stream, 3, 6)
	bodies, _ := readN(t, env, stream, ConsumerConfig{Name: "c"}, 3)
	wantNumbers(t, bodies, 0, 3)
	bodies, first := readN(t, env, stream, ConsumerConfig{Name: "c"}, 3)
	wantNumbers(t, bodies, 3, 6)
	if first != 10 {
		t.Errorf("the message after the gap has offset %d, want 10", first)
	}
	if got, _ := b.Offset("c", stream); got != 12 {
		t.Errorf("stored %d, want 12", got)
	}
}

// Confirms that are lost with their connection: what they stand for is in the
// stream already, and with a name the broker drops what is sent again.
func TestLostConfirms(t *testing.T) {
	beside(t)
	for name, producer := range map[string]string{"named": "p", "unnamed": ""} {
		t.Run(name, func(t *testing.T) {
			b, env, stream := faulty(t, 0)
			b.WithholdConfirms()
			p := newProducer(t, env, stream, ProducerConfig{Name: producer})
			var confirmed atomic.Int64
			for i := range 50 {
				must(t, p.PublishAsync(t.Context(), Message{Body: number(i)}, func(err error) {
					if err != nil {
						t.Error(err)
					}
					confirmed.Add(1)
				}))
			}
			must(t, b.Await(soon(t), func() bool { return len(b.Messages(stream)) == 50 }))
			b.LoseConfirms()
			b.ClearFaults()
			b.DropConnections(streamtest.CutRST)
			must(t, p.Close(t.Context()))
			if confirmed.Load() != 50 {
				t.Errorf("%d of 50 confirmed", confirmed.Load())
			}
			want := 50
			if producer == "" {
				want = 100 // sent twice, and nobody can tell
			}
			if got := len(b.Messages(stream)); got != want {
				t.Errorf("the stream has %d messages, want %d", got, want)
			}
		})
	}
}

// TestConfirmTimeout: a broker that is alive and confirms nothing is waited for.
// Nothing is sent again, and OnState learns of it.
func TestConfirmTimeout(t *testing.T) {
	for _, name := range []string{"", "p"} {
		b, _, stream := faulty(t, 0)
		env, changes := watched(t, b.URI())
		p := newProducer(t, env, stream, ProducerConfig{Name: name, ConfirmTimeout: 100 * time.Millisecond})
		awaitProducer(t, changes, StateConnected)
		b.WithholdConfirms()
		done := make(chan error, 1)
		must(t, p.PublishAsync(t.Context(), Message{Body: number(0)}, func(err error) { done <- err }))
		wantErr(t, awaitProducer(t, changes, StateBlocked).Err, ErrBlocked)
		declared, published := b.Received(streamtest.DeclarePublisher), b.Received(streamtest.Publish)
		asked := b.Received(streamtest.Metadata)
		must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.Metadata) > asked+1 })) // who leads?
		b.ReleaseConfirms()
		must(t, recv(t, done, "the outcome"))
		awaitProducer(t, changes, StateConnected)
		if b.Received(streamtest.DeclarePublisher) != declared || b.Received(streamtest.Publish) != published {
			t.Error("it was sent again")
		}
		if got := b.Bodies(stream); len(got) != 1 {
			t.Errorf("the stream has %q", got)
		}
		must(t, p.Close(inTime(t)))
	}
}

// What the broker refuses is reported as refused.
func TestRefusedMessages(t *testing.T) {
	b, env, stream := faulty(t, 0)
	p := newProducer(t, env, stream, ProducerConfig{})
	b.AnswerWith(streamtest.Publish, streamtest.PreconditionFailed, 1)
	wantErr(t, p.Publish(t.Context(), Message{}), ErrRefused)
	must(t, p.Publish(t.Context(), Message{}))
}

// A broker that does not know the producer any more gets it anew, and the message
// again. One that finds a message too large is not asked again.
func TestCodesOfMessages(t *testing.T) {
	b, env, stream := faulty(t, 0)
	p := newProducer(t, env, stream, ProducerConfig{})
	b.AnswerWith(streamtest.Publish, streamtest.PublisherDoesNotExist, 1)
	must(t, p.Publish(t.Context(), Message{Body: number(0)}))
	b.AnswerWith(streamtest.Publish, streamtest.FrameTooLarge, 1)
	wantErr(t, p.Publish(t.Context(), Message{}), ErrMessageTooLarge)
	must(t, p.Publish(t.Context(), Message{Body: number(1)}))
	if got, declared := len(b.Messages(stream)), b.Received(streamtest.DeclarePublisher); got != 2 || declared != 2 {
		t.Errorf("the stream has %d messages, from %d producers", got, declared)
	}
}

// A broker that reads and never answers is noticed by its heartbeats.
func TestSilentBrokerIsNoticed(t *testing.T) {
	beside(t)
	b, _, stream := faulty(t, 10)
	env := connectWith(t, b.URI(), Config{Heartbeat: time.Second, DialTimeout: time.Second})
	c := newCollector(t, 20)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c"}, c.handle)
	c.want(0, 10)
	b.StopAnswering()
	subscribed := b.Received(streamtest.PeerProperties)
	must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.PeerProperties) > subscribed }))
	b.ResumeAnswering()
	publish(t, connect(t, b.URI()), stream, 10, 20)
	c.want(10, 20)
	_ = stop()
}
