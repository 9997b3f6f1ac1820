// Package floors holds the house to its floors: each package imports only those
// below it. DESIGN.md draws the map.
package floors

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tidemark-go/tidemark/"

// floors are the packages of the house from the bottom up. A package may import
// those of lower floors, and none of its own.
var floors = [][]string{
	{"internal/wire", "internal/fence", "internal/member", "internal/murmur3"},
	{"internal/broker", "internal/mark", "internal/startspec", "streamtest"},
	{"stream"},
	{"admin", "relay", "stream/official", "streamtest/management"},
	{"bench", "cmd/tidemark", "examples/..."},
}

// only narrows what a package may import of the floors below.
var only = map[string][]string{
	"streamtest":            {"internal/wire"},
	"streamtest/management": {"streamtest"},
}

// outside are packages that no package of the house may import, other than in its
// tests: they help tests and tools. A program at the top may start a broker.
var outside = []string{"internal/check", "internal/faults", "internal/history", "internal/javaclient", "internal/officialtest", "internal/pipe", "internal/rabbit", "internal/realtest", "internal/script"}

// floorOf returns the floor of a package, or -1.
func floorOf(pkg string) int {
	for i, floor := range floors {
		for _, p := range floor {
			if p == pkg || strings.HasSuffix(p, "/...") && strings.HasPrefix(pkg, strings.TrimSuffix(p, "...")) {
				return i
			}
		}
	}
	return -1
}

// complaint says why a package must not import another one. It returns "" where
// it may.
func complaint(pkg, imported string) string {
	from, to := floorOf(pkg), floorOf(imported)
	top := from == len(floors)-1
	switch {
	case from < 0:
		return ""
	case top && (to < from || slices.Contains(outside, imported)):
		return ""
	case slices.Contains(outside, imported):
		return fmt.Sprintf("%s imports %s, which is for tests", pkg, imported)
	case to < 0:
		return fmt.Sprintf("%s imports %s, which has no floor", pkg, imported)
	case to >= from:
		return fmt.Sprintf("%s imports %s, which is not below it", pkg, imported)
	case only[pkg] != nil && !slices.Contains(only[pkg], imported):
		return fmt.Sprintf("%s imports %s, and may import only %v", pkg, imported, only[pkg])
	}
	return ""
}

func TestImportsGoDown(t *testing.T) {
	seen := map[string]bool{}
	for path, file := range sources(t) {
		pkg := filepath.ToSlash(filepath.Dir(path))
		seen[pkg] = true
		for _, imported := range importsOf(t, file) {
			if rest, ok := strings.CutPrefix(imported, module); ok {
				if c := complaint(pkg, rest); c != "" {
					t.Errorf("%s: %s", path, c)
				}
			}
		}
	}
	for _, pkg := range []string{"internal/wire", "internal/fence", "internal/broker", "internal/mark", "stream", "streamtest"} {
		if !seen[pkg] {
			t.Errorf("no source of %s was looked at", pkg)
		}
	}
}

// An import that goes up, or sideways, is noticed.
func TestComplaint(t *testing.T) {
	for imports, bad := range map[[2]string]bool{
		{"stream", "internal/broker"}:            false,
		{"stream", "internal/wire"}:              false,
		{"internal/broker", "internal/wire"}:     false,
		{"internal/broker", "stream"}:            true,
		{"internal/broker", "internal/mark"}:     true,
		{"internal/mark", "internal/broker"}:     true,
		{"internal/wire", "internal/mark"}:       true,
		{"internal/broker", "internal/fence"}:    false,
		{"internal/fence", "internal/wire"}:      true,
		{"stream", "streamtest"}:                 false, // but see TestStreamImports
		{"streamtest", "internal/wire"}:          false,
		{"streamtest", "internal/mark"}:          true,
		{"streamtest", "streamtest/management"}:  true,
		{"streamtest/management", "streamtest"}:  false,
		{"streamtest/management", "stream"}:      true,
		{"stream", "streamtest/management"}:      true,
		{"stream", "internal/check"}:             true,
		{"internal/broker", "internal/script"}:   true,
		{"stream", "tools/rabbitmq"}:             true,
		{"stream", "admin"}:                      true,
		{"admin", "internal/broker"}:             false,
		{"relay", "admin"}:                       true,
		{"stream/official", "stream"}:            false,
		{"stream/official", "internal/mark"}:     false,
		{"stream", "stream/official"}:            true,
		{"stream", "internal/startspec"}:         false,
		{"internal/startspec", "internal/mark"}:  true,
		{"bench", "stream"}:                      false,
		{"examples/demo", "internal/rabbit"}:     false,
		{"examples/demo", "examples/quickstart"}: true,
	} {
		if c := complaint(imports[0], imports[1]); (c != "") != bad {
			t.Errorf("%v: complaint %q, want one: %v", imports, c, bad)
		}
	}
}

// Only files named official*.go know the official client, and stream imports
// neither an HTTP client nor the in-process broker.
func TestStreamImports(t *testing.T) {
	for path, file := range sources(t) {
		if filepath.ToSlash(filepath.Dir(path)) != "stream" {
			continue
		}
		for _, imported := range importsOf(t, file) {
			official := strings.Contains(imported, "rabbitmq-stream-go-client")
			if official && !strings.HasPrefix(filepath.Base(path), "official") {
				t.Errorf("%s imports the official client", path)
			}
			if imported == "net/http" || imported == module+"streamtest" {
				t.Errorf("%s imports %s", path, imported)
			}
		}
	}
}

// pure are the packages that start no goroutine, have no channel, read no clock,
// and import nothing that could: only what is listed.
var pure = map[string][]string{
	"internal/mark":    {"cmp", "math", "slices", "time", module + "internal/wire"},
	"internal/fence":   {"cmp", "crypto/sha256", "encoding/hex", "errors", "fmt", "slices", "time"},
	"internal/member":  {"time"},
	"internal/murmur3": {"math/bits"},
	"internal/history": {"cmp", "encoding/binary", "errors", "fmt", "math", "slices", "time"},
}

func TestPure(t *testing.T) {
	for path, file := range sources(t) {
		allowed, ok := pure[filepath.ToSlash(filepath.Dir(path))]
		if !ok {
			continue
		}
		for _, imported := range importsOf(t, file) {
			if !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s", path, imported)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt:
				t.Errorf("%s has a %T", path, n)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker", "AfterFunc", "Tick"}, n.Sel.Name) {
					t.Errorf("%s reads the clock: time.%s", path, n.Sel.Name)
				}
			}
			return true
		})
	}
}

// sources returns the module's Go files that are not tests, by their path from
// the module's root.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	root := filepath.Join("..", "..")
	files := map[string]*ast.File{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || hasModule(path)) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		files[rel] = file
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// hasModule reports whether a folder is a module of its own.
func hasModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func importsOf(t *testing.T, file *ast.File) (paths []string) {
	t.Helper()
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}
