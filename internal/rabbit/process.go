package rabbit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ownerVar marks the processes of an instance, so that a process id left in a
// file is never mistaken for the process that has it now.
const ownerVar = "TIDEMARK_RABBIT"

// daemon is a process that outlives us. Its process id is in a file.
type daemon struct {
	pidFile string
	log     string
	owner   string // value of ownerVar in its environment
}

// start runs cmd as the daemon.
func (d daemon) start(cmd *exec.Cmd) error {
	out, err := os.Create(d.log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(cmd.Env, ownerVar+"="+d.owner)
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	pid := cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // reaps it if it ends before we do
	return writeFileAtomic(d.pidFile, []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

// pid returns the process id of the running daemon, 0 when it is not running.
func (d daemon) pid() (int, error) {
	data, err := os.ReadFile(d.pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s holds %q, not a process id: remove it", d.pidFile, data)
	}
	if !exists(pid) || !d.owns(pid) {
		return 0, nil
	}
	return pid, nil
}

// owns reports whether the process is ours and not a later one with the same
// id. Where there is no /proc the process id has to do.
func (d daemon) owns(pid int) bool {
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		return true
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	var env []byte
	var err error
	for range 50 {
		// A process that execs while it is read shows a part of its variables.
		env, err = os.ReadFile(filepath.Join(proc, "environ"))
		if err == nil && slices.Contains(strings.Split(string(env), "\x00"), ownerVar+"="+d.owner) {
			return true
		}
		if zombie(proc) {
			return false
		}
		time.Sleep(time.Millisecond) // in the middle of an exec, or of its end
	}
	return err != nil || len(env) == 0
}

// zombie reports whether the process has ended and waits for its parent. While
// one of its threads is left it has not: that one still holds the ports.
func zombie(proc string) bool {
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	_, after, ok := bytes.Cut(stat, []byte(") "))
	if err != nil || !ok || len(after) == 0 {
		return true
	}
	threads, err := os.ReadDir(filepath.Join(proc, "task"))
	return after[0] == 'Z' && (err != nil || len(threads) <= 1)
}

// waitGone waits until the daemon has ended.
func (d daemon) waitGone(ctx context.Context) error {
	for {
		pid, err := d.pid()
		if pid == 0 || err != nil {
			return err
		}
		if err := sleep(ctx, probeInterval); err != nil {
			return fmt.Errorf("process %d has not ended: %w", pid, err)
		}
	}
}

// tail returns the last lines of a file, nothing when there is no such file.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.Join(lastLines(string(data), lines), "\n")
}
