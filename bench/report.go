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
			if !in(r) || r.Failed != "" && r.Runs == 0 {
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
	section("case\tsize\timpl\tn\tmsg/s\tspread\tMB/s\tCPU ns/msg\tspread\tallocs/msg\tx official\tx socket",
		func(r result) bool { return r.Latency == 0 && r.Heap == 0 && r.HeldHeap == 0 },
		func(r result) string {
			rate, cpu := stat{r.Rate, r.RateMin, r.RateMax}, stat{r.CPU, r.CPUMin, r.CPUMax}
			return fmt.Sprintf("%d\t%s\t±%.0f%%\t%.1f\t%.0f\t±%.0f%%\t%.3f\t%s\t%s", r.N, thousands(r.Rate), 100*rate.spread(),
				r.MB, r.CPU, 100*cpu.spread(), r.Allocs, times(r.RatioOfficial), times(r.RatioSocket))
		})
	section("case\tsize\timpl\ttimes\tmedian ms\tp99 ms\tworst ms\tx official\tx socket\tp99 x official\tp99 x socket",
		func(r result) bool { return r.Latency > 0 },
		func(r result) string {
			return fmt.Sprintf("%d\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t%s", r.N*r.Runs, r.Latency, r.LatencyP99, r.LatencyMax,
				times(r.RatioOfficial), times(r.RatioSocket), times(r.RatioOfficialP99), times(r.RatioSocketP99))
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
	section("case\tsize\timpl\tconsumers\tconnections\tfirst s\tend s\tmax\tnot stored\twrong marks\tstore chunks\tstores\tlive MiB\tmax heap",
		func(r result) bool { return r.Consumers > 0 && r.HeldHeap == 0 },
		func(r result) string {
			return fmt.Sprintf("%d\t%s\t%.2f\t%.2f\t%.2f\t%d\t%d\t%d\t%d\t%.1f\t%.1f", r.Consumers, orUnknown("%.0f", float64(r.Connections)),
				r.First, r.End, r.EndMax, r.NotStored, r.WrongMarks, r.StoreChunks, r.Stores, r.LiveHeap, r.MaxHeap)
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

// writeNotes says below the tables what their rows do not: the credit that was
// best for the socket, and the delay.
func writeNotes(w io.Writer, results []result) {
	first := true
	for _, r := range results {
		if r.Impl != implSocket || r.Credit == "" && r.RTT == 0 {
			continue
		}
		if first {
			fmt.Fprintln(w)
			first = false
		}
		note := r.Case + ", " + strconv.Itoa(r.Size) + " bytes: the socket's credit is " + r.Credit
		if r.RTT > 0 {
			note += fmt.Sprintf("; %g ms each way are added, a call takes %.2f ms", r.Delay, r.RTT)
		}
		fmt.Fprintln(w, note)
	}
}

func times(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
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
