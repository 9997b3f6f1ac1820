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
	Name    string `json:"name"` // of the consumer; new in each measurement
	N       int    `json:"n"`
	Size    int    `json:"size"`
	Profile string `json:"profile,omitempty"`
}

// childTimeout ends a measurement that does not come to an end.
const childTimeout = 2 * time.Minute

// childMain is the child's main: it writes a sample, or the broker's URI.
func childMain(spec string, stdout, stderr io.Writer) int {
	var j job
	err := json.Unmarshal([]byte(spec), &j)
	if err == nil && j.Broker {
		err = serve(stdout)
	} else if err == nil {
		err = j.measure(stdout)
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

func (j job) measure(stdout io.Writer) error {
	var run runner
	for _, c := range allCases {
		if c.name == j.Case {
			run = c.run[j.Impl]
		}
	}
	if run == nil {
		return errors.New("no such case or implementation")
	}
	ctx, cancel := context.WithTimeout(context.Background(), childTimeout)
	defer cancel()
	m := &meter{job: j}
	err := run(ctx, j, m)
	if err == nil {
		err = ctx.Err()
	}
	if err = errors.Join(err, m.err); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(m.sample)
}

// meter measures time, CPU time and allocations between begin and end.
type meter struct {
	job         job
	sample      sample
	err         error
	untilStored bool // it ends with stored

	once    sync.Once
	mu      sync.Mutex
	running int // counters that have not come to their end
	at      time.Time
	cpu     time.Duration
	allocs  uint64
	profile *os.File
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

// counter counts the messages of one of several consumers. All of them make
// one measurement, from the first message of the first to the last of the last.
type counter struct {
	m       *meter
	n, want int
	total   int
	done    func() // called once the counter has what it wants
}

// counters returns a counter for each consumer; done of each ends it.
func (m *meter) counters(consumers, total int) []*counter {
	m.running = consumers
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
	}
}

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
