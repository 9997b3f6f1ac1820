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

// TestChildMember is not a test but the process that TestGroupStoppedProcess
// stops: a member that takes a while for each message.
func TestChildMember(t *testing.T) {
	uri := os.Getenv("TIDEMARK_CHILD_MEMBER")
	if uri == "" {
		return
	}
	env := connectWith(t, uri, Config{Heartbeat: time.Second, OnState: func(c StateChange) {
		fmt.Printf("\nstate %v\n", c.State)
	}})
	c, err := env.NewConsumer("s", ConsumerConfig{Name: "g", SingleActive: true})
	must(t, err)
	t.Fatal(c.Run(t.Context(), func(ctx context.Context, d *Delivery) error {
		fmt.Printf("\nbegins %d\n", time.Now().UnixNano())
		return sleep(ctx, 200*time.Microsecond)
	}))
}

// A process that was stopped for two heartbeats begins no message when it goes on,
// although thousands of them wait in its memory and its connection looks alive: the
// next member has them.
func TestGroupStoppedProcess(t *testing.T) {
	beside(t)
	b := streamtest.NewBroker(t)
	must(t, b.CreateStream("s"))
	var bodies []string
	for i := range 20_000 {
		bodies = append(bodies, fmt.Sprint(i))
	}
	must(t, b.Publish("s", bodies...))
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildMember$")
	cmd.Env = append(os.Environ(), "TIDEMARK_CHILD_MEMBER="+b.URI())
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
	env := connect(t, b.URI())
	c, err := env.NewConsumer("s", ConsumerConfig{Name: "g", SingleActive: true})
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
	eventually(t, "all are handled", patience, func() bool { offset, _ := b.Offset("g", "s"); return offset == 19_999 })
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
	if begun > 1 { // it may have been stopped right before it says so
		t.Errorf("it began %d messages after it was stopped", begun)
	}
	if offset, _ := b.Offset("g", "s"); offset != 19_999 {
		t.Errorf("the stored offset went back to %d", offset)
	}
	stop()
	must(t, recv(t, done, "the end"))
}
