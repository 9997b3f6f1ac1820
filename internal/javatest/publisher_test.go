//go:build java

package javatest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/javaclient"
)

// javaTimeout leaves room for all that the Java client's process does.
const javaTimeout = 3 * time.Minute

// classPath is where the Java client and what it needs are.
var classPath = sync.OnceValues(func() (string, error) { return javaclient.ClassPath(context.Background()) })

// publisher is a process that publishes by the Java client, see Publisher.java.
type publisher struct {
	t      *testing.T
	cmd    *exec.Cmd
	rounds io.WriteCloser
	said   *bufio.Scanner
	stderr bytes.Buffer
}

// startPublisher returns once the process has its producer. The process ends with
// the test at the latest.
func startPublisher(t *testing.T, uri, superStream string, keys []string, each, subEntries int) *publisher {
	t.Helper()
	path, err := classPath()
	check.Nil(t, err)
	file := filepath.Join(t.TempDir(), "keys")
	check.Nil(t, os.WriteFile(file, encoded(keys), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), javaTimeout)
	t.Cleanup(cancel)
	p := &publisher{t: t}
	p.cmd = exec.CommandContext(ctx, "java", "-Xmx256m", "-cp", path, filepath.Join("testdata", "Publisher.java"),
		uri, superStream, file, fmt.Sprint(each), fmt.Sprint(subEntries))
	p.cmd.Stderr = &p.stderr
	p.rounds, err = p.cmd.StdinPipe()
	check.Nil(t, err)
	stdout, err := p.cmd.StdoutPipe()
	check.Nil(t, err)
	p.said = bufio.NewScanner(stdout)
	check.Nil(t, p.cmd.Start())
	p.await("ready")
	return p
}

// encoded is the keys as Publisher.java reads them.
func encoded(keys []string) (lines []byte) {
	for _, key := range keys {
		lines = base64.StdEncoding.AppendEncode(lines, []byte(key))
		lines = append(lines, '\n')
	}
	return lines
}

// begin lets the process publish a round. It does not wait for it.
func (p *publisher) begin() {
	p.t.Helper()
	_, err := io.WriteString(p.rounds, "round\n")
	check.Nil(p.t, err)
}

// await waits until the process says a line. It ends the test if the process says
// another one, or none.
func (p *publisher) await(line string) {
	p.t.Helper()
	if p.said.Scan() && p.said.Text() == line {
		return
	}
	_ = p.cmd.Cancel()
	err := p.cmd.Wait()
	p.t.Fatalf("the Java process says %q, want %q: %v\n%s", p.said.Text(), line, err, &p.stderr)
}

// end lets the process close its producer and end.
func (p *publisher) end() {
	p.t.Helper()
	check.Nil(p.t, p.rounds.Close())
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("the Java process: %v\n%s", err, &p.stderr)
	}
}
