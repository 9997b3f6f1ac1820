package stream

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSceneNameIsFree: a producer that has ended by itself gives its name back,
// without Close.
func TestSceneNameIsFree(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		old := s.producer("s", ProducerConfig{Name: "n"})
		if _, err := s.env.NewProducer(s.ctx, "s", ProducerConfig{Name: "n"}); err == nil {
			s.Error("two producers of an Env have one name")
		}
		must(s, s.b.DeleteStream("s"))
		s.until("ended", func() bool { return len(s.reported(StateClosed)) == 1 })
		s.create("s")
		p := s.producer("s", ProducerConfig{Name: "n"})
		must(s, p.Publish(s.ctx, text("new")))
		wantErr(s, old.Publish(s.ctx, text("old")), ErrStreamDeleted)
		must(s, p.Close(s.ctx))
		_ = old.Close(s.ctx)
		must(s, s.producer("s", ProducerConfig{Name: "n"}).Close(s.ctx))
	})
}

// TestSceneCloseWhileConnecting: a producer that is closed while it connects again
// reports its end, and no further attempt, which there is none of.
func TestSceneCloseWhileConnecting(t *testing.T) {
	for _, waits := range []bool{false, true} {
		play(t, Config{}, func(s *scene) {
			p := s.producer("s", ProducerConfig{})
			s.b.StopReading()
			s.b.DropConnections(streamtest.CutFIN)
			s.until("lost", func() bool { return len(s.reported(StateReconnecting)) > 0 })
			if waits {
				must(s, p.PublishAsync(s.ctx, text("x"), nil))
			}
			time.Sleep(time.Second) // it connects
			before := len(s.reported(StateReconnecting))
			ctx, cancel := context.WithTimeout(s.ctx, time.Second)
			defer cancel()
			if err := p.Close(ctx); err != nil {
				wantErr(s, err, ErrUnconfirmed)
			}
			s.until("ended", func() bool { return len(s.reported(StateClosed)) == 1 })
			if n := len(s.reported(StateReconnecting)); n > before {
				s.Errorf("reported: %v", s.story())
			}
		})
	}
}

// TestSceneFailedNameIsFree: so does one that could not be made.
func TestSceneFailedNameIsFree(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		s.b.AnswerWith(streamtest.DeclarePublisher, streamtest.AccessRefused, 1)
		_, err := s.env.NewProducer(s.ctx, "s", ProducerConfig{Name: "n"})
		wantErr(s, err, ErrAccessRefused)
		must(s, s.producer("s", ProducerConfig{Name: "n"}).Publish(s.ctx, text("x")))
	})
}

// TestSceneCause: what is said of a producer that lost its connection, or ended,
// names the cause.
func TestSceneCause(t *testing.T) {
	for _, test := range []struct {
		name   string
		happen func(*scene)
		state  State
		want   error
		text   string // one of these, separated by |
	}{
		{"closed", func(s *scene) { s.b.DropConnections(streamtest.CutFIN) }, StateReconnecting, ErrUnreachable, "EOF|closed"},
		{"reset", func(s *scene) { s.b.DropConnections(streamtest.CutRST) }, StateReconnecting, ErrUnreachable, "reset"},
		{"silent", func(s *scene) { s.b.DropConnections(streamtest.CutSilent) }, StateReconnecting, ErrUnreachable, "silent|heard|heartbeat"},
		{"moved", func(s *scene) { must(s, s.b.MoveLeader("s")) }, StateReconnecting, nil, "leader|moved|not available|unavailable"},
		{"deleted", func(s *scene) { must(s, s.b.DeleteStream("s")) }, StateClosed, ErrStreamDeleted, "deleted"},
		{"refused", func(s *scene) {
			s.b.AnswerWith(streamtest.DeclarePublisher, streamtest.AccessRefused, streamtest.Forever)
			s.b.DropConnections(streamtest.CutFIN)
		}, StateClosed, ErrAccessRefused, "s"},
		{"password", func(s *scene) {
			s.b.AnswerWith(streamtest.SaslAuthenticate, streamtest.AuthenticationFailure, streamtest.Forever)
			s.b.DropConnections(streamtest.CutFIN)
		}, StateClosed, ErrAuthentication, "guest"},
	} {
		play(t, Config{}, func(s *scene) {
			p := s.producer("s", ProducerConfig{})
			must(s, p.Publish(s.ctx, text("x")))
			test.happen(s)
			s.until(test.name, func() bool { return len(s.reported(test.state)) > 0 })
			err := s.reported(test.state)[0].Err
			if test.want != nil {
				wantErr(s, err, test.want)
			}
			if err == nil || !oneOf(err.Error(), test.text) {
				s.Errorf("%s: %v does not say %s", test.name, err, test.text)
			}
			if test.state == StateClosed {
				wantErr(s, p.Publish(s.ctx, text("y")), test.want)
			}
			s.b.ClearFaults()
		})
	}
}

func oneOf(text, wanted string) bool {
	for _, w := range strings.Split(wanted, "|") {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// TestSceneEndedUnconfirmed: the messages on their way of a producer that ends
// get an error that names the cause.
func TestSceneEndedUnconfirmed(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		o := s.logOf(s.producer("s", ProducerConfig{}))
		s.b.WithholdConfirms()
		o.publish(text("x"))
		time.Sleep(time.Second)
		must(s, s.b.DeleteStream("s"))
		s.until("ended", func() bool { return o.count() == 1 })
		wantErr(s, o.of["x"], ErrUnconfirmed, ErrStreamDeleted)
	})
}

// TestSceneSilence: a line that goes silent is noticed within two heartbeats,
// whatever the heartbeat is, with messages on their way or without.
func TestSceneSilence(t *testing.T) {
	for _, heartbeat := range []time.Duration{time.Second, 2 * time.Second, 10 * time.Second} {
		for _, busy := range []bool{false, true} {
			play(t, Config{Heartbeat: heartbeat}, func(s *scene) {
				p := s.producer("s", ProducerConfig{Name: "n"})
				must(s, p.Publish(s.ctx, text("before")))
				time.Sleep(5 * heartbeat)
				if n := len(s.reported(StateReconnecting)); n > 0 {
					s.Fatalf("%d reconnects on a line that works: %s", n, s.story())
				}
				s.b.DropConnections(streamtest.CutSilent)
				begin := time.Now()
				published := make(chan error, 1)
				if busy {
					go func() { published <- p.Publish(s.ctx, text("during")) }()
				}
				s.until("noticed", func() bool { _, is := s.since(begin, StateReconnecting); return is })
				if took, _ := s.since(begin, StateReconnecting); took > 2*heartbeat {
					s.Errorf("with a heartbeat of %v a silent line was noticed after %v", heartbeat, took)
				}
				if busy {
					must(s, <-published)
				}
				must(s, p.Publish(s.ctx, text("after")))
				must(s, p.Close(s.ctx))
				if n := len(s.b.Messages("s")); n != 2 && !busy || n != 3 && busy {
					s.Errorf("%d messages", n)
				}
			})
		}
	}
}

// TestSceneCutAnswer: a reconnect whose answer is cut off tries again at once.
func TestSceneCutAnswer(t *testing.T) {
	for _, command := range []streamtest.Command{
		streamtest.PeerProperties, streamtest.SaslAuthenticate, streamtest.Open, streamtest.Metadata,
		streamtest.DeclarePublisher, streamtest.QueryPublisherSequence,
	} {
		play(t, Config{}, func(s *scene) {
			p := s.producer("s", ProducerConfig{Name: "n"})
			must(s, p.Publish(s.ctx, text("before")))
			s.b.TruncateNext(command)
			s.b.DropConnections(streamtest.CutRST)
			begin := time.Now()
			must(s, p.Publish(s.ctx, text("after")))
			if took := time.Since(begin); took > time.Second {
				s.Errorf("%v was cut off, and the next confirm came %v later", command, took)
			}
			must(s, p.Close(s.ctx))
		})
	}
}

// TestSceneBackAtOnce: the first attempt after a drop comes at once.
func TestSceneBackAtOnce(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{})
		for i := range 100 {
			must(s, p.Publish(s.ctx, text("%d", i)))
			begin := time.Now()
			if i%2 == 0 {
				s.b.DropConnections(streamtest.CutRST)
			} else {
				must(s, s.b.MoveLeader("s"))
			}
			must(s, p.Publish(s.ctx, text("after %d", i)))
			if took := time.Since(begin); took > 0 {
				s.Fatalf("drop %d: the next confirm came %v later", i, took)
			}
		}
		must(s, p.Close(s.ctx))
	})
}

// TestSceneNoGoodbye: a producer whose broker answers nothing is closed at once. One
// that counts ids waits a second at most for the look that gives its name back.
func TestSceneNoGoodbye(t *testing.T) {
	for name, most := range map[string]time.Duration{"": 0, "n": time.Second} {
		play(t, Config{}, func(s *scene) {
			p := s.producer("s", ProducerConfig{Name: name})
			must(s, p.Publish(s.ctx, text("x")))
			s.b.StopAnswering()
			begin := time.Now()
			must(s, p.Close(s.ctx))
			if took := time.Since(begin); took > most {
				s.Errorf("with the name %q Close took %v", name, took)
			}
			s.b.ClearFaults()
		})
	}
}
