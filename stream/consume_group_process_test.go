//go:build unix

package stream

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// childKinds are the ways in which the process of TestGroupStoppedProcess handles
// messages, each with how many it may have in hand.
var childKinds = map[string]struct {
	cfg    ConsumerConfig
	inHand int
	run    func(context.Context, *Consumer, Handler) error
}{
	"serial":  {ConsumerConfig{}, 1, runChild},
	"workers": {ConsumerConfig{Workers: 4}, 4, runChild},
	"lanes":   {ConsumerConfig{Workers: 4, KeyOf: func(d *Delivery) string { return string(d.Body[:1]) }}, 4, runChild},
	"all":     {ConsumerConfig{}, 1, func(ctx context.Context, c *Consumer, h Handler) error { return runLoop(c, ctx, h) }},
	"batches": {ConsumerConfig{BatchSize: 10}, 1, runChildBatches},

	"super, serial":  {ConsumerConfig{SuperStream: true}, 1, runChild},
	"super, workers": {ConsumerConfig{SuperStream: true, Workers: 4}, 4, runChild},
	"super, batches": {ConsumerConfig{SuperStream: true, BatchSize: 10}, 1, runChildBatches},
}

func runChild(ctx context.Context, c *Consumer, h Handler) error { return c.Run(ctx, h) }

// runChildBatches calls the handler for the first message of each batch.
func runChildBatches(ctx context.Context, c *Consumer, h Handler) error {
	return c.RunBatch(ctx, func(ctx context.Context, batch []Delivery) error { return h(ctx, &batch[0]) })
}

// TestChildMember is not a test but the process that TestGroupStoppedProcess
// stops: a member that takes a while for each message.
func TestChildMember(t *testing.T) {
	uri, kind := os.Getenv("TIDEMARK_CHILD_MEMBER"), childKinds[os.Getenv("TIDEMARK_CHILD_KIND")]
	if uri == "" {
		return
	}
	env := connectWith(t, uri, Config{Heartbeat: time.Second, OnState: func(c StateChange) {
		fmt.Printf("\nstate %v\n", c.State)
	}})
	c, err := env.NewConsumer("s", memberConfig(kind.cfg))
	must(t, err)
	t.Fatal(kind.run(t.Context(), c, func(ctx context.Context, d *Delivery) error {
		fmt.Printf("\nbegins %d\n", time.Now().UnixNano())
		return sleep(ctx, 200*time.Microsecond)
	}))
}

func memberConfig(cfg ConsumerConfig) ConsumerConfig {
	cfg.Name, cfg.SingleActive = "g", true
	return cfg
}

// A process that was stopped for two heartbeats begins no message when it goes on,
// although thousands of them wait in its memory and its connection looks alive: the
// next member has them.
func TestGroupStoppedProcess(t *testing.T) {
	beside(t)
	parallelTests.Store(t.Name(), true) // they mostly wait, in any case
	for name := range childKinds {
		t.Run(name, func(t *testing.T) {
			parallelTests.Store(t.Name(), true)
			t.Parallel()
			testStoppedProcess(t, name)
		})
	}
}

func testStoppedProcess(t *testing.T, name string) {
	kind := childKinds[name]
	b := streamtest.NewBroker(t)
	env, read := connect(t, b.URI()), "s"
	if kind.cfg.SuperStream {
		must(t, env.DeclareSuperStream(inTime(t), "s", SuperStreamConfig{Partitions: 1}))
		read = "s-0"
	} else {
		must(t, b.CreateStream(read))
	}
	var bodies []string
	for i := range 20_000 {
		bodies = append(bodies, fmt.Sprint(i))
	}
	must(t, b.Publish(read, bodies...))
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildMember$")
	cmd.Env = append(os.Environ(), "TIDEMARK_CHILD_MEMBER="+b.URI(), "TIDEMARK_CHILD_KIND="+name)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	said := bufio.NewScanner(out)
	next := func(prefix string) string {
		for said.Scan() {
			if what, ok := strings.CutPrefix(said.Text(), prefix); ok {
				return what
			}
		}
		t.Fatal("the process has ended")
		return ""
	}
	next("begins ")
	must(t, cmd.Process.Signal(syscall.SIGSTOP))
	stopped := time.Now()
	b.DropConnections(streamtest.CutSilent) // its sockets stay open, and only silence tells
	c, err := env.NewConsumer("s", memberConfig(ConsumerConfig{SuperStream: kind.cfg.SuperStream}))
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	first, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- c.Run(ctx, func(_ context.Context, d *Delivery) error {
			select {
			case first <- string(d.Body):
			default:
			}
			return nil
		})
	}()
	recv(t, first, "the next member's first message")
	eventually(t, "all are handled", patience, func() bool { offset, _ := b.Offset("g", read); return offset == 19_999 })
	_ = sleep(t.Context(), time.Until(stopped.Add(2*time.Second+500*time.Millisecond))) // two heartbeats
	goesOn := time.Now().UnixNano()
	must(t, cmd.Process.Signal(syscall.SIGCONT))
	begun, overlaps := 0, 0
	for what := next(""); overlaps == 0 || what != "state waiting"; what = next("") {
		at, isMessage := strings.CutPrefix(what, "begins ")
		if n, err := strconv.ParseInt(at, 10, 64); isMessage && err == nil && n > goesOn {
			begun++
		}
		if what == "state overlap" {
			overlaps++
		}
	}
	if begun > kind.inHand { // it may have been stopped right before it says so
		t.Errorf("it began %d messages after it was stopped", begun)
	}
	if offset, _ := b.Offset("g", read); offset != 19_999 {
		t.Errorf("the stored offset went back to %d", offset)
	}
	stop()
	must(t, recv(t, done, "the end"))
}
