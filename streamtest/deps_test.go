package streamtest_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestNotInPrograms expects that a program with package stream contains nothing
// of the in-process broker. The linker takes no package that is not among the
// dependencies of a program.
func TestNotInPrograms(t *testing.T) {
	t.Parallel()
	const module = "github.com/tidemark-go/tidemark"
	tests := map[string]bool{ // whether the package depends on the broker
		"/stream":              false,
		"/examples/sub":        false,
		"/examples/pub":        false,
		"/examples/quickstart": true, // shows that the test finds the broker
	}
	args := []string{"list", "-f", `{{.ImportPath}} {{join .Deps " "}}`}
	for pkg := range tests {
		args = append(args, module+pkg)
	}
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	listed := make(map[string][]string) // dependencies by package
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		listed[strings.TrimPrefix(fields[0], module)] = fields[1:]
	}
	for pkg, want := range tests {
		deps := listed[pkg]
		if len(deps) == 0 {
			t.Fatalf("go list printed nothing on %s: %q", pkg, out)
		}
		if got := slices.Contains(deps, module+"/streamtest"); got != want {
			t.Errorf("%s depends on streamtest: %v, want %v", pkg, got, want)
		}
		if !want && slices.Contains(deps, "testing") {
			t.Errorf("%s depends on package testing", pkg)
		}
	}
}
