package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress returns two functions: the first shows a count of total on w, the
// second ends the line. Both do nothing unless w is a terminal.
func progress(w io.Writer, total int64) (show func(count int64), end func()) {
	if !isTerminal(w) {
		return func(int64) {}, func() {}
	}
	began := time.Now()
	var last time.Time
	show = func(count int64) {
		now := time.Now()
		if count < total && now.Sub(last) < 100*time.Millisecond {
			return
		}
		last = now
		fmt.Fprintf(w, "\r%d of %d confirmed, %.0f/s ", count, total, float64(count)/now.Sub(began).Seconds())
	}
	return show, func() { fmt.Fprintln(w) }
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
