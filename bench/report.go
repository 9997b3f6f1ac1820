package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
)

func writeJSON(w io.Writer, results []result) error {
	enc := json.NewEncoder(w)
	for _, r := range results {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// writeTable writes what a person reads: throughput first, then the cases that
// measure something else.
func writeTable(w io.Writer, results []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	section := func(head string, in func(result) bool, row func(result) string) {
		last := ""
		for _, r := range results {
			if !in(r) || r.Runs == 0 && (r.Failed != "" || r.N == 0) { // the second took no part
				continue
			}
			if last == "" {
				fmt.Fprintf(t, "\n%s\t\n", head)
			} else if group := r.Case + strconv.Itoa(r.Size); group != last {
				fmt.Fprintln(t, strings.Repeat("\t", strings.Count(head, "\t")+1))
			}
			last = r.Case + strconv.Itoa(r.Size)
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t\n", r.Case, r.Size, r.Impl, row(r))
		}
	}
	section("case\tsize\timpl\tn\tmsg/s\tspread\tMB/s\tCPU ns/msg\tspread\tallocs/msg\tx official\tspread\tx socket\tspread",
		func(r result) bool { return r.Latency == 0 && r.Heap == 0 && r.HeldHeap == 0 },
		func(r result) string {
			rate, cpu := stat{r.Rate, r.RateMin, r.RateMax}, stat{r.CPU, r.CPUMin, r.CPUMax}
			return fmt.Sprintf("%d\t%s\t±%.0f%%\t%.1f\t%.0f\t±%.0f%%\t%s\t%s\t%s", r.N, thousands(r.Rate), 100*rate.spread(),
				r.MB, r.CPU, 100*cpu.spread(), r.allocs(), r.timesOfficial(), r.timesSocket())
		})
	section("case\tsize\timpl\ttimes\tmedian ms\tp99 ms\tworst ms\tx official\tspread\tx socket\tspread\tp99 x official\tp99 x socket",
		func(r result) bool { return r.Latency > 0 },
		func(r result) string {
			return fmt.Sprintf("%d\t%.3f\t%.3f\t%.2f\t%s\t%s\t%s\t%s", r.N*r.Runs, r.Latency, r.LatencyP99, r.LatencyMax,
				r.timesOfficial(), r.timesSocket(), times(r.RatioOfficialP99), times(r.RatioSocketP99))
		})
	section("case\tsize\timpl\thandled\tRSS MiB\theap MiB",
		func(r result) bool { return r.Heap > 0 },
		func(r result) string { return fmt.Sprintf("%d\t%s\t%.1f", r.N, orUnknown("%.1f", r.RSS), r.Heap) })
	section("case\tsize\timpl\tconsumers\tconnections\theld heap MiB\tKiB/consumer\tRSS MiB",
		func(r result) bool { return r.HeldHeap > 0 },
		func(r result) string {
			return fmt.Sprintf("%d\t%s\t%.1f\t%.0f\t%s", r.Consumers, orUnknown("%.0f", float64(r.Connections)), r.HeldHeap,
				r.HeldHeap*1024/float64(r.Consumers), orUnknown("%.1f", r.RSS))
		})
	section("case\tsize\timpl\tconsumers\tconnections\tfirst s\tall s\tend s\tmax\tnot stored\twrong marks\tstore chunks\tstores\tlive MiB\tmax heap",
		func(r result) bool { return r.Consumers > 0 && r.HeldHeap == 0 },
		func(r result) string {
			return fmt.Sprintf("%d\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%d\t%d\t%d\t%d\t%.1f\t%.1f", r.Consumers, orUnknown("%.0f", float64(r.Connections)),
				r.First, r.AllFirst, r.End, r.EndMax, r.NotStored, r.WrongMarks, r.StoreChunks, r.Stores, r.LiveHeap, r.MaxHeap)
		})
	section("case\tsize\timpl\tproducers\tconnections\tmade s\tnew KiB/producer\tidle KiB/producer\tmax heap MiB",
		func(r result) bool { return r.Producers > 0 },
		func(r result) string {
			each := 1024 / float64(r.Producers)
			return fmt.Sprintf("%d\t%s\t%.2f\t%s\t%s\t%s", r.Producers, orUnknown("%.0f", float64(r.Connections)), r.Made,
				orUnknown("%.1f", r.NewHeld*each), orUnknown("%.1f", r.IdleHeld*each), orUnknown("%.1f", r.MaxHeap))
		})
	writeNotes(t, results)
	return t.Flush()
}

// failures are the measurements that failed, as an error. No figures of theirs
// are missing without a word.
func failures(results []result) error {
	var errs []error
	for _, r := range results {
		if r.Failed != "" {
			errs = append(errs, errors.New(r.Failed))
		}
	}
	return errors.Join(errs...)
}

// writeNotes says below the tables what their rows do not.
func writeNotes(w io.Writer, results []result) {
	first := true
	for _, r := range results {
		note := r.note()
		if note == "" {
			continue
		}
		if first {
			fmt.Fprintln(w)
			first = false
		}
		fmt.Fprintf(w, "%s, %d bytes: %s\n", r.Case, r.Size, note)
	}
}

// note says what was best for a socket, how much delay was added, and how the
// rate compares with that of the case it is compared with.
func (r result) note() string {
	var notes []string
	if r.Impl == implSocket {
		if r.Credit != "" {
			notes = append(notes, "the socket's credit is "+r.Credit)
		}
		if r.Window != "" {
			notes = append(notes, "the socket's window is "+r.Window)
		}
		if r.RTT > 0 {
			notes = append(notes, fmt.Sprintf("%g ms each way are added, a call takes %.2f ms", r.Delay, r.RTT))
		}
	}
	if r.BytesFiltered > 0 {
		notes = append(notes, fmt.Sprintf("%s reads %s bytes with the filter and %s without: 1/%d", r.Impl, thousands(float64(r.BytesFiltered)),
			thousands(float64(r.BytesAll)), r.BytesAll/r.BytesFiltered))
	}
	if r.RatioBase > 0 {
		notes = append(notes, fmt.Sprintf("%s is at %.2f (%.2f to %.2f) of its %s", r.Impl, r.RatioBase, r.RatioBaseMin, r.RatioBaseMax, r.Base))
	}
	if r.Impl == implTidemark && r.RatioBefore > 0 {
		notes = append(notes, fmt.Sprintf("%s is at %.2f (%.2f to %.2f) of before", r.Impl, r.RatioBefore, r.RatioBeforeMin, r.RatioBeforeMax))
	}
	if r.Impl == implTidemark && r.RatioJava > 0 {
		notes = append(notes, fmt.Sprintf("%s is at %.2f (%.2f to %.2f) of java", r.Impl, r.RatioJava, r.RatioJavaMin, r.RatioJavaMax))
	}
	return strings.Join(notes, "; ")
}

// timesOfficial and timesSocket are two columns: the ratio and its spread.
func (r result) timesOfficial() string {
	return timesWithin(stat{r.RatioOfficial, r.RatioOfficialMin, r.RatioOfficialMax})
}

func (r result) timesSocket() string {
	return timesWithin(stat{r.RatioSocket, r.RatioSocketMin, r.RatioSocketMax})
}

func timesWithin(s stat) string {
	if s.min == 0 {
		return times(s.median) + "\t-"
	}
	return fmt.Sprintf("%s\t±%.0f%%", times(s.median), 100*s.spread())
}

func times(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

func (r result) allocs() string {
	if r.Allocs == nil {
		return "unknown"
	}
	return fmt.Sprintf("%.3f", *r.Allocs)
}

// orUnknown formats a figure that this system may not offer: 0 is unknown.
func orUnknown(format string, f float64) string {
	if f == 0 {
		return "unknown"
	}
	return fmt.Sprintf(format, f)
}

// thousands writes a number as 1,234,567.
func thousands(f float64) string {
	s := strconv.FormatFloat(f, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// machine describes what it was measured on.
func machine() string {
	average := "unknown"
	if l := load(); l != nil {
		average = fmt.Sprintf("%.2f", *l)
	}
	return fmt.Sprintf("%s/%s, %d CPUs, %s, load average %s before", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), average)
}

// load is the machine's load average of the last minute, nil where unknown: it
// is read from /proc, which Linux has.
func load() *float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil
	}
	first, _, _ := strings.Cut(string(b), " ")
	f, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return nil
	}
	return &f
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
