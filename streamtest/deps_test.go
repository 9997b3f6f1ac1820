package streamtest_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tidemark-go/tidemark"

// TestNotInPrograms expects that a program with package stream contains nothing
// of the in-process broker. The linker takes no package that is not among the
// dependencies of a program.
func TestNotInPrograms(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{ // whether the package depends on the broker
		"/stream":              false,
		"/examples/sub":        false,
		"/examples/pub":        false,
		"/examples/quickstart": true, // shows that the test finds the broker
	}
	for pkg, deps := range dependencies(t, tests) {
		want := tests[pkg]
		if got := slices.Contains(deps, module+"/streamtest"); got != want {
			t.Errorf("%s depends on streamtest: %v, want %v", pkg, got, want)
		}
		if !want && slices.Contains(deps, "testing") {
			t.Errorf("%s depends on package testing", pkg)
		}
	}
}

// TestNoHTTP expects that neither package stream nor package streamtest makes a
// program, a test or the demo compile net/http. That was a tenth of the compiler's
// work for the demo on a machine whose build cache is empty.
func TestNoHTTP(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{ // whether the package depends on net/http
		"/stream":                false,
		"/streamtest":            false,
		"/examples/sub":          false,
		"/examples/pub":          false,
		"/examples/quickstart":   false,
		"/streamtest/management": true, // shows that the test finds it
	}
	for pkg, deps := range dependencies(t, tests) {
		if got := slices.Contains(deps, "net/http"); got != tests[pkg] {
			t.Errorf("%s depends on net/http: %v, want %v", pkg, got, tests[pkg])
		}
	}
}

// dependencies returns what each of the packages depends on, directly or not.
func dependencies(t *testing.T, packages map[string]bool) map[string][]string {
	t.Helper()
	args := []string{"list", "-f", `{{.ImportPath}} {{join .Deps " "}}`}
	for pkg := range packages {
		args = append(args, module+pkg)
	}
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	listed := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		listed[strings.TrimPrefix(fields[0], module)] = fields[1:]
	}
	for pkg := range packages {
		if len(listed[pkg]) == 0 {
			t.Fatalf("go list printed nothing on %s: %q", pkg, out)
		}
	}
	return listed
}
