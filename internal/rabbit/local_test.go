//go:build unix

package rabbit

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestRaiseFiles: a broker has more file descriptors than the shell that starts
// it allows, and gets its arguments as they are.
func TestRaiseFiles(t *testing.T) {
	const low = 64
	shell := `ulimit -S -n ` + strconv.Itoa(low) + `; exec sh -c "$0" sh -c 'ulimit -S -n; echo "$1"' x 'two words'`
	out, err := exec.CommandContext(t.Context(), "sh", "-c", shell, raiseFiles).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	limit, said, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if n, err := strconv.Atoi(limit); limit != "unlimited" && (err != nil || n <= low) || said != "two words" {
		t.Errorf("limit %q, said %q", limit, said)
	}
}
