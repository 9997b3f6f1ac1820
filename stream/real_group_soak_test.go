//go:build unix

package stream

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/faults"
	"github.com/tidemark-go/tidemark/internal/history"
	"github.com/tidemark-go/tidemark/internal/rabbit"
	"github.com/tidemark-go/tidemark/streamtest"
)

// The soak of groups: one to five processes read a stream, or the three partitions
// of a super stream. They are killed, stopped in order, stalled for longer than the
// heartbeat, cut off, forsaken by a network that tells the broker alone, reset, and
// added, and leaders move. Each writes down what it
// handles, and internal/history judges that from outside, with the stored offset as
// it was polled. TIDEMARK_GROUP_FAULTS=200 TIDEMARK_GROUP_MESSAGES=2000000 is the
// scale of `make soak-groups`, on one node and on three. TIDEMARK_SOAK_SEED repeats
// a run's choice of faults.

// groupFaultsVar is the variable that says how many faults there are. Where it is
// set, TestGroupSoak has both of its groups on RabbitMQ.
const groupFaultsVar = "TIDEMARK_GROUP_FAULTS"

const (
	groupHeartbeat  = time.Second
	groupMembers    = 5
	groupPartitions = 3
	groupWorkers    = 4 // of some members; the others have none
)

// groupRules are what the members are held to. A member that is cut off begins no
// message once it heard nothing for two heartbeats; the rest is for a machine that
// is busy.
func groupRules(published []int) history.Rules {
	return history.Rules{Published: published, KeyOf: groupKey, InHand: groupWorkers, Notice: 2*groupHeartbeat + time.Second, Grace: 3 * time.Second}
}

// groupSoak is what is known of one run.
type groupSoak struct {
	t          *testing.T
	uris       []string
	direct     *Env
	settings   memberSettings
	move       func(partition int) error     // moves a leader; nil: nobody can
	groups     func(partition string) string // what the broker says of a group; nil: nobody knows
	rand       *rand.Rand
	start      time.Time
	total      int // messages in each partition
	faultsLeft int
	members    []*memberOutside
	nextID     uint16
	kinds      map[string]int
	background sync.WaitGroup

	allowed atomic.Int64 // messages in each partition that may be published

	mu      sync.Mutex
	records []history.Record
	faults  []history.Fault
	polls   []history.Poll
	seen    []map[uint32]bool // by partition: numbers that are handled
	handled int
	owners  map[uint8]uint16
	joined  map[[2]int]bool // by member and partition
}

func newGroupSoak(t *testing.T, uris []string, super bool) *groupSoak {
	seed := uint64(soakNumber(t, "TIDEMARK_SOAK_SEED", int(rand.Uint32())+1))
	s := &groupSoak{
		t: t, uris: uris, direct: connect(t, uris[0]), rand: rand.New(rand.NewPCG(seed, 0)), start: time.Now(), kinds: map[string]int{},
		faultsLeft: soakNumber(t, groupFaultsVar, 9), owners: map[uint8]uint16{}, joined: map[[2]int]bool{},
	}
	s.settings = memberSettings{Super: super, Heartbeat: groupHeartbeat}
	if super {
		s.settings.Stream = newSuperStream(t, s.direct, groupPartitions)
		var err error
		s.settings.Partitions, err = s.direct.Partitions(inTime(t), s.settings.Stream)
		must(t, err)
	} else {
		s.settings.Stream = newStream(t, s.direct)
		s.settings.Partitions = []string{s.settings.Stream}
	}
	s.total = soakNumber(t, "TIDEMARK_GROUP_MESSAGES", 20_000) / len(s.settings.Partitions)
	for range s.settings.Partitions {
		s.seen = append(s.seen, map[uint32]bool{})
	}
	t.Logf("TIDEMARK_SOAK_SEED=%d: %d faults, %d messages in each of %d partitions", seed, s.faultsLeft, s.total, len(s.seen))
	return s
}

// record takes what a member has written down.
func (s *groupSoak) record(r history.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, r)
	if int(r.Partition) >= len(s.seen) {
		return // the judge says so
	}
	switch seen := s.seen[r.Partition]; r.Kind {
	case history.Waits:
		s.joined[[2]int{int(r.Member), int(r.Partition)}] = true
	case history.Active:
		s.owners[r.Partition] = r.Member
	case history.Ended:
		if !seen[r.Number] {
			seen[r.Number] = true
			s.handled++
		}
	}
}

func (s *groupSoak) handledNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handled
}

// during does something to a member, or to a partition's leader, and writes down
// when.
func (s *groupSoak) during(f history.Fault, do func()) {
	f.Begin = time.Now().UnixNano()
	do()
	f.End = time.Now().UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// add starts a member and waits until it is in the group of each partition, while
// nothing else befalls the group; see hungByBroker.
func (s *groupSoak) add() {
	s.t.Helper()
	s.startOne()
	id := int(s.nextID)
	eventually(s.t, fmt.Sprintf("member %d is in the group", id), time.Minute, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for p := range s.settings.Partitions {
			if !s.joined[[2]int{id, p}] {
				return false
			}
		}
		return true
	})
}

// startOne starts a member.
func (s *groupSoak) startOne() {
	s.nextID++
	settings := s.settings
	settings.ID = s.nextID
	if s.nextID%3 == 0 {
		settings.Workers = groupWorkers
	}
	s.members = append(s.members, startOutside(s.t, settings, s.uris, s.record))
}

// free returns a member to which nothing is being done, or nil: three times of four
// one that is active.
func (s *groupSoak) free() *memberOutside {
	s.mu.Lock()
	owners := slices.Collect(maps.Values(s.owners))
	s.mu.Unlock()
	free := slices.DeleteFunc(slices.Clone(s.members), func(m *memberOutside) bool { return m.busy.Load() })
	active := slices.DeleteFunc(slices.Clone(free), func(m *memberOutside) bool { return !slices.Contains(owners, m.id) })
	if len(active) > 0 && s.rand.IntN(4) > 0 {
		free = active
	}
	if len(free) == 0 {
		return nil
	}
	return free[s.rand.IntN(len(free))]
}

// remove takes a member out of the group's list, and sees to it that there is one.
func (s *groupSoak) remove(m *memberOutside) {
	s.members = slices.DeleteFunc(s.members, func(x *memberOutside) bool { return x == m })
	if len(s.members) == 0 {
		s.add()
	}
}

// groupFaults are the kinds of faults. The first of all come in this order, so that
// a short run has each.
var groupFaults = []string{"add", "forsake", "add", "stall", "kill", "cut off", "stop", "reset", "move", "add", "kill", "stop"}

// breakSomething breaks what its kind says. Stalls and cuts go on in the
// background.
func (s *groupSoak) breakSomething(kind string) {
	m := s.free()
	if kind == "add" && len(s.members) == groupMembers {
		kind = "kill"
	}
	if kind == "move" && s.move == nil || m == nil && kind != "move" {
		kind = "add"
	}
	s.kinds[kind]++
	switch kind {
	case "add":
		s.add()
	case "kill":
		s.during(history.Fault{Kind: history.Killed, Member: int(m.id)}, m.kill)
		s.remove(m)
	case "stop":
		m.stop()
		s.remove(m)
	case "reset":
		s.during(history.Fault{Kind: history.Dropped, Member: int(m.id)}, func() { m.each(func(p *faults.Proxy) { p.Drop() }) })
	case "stall":
		s.whileAway(m, history.Stalled, func() { m.signal(syscall.SIGSTOP) }, func() { m.signal(syscall.SIGCONT) })
	case "forsake":
		s.whileAway(m, history.Cut, func() { m.each((*faults.Proxy).Forsake) }, func() { m.each(func(p *faults.Proxy) { p.Silence(false) }) })
	case "cut off":
		s.whileAway(m, history.Cut, func() { m.each(func(p *faults.Proxy) { p.Silence(true) }) },
			func() { m.each(func(p *faults.Proxy) { p.Silence(false) }) })
	case "move":
		p := s.rand.IntN(len(s.settings.Partitions))
		s.during(history.Fault{Kind: history.Moved, Partition: p}, func() {
			if err := s.move(p); err != nil {
				s.t.Logf("leader of partition %d not moved: %v", p, err) // not while a replica is away
			}
		})
	}
}

// whileAway keeps a member away for longer than the broker waits for a heartbeat.
func (s *groupSoak) whileAway(m *memberOutside, kind history.FaultKind, begin, end func()) {
	m.busy.Store(true)
	away := 2300*time.Millisecond + time.Duration(s.rand.IntN(1500))*time.Millisecond
	m.signal(syscall.SIGUSR1) // it has messages at hand then
	s.background.Go(func() {
		pause(50 * time.Millisecond)
		s.during(history.Fault{Kind: kind, Member: int(m.id)}, func() {
			begin()
			pause(away)
			end()
		})
		m.busy.Store(false)
	})
}

// groupPace is how many messages a partition gets in a millisecond, so that faults
// befall members that are at work.
const groupPace = 20

// publish publishes the numbers of a partition, as far as the faults have come.
func (s *groupSoak) publish(ctx context.Context, partition string) error {
	return publishNumbers(ctx, s.direct, partition, s.total, groupBody, func(n int) {
		for wait := n%groupPace == 0; ctx.Err() == nil && (wait || int64(n) >= s.allowed.Load()); wait = false {
			pause(time.Millisecond)
		}
	})
}

// watch asks for the stored offset of a partition until ctx ends. It keeps what
// changes, and an answer every 50 ms.
func (s *groupSoak) watch(ctx context.Context, partition int) {
	var last history.Poll
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		q := history.Poll{Partition: uint8(partition), Asked: time.Now().UnixNano()}
		var err error
		q.Offset, err = s.direct.QueryOffset(call, groupName, s.settings.Partitions[partition])
		q.Answered = time.Now().UnixNano()
		cancel()
		if err == nil && (last.Answered == 0 || q.Offset != last.Offset || q.Answered-last.Answered > int64(50*time.Millisecond)) {
			s.mu.Lock()
			s.polls = append(s.polls, q)
			s.mu.Unlock()
			last = q
		}
		pause(2 * time.Millisecond)
	}
}

// reach waits until n messages are handled.
func (s *groupSoak) reach(n int) {
	s.t.Helper()
	begun, looked := time.Now(), time.Now()
	eventually(s.t, fmt.Sprintf("%d messages are handled", n), 4*time.Minute, func() bool {
		if time.Since(looked) > 20*time.Second {
			looked = time.Now()
			if s.hungByBroker() {
				s.startOver()
			}
		}
		if time.Since(begun) > 3*time.Minute {
			s.diagnose(n)
		}
		for _, m := range s.members {
			select {
			case <-m.exited:
				s.t.Fatalf("member %d ended by itself: %v: %s", m.id, m.err, lastLines(m.stderr.String(), 20))
			default:
			}
		}
		return s.handledNow() >= n || s.t.Failed()
	})
}

// hungByBroker reports whether RabbitMQ has left a partition without active member.
// Before 4.1.2 it does so for ever if the active member's connection ends just when
// another member joins or leaves: it waits for the answer of a member that is gone
// (streamtest.HangGroup). Only when all members have left, the group goes on.
func (s *groupSoak) hungByBroker() bool {
	if s.groups == nil || !strings.HasPrefix(s.direct.cluster.Version(), "4.0.") {
		return false
	}
	for _, partition := range s.settings.Partitions {
		words := strings.Fields(s.groups(partition))
		if slices.Contains(words, "inactive") && !slices.Contains(words, "active") {
			s.t.Logf("RabbitMQ %s has left %s without active member", s.direct.cluster.Version(), partition)
			return true
		}
	}
	return false
}

// startOver ends all members, so that the broker forgets the group, and starts one.
func (s *groupSoak) startOver() {
	s.kinds["hung by RabbitMQ"]++
	s.background.Wait()
	for _, m := range s.members {
		m.stop()
	}
	s.members = nil
	s.add()
}

// diagnose fails the test and says where everything stands.
func (s *groupSoak) diagnose(n int) {
	s.mu.Lock()
	for i, seen := range s.seen {
		s.t.Logf("partition %d: %d of %d handled, owner %d", i, len(seen), s.allowed.Load(), s.owners[uint8(i)])
	}
	s.mu.Unlock()
	for _, partition := range s.settings.Partitions {
		if s.groups != nil {
			s.t.Log(s.groups(partition))
		}
	}
	for _, m := range s.members {
		m.signal(syscall.SIGQUIT) // it writes its goroutines down
		<-m.exited
		s.t.Logf("member %d: %s", m.id, m.stderr)
	}
	s.t.Fatalf("%d messages are handled, of %d that should be", s.handledNow(), n)
}

// run plays the whole soak.
func (s *groupSoak) run() {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	var wg sync.WaitGroup
	published := make(chan error, len(s.settings.Partitions))
	for i, partition := range s.settings.Partitions {
		wg.Go(func() { published <- s.publish(ctx, partition) })
		wg.Go(func() { s.watch(ctx, i) })
	}
	defer s.background.Wait()
	s.add()
	each, all := s.total/s.faultsLeft, s.total*len(s.settings.Partitions)
	for i := range s.faultsLeft {
		s.allowed.Store(int64(each * (i + 1)))
		s.reach(all/s.faultsLeft*i + min(1000, all/s.faultsLeft/2)) // in the middle of it
		if i < len(groupFaults) {
			s.breakSomething(groupFaults[i])
		} else {
			s.breakSomething(groupFaults[s.rand.IntN(len(groupFaults))])
		}
		if (i+1)%20 == 0 {
			s.t.Logf("%4.0f s: %v, %d messages, %d members", time.Since(s.start).Seconds(), s.kinds, s.handledNow(), len(s.members))
		}
	}
	s.allowed.Store(int64(s.total))
	s.reach(all)
	s.background.Wait()
	s.awaitStored()
	for _, m := range s.members {
		m.stop()
	}
	cancel()
	wg.Wait()
	for range s.settings.Partitions {
		must(s.t, <-published)
	}
	s.judge()
}

// awaitStored waits until the last message of each partition is stored, once
// somebody had it to the end.
func (s *groupSoak) awaitStored() {
	last := make([]uint64, len(s.settings.Partitions))
	s.mu.Lock()
	for _, r := range s.records {
		if r.Kind == history.Ended {
			last[r.Partition] = max(last[r.Partition], r.Offset)
		}
	}
	s.mu.Unlock()
	for i, partition := range s.settings.Partitions {
		eventually(s.t, fmt.Sprintf("offset %d of partition %d is stored", last[i], i), time.Minute, func() bool {
			stored, err := s.direct.QueryOffset(s.t.Context(), groupName, partition)
			return err == nil && stored == last[i]
		})
	}
}

func (s *groupSoak) judge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var published []int
	for range s.settings.Partitions {
		published = append(published, s.total)
	}
	v := history.Judge(s.records, s.faults, s.polls, groupRules(published))
	s.t.Logf("%.0f s: %v; %d messages, begun %d times, in %d terms of %d members", time.Since(s.start).Seconds(), s.kinds, v.Handled, v.Begun, v.Terms, s.nextID)
	s.t.Logf("twice: %v; begun beside the next term: %v, %v at the latest; %d polls, back with a leader %d times", v.Twice, v.Overlap, v.Longest, v.Polls, v.Back)
	for _, text := range v.Violations {
		s.t.Error(text)
	}
	if v.Polls == 0 {
		s.t.Error("the stored offset was never seen from outside")
	}
}

func TestGroupSoak(t *testing.T) {
	beside(t)
	parallelTests.Store(t.Name(), true) // both run beside each other in any case
	rabbitMQ := realBrokers()
	t.Run("stream", func(t *testing.T) {
		t.Parallel()
		groupSoakAlone(t, false, rabbitMQ && os.Getenv(groupFaultsVar) != "")
	})
	t.Run("super stream", func(t *testing.T) {
		t.Parallel()
		groupSoakAlone(t, true, rabbitMQ)
	})
}

// groupSoakAlone is the soak on one node: a RabbitMQ, whose leaders stay, or the
// in-process broker.
func groupSoakAlone(t *testing.T, super, rabbitMQ bool) {
	if !rabbitMQ {
		groupSoakInProcess(t, super)
		return
	}
	b := realBroker(t)
	s := newGroupSoak(t, nodeURIs(b), super)
	s.groups = groupsOf(t, b)
	s.run()
}

func groupSoakInProcess(t *testing.T, super bool) {
	noLeaks(t)
	b := streamtest.NewBroker(t)
	s := newGroupSoak(t, []string{b.URI()}, super)
	s.move = func(p int) error { return b.MoveLeader(s.settings.Partitions[p]) }
	s.run()
}

// TestRealGroupSoakCluster is the soak on three nodes, where leaders move.
// make test-cluster runs it, and make soak-groups with more faults.
func TestRealGroupSoakCluster(t *testing.T) {
	b := runningCluster(t)
	for _, super := range []bool{false, true} {
		t.Run(map[bool]string{false: "stream", true: "super stream"}[super], func(t *testing.T) {
			s := newGroupSoak(t, nodeURIs(b), super)
			s.move = func(p int) error {
				partition := s.settings.Partitions[p]
				_, err := b.Streams(t.Context(), leaderOf(t, s.direct, b, partition), "restart_stream", partition)
				return err
			}
			s.groups = groupsOf(t, b)
			s.run()
		})
	}
}

// groupsOf returns a function that asks RabbitMQ for the members of a group.
func groupsOf(t *testing.T, b *rabbit.Instance) func(partition string) string {
	return func(partition string) string {
		text, err := b.Streams(t.Context(), b.Nodes()[0].Name, "list_stream_group_consumers", "--stream", partition, "--reference", groupName, "--formatter", "csv")
		if err != nil {
			return err.Error()
		}
		return strings.NewReplacer(",", " ", `"`, " ").Replace(text)
	}
}

// nodeURIs returns the URI of each node.
func nodeURIs(b *rabbit.Instance) []string {
	var uris []string
	for _, n := range b.Nodes() {
		uris = append(uris, "rabbitmq-stream://guest:guest@localhost:"+strconv.Itoa(n.StreamPort))
	}
	return uris
}
