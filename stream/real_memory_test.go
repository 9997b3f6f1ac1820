package stream

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestChildSlow is not a test but the process that TestSlowHandlerMemory
// measures: one consumer whose handler never returns until the others, in the
// same Env, have read everything.
func TestChildSlow(t *testing.T) {
	stream := os.Getenv("TIDEMARK_CHILD_SLOW")
	if stream == "" {
		return
	}
	var total int
	_, err := fmt.Sscan(os.Getenv("TIDEMARK_CHILD_TOTAL"), &total)
	must(t, err)
	env := connect(t, os.Getenv("TIDEMARK_CHILD_URI"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read := func(handle func(n int)) {
		c, err := env.NewConsumer(stream, ConsumerConfig{MaxBuffered: 2 << 20})
		must(t, err)
		n := 0
		_ = c.Run(ctx, func(context.Context, *Delivery) error {
			n++
			handle(n)
			return nil
		})
	}
	var slow, fast sync.WaitGroup
	begun, release := make(chan struct{}), make(chan struct{})
	slow.Go(func() {
		read(func(n int) {
			if n == 1 {
				close(begun)
			}
			<-release
		})
	})
	<-begun
	done := make(chan struct{}, 3)
	for range cap(done) {
		fast.Go(func() {
			read(func(n int) {
				if n == total {
					done <- struct{}{}
				}
			})
		})
	}
	for range cap(done) {
		<-done
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("\nheap %d\n", m.HeapSys)
	cancel()
	close(release)
	slow.Wait()
	fast.Wait()
}

// TestSlowHandlerMemory: a handler that stands still makes the process hold what
// MaxBuffered says and not the stream, and the other consumers of the process
// read all of it.
func TestSlowHandlerMemory(t *testing.T) { onBrokers(t, testSlowHandlerMemory) }

func testSlowHandlerMemory(t *testing.T, b testBroker) {
	const total, size = 2500, 100_000 // 250 MB
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p, err := env.NewProducer(t.Context(), stream, ProducerConfig{MaxInFlightBytes: 1 << 20}) // chunks of up to as much
	must(t, err)
	body := []byte(strings.Repeat("0123456789", size/10))
	for range total {
		must(t, p.PublishAsync(t.Context(), Message{Body: body}, nil))
	}
	must(t, p.Close(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChildSlow$")
	cmd.Env = append(os.Environ(), "TIDEMARK_CHILD_SLOW="+stream, "TIDEMARK_CHILD_URI="+b.StreamURL(), fmt.Sprint("TIDEMARK_CHILD_TOTAL=", total))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var heap uint64
	if at := strings.Index(string(out), "\nheap "); at < 0 {
		t.Fatalf("the child said %s", out)
	} else if _, err := fmt.Sscanf(string(out[at:]), "\nheap %d", &heap); err != nil {
		t.Fatal(err)
	}
	t.Logf("four consumers, of which one stands still, took %d MiB from the operating system for the heap; the stream has %d MB", heap>>20, total*size/1_000_000)
	// Each may have 2 MiB, and copies of what is handled; the garbage collector
	// doubles that, at least.
	if limit := uint64(100 << 20); heap > limit {
		t.Errorf("a heap of %d bytes, more than %d", heap, limit)
	}
}
