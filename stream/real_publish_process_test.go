//go:build unix

package stream

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// What a publishing process is told comes from its environment, and what it has
// to say goes to its standard output, a line for each thing:
//
//	from N       it is connected, and N is the first line that it publishes
//	confirmed B  the broker has confirmed the message B, or all lines up to it
//	ended E      it ends with the error E
//	done         everything is confirmed
const (
	childPublishes = "TIDEMARK_CHILD_PUBLISHES" // the stream
	childFile      = "TIDEMARK_CHILD_FILE"      // whose lines; empty: counted messages
	childBatch     = "TIDEMARK_CHILD_BATCH"     // lines of a sub-batch; 0: none
	childPause     = "TIDEMARK_CHILD_PAUSE"     // between two messages
	childURI       = "TIDEMARK_CHILD_URI"
	childPort      = "TIDEMARK_CHILD_PORT" // in place of every broker's; empty: their own
	childID        = "TIDEMARK_CHILD_ID"
)

const childName = "child"

func say(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// TestChildProducer is not a test but the process that others start and kill.
func TestChildProducer(t *testing.T) {
	stream := os.Getenv(childPublishes)
	if stream == "" {
		return
	}
	cfg := Config{Heartbeat: 3 * time.Second}
	if port, err := strconv.Atoi(os.Getenv(childPort)); err == nil {
		cfg.Resolve = func(host string, _ int) (string, int) { return host, port }
	}
	cfg.URIs, cfg.Logger = strings.Split(os.Getenv(childURI), ","), slog.New(slog.DiscardHandler)
	env, err := Connect(t.Context(), cfg)
	if err == nil {
		ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
		defer stop()
		if file := os.Getenv(childFile); file != "" {
			err = publishLinesOf(ctx, env, stream, file)
		} else {
			err = publishCounted(ctx, env, stream)
		}
	}
	if err != nil {
		say("ended %v", err)
		return
	}
	say("done")
}

// publishLinesOf publishes the lines of a file that the stream does not have yet.
// A line's number is its publishing id.
func publishLinesOf(ctx context.Context, env *Env, stream, file string) error {
	lines, err := linesOf(file)
	if err != nil {
		return err
	}
	batch, _ := strconv.Atoi(os.Getenv(childBatch))
	pause, _ := time.ParseDuration(os.Getenv(childPause))
	var p *Producer
	for p == nil { // the stream may have no leader now
		p, err = env.NewProducer(ctx, stream, ProducerConfig{Name: childName, SubEntries: batch, Compression: someCompression(batch)})
		if err != nil && !SafeToRetry(err) {
			return err
		}
	}
	stored := int(p.LastPublishingID())
	say("from %d", stored+1)
	if batch > 0 {
		err = publishInBatches(ctx, p, lines, stored, batch)
	} else {
		err = publishOneByOne(ctx, p, lines, stored, pause)
	}
	if err != nil {
		return err
	}
	return p.Close(ctx)
}

// someCompression is another one in each process: it is no part of what makes two
// sub-batches the same.
func someCompression(batch int) Compression {
	if batch == 0 {
		return CompressionNone
	}
	return Compression(rand.IntN(int(CompressionZstd) + 1))
}

func publishInBatches(ctx context.Context, p *Producer, lines []string, stored, batch int) error {
	if stored%batch != 0 && stored != len(lines) {
		return fmt.Errorf("the stream has %d lines, which is no whole number of batches", stored)
	}
	for ; stored < len(lines); stored += batch {
		var msgs []Message
		for i := stored; i < min(stored+batch, len(lines)); i++ {
			msgs = append(msgs, Message{Body: []byte(lines[i]), PublishingID: uint64(i + 1)})
		}
		if err := p.PublishBatch(ctx, msgs...); err != nil {
			return err
		}
		say("confirmed %d", stored+len(msgs))
	}
	return nil
}

func publishOneByOne(ctx context.Context, p *Producer, lines []string, stored int, every time.Duration) error {
	var failed atomic.Pointer[error]
	for i := stored; i < len(lines) && failed.Load() == nil; i++ {
		err := p.PublishAsync(ctx, Message{Body: []byte(lines[i]), PublishingID: uint64(i + 1)}, func(err error) {
			switch {
			case err != nil:
				failed.CompareAndSwap(nil, &err)
			case i%20 == 0:
				say("confirmed %d", i+1)
			}
		})
		if err != nil {
			return err
		}
		if every > 0 {
			pause(every)
		}
	}
	if err := p.Flush(ctx); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// publishCounted publishes until SIGTERM, or until the producer ends.
func publishCounted(ctx context.Context, env *Env, stream string) error {
	p, err := env.NewProducer(ctx, stream, ProducerConfig{Name: childName, MaxInFlight: 200})
	if err != nil {
		return err
	}
	say("from 0")
	for n := 0; ctx.Err() == nil; n++ {
		body := fmt.Sprintf("%s-%d", os.Getenv(childID), n)
		err := p.PublishAsync(ctx, Message{Body: []byte(body)}, func(err error) {
			if err == nil {
				say("confirmed %s", body)
			}
		})
		if err != nil && ctx.Err() == nil {
			return err
		}
		pause(time.Millisecond)
	}
	closing, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return p.Close(closing)
}

// linesFile makes a file of n lines.
func linesFile(t *testing.T, n int) string {
	t.Helper()
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "line %d %s\n", i+1, strings.Repeat("x", i%50))
	}
	name := filepath.Join(t.TempDir(), "lines")
	must(t, os.WriteFile(name, b.Bytes(), 0o600))
	return name
}

func linesOf(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"), err
}

// childProducer is a process that publishes.
type childProducer struct {
	t   *testing.T
	id  string
	cmd *exec.Cmd

	from, first   chan struct{} // closed when it is connected, and at its first confirm
	exited        chan struct{}
	mu            sync.Mutex
	confirmed     []string
	firstAt, left time.Time
	end           string // what it said of its end; empty if it was killed
}

// startProducer starts a process with what its environment is to have beyond the
// stream and the broker.
func startProducer(t *testing.T, uri, stream, id string, settings ...string) *childProducer {
	t.Helper()
	c := &childProducer{t: t, id: id, cmd: exec.Command(os.Args[0], "-test.run=^TestChildProducer$"), from: make(chan struct{}), first: make(chan struct{}), exited: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), append(settings, childPublishes+"="+stream, childURI+"="+uri, childID+"="+id)...)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	must(t, c.cmd.Start())
	t.Cleanup(func() {
		c.signal(syscall.SIGKILL)
		<-c.exited
	})
	go c.listen(out)
	return c
}

func (c *childProducer) signal(s syscall.Signal) { _ = c.cmd.Process.Signal(s) }

func (c *childProducer) listen(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		c.mu.Lock()
		switch word {
		case "from":
			close(c.from)
		case "confirmed":
			if len(c.confirmed) == 0 {
				c.firstAt = time.Now()
				close(c.first)
			}
			c.confirmed = append(c.confirmed, rest)
		case "ended", "done":
			c.end, c.left = word+" "+rest, time.Now()
		}
		c.mu.Unlock()
	}
	_ = c.cmd.Wait()
	close(c.exited)
}

// told returns how many confirms the process has told of, and what it said last.
func (c *childProducer) told() (n int, end string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.confirmed), c.end
}

// await waits for one of the process's channels. It is an error if the process ends
// before that.
func (c *childProducer) await(what string, ch <-chan struct{}) {
	c.t.Helper()
	select {
	case <-ch:
		return
	case <-c.exited:
	case <-time.After(timeLimit()):
	}
	select {
	case <-ch:
	default:
		n, end := c.told()
		c.t.Fatalf("process %s: not %s; %d confirms, %q", c.id, what, n, end)
	}
}

// kill kills the process once it has told of n confirms, unless it ends before.
func (c *childProducer) kill(n int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("process %s has %d confirms", c.id, n), timeLimit(), func() bool {
		got, end := c.told()
		return got >= n || end != ""
	})
	c.signal(syscall.SIGKILL)
	<-c.exited
}

// TestPublisherSIGKILL: a process that publishes a file is killed again and again,
// TIDEMARK_KILLS=50 times, and goes on where the stream ends. The stream equals the
// file.
func TestPublisherSIGKILL(t *testing.T) {
	beside(t)
	onBrokers(t, testPublisherSIGKILL)
}

func testPublisherSIGKILL(t *testing.T, b testBroker) {
	kills := soakNumber(t, "TIDEMARK_KILLS", 4)
	for name, batch := range map[string]int{"sub-batches": 20, "messages": 0} {
		t.Run(name, func(t *testing.T) {
			env := connect(t, b.StreamURL())
			stream := newStream(t, env)
			each := max(batch, 20) * 50
			file := linesFile(t, each*kills-7) // the last batch is a smaller one
			start := func(run int) *childProducer {
				return startProducer(t, b.StreamURL(), stream, strconv.Itoa(run), childFile+"="+file, fmt.Sprint(childBatch, "=", batch))
			}
			for run := range kills {
				c := start(run)
				c.await("connected", c.from)
				c.kill(rand.IntN(40))
			}
			c := start(kills)
			<-c.exited
			if _, end := c.told(); end != "done " {
				t.Errorf("the last process: %s", end)
			}
			lines, err := linesOf(file)
			must(t, err)
			if got := readAll(t, env, stream); !slices.Equal(got, lines) {
				t.Errorf("the stream has %d messages and the file %d lines, or they differ", len(got), len(lines))
			}
		})
	}
}

// relay is a forwarder that can hold what a process sends, and passes it on after
// the process has died, as a network may.
type relay struct {
	ln   net.Listener
	wg   sync.WaitGroup
	mu   sync.Mutex
	gate chan struct{} // closed while bytes may pass
}

func startRelay(t *testing.T, b testBroker) *relay {
	t.Helper()
	u, err := url.Parse(strings.Split(b.StreamURL(), ",")[0])
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{ln: ln, gate: make(chan struct{})}
	close(r.gate)
	r.wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			peer, err := net.Dial("tcp", u.Host)
			if err != nil {
				_ = client.Close()
				continue
			}
			r.wg.Go(func() { r.forward(peer, client) })
			r.wg.Go(func() { _, _ = io.Copy(client, peer); _ = client.Close() })
		}
	})
	t.Cleanup(func() {
		r.hold(false)
		_ = ln.Close()
	})
	return r
}

func (r *relay) port() string { return strconv.Itoa(r.ln.Addr().(*net.TCPAddr).Port) }

// hold holds what clients send, or lets it pass.
func (r *relay) hold(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.gate:
		if on {
			r.gate = make(chan struct{})
		}
	default:
		if !on {
			close(r.gate)
		}
	}
}

// forward passes on what a client sends. The broker reads all of it before it sees
// the end.
func (r *relay) forward(to, from net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		r.mu.Lock()
		gate := r.gate
		r.mu.Unlock()
		<-gate
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

// overlap is how a process ends beside its successor.
type overlap string

const (
	byItself       overlap = "by itself"
	bySIGTERM      overlap = "SIGTERM"
	bySIGKILL      overlap = "SIGKILL"
	bySIGKILLHeld  overlap = "SIGKILL while its connection is blocked"
	afterBeingHeld overlap = "SIGSTOP for 5 s"
)

var overlaps = []overlap{byItself, bySIGTERM, bySIGKILL, bySIGKILLHeld, afterBeingHeld}

// TestTwoProcesses: of two processes that publish under one name and count their
// ids the next is started before the last is ended, TIDEMARK_OVERLAPS=100 times.
// Whatever was confirmed to any of them is in the stream once. The older one ends
// with ErrNameInUse.
func TestTwoProcesses(t *testing.T) {
	beside(t)
	onBrokers(t, testTwoProcesses)
}

func testTwoProcesses(t *testing.T, b testBroker) {
	total := soakNumber(t, "TIDEMARK_OVERLAPS", len(overlaps))
	chains := min(total, len(overlaps))
	env := connect(t, b.StreamURL())
	var mu sync.Mutex
	var late []time.Duration
	t.Run("chains", func(t *testing.T) {
		for i := range chains {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				o := &overlapping{t: t, b: b, stream: newStream(t, env)}
				for n := i; n < total; n += chains {
					o.next(overlaps[(i+n/chains)%len(overlaps)])
				}
				o.finish(env)
				mu.Lock()
				defer mu.Unlock()
				late = append(late, o.late...)
			})
		}
	})
	slices.Sort(late)
	t.Logf("%d processes ended with ErrNameInUse; from the younger's first confirm to that, sorted: %v", len(late), late)
}

// overlapping is a row of processes of one name.
type overlapping struct {
	t      *testing.T
	b      testBroker
	stream string
	all    []*childProducer
	relays []*relay
	late   []time.Duration
}

func (o *overlapping) start() *childProducer {
	r := startRelay(o.t, o.b)
	c := startProducer(o.t, o.b.StreamURL(), o.stream, strconv.Itoa(len(o.all)), childPort+"="+r.port())
	o.all, o.relays = append(o.all, c), append(o.relays, r)
	return c
}

// next starts a process beside the last one, which it ends at some time.
func (o *overlapping) next(how overlap) {
	if len(o.all) == 0 {
		o.start()
	}
	older, via := o.all[len(o.all)-1], o.relays[len(o.all)-1]
	older.await("publishing", older.first)
	pause(time.Duration(rand.IntN(500)) * time.Millisecond)
	younger := o.start()
	younger.await("connected", younger.from)
	after := time.Duration(rand.IntN(1200)) * time.Millisecond
	pause(after)
	switch how {
	case bySIGTERM:
		older.signal(syscall.SIGTERM)
	case bySIGKILL:
		older.signal(syscall.SIGKILL)
	case bySIGKILLHeld:
		via.hold(true)
		pause(100 * time.Millisecond)
		older.signal(syscall.SIGKILL)
		pause(time.Duration(rand.IntN(4000)) * time.Millisecond)
		via.hold(false)
	case afterBeingHeld:
		older.signal(syscall.SIGSTOP)
		pause(5 * time.Second)
		older.signal(syscall.SIGCONT)
	}
	younger.await("publishing", younger.first)
	select {
	case <-older.exited:
	case <-time.After(timeLimit()):
		n, end := older.told()
		o.t.Fatalf("process %s goes on beside the next one (%s after %v): %d confirms, %q", older.id, how, after, n, end)
	}
	o.note(older, younger, how, after)
}

// note looks at how the older one has ended.
func (o *overlapping) note(older, younger *childProducer, how overlap, after time.Duration) {
	n, end := older.told()
	o.t.Logf("%s, %s after %v: %d confirms, %s", older.id, how, after, n, end)
	named := strings.Contains(end, ErrNameInUse.Error())
	if end != "" && !named && how != bySIGTERM {
		o.t.Errorf("process %s ended with %q, want %v", older.id, end, ErrNameInUse)
	}
	if named && how != afterBeingHeld {
		younger.mu.Lock()
		defer younger.mu.Unlock()
		o.late = append(o.late, older.left.Sub(younger.firstAt).Round(time.Millisecond))
	}
}

// finish ends the last process and looks for what was confirmed.
func (o *overlapping) finish(env *Env) {
	last := o.all[len(o.all)-1]
	last.signal(syscall.SIGTERM)
	<-last.exited
	if _, end := last.told(); end != "done " {
		o.t.Errorf("the last process: %q", end)
	}
	times := make(map[string]int)
	for _, body := range readAll(o.t, env, o.stream) {
		times[body]++
	}
	confirmed := 0
	for _, c := range o.all {
		missing := 0
		for _, body := range c.confirmed {
			confirmed++
			switch times[body] {
			case 1:
			case 0:
				missing++
			default:
				o.t.Errorf("%s is in the stream %d times", body, times[body])
			}
		}
		if missing > 0 {
			o.t.Errorf("process %s: %d of %d messages were confirmed and are gone; it said %q", c.id, missing, len(c.confirmed), c.end)
		}
	}
	o.t.Logf("%d processes, %d messages confirmed, %d in the stream", len(o.all), confirmed, len(times))
}
