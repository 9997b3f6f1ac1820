package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSceneFilterValues: messages with and without a filter value follow each
// other freely: all of them go out though nothing is confirmed, in their order.
func TestSceneFilterValues(t *testing.T) {
	for _, name := range []string{"", "n"} {
		play(t, Config{}, func(s *scene) {
			const total = 1000
			o := s.logOf(s.producer("s", ProducerConfig{Name: name}))
			s.b.WithholdConfirms()
			for i := range total {
				m := text("%d", i)
				m.FilterValue = []string{"", "a", "b", ""}[rand.IntN(4)]
				o.publish(m)
			}
			time.Sleep(time.Second)
			if n := len(s.b.Messages("s")); n != total {
				s.Errorf("%d of %d messages went out before the first confirm", n, total)
			}
			s.b.ReleaseConfirms()
			must(s, o.p.Close(s.ctx))
			o.checkAll()
		})
	}
}

// TestSceneFilter: each message has its own filter value, or none.
func TestSceneFilter(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{})
		for i, value := range []string{"", "a", "", "b", "a", "", ""} { // each is a chunk
			m := text("%d", i)
			m.FilterValue = value
			must(s, p.Publish(s.ctx, m))
		}
		for _, test := range []struct {
			filters []string
			want    int
		}{
			{nil, 7},
			{[]string{"filter.0", "a"}, 2},
			{[]string{"filter.0", "b"}, 1},
			{[]string{"filter.0", "b", "match-unfiltered", "true"}, 5},
		} {
			if n := s.entries("s", test.filters...); n != test.want {
				s.Errorf("%q finds %d messages, want %d", test.filters, n, test.want)
			}
		}
	}, streamtest.WithSeparateFrames())
}

// TestSceneLargestID: no message is confirmed and gone at the end of the ids. What
// lies beyond is refused, named, and nothing begins again at 0.
func TestSceneLargestID(t *testing.T) {
	for _, own := range []uint64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - 2, math.MaxInt64 + 1, math.MaxUint64} {
		for _, name := range []string{"", "n"} {
			play(t, Config{}, func(s *scene) {
				p := s.producer("s", ProducerConfig{Name: name})
				must(s, p.Publish(s.ctx, text("first")))
				confirmed := []string{"first"}
				m := text("own")
				m.PublishingID = own
				for i, m := range []Message{m, text("1"), text("2"), text("3"), text("4")} {
					err := p.Publish(s.ctx, m)
					if err == nil {
						confirmed = append(confirmed, string(m.Body))
						continue
					}
					wantErr(s, err, ErrInvalidMessage)
					if !oneOf(err.Error(), "publishing id") {
						s.Errorf("message %d after the id %d: %v does not name the publishing id", i, own, err)
					}
				}
				if got := s.bodies("s"); !slices.Equal(got, confirmed) {
					s.Errorf("with the id %d and the name %q, %q are confirmed, and %q are in the stream", own, name, confirmed, got)
				}
				if own > math.MaxInt64 && slices.Contains(confirmed, "own") {
					s.Errorf("the id %d was accepted", own)
				}
			})
		}
	}
}

// TestSceneLargestIDOfBefore: nor where the broker has the largest id already.
func TestSceneLargestIDOfBefore(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{Name: "n"})
		m := text("own")
		m.PublishingID = math.MaxInt64
		before := p.Publish(s.ctx, m)
		must(s, p.Close(s.ctx))
		if before != nil {
			return // the range ends below
		}
		p, err := s.env.NewProducer(s.ctx, "s", ProducerConfig{Name: "n"})
		if err == nil {
			err = p.Publish(s.ctx, text("new"))
			_ = p.Close(s.ctx)
		}
		if err == nil && !slices.Contains(s.bodies("s"), "new") {
			s.Error("the message is confirmed and gone")
		}
	})
}

// TestSceneOwnIDs: ids of the caller's go up. One that does not is refused, and
// what the broker has under the name is confirmed without being stored again.
func TestSceneOwnIDs(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		own := func(id uint64) Message {
			m := text("%d", id)
			m.PublishingID = id
			return m
		}
		p := s.producer("s", ProducerConfig{Name: "n"})
		must(s, p.Publish(s.ctx, own(10), own(20), own(21)))
		wantErr(s, p.Publish(s.ctx, own(21)), ErrInvalidMessage)
		must(s, p.Close(s.ctx))
		p = s.producerOf(s.connect(Config{}), "s", ProducerConfig{Name: "n"}) // the next process, from its file
		if got := p.LastPublishingID(); got != 21 {
			s.Errorf("the last id is %d", got)
		}
		must(s, p.Publish(s.ctx, own(10), own(20), own(21), own(30)))
		must(s, p.Close(s.ctx))
		if got := s.bodies("s"); !slices.Equal(got, []string{"10", "20", "21", "30"}) {
			s.Errorf("the stream has %q", got)
		}
	})
}

// TestScenePublishError: Publish of several says what became of each.
func TestScenePublishError(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{})
		must(s, p.Publish(s.ctx, text("a"), text("b")))
		large := Message{Body: make([]byte, 2<<20)}
		err := p.Publish(s.ctx, text("c"), large, text("d"))
		of := s.outcomes(err, 3)
		if of[0] != nil {
			s.Errorf("the first one is confirmed, and has the outcome %v", of[0])
		}
		wantErr(s, of[1], ErrMessageTooLarge)
		if of[2] == nil && !slices.Contains(s.bodies("s"), "d") || of[2] != nil && slices.Contains(s.bodies("s"), "d") {
			s.Errorf("the third one has the outcome %v, and the stream has %q", of[2], s.bodies("s"))
		}
		wantErr(s, err, ErrMessageTooLarge)

		s.b.AnswerWith(streamtest.Publish, streamtest.PreconditionFailed, streamtest.Forever)
		err = p.Publish(s.ctx, text("e"), text("f"))
		for _, err := range s.outcomes(err, 2) {
			wantErr(s, err, ErrRefused)
		}
		wantErr(s, err, ErrRefused)
		s.b.ClearFaults()

		s.b.WithholdConfirms()
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		err = p.Publish(ctx, text("g"), text("h"))
		wantErr(s, err, ErrUnconfirmed, context.DeadlineExceeded)
		for _, err := range s.outcomes(err, 2) {
			wantErr(s, err, ErrUnconfirmed)
		}
		s.b.ReleaseConfirms()
		must(s, p.Close(s.ctx))
		err = p.Publish(s.ctx, text("i"), text("j"))
		wantErr(s, err, ErrClosed)
	})
}

// outcomes returns those of a PublishError for n messages.
func (s *scene) outcomes(err error, n int) []error {
	s.Helper()
	var each *PublishError
	if !errors.As(err, &each) || len(each.Outcomes) != n {
		s.Fatalf("%v has not the outcomes of %d messages", err, n)
	}
	return each.Outcomes
}

// TestSceneSubBatches: sub-batches with a name are there once, in order, across
// drops, moves and silence, for each compression.
func TestSceneSubBatches(t *testing.T) {
	for _, c := range []Compression{CompressionNone, CompressionGzip} { // those that the broker takes apart
		for range sceneRuns(t, 3) {
			play(t, Config{Heartbeat: time.Second}, func(s *scene) {
				const total = 3000
				o := s.logOf(s.producer("s", ProducerConfig{Name: "n", SubEntries: 7, Compression: c}))
				s.b.DelayConfirms(3 * time.Millisecond)
				calm := s.disturb()
				for i := range total {
					o.publish(text("%d", i))
					if i%10 == 0 {
						time.Sleep(time.Duration(rand.IntN(int(10 * time.Millisecond))))
					}
				}
				calm()
				must(s, o.p.Close(s.ctx))
				o.checkAll()
				if n := s.b.Received(streamtest.Publish); n > 2*total {
					s.Errorf("%d frames for %d messages", n, total)
				}
			})
		}
	}
}

// disturb breaks what it can, 20 times, or until the function that it returns is
// called.
func (s *scene) disturb() (calm func()) {
	stop := make(chan struct{})
	var life sync.WaitGroup
	life.Go(func() {
		for range 20 {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rand.IntN(int(200 * time.Millisecond)))):
				s.disturbOnce()
			}
		}
	})
	calm = sync.OnceFunc(func() { close(stop); life.Wait() })
	s.Cleanup(calm)
	return calm
}

func (s *scene) disturbOnce() {
	switch rand.IntN(8) {
	case 0, 1:
		must(s, s.b.MoveLeader("s"))
	case 2:
		s.b.DropConnections(streamtest.CutRST)
	case 3:
		s.b.DropConnections(streamtest.CutFIN)
	case 4:
		s.b.DropConnections(streamtest.CutSilent)
	case 5:
		s.b.TruncateNext(streamtest.PublishConfirm)
	case 6:
		must(s, s.b.SetQuorum("s", false))
		time.Sleep(20 * time.Millisecond)
		must(s, s.b.LoseLeader("s"))
	case 7:
		s.b.Stop()
		time.Sleep(20 * time.Millisecond)
		must(s, s.b.Restart())
	}
}

// TestSceneDisturbed: single messages, with and without a name, with and without
// filter values.
func TestSceneDisturbed(t *testing.T) {
	for _, name := range []string{"", "n"} {
		for range sceneRuns(t, 3) {
			play(t, Config{Heartbeat: time.Second}, func(s *scene) {
				o := s.logOf(s.producer("s", ProducerConfig{Name: name, MaxInFlight: 500}))
				s.b.DelayConfirms(3 * time.Millisecond)
				calm := s.disturb()
				for i := range 5000 {
					m := text("%d", i)
					m.FilterValue = []string{"", "", "a"}[rand.IntN(3)]
					o.publish(m)
					if i%10 == 0 {
						time.Sleep(time.Duration(rand.IntN(int(10 * time.Millisecond))))
					}
				}
				calm()
				must(s, o.p.Close(s.ctx))
				o.checkAll()
			})
		}
	}
}

// TestScenePublishBatch: a batch is one entry of the stream, however many messages
// wait. A process that publishes the same batches again, with the same ids, stores
// none of them twice, and those that are new once.
func TestScenePublishBatch(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		const batches, size = 20, 5
		batch := func(n int) []Message {
			list := make([]Message, size)
			for i := range list {
				list[i] = text("%d", n*size+i)
				list[i].PublishingID = uint64(n*size + i + 1)
			}
			return list
		}
		var want []string
		p := s.producer("s", ProducerConfig{Name: "n", SubEntries: 10})
		for n := range batches / 2 {
			must(s, p.PublishBatch(s.ctx, batch(n)...))
		}
		must(s, p.Close(s.ctx))
		p = s.producerOf(s.connect(Config{}), "s", ProducerConfig{Name: "n", SubEntries: 10})
		for n := range batches {
			must(s, p.PublishBatch(s.ctx, batch(n)...))
			for i := range size {
				want = append(want, fmt.Sprint(n*size+i))
			}
		}
		must(s, p.Close(s.ctx))
		if got := s.bodies("s"); !slices.Equal(got, want) {
			s.Errorf("the stream has %q", got)
		}
		if id, ok := s.b.Sequence("n", "s"); !ok || id != batches*size {
			s.Errorf("the sequence is %d, want that of the last message of the last batch", id)
		}
		if entries := s.entries("s"); entries != batches {
			s.Errorf("%d batches are %d entries", batches, entries)
		}
	})
}

// entries counts the entries of a stream's chunks, as a subscription with these
// properties gets them.
func (s *scene) entries(stream string, properties ...string) (n int) {
	s.Helper()
	var filters wire.Properties
	for i := 0; i < len(properties); i += 2 {
		filters = append(filters, wire.Property{Key: properties[i], Value: properties[i+1]})
	}
	nc, err := s.b.Dial(s.ctx, "tcp", s.b.Addr())
	must(s, err)
	defer nc.Close()
	send := func(frames ...wire.Frame) {
		for _, f := range frames {
			b, err := wire.Append(nil, f)
			must(s, err)
			_, err = nc.Write(b)
			must(s, err)
		}
	}
	send(&wire.PeerProperties{}, &wire.SaslHandshake{},
		&wire.SaslAuthenticate{Mechanism: "PLAIN", Data: []byte("\x00guest\x00guest")}, &wire.Tune{}, &wire.Open{VHost: "/"},
		&wire.Subscribe{Stream: stream, Spec: wire.OffsetSpec{Type: wire.OffsetFirst}, Credit: 1000, Properties: filters})
	must(s, nc.SetReadDeadline(time.Now().Add(time.Second)))
	frames := wire.NewFrameReader(nc, 0)
	for {
		frame, err := frames.Next()
		if err != nil {
			return n
		}
		key, version, fields, err := wire.SplitHead(frame)
		must(s, err)
		if key != wire.KeyDeliver {
			continue
		}
		d, err := wire.DecodeDeliver(version, fields)
		must(s, err)
		chunk, err := wire.ParseChunk(d.Chunk)
		must(s, err)
		n += int(chunk.Entries)
	}
}

// TestSceneBatchErrors: what cannot be a batch is refused, and nothing of it is
// published.
func TestSceneBatchErrors(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		wantErr(s, s.producer("s", ProducerConfig{}).PublishBatch(s.ctx, text("a")), ErrInvalidConfig)
		p := s.producer("s", ProducerConfig{SubEntries: 3})
		must(s, p.PublishBatch(s.ctx))
		wantErr(s, p.PublishBatch(s.ctx, text("a"), text("b"), text("c"), text("d")), ErrInvalidConfig)
		large := Message{Body: make([]byte, 600<<10)}
		wantErr(s, p.PublishBatch(s.ctx, large, large), ErrMessageTooLarge)
		if got := s.bodies("s"); len(got) != 0 {
			s.Errorf("%d messages are in the stream", len(got))
		}
		must(s, p.PublishBatch(s.ctx, text("a"), text("b"), text("c")))
		if got := s.bodies("s"); !slices.Equal(got, []string{"a", "b", "c"}) {
			s.Errorf("the stream has %q", got)
		}
	})
}

// TestSceneSequenceFalls: a process dies; the next one is told the sequence with
// writes that are not committed, and then the leader is lost with them. Whatever
// the next one is told is confirmed is there.
func TestSceneSequenceFalls(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		env := s.connect(Config{})
		old := s.logOf(s.producerOf(env, "s", ProducerConfig{Name: "n"}))
		for i := range 550 {
			old.publish(text("old %d", i))
		}
		must(s, old.p.Flush(s.ctx))
		must(s, s.b.SetQuorum("s", false))
		for i := range 50 {
			old.publish(text("lost %d", i))
		}
		time.Sleep(time.Second)
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		_ = old.p.Close(ended)
		_ = env.Close()

		next := s.logOf(s.producer("s", ProducerConfig{Name: "n"}))
		for i := range 10 {
			next.publish(text("early %d", i))
		}
		time.Sleep(time.Second)
		must(s, s.b.LoseLeader("s"))
		for i := range 100 {
			next.publish(text("new %d", i))
		}
		must(s, next.p.Close(s.ctx))
		next.checkAll()
	})
}

// TestSceneSequenceFallsBelowOwnIDs: with ids of the caller's, what the caller
// believes to be there, because LastPublishingID said so, is not: Publish must
// say so, and name the place.
func TestSceneSequenceFallsBelowOwnIDs(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		own := func(id int) Message {
			m := text("%d", id)
			m.PublishingID = uint64(id)
			return m
		}
		env := s.connect(Config{})
		old := s.logOf(s.producerOf(env, "s", ProducerConfig{Name: "n"}))
		for i := range 600 {
			if i == 550 {
				must(s, old.p.Flush(s.ctx))
				must(s, s.b.SetQuorum("s", false))
			}
			old.publish(own(i + 1))
		}
		time.Sleep(time.Second)
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		_ = old.p.Close(ended)
		_ = env.Close()

		p := s.producer("s", ProducerConfig{Name: "n"})
		if got := p.LastPublishingID(); got != 600 {
			s.Fatalf("the last id is %d, want that of the writes that are not committed", got)
		}
		published := make(chan error, 1)
		go func() { published <- p.Publish(s.ctx, own(601)) }()
		time.Sleep(time.Second)
		must(s, s.b.LoseLeader("s"))
		err := <-published
		if err == nil || !oneOf(err.Error(), "550") {
			s.Errorf("551 to 600 are in nobody's hands, and Publish of 601 returned %v", err)
		}
	})
}
