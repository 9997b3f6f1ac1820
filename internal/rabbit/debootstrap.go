package rabbit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const progressInterval = 5 * time.Second

// debootstrap fills root with a minimal system that has RabbitMQ. It runs in a
// mount namespace of its own, so that what it mounts is gone when it ends,
// however it ends.
func debootstrap(ctx context.Context, root string, rel release, progress io.Writer) error {
	args := []string{"--mount", "--propagation", "private", "--", "debootstrap",
		"--variant=minbase", "--include=rabbitmq-server", "--components=" + rel.components,
		rel.suite, root, rel.mirror}
	const scripts = "/usr/share/debootstrap/scripts/"
	if _, err := os.Stat(scripts + rel.suite); err != nil {
		args = append(args, scripts+"sid") // older than the release: they are all alike
	}
	cmd := exec.CommandContext(ctx, "unshare", args...)
	cmd.Env = append(os.Environ(), aptProxy(ctx)...)
	detach(cmd)
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	say(progress, "making a %s %s root file system with RabbitMQ, once (about 300 MB on disk, 1-3 minutes)", rel.id, rel.suite)
	if err := cmd.Start(); err != nil {
		return err
	}
	said := follow(out, &meter{progress: progress, began: time.Now(), phase: "downloading"})
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		log, _ := os.ReadFile(filepath.Join(root, "debootstrap", "debootstrap.log"))
		return &commandError{
			Command: fmt.Sprintf("debootstrap %s from the mirror of apt's sources (%s overrides it)", rel.suite, mirrorVar),
			Output:  strings.Join(append(said, lastLines(string(log), 10)...), "\n"), Err: err,
		}
	}
	return nil
}

// follow reads debootstrap's output to its end and returns its last lines.
func follow(out io.Reader, m *meter) []string {
	lines := make(chan string)
	go func() { // ends with the output, which the loop below reads to its end
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	var last []string
	for {
		select {
		case <-tick.C:
			m.speak()
		case line, ok := <-lines:
			if !ok {
				return last
			}
			m.line(line)
			last = append(last[max(0, len(last)-9):], line)
		}
	}
}

// meter turns debootstrap's line for each package into one line for each phase
// and one every few seconds, readable on a terminal and in a log.
type meter struct {
	progress io.Writer
	began    time.Time
	phase    string
	count    int
}

// phases are debootstrap's words and ours.
var phases = map[string]string{
	"Retrieving": "downloading", "Extracting": "unpacking", "Unpacking": "unpacking", "Configuring": "configuring",
}

func (m *meter) line(line string) {
	verb, _, _ := strings.Cut(strings.TrimPrefix(line, "I: "), " ")
	phase, ok := phases[verb]
	if !ok {
		return
	}
	changed := phase != m.phase
	if changed {
		m.phase, m.count = phase, 0
	}
	m.count++
	if changed {
		m.speak()
	}
}

// speak says how far it is.
func (m *meter) speak() {
	say(m.progress, "%3.0f s: %s, package %d", time.Since(m.began).Seconds(), m.phase, m.count)
}

// aptProxy is apt's own proxy as environment variables; debootstrap does not
// read apt's configuration.
func aptProxy(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "--format", "%f %v%n",
		"Acquire::http::Proxy", "Acquire::https::Proxy").Output()
	if err != nil {
		return nil // no apt-config, no proxy
	}
	var env []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 2 || f[1] == "DIRECT" {
			continue
		}
		switch f[0] {
		case "Acquire::http::Proxy":
			env = append(env, "http_proxy="+f[1])
		case "Acquire::https::Proxy":
			env = append(env, "https_proxy="+f[1])
		}
	}
	return env
}

// lastLines returns the last lines of a text, none of an empty one.
func lastLines(text string, n int) []string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return nil
	}
	all := strings.Split(text, "\n")
	return all[max(0, len(all)-n):]
}
