package official

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/stream"
)

// onURI is a broker that another process has started.
type onURI string

func (u onURI) StreamURL() string { return string(u) }

// TestChildConsumer is not a test but the process that TestSIGKILL kills: it
// stores each message's offset, and stays in the handler of the one after
// TIDEMARK_CHILD_HANDLES of them.
func TestChildConsumer(t *testing.T) {
	name := os.Getenv("TIDEMARK_CHILD_STREAM")
	if name == "" {
		return
	}
	handles, err := strconv.Atoi(os.Getenv("TIDEMARK_CHILD_HANDLES"))
	must(t, err)
	c, err := NewConsumer(environment(t, onURI(os.Getenv("TIDEMARK_CHILD_URI"))), name, Config{Name: "child", Store: stream.StorePolicy{Every: 1}})
	must(t, err)
	t.Fatal(c.Run(t.Context(), func(_ context.Context, d *Delivery) error {
		fmt.Printf("\nbegins %s\n", d.Message.GetData())
		if handles--; handles < 0 {
			select {} // until it is killed
		}
		return nil
	}))
}

// killAfter runs the child until it has handled k messages and begun the next
// one, kills it there, and returns the numbers whose handling began.
func killAfter(t *testing.T, uri, name string, k int) (begun []int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildConsumer$")
	cmd.Env = append(os.Environ(), "TIDEMARK_CHILD_STREAM="+name, "TIDEMARK_CHILD_URI="+uri, "TIDEMARK_CHILD_HANDLES="+strconv.Itoa(k))
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "begins %d", &n); err != nil {
			continue
		}
		if begun = append(begun, n); len(begun) == k+1 {
			must(t, cmd.Process.Kill())
			return begun
		}
	}
	t.Fatalf("the child ended after %d messages", len(begun))
	return nil
}

// awaitStored waits until the broker has worked off what the dead process had
// sent it.
func awaitStored(t *testing.T, env *client.Environment, name string, handled int) {
	t.Helper()
	check.Eventually(t, "the last store has arrived", func() bool {
		stored, err := QueryOffset(inTime(t), env, "child", name)
		return handled == 0 && errors.Is(err, stream.ErrNoOffset) || handled > 0 && err == nil && stored == uint64(handled-1)
	})
}

func TestSIGKILL(t *testing.T) { onBrokers(t, testSIGKILL) }

func testSIGKILL(t *testing.T, b testBroker) {
	env := environment(t, b)
	for _, k := range []int{0, 1, 2, 57, 100, 198, 199} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			name := newStream(t, env)
			publish(t, env, name, 0, 200)
			begun := killAfter(t, b.StreamURL(), name, k)
			awaitStored(t, env, name, k)
			// The next run begins with the message that was in hand: the only
			// one to be seen twice.
			bodies, offsets := readN(t, env, name, Config{Name: "child"}, 200-k)
			wantNumbers(t, bodies, k, 200)
			if offsets[0] != uint64(k) || begun[len(begun)-1] != k {
				t.Errorf("resumed at %d; in hand at the kill was %d", offsets[0], begun[len(begun)-1])
			}
			wantStored(t, env, "child", name, 199)
		})
	}
}

// The same process killed over and over: nothing is missing over all runs.
func TestSIGKILLAgainAndAgain(t *testing.T) { onBrokers(t, testSIGKILLAgainAndAgain) }

func testSIGKILLAgainAndAgain(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 200)
	next := 0
	for _, k := range []int{0, 1, 1, 30, 0, 60, 99} {
		for i, n := range killAfter(t, b.StreamURL(), name, k) {
			if n != next+i {
				t.Fatalf("run of %d began %d instead of %d", k, n, next+i)
			}
		}
		next += k
		awaitStored(t, env, name, next)
	}
	bodies, _ := readN(t, env, name, Config{Name: "child"}, 200-next)
	wantNumbers(t, bodies, next, 200)
}

// TestKilledInABurst: with many messages on their way to it, a killed process
// repeats at most the message in hand. What lies unread in a socket resets the
// connection, and the broker then drops what it has not read of it: the stores
// are on another one.
func TestKilledInABurst(t *testing.T) { onBrokers(t, testKilledInABurst) }

func testKilledInABurst(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 20_000)
	for range 3 {
		must(t, StoreOffset(inTime(t), env, "child", name, stream.BeforeFirst))
		begun := killInABurst(t, b.StreamURL(), name, 3000)
		check.Eventually(t, "the last store has arrived", func() bool {
			stored, err := QueryOffset(inTime(t), env, "child", name)
			if err != nil || stored+1 < uint64(begun-1) {
				return false
			}
			if stored+1 > uint64(begun) {
				t.Fatalf("stored %d, and only %d messages have begun", stored, begun)
			}
			return true
		})
	}
}

// killInABurst kills the child once it has begun k messages, and returns how many
// it has begun until it was dead.
func killInABurst(t *testing.T, uri, name string, k int) (begun int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildConsumer$")
	cmd.Env = append(os.Environ(), "TIDEMARK_CHILD_STREAM="+name, "TIDEMARK_CHILD_URI="+uri, "TIDEMARK_CHILD_HANDLES=1000000")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "begins %d", &n); err != nil {
			continue
		}
		if n != begun {
			t.Fatalf("the child began %d in place of %d", n, begun)
		}
		if begun++; begun == k {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait()
	return begun
}
