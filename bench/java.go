package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/tidemark-go/tidemark/internal/javaclient"
)

// What Bench.java measures.
const (
	javaConsume = "consume"
	javaPublish = "publish"
	javaOne     = "one"
	javaLatency = "latency"
)

//go:embed java/Bench.java
var javaSource []byte

// javaWarmUp is how many messages of a size a round of the Java client's warm-up
// has, of which there are three: as many as are measured, but no more than 400 MB.
// Those of a case that publishes are 150,000 at least, so that its virtual machine
// has compiled what it will run.
func javaWarmUp(n, size int) int { return upTo(max(n, 150_000), 400_000_000)(size) }

// javaProgram is Bench.java, compiled into a temporary directory.
type javaProgram struct {
	dir       string
	classPath string
}

// compileJava compiles Bench.java if the options ask for the Java client. Maven
// downloads the client the first time.
func compileJava(ctx context.Context, o options) (p javaProgram, err error) {
	if !o.java() {
		return p, nil
	}
	clientPath, err := javaclient.ClassPath(ctx)
	if err != nil {
		return p, err
	}
	if p.dir, err = os.MkdirTemp("", "bench-java"); err != nil {
		return p, err
	}
	file := filepath.Join(p.dir, "Bench.java")
	if err = os.WriteFile(file, javaSource, 0o600); err == nil {
		p.classPath, err = javaclient.Compile(ctx, file, p.dir, clientPath)
	}
	if err != nil {
		err = errors.Join(err, p.remove())
	}
	return p, err
}

func (p javaProgram) remove() error {
	if p.dir == "" {
		return nil
	}
	return os.RemoveAll(p.dir)
}

// measureJava runs Bench.java, which measures time and CPU time by itself.
func measureJava(what string) runner {
	return func(ctx context.Context, j job, m *meter) error {
		out, err := runJava(ctx, j, what)
		if err != nil {
			return err
		}
		a, err := parseJava(out)
		if err != nil {
			return err
		}
		m.take(a)
		return nil
	}
}

// runJava returns what Bench.java says. It keeps stdin open: the Java process
// ends when this one does.
func runJava(ctx context.Context, j job, what string) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "java", "-cp", j.ClassPath, "Bench", what, j.Stream, strconv.Itoa(j.N),
		strconv.Itoa(javaWarmUp(j.N, j.Size)), strconv.Itoa(max(1, j.Producers)), strconv.Itoa(j.Rate))
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, os.Stderr, childGrace
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err = writeJava(stdin, j, what)
	err = errors.Join(cmd.Wait(), err)
	return out.Bytes(), err
}

// writeJava writes what does not belong into arguments: the URI has a password.
func writeJava(w io.Writer, j job, what string) error {
	lines := append([]byte(j.URI), '\n')
	if what != javaConsume {
		for _, body := range bodies(j.Size) {
			lines = append(base64.StdEncoding.AppendEncode(lines, body), '\n')
		}
	}
	_, err := w.Write(append(lines, '\n'))
	return err
}

// javaAnswer is what Bench.java measured.
type javaAnswer struct {
	N         int       `json:"n"`
	WarmUp    int       `json:"warm_up"` // published before, for the warm-up
	Seconds   float64   `json:"seconds"`
	CPU       float64   `json:"cpu_ns"`
	Made      float64   `json:"made_s"` // until all producers were made
	Latencies []float64 `json:"latencies_ms"`
}

// parseJava reads an answer, which is the last line: what the client logs comes
// before it.
func parseJava(out []byte) (a javaAnswer, err error) {
	a.CPU = -1 // as Java says where it is unknown; it counts in steps of 10 ms on Linux
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	last := lines[len(lines)-1]
	if err := json.Unmarshal(last, &a); err != nil {
		return a, fmt.Errorf("no answer: Bench.java says %.200q: %w", last, err)
	}
	if a.N < 1 || a.Seconds <= 0 || a.CPU < 0 {
		return a, fmt.Errorf("no number of messages, no time or no CPU time: Bench.java says %.200q", last)
	}
	return a, nil
}

// take takes over what another process measured. This one's heap and allocations
// are not that process's.
func (m *meter) take(a javaAnswer) {
	m.elsewhere = true
	s := &m.sample
	s.N, s.WarmUp, s.Seconds, s.CPU, s.NoAllocs = a.N, a.WarmUp, a.Seconds, a.CPU, true
	if m.job.Producers > 0 {
		s.Producers, s.Made = m.job.Producers, a.Made
	}
	if len(a.Latencies) > 0 {
		s.percentiles(a.Latencies)
	}
}
