package stream

import (
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// sceneRuns is how many times the scenes that are random play, 500 with
// TIDEMARK_SCENE_RUNS=500.
func sceneRuns(t *testing.T, few int) int {
	t.Helper()
	text := os.Getenv("TIDEMARK_SCENE_RUNS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// TestSceneGone: a named producer publishes every 2 ms beside one without a name,
// the leader moves at every 60th message, and one Publish is answered with
// PublisherDoesNotExist. What is confirmed is in the stream.
//
// The broker takes the frames behind the refused one, which RabbitMQ does not do:
// a message of that frame that is sent again has an id that the broker has passed,
// is dropped as a repeat and confirmed. Its confirm does not prove that it is in
// the stream, so it may fail. In TestSceneMoves the broker does as RabbitMQ does.
func TestSceneGone(t *testing.T) {
	for range sceneRuns(t, 10) {
		play(t, Config{}, func(s *scene) { s.goneRun(true) })
	}
}

// TestSceneMoves is TestSceneGone without the refusal that RabbitMQ would not
// make: nothing fails.
func TestSceneMoves(t *testing.T) {
	for range sceneRuns(t, 10) {
		play(t, Config{}, func(s *scene) { s.goneRun(false) })
	}
}

// goneRun publishes 600 messages with each of two producers.
func (s *scene) goneRun(refuse bool) {
	const total, each = 600, 60
	named := s.logOf(s.producer("s", ProducerConfig{Name: "n"}))
	other := s.logOf(s.producer("s", ProducerConfig{}))
	at, late := rand.IntN(total), time.Duration(rand.IntN(int(3*time.Millisecond)))
	var publishing sync.WaitGroup
	for i := range total {
		publishing.Go(func() { named.publish(text("n%d", i)) })
		publishing.Go(func() { other.publish(text("o%d", i)) })
		publishing.Wait()
		if i%each == each-1 {
			must(s, s.b.MoveLeader("s"))
		}
		if refuse && i == at {
			time.Sleep(late)
			s.b.AnswerWith(streamtest.Publish, streamtest.PublisherDoesNotExist, 1)
		}
		time.Sleep(2 * time.Millisecond)
	}
	must(s, named.p.Close(s.ctx))
	must(s, other.p.Close(s.ctx))
	if !refuse {
		named.checkAll()
		other.checkAll()
		return
	}
	named.checkConfirmed()
	if failed := other.checkConfirmed(); len(failed) > 0 {
		s.Errorf("without a name %d messages failed", len(failed))
	}
}

// TestSceneRefusedFrame: of several frames on their way the broker refuses the
// first and takes the others, all before the producer hears of it. The ids are
// counted, or the caller's own. A producer that hears of it earlier cannot know
// what the broker will still take on that connection, where it begins again on
// another one; RabbitMQ takes nothing more there.
func TestSceneRefusedFrame(t *testing.T) {
	for _, own := range []bool{false, true} {
		for range sceneRuns(t, 3) {
			play(t, Config{}, func(s *scene) {
				o := s.logOf(s.producer("s", ProducerConfig{Name: "n"}))
				publish := func(i int) {
					m := text("%d", i)
					if own {
						m.PublishingID = uint64(i + 1)
					}
					o.publish(m)
				}
				publish(0)
				must(s, o.p.Flush(s.ctx))
				s.b.StopReading()
				s.b.AnswerWith(streamtest.Publish, streamtest.PublisherDoesNotExist, 1)
				for i := range 5000 {
					publish(1 + i)
				}
				time.Sleep(300 * time.Millisecond) // until all frames are on their way
				hear := s.deafen()
				s.b.ResumeReading()
				time.Sleep(100 * time.Millisecond) // until the broker has taken them
				hear()
				must(s, o.p.Close(s.ctx))
				o.checkConfirmed()
				if s.Failed() {
					s.Logf("with ids of its own: %v; the producer was %s", own, s.story())
				}
			})
			if t.Failed() {
				return
			}
		}
	}
}

// TestSceneRefusedMessages: RabbitMQ refuses a sub-batch that it does not like, and
// the rest of its frame. Here it refuses a whole frame. Such messages have failed:
// they are not sent again.
func TestSceneRefusedMessages(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		for _, name := range []string{"", "n"} {
			o := s.logOf(s.producer("s", ProducerConfig{Name: name}))
			o.publish(text("%sfirst", name))
			s.until("confirmed", func() bool { return o.count() == 1 })
			s.b.AnswerWith(streamtest.Publish, streamtest.PreconditionFailed, 1)
			o.publish(text("%srefused", name))
			s.until("refused", func() bool { return o.count() == 2 })
			o.publish(text("%slast", name))
			must(s, o.p.Close(s.ctx))
			wantErr(s, o.of[name+"refused"], ErrRefused)
			if failed := o.checkConfirmed(); len(failed) != 1 {
				s.Errorf("%q failed", failed)
			}
		}
	})
}
