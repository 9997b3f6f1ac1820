package main

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// heapWatch notes the most memory that the process held, without stopping it.
type heapWatch struct {
	stop, done chan struct{}
	live, max  float64 // MiB
}

// heapPause is the time between two looks.
const heapPause = 20 * time.Millisecond

// watchHeap starts a goroutine that ends with end.
func watchHeap() *heapWatch {
	w := &heapWatch{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(heapPause)
		defer tick.Stop()
		for {
			w.look()
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	}()
	return w
}

// look takes the heap as it is, garbage included, and what the last garbage
// collection found alive.
func (w *heapWatch) look() {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	w.max = max(w.max, float64(s[0].Value.Uint64())/(1<<20))
	w.live = max(w.live, float64(s[1].Value.Uint64())/(1<<20))
}

func (w *heapWatch) end() {
	close(w.stop)
	<-w.done
}

// liveHeapMiB is what is alive on the heap: it collects garbage first, twice,
// so that pools are empty too.
func liveHeapMiB() float64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return float64(s.HeapAlloc) / (1 << 20)
}

// heldMiB is what is alive on the heap, and the stacks of goroutines.
func heldMiB() float64 {
	live := liveHeapMiB()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return live + float64(s.StackInuse)/(1<<20)
}

// connectionsTo counts this process's TCP connections to the broker. 0 is
// unknown: it is read from /proc, which Linux has.
func connectionsTo(uri string) int {
	a, err := parseURI(uri)
	if err != nil {
		return 0
	}
	_, text, _ := strings.Cut(a.host[strings.LastIndexByte(a.host, ':'):], ":")
	port, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	mine := map[string]bool{}
	fds, _ := filepath.Glob("/proc/self/fd/*") // fails for a bad pattern only
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			mine[to] = true
		}
	}
	n := 0
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if connectedTo(line, port, mine) {
				n++
			}
		}
	}
	return n
}

// connectedTo reports whether a line of /proc/net/tcp is a connection to a port
// that is in use by one of the sockets.
func connectedTo(line string, port int, sockets map[string]bool) bool {
	const established = "01"
	f := strings.Fields(line) // number, local, remote, state, ..., inode in column 9
	if len(f) < 10 || f[3] != established || !sockets["socket:["+f[9]+"]"] {
		return false
	}
	_, hex, _ := strings.Cut(f[2], ":")
	remote, err := strconv.ParseUint(hex, 16, 16)
	return err == nil && int(remote) == port
}
