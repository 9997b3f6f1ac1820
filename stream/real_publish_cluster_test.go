//go:build unix

package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// eval evaluates Erlang on a node.
func eval(t *testing.T, b *rabbit.Instance, node, format string, args ...any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := b.Ctl(ctx, node, "eval", fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatalf("eval on %s: %v %s", node, err, out)
	}
	return out
}

// moveLeaders moves the leader of a stream n times, in one run of rabbitmqctl. It
// returns how many times that worked.
func moveLeaders(t *testing.T, b *rabbit.Instance, stream string, n int, every time.Duration) int {
	t.Helper()
	out := eval(t, b, "n1", `[begin timer:sleep(%d), case catch rabbit_stream_queue:restart_stream(<<"/">>, <<"%s">>, #{}) of {ok, _} -> moved; Other -> Other end end || _ <- lists:seq(1, %d)].`,
		every.Milliseconds(), stream, n)
	moved := strings.Count(out, "moved")
	if moved < n {
		t.Logf("%d of %d moves: %s", moved, n, out)
	}
	return moved
}

// steady publishes numbers under a name as fast as it may, until stop.
type steady struct {
	name     string
	p        *Producer
	accepted int // once stop has returned
	settled  atomic.Int64
	failed   atomic.Pointer[error]
	cancel   context.CancelFunc
	done     chan struct{}
}

// startSteady begins to publish a message and then one after each pause.
func startSteady(t *testing.T, env *Env, stream, name string, every time.Duration, cfg ProducerConfig) *steady {
	t.Helper()
	s := &steady{name: name, done: make(chan struct{})}
	if !strings.HasPrefix(name, "unnamed") {
		cfg.Name = name
	}
	s.p = newProducer(t, env, stream, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	s.cancel = cancel
	go func() {
		defer close(s.done)
		for ; ctx.Err() == nil; pause(every) {
			err := s.p.PublishAsync(ctx, Message{Body: fmt.Appendf(nil, "%s-%d", name, s.accepted)}, func(err error) {
				if s.settled.Add(1); err != nil {
					s.failed.CompareAndSwap(nil, &err)
				}
			})
			switch {
			case err == nil:
				s.accepted++
			case ctx.Err() == nil:
				s.failed.CompareAndSwap(nil, &err)
				return
			}
		}
	}()
	return s
}

// stop ends the publishing, and wants everything confirmed.
func (s *steady) stop(t *testing.T) {
	t.Helper()
	s.cancel()
	<-s.done
	if err := s.p.Close(inTime(t)); err != nil {
		t.Errorf("%q: %v", s.name, err)
	}
	if err := s.failed.Load(); err != nil {
		t.Errorf("%q: %v", s.name, *err)
	}
}

// check looks for what was published: in order and once with a name, and at least
// once without.
func (s *steady) check(t *testing.T, bodies []string) {
	t.Helper()
	named := s.p.cfg.Name != ""
	seen, next, twice := make([]bool, s.accepted), 0, 0
	for _, body := range bodies {
		if !strings.HasPrefix(body, s.name+"-") {
			continue
		}
		n, err := strconv.Atoi(body[len(s.name)+1:])
		if err != nil || n >= s.accepted {
			t.Errorf("%q was never published", body)
			continue
		}
		switch {
		case seen[n]:
			twice++
		case n != next && named:
			t.Fatalf("%q stands where %d should", body, next)
		}
		seen[n], next = true, n+1
	}
	missing := 0
	for _, there := range seen {
		if !there {
			missing++
		}
	}
	if missing > 0 || named && twice > 0 {
		t.Errorf("of %d messages of %q, all of them confirmed, %d are missing and %d there twice", s.accepted, s.name, missing, twice)
	}
	t.Logf("%q: %d messages, %d of them twice", s.name, s.accepted, twice)
}

// TestRealPublishMoves: the leader of a stream is moved TIDEMARK_MOVES=20 times, and
// killed, while producers with and without names publish beside each other on the
// same connections, two of them as fast as they may. What is confirmed is there.
func TestRealPublishMoves(t *testing.T) {
	b := runningCluster(t)
	moves := soakNumber(t, "TIDEMARK_MOVES", 4)
	kills := (moves + 4) / 5
	env := connect(t, b.StreamURL())
	stream, other := newStream(t, env), newStream(t, env)
	full := ProducerConfig{MaxInFlight: 15_000}
	sub := full
	sub.SubEntries, sub.Compression = 50, CompressionLZ4
	all := []*steady{
		startSteady(t, env, stream, "slow", 2*time.Millisecond, ProducerConfig{}),
		startSteady(t, env, stream, "unnamed", 2*time.Millisecond, ProducerConfig{}),
		startSteady(t, env, stream, "fast", 50*time.Microsecond, full),
		startSteady(t, env, stream, "batches", 50*time.Microsecond, sub),
	}
	beside := startSteady(t, env, other, "beside", 2*time.Millisecond, ProducerConfig{})
	moved := 0
	for range kills {
		moved += moveLeaders(t, b, stream, moves/kills, 500*time.Millisecond)
		leader := leaderOf(t, env, b, stream)
		must(t, b.Kill(t.Context(), leader))
		eventually(t, "publishing goes on", timeLimit(), func() bool { return goesOn(all) })
		must(t, b.Start(t.Context(), leader))
		leaderOf(t, env, b, stream) // its replica is back
	}
	for _, s := range append(all, beside) {
		s.stop(t)
	}
	bodies := readAll(t, env, stream)
	for _, s := range all {
		s.check(t, bodies)
	}
	beside.check(t, readAll(t, env, other))
	t.Logf("%d moves, %d kills", moved, kills)
}

// goesOn reports whether each of the producers gets something confirmed.
func goesOn(all []*steady) bool {
	for _, s := range all {
		if was := s.settled.Load(); !soonAbove(&s.settled, was+20) {
			return false
		}
	}
	return true
}

// soonAbove waits a little for a counter.
func soonAbove(n *atomic.Int64, than int64) bool {
	for range 1000 {
		if n.Load() > than {
			return true
		}
		pause(time.Millisecond)
	}
	return false
}

// suspendReplicas keeps the replicas of a stream that are not on a node from taking
// anything, so that it has no quorum, until the returned function is called or the
// test has ended.
func suspendReplicas(t *testing.T, b *rabbit.Instance, leader, stream string) (resume func()) {
	t.Helper()
	each := func(do string) string {
		return eval(t, b, leader, `[begin sys:%s(P), done end || N <- nodes(), {Id, P, _, _} <- supervisor:which_children({osiris_server_sup, N}), is_pid(P), string:find(Id, "%s") =/= nomatch].`, do, stream)
	}
	resume = sync.OnceFunc(func() { each("resume") })
	t.Cleanup(resume)
	if out := each("suspend"); strings.Count(out, "done") != 2 {
		t.Fatalf("the replicas to suspend: %s", out)
	}
	return resume
}

// TestRealPublishOneWithoutQuorum: a stream that has lost its quorum confirms
// nothing, and its producers take what room they may have. Those of other streams,
// on the same connections, go on. When the quorum is back, everything is there.
func TestRealPublishOneWithoutQuorum(t *testing.T) {
	b := runningCluster(t)
	var states stateLog
	env := connectWith(t, b.StreamURL(), Config{Heartbeat: 3 * time.Second, OnState: states.note})
	stream := newStream(t, env)
	leader := leaderOf(t, env, b, stream)
	var stuck, live []*steady
	for i := range 6 { // more than a connection may have unconfirmed
		stuck = append(stuck, startSteady(t, env, stream, fmt.Sprint("stuck", i), 50*time.Microsecond, ProducerConfig{MaxInFlight: 10_000}))
	}
	stuck = append(stuck, startSteady(t, env, stream, "unnamed", time.Millisecond, ProducerConfig{}))
	var streams []string
	for i := range 4 {
		streams = append(streams, streamOn(t, env, b, leader))
		live = append(live, startSteady(t, env, streams[i], fmt.Sprint("live", i), 2*time.Millisecond, ProducerConfig{}))
	}
	eventually(t, "everybody publishes", timeLimit(), func() bool { return goesOn(stuck) && goesOn(live) })

	resume := suspendReplicas(t, b, leader, stream)
	for _, s := range stuck {
		eventually(t, s.name+" is blocked", timeLimit(), func() bool { return len(states.of(RoleProducer, s.p.cfg.Name, StateBlocked)) > 0 })
		checkBlocked(t, states.of(RoleProducer, s.p.cfg.Name, StateBlocked)[0].Err)
	}
	begin := time.Now()
	var was [4]int64
	for i, s := range live {
		was[i] = s.settled.Load()
	}
	for i, s := range live {
		eventually(t, s.name+" goes on", timeLimit(), func() bool { return s.settled.Load() > was[i]+3000 })
	}
	t.Logf("3000 messages of each of the others took %v; blocked were %v of them", time.Since(begin).Round(time.Millisecond), blockedNames(&states))
	resume()
	eventually(t, "all go on", timeLimit(), func() bool { return goesOn(stuck) })
	for _, s := range append(stuck, live...) {
		s.stop(t)
	}
	bodies := readAll(t, env, stream)
	for _, s := range stuck {
		s.check(t, bodies)
	}
	for i, s := range live {
		s.check(t, readAll(t, env, streams[i]))
	}
}

func blockedNames(l *stateLog) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.list {
		if c.State == StateBlocked {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// streamOn makes a stream that a node leads.
func streamOn(t *testing.T, env *Env, b *rabbit.Instance, node string) string {
	t.Helper()
	for _, n := range b.Nodes() {
		if n.Name != node {
			continue
		}
		u, err := url.Parse(strings.Split(b.StreamURL(), ",")[0])
		must(t, err)
		u.Host = "localhost:" + strconv.Itoa(n.StreamPort)
		there := connect(t, u.String()) // the node that is asked leads
		for range 5 {
			if stream := newStream(t, there); leaderOf(t, env, b, stream) == node {
				return stream
			}
		}
	}
	t.Fatalf("no new stream is led by %s", node)
	return ""
}

// TestRealPublishKilledWithLeader: a publishing process and the leader are killed
// together, TIDEMARK_KILLS_TOGETHER times. The next process begins where the broker
// says that the stream ends. The stream equals the file.
func TestRealPublishKilledWithLeader(t *testing.T) {
	b := runningCluster(t)
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	kills := soakNumber(t, "TIDEMARK_KILLS_TOGETHER", 1)
	file := linesFile(t, 3000*(kills+1))
	start := func(run int) *childProducer {
		return startProducer(t, b.StreamURL(), stream, strconv.Itoa(run), childFile+"="+file, childPause+"=1ms")
	}
	killer := sync.WaitGroup{}
	for run := range kills {
		leader := leaderOf(t, env, b, stream)
		c := start(run)
		c.await("connected", c.from)
		eventually(t, "it publishes", timeLimit(), func() bool { n, end := c.told(); return n > rand.IntN(50) || end != "" })
		killer.Go(func() { c.signal(syscall.SIGKILL) })
		must(t, b.Kill(t.Context(), leader))
		killer.Wait()
		next := start(1000 + run) // with two nodes, until it is killed
		next.await("connected", next.from)
		next.kill(20)
		must(t, b.Start(t.Context(), leader))
	}
	finishFile(t, env, stream, file)
}

// finishFile publishes what is left of a file, as a caller does who numbers the
// lines himself and heeds ErrSequenceBehind. The stream has to equal the file then.
func finishFile(t *testing.T, env *Env, stream, file string) {
	t.Helper()
	lines, err := linesOf(file)
	must(t, err)
	for {
		p, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: childName})
		must(t, err)
		err = publishOneByOne(inTime(t), p, lines, int(p.LastPublishingID()), 0)
		if err = errors.Join(err, p.Close(inTime(t))); err == nil {
			break
		}
		if wantErr(t, err, ErrSequenceBehind); t.Failed() {
			return
		}
		t.Log(err)
	}
	if got := readAll(t, env, stream); !slices.Equal(got, lines) {
		t.Errorf("the stream has %d messages and the file %d lines, or they differ", len(got), len(lines))
	}
}

// TestRealPublishSequenceFallsBack: a process dies while the leader has messages of
// its that no replica has, the next one goes on above them, and the leader dies.
// Who numbers the messages himself is told where to go back to.
func TestRealPublishSequenceFallsBack(t *testing.T) {
	b := runningCluster(t)
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	file := linesFile(t, 20_000)
	leader := leaderOf(t, env, b, stream)
	c := startProducer(t, b.StreamURL(), stream, "dies", childFile+"="+file, childPause+"=1ms")
	c.await("publishing", c.first)
	// What the leader writes from now on reaches nobody.
	eval(t, b, leader, `[sys:suspend(P) || {_, P, _, _} <- supervisor:which_children(osiris_replica_reader_sup), is_pid(P)].`)
	eventually(t, "the leader has what is not committed", timeLimit(), func() bool {
		told, end := c.told()
		if end != "" {
			t.Fatal(end)
		}
		return int(storedUnder(t, env, stream)) > told*20+500
	})
	c.signal(syscall.SIGKILL)
	<-c.exited

	lines, err := linesOf(file)
	must(t, err)
	p := newProducer(t, env, stream, ProducerConfig{Name: childName})
	last := p.LastPublishingID()
	outcome := make(chan error, 1)
	must(t, p.PublishAsync(t.Context(), Message{Body: []byte(lines[last]), PublishingID: last + 1}, func(err error) { outcome <- err }))
	must(t, b.Kill(t.Context(), leader))
	err = <-outcome
	wantErr(t, err, ErrSequenceBehind)
	now := storedUnder(t, env, stream)
	t.Logf("it was %d, and is %d: %v", last, now, err)
	if now >= last || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d to %d", now+1, last)) {
		t.Errorf("%v does not name the ids from %d to %d", err, now+1, last)
	}
	_ = p.Close(inTime(t))
	finishFile(t, env, stream, file)
	must(t, b.Start(t.Context(), leader))
}

// storedUnder is the highest publishing id that the broker has.
func storedUnder(t *testing.T, env *Env, stream string) (id uint64) {
	t.Helper()
	eventually(t, "the broker tells the sequence", timeLimit(), func() bool {
		p, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: childName})
		if err != nil {
			return false
		}
		id = p.LastPublishingID()
		return p.Close(inTime(t)) == nil
	})
	return id
}
