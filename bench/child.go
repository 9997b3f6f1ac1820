package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// childVariable holds the job of a process that the bench started.
const childVariable = "TIDEMARK_BENCH_CHILD"

// job is what a child does: one measurement, or, with Broker, being the
// in-process broker until its stdin ends.
type job struct {
	Broker  bool   `json:"broker,omitempty"`
	Case    string `json:"case"`
	Impl    string `json:"impl"`
	URI     string `json:"uri"`
	Stream  string `json:"stream"`
	Name    string `json:"name"` // new in each measurement, for a consumer or a producer
	N       int    `json:"n"`
	Size    int    `json:"size"`
	Profile string `json:"profile,omitempty"`

	Consumers int           `json:"consumers,omitempty"` // of cases with many
	Streams   int           `json:"streams,omitempty"`   // 0: one, named Stream
	Producers int           `json:"producers,omitempty"` // of cases with many
	Producer  string        `json:"producer,omitempty"`  // name of the producer; empty: none
	Window    string        `json:"window"`              // in which a socket publishes
	InFlight  int           `json:"in_flight,omitempty"` // MaxInFlight of this library's producers; 0: its default
	Reuse     bool          `json:"reuse,omitempty"`     // ReuseDelivery of this library's consumers
	Rate      int           `json:"rate,omitempty"`      // messages a second in each stream
	Limit     time.Duration `json:"limit,omitempty"`     // ends reading before N, if not 0
	Credit    string        `json:"credit"`              // of a socket
	Timeout   time.Duration `json:"timeout"`             // ends a measurement that does not come to an end

	ClassPath string `json:"class_path,omitempty"` // of Bench.java, for the Java client
}

// streams is the number of streams that are read.
func (j job) streams() int { return max(1, j.Streams) }

// streamOf is the stream that consumer i reads, and stream i of streams.
func (j job) streamOf(i int) string { return streamName(j.Stream, j.Streams, i) }

func streamName(name string, streams, i int) string {
	if streams == 0 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, i%streams)
}

// childGrace is how long a child that is out of time has to say why by itself,
// and childKill when its parent kills it, counted from the timeout.
const (
	childGrace = 15 * time.Second
	childKill  = 30 * time.Second
)

// childMain is the child's main: it writes a sample, or the broker's URI.
func childMain(spec string, stdout, stderr io.Writer) int {
	var j job
	err := json.Unmarshal([]byte(spec), &j)
	if err == nil && j.Broker {
		err = serve(stdout)
	} else if err == nil {
		err = j.measure(stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %s, %s: %v\n", j.Case, j.Impl, err)
		return exitFailed
	}
	return exitOK
}

// serve runs the in-process broker on a free port, like `tidemark broker`. It
// ends with its parent.
func serve(stdout io.Writer) error {
	b, err := streamtest.Start(streamtest.WithAddr("127.0.0.1:0"))
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, b.URI())
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, b.Close())
}

func (j job) measure(stdout, stderr io.Writer) error {
	var run runner
	for _, c := range allCases {
		if c.name == j.Case {
			run = c.run[j.Impl]
		}
	}
	if run == nil {
		return errors.New("no such case or implementation")
	}
	ctx, cancel := context.WithTimeout(context.Background(), j.Timeout)
	defer cancel()
	m := &meter{job: j, started: time.Now(), heap: watchHeap()}
	defer m.watchdog(stderr).Stop()
	err := run(ctx, j, m)
	m.heap.end()
	if !m.elsewhere {
		m.sample.LiveHeap, m.sample.MaxHeap = m.heap.live, m.heap.max
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("it has not ended within its timeout of %v (-timeout): %s: %w", j.Timeout, m.progress(), ctx.Err())
	}
	if err = errors.Join(err, m.err); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(m.sample)
}

// watchdog ends the process of a measurement that ignores its context: a client
// whose calls cannot be cancelled may hang in one of them.
func (m *meter) watchdog(stderr io.Writer) *time.Timer {
	return time.AfterFunc(m.job.Timeout+childGrace, func() {
		fmt.Fprintf(stderr, "bench: %s, %s: hangs: it has not ended %v after its timeout of %v (-timeout): %s\n",
			m.job.Case, m.job.Impl, childGrace, m.job.Timeout, m.progress())
		if m.job.Profile != "" {
			_ = pprof.Lookup("goroutine").WriteTo(stderr, 1)
		}
		os.Exit(exitFailed)
	})
}

// progress says how far a measurement is.
func (m *meter) progress() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.status != nil:
		return m.status()
	case m.consumers > 0:
		return fmt.Sprintf("%d of %d consumers do not have all of their messages", m.running, m.consumers)
	}
	return "nothing is known of how far it came"
}

// meter measures time, CPU time and allocations between begin and end.
type meter struct {
	job         job
	sample      sample
	err         error
	untilStored bool // it ends with stored
	elsewhere   bool // a process of another language measured
	started     time.Time
	heap        *heapWatch

	once      sync.Once
	mu        sync.Mutex
	status    func() string // nil, or how far it is
	consumers int
	running   int // counters that have not come to their end
	at        time.Time
	cpu       time.Duration
	allocs    uint64
	profile   *os.File
}

func (m *meter) begin() {
	m.once.Do(func() {
		if m.job.Profile != "" {
			m.err = errors.Join(m.err, m.startProfile())
		}
		m.cpu, m.allocs, m.at = m.cpuTime(), mallocs(), time.Now()
	})
}

func (m *meter) end(n int) {
	m.sample.Seconds = time.Since(m.at).Seconds()
	m.sample.CPU = float64((m.cpuTime() - m.cpu).Nanoseconds())
	m.sample.Allocs = mallocs() - m.allocs
	m.sample.N = n
	if m.profile != nil {
		pprof.StopCPUProfile()
		m.err = errors.Join(m.err, m.profile.Close(), m.writeAllocs())
	}
}

// cpuTime is 0 where it cannot be had; then the measurement fails.
func (m *meter) cpuTime() time.Duration {
	d, err := cpuTime()
	m.err = errors.Join(m.err, err)
	return d
}

func (m *meter) file(kind string) string {
	return filepath.Join(m.job.Profile, fmt.Sprintf("%s-%d-%s.%s.prof", m.job.Case, m.job.Size, m.job.Impl, kind))
}

func (m *meter) startProfile() (err error) {
	if err = os.MkdirAll(m.job.Profile, 0o755); err != nil {
		return err
	}
	if m.profile, err = os.Create(m.file("cpu")); err != nil {
		return err
	}
	return pprof.StartCPUProfile(m.profile)
}

func (m *meter) writeAllocs() error {
	f, err := os.Create(m.file("allocs"))
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}

func mallocs() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.Mallocs
}

// first notes when the first message came.
func (m *meter) first() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sample.First == 0 {
		m.sample.First = time.Since(m.started).Seconds()
	}
}

// allFirst notes when every consumer had a message.
func (m *meter) allFirst() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sample.AllFirst = time.Since(m.started).Seconds()
}

// counter counts the messages of one of several consumers. All of them make
// one measurement, from the first message of the first to the last of the last.
type counter struct {
	m       *meter
	n, want int
	total   int
	done    func() // called once the counter has what it wants
	over    bool   // the job's Limit has passed
}

// counters returns a counter for each consumer; done of each ends it.
func (m *meter) counters(consumers, total int) []*counter {
	m.running, m.consumers = consumers, consumers
	list := make([]*counter, consumers)
	for i := range list {
		list[i] = &counter{m: m, want: total / consumers, total: total / consumers * consumers, done: func() {}}
	}
	return list
}

// message counts one message. It ignores those after the last one that is
// wanted.
func (c *counter) message() {
	c.n++
	if c.n == 1 || c.n == c.want {
		c.edge()
	} else if c.m.job.Limit > 0 && c.n%limitStep == 0 && !c.over && time.Since(c.m.at) > c.m.job.Limit {
		c.over = true
		c.want, c.total = c.n, c.n
		c.edge()
	}
}

// limitStep is after how many messages a counter looks at the clock. Cases with
// a limit have one counter.
const limitStep = 16

// messages counts several messages.
func (c *counter) messages(n int) {
	for range n {
		c.message()
	}
}

func (c *counter) edge() {
	c.m.begin()
	if c.n != c.want {
		return
	}
	c.over = true
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.m.running--; c.m.running == 0 && !c.m.untilStored {
		c.m.end(c.total)
	}
	c.done()
}

// storedPoll is the pause between two questions for the stored offset.
const storedPoll = 5 * time.Millisecond

// stored ends a measurement with untilStored, once the broker gives the offset
// of the last message to who asks on another connection. What was sent only,
// the broker may not have read for seconds.
func (m *meter) stored(ctx context.Context) error {
	c, err := dialRaw(m.job.URI)
	if err != nil {
		return err
	}
	defer c.close()
	tick := time.NewTicker(storedPoll)
	defer tick.Stop()
	for {
		var o wire.QueryOffsetResponse
		if err := c.call(&wire.QueryOffset{Reference: m.job.Name, Stream: m.job.Stream}, &o); err != nil {
			return err
		}
		if o.Code == wire.CodeOK && o.Offset == uint64(m.job.N-1) {
			m.end(m.job.N)
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the broker has offset %d stored (%v), and %d was the last: %w", o.Offset, o.Code, m.job.N-1, context.Cause(ctx))
		}
	}
}

const (
	slowHandler = time.Millisecond
	slowTime    = 3 * time.Second
)

// watchMemory notes the most memory the process held until ctx ends.
func (m *meter) watchMemory(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		m.sample.Heap = max(m.sample.Heap, float64(s.HeapAlloc)/(1<<20))
		m.sample.RSS = max(m.sample.RSS, residentMiB())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// residentMiB is the process's resident memory. 0 is unknown: it is read from
// /proc, which Linux has.
func residentMiB() float64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident float64
	if _, err := fmt.Fscan(strings.NewReader(string(b)), &size, &resident); err != nil {
		return 0
	}
	return resident * float64(os.Getpagesize()) / (1 << 20)
}
