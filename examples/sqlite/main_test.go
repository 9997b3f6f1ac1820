package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

const total = 5000

// TestMain lets the test run this program as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("LEDGER_PROCESS") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// numbers returns a broker with the numbers up to total, and a database.
func numbers(t *testing.T) (b *streamtest.Broker, file string) {
	t.Helper()
	b = streamtest.NewBroker(t)
	if err := b.CreateStream("numbers"); err != nil {
		t.Fatal(err)
	}
	env, err := stream.Connect(t.Context(), stream.Config{URIs: []string{b.URI()}})
	if err != nil {
		t.Fatal(err)
	}
	defer env.Close()
	p, err := env.NewProducer(t.Context(), "numbers", stream.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	msgs := make([]stream.Message, total)
	for i := range msgs {
		msgs[i].Body = fmt.Appendf(nil, "%d", i)
	}
	if err := p.Publish(t.Context(), msgs...); err != nil {
		t.Fatal(err)
	}
	return b, filepath.Join(t.TempDir(), "total #1.db")
}

// added returns how many numbers are in the database, and their sum.
func added(t *testing.T, file string) (n, sum int64) {
	t.Helper()
	l, err := openLedger(t.Context(), file, "ledger")
	if err != nil {
		t.Fatal(err)
	}
	defer l.db.Close()
	n, sum, err = l.total(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n, sum
}

// wantTotal checks that every number was added once.
func wantTotal(t *testing.T, file string) {
	t.Helper()
	n, sum := added(t, file)
	if want := int64(total) * (total - 1) / 2; n != total || sum != want {
		t.Errorf("%d numbers add up to %d, want %d and %d", n, sum, total, want)
	}
}

// TestKilled kills the process again and again, at moments that it does not
// choose: after a line of its, which it prints after each commit, and a while.
// How far it came is asked of the database: it may die between the commit of
// the last numbers and its line, and the next one has nothing to say.
func TestKilled(t *testing.T) {
	b, file := numbers(t)
	kills := 0
	for done := int64(0); done < total; done, _ = added(t, file) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		c := exec.CommandContext(ctx, os.Args[0], "-uri", b.URI(), "-db", file)
		c.Env, c.Stderr = append(os.Environ(), "LEDGER_PROCESS=1"), os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for left := 1 + rand.IntN(10); left > 0 && done < total && lines.Scan(); left-- {
			if _, err := fmt.Sscan(lines.Text(), &done); err != nil {
				t.Errorf("%q: %v", lines.Text(), err)
			}
		}
		time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() { _ = c.Process.Kill() })
		for lines.Scan() { // to its end
		}
		_ = c.Wait()
		if cancel(); ctx.Err() == context.DeadlineExceeded {
			t.Fatalf("stuck at %d", done)
		}
		kills++
	}
	wantTotal(t, file)
	t.Logf("killed %d times", kills)
}

// TestDropped cuts the connection after every few batches.
func TestDropped(t *testing.T) {
	b, file := numbers(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	batches := 0
	err := run(ctx, options{[]string{b.URI()}, "numbers", "ledger", file}, func(n, _ int64) {
		if batches++; batches%5 == 0 {
			b.DropConnections(streamtest.CutRST)
		}
		if n == total {
			stop()
		}
	})
	if ctx.Err() != context.Canceled {
		t.Fatal(err)
	}
	wantTotal(t, file)
}
