package main

import (
	"fmt"
	"syscall"
	"time"
)

// cpuTime returns the process's CPU time so far, in user and system mode.
// Windows counts it in ticks of its clock, about 16 ms each.
func cpuTime() (time.Duration, error) {
	var created, exited, system, user syscall.Filetime
	process, err := syscall.GetCurrentProcess()
	if err == nil {
		err = syscall.GetProcessTimes(process, &created, &exited, &system, &user)
	}
	if err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	return span(system) + span(user), nil
}

// span reads a Filetime that is a length of time, in units of 100 ns. Its
// method Nanoseconds takes it for a date.
func span(f syscall.Filetime) time.Duration {
	return time.Duration(int64(f.HighDateTime)<<32|int64(f.LowDateTime)) * 100
}
