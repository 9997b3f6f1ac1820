package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// TestChildConsumer is not a test but the process that TestRealSIGKILL kills:
// it stores each message's offset, and stays in the handler of the one after
// TIDEMARK_CHILD_HANDLES of them.
func TestChildConsumer(t *testing.T) {
	stream := os.Getenv("TIDEMARK_CHILD_STREAM")
	if stream == "" {
		return
	}
	handles, err := strconv.Atoi(os.Getenv("TIDEMARK_CHILD_HANDLES"))
	must(t, err)
	env := connect(t, os.Getenv("TIDEMARK_CHILD_URI"))
	c, err := env.NewConsumer(stream, ConsumerConfig{Name: "child", Store: StorePolicy{Every: 1}})
	must(t, err)
	t.Fatal(c.Run(t.Context(), func(_ context.Context, d *Delivery) error {
		fmt.Printf("\nbegins %s\n", d.Body)
		if handles--; handles < 0 {
			select {} // until it is killed
		}
		return nil
	}))
}

// killAfter runs the child until it has handled k messages and begun the next
// one, kills it there, and returns the numbers whose handling began.
func killAfter(t *testing.T, uri, stream string, k int) (begun []int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildConsumer$")
	cmd.Env = append(os.Environ(), "TIDEMARK_CHILD_STREAM="+stream, "TIDEMARK_CHILD_URI="+uri, "TIDEMARK_CHILD_HANDLES="+strconv.Itoa(k))
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

func TestSIGKILL(t *testing.T) { onBrokers(t, testSIGKILL) }

func testSIGKILL(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	for _, k := range []int{0, 1, 57, 100, 199} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			stream := newStream(t, env)
			publish(t, env, stream, 0, 200)
			begun := killAfter(t, b.StreamURL(), stream, k)
			// What the dead process has written takes the broker a moment.
			eventually(t, "the last store has arrived", patience, func() bool {
				stored, err := env.QueryOffset(t.Context(), "child", stream)
				return k == 0 && errors.Is(err, ErrNoOffset) || k > 0 && err == nil && stored == uint64(k-1)
			})
			// The next run begins with the message that was in hand: the only
			// one to be seen twice.
			bodies, first := readN(t, env, stream, ConsumerConfig{Name: "child"}, 200-k)
			wantNumbers(t, bodies, k, 200)
			if first != uint64(k) || begun[len(begun)-1] != k {
				t.Errorf("resumed at %d; in hand at the kill was %d", first, begun[len(begun)-1])
			}
		})
	}
}

// The same process killed over and over: nothing is missing over all runs.
func TestSIGKILLAgainAndAgain(t *testing.T) { onBrokers(t, testSIGKILLAgainAndAgain) }

func testSIGKILLAgainAndAgain(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 200)
	seen := make([]int, 200)
	next := 0
	arrived := func() bool {
		stored, err := env.QueryOffset(t.Context(), "child", stream)
		return next == 0 || err == nil && stored == uint64(next-1)
	}
	for _, k := range []int{0, 1, 1, 30, 0, 60, 99} {
		for i, n := range killAfter(t, b.StreamURL(), stream, k) {
			if n != next+i {
				t.Fatalf("run of %d began %d instead of %d", k, n, next+i)
			}
			seen[n]++
		}
		next += k
		eventually(t, "the last store has arrived", patience, arrived)
	}
	bodies, _ := readN(t, env, stream, ConsumerConfig{Name: "child"}, 200-next)
	wantNumbers(t, bodies, next, 200)
	for n, times := range seen[:next] {
		if times == 0 {
			t.Errorf("%d was never handled", n)
		}
	}
}
