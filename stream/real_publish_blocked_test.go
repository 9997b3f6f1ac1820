package stream

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// setDiskFreeLimit sets how much of the disk has to be free.
func setDiskFreeLimit(ctx context.Context, t *testing.T, b *rabbit.Instance, limit string) {
	t.Helper()
	if out, err := b.Ctl(ctx, "n1", "set_disk_free_limit", limit); err != nil {
		t.Fatalf("set_disk_free_limit %s: %v %s", limit, err, out)
	}
}

// diskAlarm sets a disk alarm off. The returned function ends it; so does the end
// of the test, whatever happens.
func diskAlarm(t *testing.T, b *rabbit.Instance) (end func()) {
	t.Helper()
	end = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		setDiskFreeLimit(ctx, t, b, "1MB")
	})
	t.Cleanup(end)
	setDiskFreeLimit(t.Context(), t, b, "1000000GB")
	return end
}

// stateLog keeps the changes that an Env reports.
type stateLog struct {
	mu   sync.Mutex
	list []StateChange
}

func (l *stateLog) note(c StateChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, c)
}

// of returns the changes to a state of whatever has a role and a name.
func (l *stateLog) of(role Role, name string, state State) (list []StateChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.list {
		if c.Role == role && c.Name == name && c.State == state {
			list = append(list, c)
		}
	}
	return list
}

// TestRealPublishAlarmByVersion: while a real RabbitMQ has a disk alarm, producers
// are blocked, with the causes that it may have, and so are those whose connection
// is lost meanwhile. Consumers and what they store go on. Afterwards everything is
// published, without anybody's help.
func TestRealPublishAlarmByVersion(t *testing.T) {
	b := mortalBroker(t)
	proxy, uri := throughProxy(t, b)
	var states stateLog
	// The consumer's Env has a producer of its own, whose connection stays.
	direct := connectWith(t, b.StreamURL(), Config{Heartbeat: 3 * time.Second, OnState: states.note})
	t.Logf("on RabbitMQ %s", direct.cluster.Version())
	env, err := Connect(t.Context(), Config{
		URIs: []string{uri}, Heartbeat: 3 * time.Second, OnState: states.note, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	must(t, err)
	defer func() { must(t, env.Close()) }()
	stream, read := newStream(t, direct), newStream(t, direct)
	publish(t, direct, read, 0, 100_000)
	names := []string{"named", "", "beside"}
	envs := []*Env{env, env, direct}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var publishing sync.WaitGroup
	var confirmed, accepted [3]atomic.Int64
	for i, name := range names {
		p := newProducer(t, envs[i], stream, ProducerConfig{Name: name, MaxInFlight: 100})
		publishing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				err := p.PublishAsync(ctx, Message{Body: fmt.Appendf(nil, "%s-%d", name, n)}, func(err error) {
					if confirmed[i].Add(1); err != nil {
						t.Errorf("%q: %v", name, err)
					}
				})
				if err == nil {
					accepted[i].Add(1)
				} else if ctx.Err() == nil {
					t.Errorf("%q: %v", name, err)
				}
				pause(time.Millisecond)
			}
			if err := p.Close(inTime(t)); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		})
	}
	var handled atomic.Int64
	stopReading, _ := runConsumer(t, direct, read, ConsumerConfig{Name: "reader", Start: First(), Store: StorePolicy{Every: 10}}, func(*Delivery) {
		handled.Add(1)
		pause(time.Millisecond)
	})
	counts := func() (n [3]int64) {
		for i := range confirmed {
			n[i] = confirmed[i].Load()
		}
		return n
	}
	goOn := func(since [3]int64, by int64) func() bool {
		return func() bool {
			n := counts()
			return n[0] > since[0]+by && n[1] > since[1]+by && n[2] > since[2]+by
		}
	}
	eventually(t, "all of it goes", timeLimit(), func() bool { return handled.Load() > 100 && goOn([3]int64{}, 100)() })

	endAlarm := diskAlarm(t, b)
	for _, name := range names {
		eventually(t, fmt.Sprintf("%q is blocked", name), timeLimit(), func() bool { return len(states.of(RoleProducer, name, StateBlocked)) > 0 })
		checkBlocked(t, states.of(RoleProducer, name, StateBlocked)[0].Err)
	}
	checkNewWhileBlocked(t, env, stream)
	proxy.Drop() // the connections come back to a broker that takes nothing
	before, was := handled.Load(), counts()
	stored, err := direct.QueryOffset(inTime(t), "reader", read)
	must(t, err)
	eventually(t, "reading goes on", timeLimit(), func() bool { return handled.Load() > before+1000 })
	now, err := direct.QueryOffset(inTime(t), "reader", read)
	must(t, err)
	if now < stored+500 {
		t.Errorf("stored was %d before and %d after %d messages", stored, now, handled.Load()-before)
	}
	if is := counts(); is != was {
		t.Errorf("%d messages were confirmed during the alarm, before: %d", is, was)
	}
	if lost := states.of(RoleConsumer, "reader", StateReconnecting); len(lost) > 0 || len(states.of(RoleConsumer, "reader", StateConnected)) != 1 {
		t.Errorf("the consumer was disturbed: %v", lost)
	}
	must(t, stopReading())

	endAlarm()
	eventually(t, "publishing goes on", timeLimit(), goOn(was, 500))
	for _, name := range names {
		if got := states.of(RoleProducer, name, StateBlocked); len(got) > 2 { // and again once its connection was lost
			t.Errorf("%q was reported blocked %d times", name, len(got))
		}
		for _, ended := range states.of(RoleProducer, name, StateClosed) {
			if ended.Err != nil {
				t.Errorf("%q has ended: %v", name, ended.Err)
			}
		}
	}
	stop()
	publishing.Wait()
	wantEach(t, readAll(t, direct, stream), names, []int{int(accepted[0].Load()), int(accepted[1].Load()), int(accepted[2].Load())})
}

// checkBlocked looks for the causes in an error.
func checkBlocked(t *testing.T, err error) {
	t.Helper()
	wantErr(t, err, ErrBlocked)
	if err == nil || !strings.Contains(err.Error(), "disk") || !strings.Contains(err.Error(), "quorum") {
		t.Errorf("%v does not name the causes", err)
	}
}

// checkNewWhileBlocked makes a producer during an alarm.
func checkNewWhileBlocked(t *testing.T, env *Env, stream string) {
	t.Helper()
	for _, name := range []string{"", "new"} {
		p, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: name})
		if err == nil {
			_ = p.Close(t.Context())
		}
		wantErr(t, err, ErrBlocked)
		if err == nil || !strings.Contains(err.Error(), "disk") {
			t.Errorf("%v does not name the alarm", err)
		}
	}
}

// wantEach checks that all numbers of each name are there, up to how many there
// are: in order and once with a name, at least once without.
func wantEach(t *testing.T, bodies, names []string, accepted []int) {
	t.Helper()
	for i, name := range names {
		var own []string
		seen, twice := make(map[string]bool), 0
		for _, body := range bodies {
			if !strings.HasPrefix(body, name+"-") {
				continue
			}
			if name == "" && seen[body] {
				twice++
				continue
			}
			own, seen[body] = append(own, body), true
		}
		want := make([]string, accepted[i])
		for n := range want {
			want[n] = fmt.Sprintf("%s-%d", name, n)
		}
		if !slices.Equal(own, want) {
			t.Errorf("of %d messages of %q, all of them confirmed, %d are in the stream, or in another order", len(want), name, len(own))
		}
		t.Logf("%d messages of %q, %d of them twice", len(own), name, twice)
	}
}
