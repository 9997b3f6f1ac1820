package examples_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestReadme: the first program of each README runs on a broker that has
// nothing, prints what README.md shows, ends in order on both signals, and goes
// on at the next message.
func TestReadme(t *testing.T) {
	for _, readme := range []string{"README.md", "README.zh-CN.md"} {
		t.Run(readme, func(t *testing.T) {
			b := streamtest.NewBroker(t)
			text, err := os.ReadFile("../" + readme)
			if err != nil {
				t.Fatal(err)
			}
			run := buildReadme(t, string(text), b.URI())
			first := run(syscall.SIGINT)
			if want := "the broker has confirmed both\n0: first\n1: second\n"; first != want {
				t.Errorf("printed %q, want %q", first, want)
			}
			if readme == "README.md" && !strings.Contains(string(text), "```\n"+first+"```\n") {
				t.Errorf("%s does not show what the program prints: %q", readme, first)
			}
			if again, want := run(syscall.SIGTERM), "the broker has confirmed both\n2: first\n3: second\n"; again != want {
				t.Errorf("the second run printed %q, want %q", again, want)
			}
		})
	}
}

// buildReadme builds the first program of a README for the broker at uri. run
// runs it, ends it with a signal after three lines, and returns these.
func buildReadme(t *testing.T, readme, uri string) (run func(os.Signal) string) {
	t.Helper()
	_, program, _ := strings.Cut(readme, "```go\npackage main\n")
	program, _, _ = strings.Cut(program, "```\n")
	const config = "stream.Config{"
	if strings.Count(program, config) != 1 {
		t.Fatalf("not one %q in the program:\n%s", config, program)
	}
	program = "package main\n" + strings.Replace(program, config, fmt.Sprintf("%sURIs: []string{%q}, ", config, uri), 1)
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "readme")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return func(end os.Signal) string {
		cmd := exec.CommandContext(t.Context(), binary)
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		var said strings.Builder
		for range 3 {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Errorf("after %q: %v", said.String(), err)
				break
			}
			said.WriteString(line)
		}
		if err := cmd.Process.Signal(end); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("ended with %v: %v", end, err)
		}
		return said.String()
	}
}
