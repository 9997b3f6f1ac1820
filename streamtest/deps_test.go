package streamtest_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestNotInPrograms: what uses package stream gets none of the in-process
// broker. A package that is not among a program's dependencies is not linked.
func TestNotInPrograms(t *testing.T) {
	const module = "github.com/tidemark-go/tidemark"
	tests := map[string]bool{ // whether the broker is to be in it
		"/stream":              false,
		"/examples/sub":        false,
		"/examples/pub":        false,
		"/examples/quickstart": true, // the check would see it
	}
	for pkg, want := range tests {
		out, err := exec.Command("go", "list", "-deps", module+pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("go list: %v\n%s", err, out)
		}
		deps := strings.Fields(string(out))
		if !slices.Contains(deps, module+pkg) {
			t.Fatalf("go list -deps %s printed %q", pkg, out)
		}
		if got := slices.Contains(deps, module+"/streamtest"); got != want {
			t.Errorf("%s depends on streamtest: %v, want %v", pkg, got, want)
		}
		if !want && slices.Contains(deps, "testing") {
			t.Errorf("%s depends on package testing", pkg)
		}
	}
}
