package stream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pumped runs pump on a link whose batches the test takes.
type pumped struct {
	*Producer
	link  *link
	ended chan error
}

// startPump starts it once the messages are accepted.
func startPump(t *testing.T, cfg ProducerConfig, msgs ...Message) *pumped {
	t.Helper()
	cfg, err := cfg.withDefaults()
	must(t, err)
	p := offline(100_000)
	p.flight.mostBytes = 1 << 30
	p.cfg = cfg
	p.life, p.cancel = context.WithCancel(t.Context())
	l := &link{
		address: "node:1", frameMax: 1 << 20, flight: p.flight,
		batches: make(chan []*slot), spare: make(chan []*slot, 2), lost: make(chan struct{}),
	}
	for _, m := range msgs {
		must(t, p.PublishAsync(t.Context(), m, nil))
	}
	u := &pumped{Producer: p, link: l, ended: make(chan error, 1)}
	go func() { u.ended <- p.pump(l) }()
	t.Cleanup(p.cancel)
	return u
}

func (p *pumped) publish(t *testing.T, filters ...string) {
	t.Helper()
	for _, filter := range filters {
		must(t, p.PublishAsync(t.Context(), Message{FilterValue: filter}, nil))
	}
}

// want fails the test unless the next batch, which is there already, has these
// messages, or none is there.
func (p *pumped) want(t *testing.T, want ...uint64) {
	t.Helper()
	synctest.Wait()
	var got []uint64
	select {
	case batch := <-p.link.batches:
		got = ids(batch)
	default:
	}
	if !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

// confirm is the link's news that the broker has the messages.
func (p *pumped) confirm(ids ...uint64) { p.link.settle(0, ids) }

// TestPumpOrdersFilterValues: a message with a filter value waits for those
// without one before it, and the other way round. Messages of a kind do not wait
// for each other.
func TestPumpOrdersFilterValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPump(t, ProducerConfig{}, Message{}, Message{}, Message{FilterValue: "a"}, Message{FilterValue: "b"}, Message{})
		p.want(t, 1, 2)
		p.want(t)
		p.confirm(1)
		p.want(t)
		p.confirm(2)
		p.want(t, 3, 4)
		p.publish(t, "c")
		p.want(t)
		p.confirm(4)
		p.want(t)
		p.confirm(3)
		p.want(t, 5)
		p.confirm(5)
		p.want(t, 6)
		p.publish(t, "d")
		p.want(t, 7)
		p.publish(t, "")
		p.want(t)
		p.confirm(6, 7)
		p.want(t, 8)
		p.publish(t, "")
		p.want(t, 9)
	})
}

// TestPumpBeginsWithAFilterValue: nothing is before it.
func TestPumpBeginsWithAFilterValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPump(t, ProducerConfig{}, Message{FilterValue: "a"}, Message{FilterValue: "a"}, Message{})
		p.want(t, 1, 2)
		p.want(t)
		p.confirm(1, 2)
		p.want(t, 3)
	})
}

// TestPumpBatches: a batch has as many messages as a frame takes, or as a
// sub-batch if that is more.
func TestPumpBatches(t *testing.T) {
	for _, test := range []struct {
		subEntries, body, messages int
		want                       []int
	}{
		{0, 0, 2500, []int{1000, 1000, 500}},
		{2, 0, 1001, []int{1000, 1}},
		{2000, 0, 2500, []int{2000, 500}},
		{0, 1<<19 - 100, 3, []int{2, 1}},
		{2, 1<<19 - 100, 2, []int{1, 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			msgs := make([]Message, test.messages)
			for i := range msgs {
				msgs[i].Body = make([]byte, test.body)
			}
			p := startPump(t, ProducerConfig{SubEntries: test.subEntries}, msgs...)
			var got []int
			for range test.want {
				got = append(got, len(recv(t, p.link.batches, "a batch")))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%+v: batches of %v", test, got)
			}
		})
	}
}

// TestPumpNoticesSilence: a link that confirms nothing of what was sent counts as
// stuck after ConfirmTimeout, and a quarter of it at most. After a confirm it has
// another quarter, because only the next look sees that.
func TestPumpNoticesSilence(t *testing.T) {
	const timeout = 20 * time.Second
	for _, confirms := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			p := startPump(t, ProducerConfig{ConfirmTimeout: timeout})
			time.Sleep(time.Hour)
			for range 3 {
				must(t, p.PublishAsync(t.Context(), Message{}, nil))
			}
			for sent := 0; sent < 3; {
				sent += len(recv(t, p.link.batches, "a batch"))
			}
			for id := range confirms {
				time.Sleep(timeout - 1)
				p.confirm(uint64(id) + 1)
			}
			begin, longest := time.Now(), timeout*5/4
			if confirms > 0 {
				longest = timeout * 6 / 4
			}
			err := <-p.ended
			if took := time.Since(begin); took < timeout || took > longest {
				t.Errorf("noticed %v after %d confirms", took, confirms)
			}
			if wantErr(t, err, ErrUnreachable); !strings.Contains(err.Error(), "node:1") || !strings.Contains(err.Error(), "20s") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestPumpWaitsInPeace: what has its outcome, and what could not be sent yet, is
// no reason to give a link up.
func TestPumpWaitsInPeace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPump(t, ProducerConfig{ConfirmTimeout: time.Second})
		p.publish(t, "")
		p.want(t, 1)
		p.confirm(1)
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case err := <-p.ended:
			t.Errorf("given up: %v", err)
		default:
		}
		if len(p.link.spare) != 1 {
			t.Errorf("the memory of %d batches is kept, want that of one", len(p.link.spare))
		}
	})
}

// TestPumpWithTheLeastConfirmTimeout: the least one does not stop the process.
func TestPumpWithTheLeastConfirmTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPump(t, ProducerConfig{ConfirmTimeout: 1})
		p.publish(t, "")
		p.want(t, 1)
		wantErr(t, <-p.ended, ErrUnreachable)
	})
}

// TestPumpEnds: with its link, for the link's reason, and with the producer.
func TestPumpEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := startPump(t, ProducerConfig{})
		lost.publish(t, "") // which nobody takes
		synctest.Wait()
		lost.link.lose(errTest)
		wantErr(t, <-lost.ended, errTest)

		closed := startPump(t, ProducerConfig{})
		closed.publish(t, "")
		closed.cancel()
		must(t, <-closed.ended)
	})
}

// TestFailTellsWhy: the messages of a producer that fails have no outcome, and
// calls after it get the reason alone.
func TestFailTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		var outcome error
		must(t, p.PublishAsync(t.Context(), Message{}, func(err error) { outcome = err }))
		p.fail(ErrStreamDeleted)
		close(p.ended)
		if err := p.PublishAsync(t.Context(), Message{}, nil); !errors.Is(err, ErrStreamDeleted) || errors.Is(err, ErrUnconfirmed) {
			t.Errorf("after it, PublishAsync returned %v", err)
		}
		must(t, p.Close(t.Context()))
		wantErr(t, outcome, ErrUnconfirmed, ErrStreamDeleted)
	})
}
