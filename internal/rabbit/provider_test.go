package rabbit

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// machine describes a system for findProvider.
type machine struct {
	path    map[string]string // program to version it reports; "" fails
	hasFile bool              // Debian's own directory of scripts
	files   string            // version the files tell
	rootErr error
	env     map[string]string
}

func (m machine) system() system {
	return system{
		getenv:  func(k string) string { return m.env[k] },
		exists:  func(string) bool { return m.hasFile },
		version: func(string) string { return m.files },
		lookPath: func(name string) (string, error) {
			if _, ok := m.path[name]; !ok {
				return "", errors.New("not found")
			}
			return "/opt/sbin/" + name, nil
		},
		run: func(_ context.Context, program string, args ...string) (string, error) {
			name := program[strings.LastIndex(program, "/")+1:]
			if m.path[name] == "" {
				return name + ": no daemon\n", errors.New("exit status 1")
			}
			return m.path[name] + "\n", nil
		},
		rootfs: func(context.Context, io.Writer) (Provider, error) {
			return Provider{Kind: RootFS}, m.rootErr
		},
	}
}

func TestFindProvider(t *testing.T) {
	all := map[string]string{"docker": "ok", "rabbitmq-server": "x", "rabbitmqctl": "4.1.2"}
	noDaemon := map[string]string{"docker": "", "rabbitmq-server": "x", "rabbitmqctl": "4.1.2"}
	for _, c := range []struct {
		name string
		m    machine
		want Provider
	}{
		{"an engine first", machine{path: all}, Provider{Kind: Container, Engine: "docker", Image: image}},
		{"podman", machine{path: map[string]string{"docker": "", "podman": "ok"}}, Provider{Kind: Container, Engine: "podman", Image: image}},
		{"no daemon", machine{path: noDaemon}, Provider{Kind: Path, Version: "4.1.2", Bin: "/opt/sbin"}},
		{"Debian's scripts", machine{path: noDaemon, hasFile: true}, Provider{Kind: Path, Version: "4.1.2", Bin: debianBin}},
		{"too old", machine{path: map[string]string{"rabbitmq-server": "x", "rabbitmqctl": "3.10.8"}}, Provider{Kind: RootFS}},
		{"files tell", machine{path: map[string]string{"rabbitmq-server": "x"}, files: "4.2.0"}, Provider{Kind: Path, Version: "4.2.0", Bin: "/opt/sbin"}},
		{"nothing", machine{}, Provider{Kind: RootFS}},
		{"forced", machine{path: all, env: map[string]string{providerVar: "path"}}, Provider{Kind: Path, Version: "4.1.2", Bin: "/opt/sbin"}},
	} {
		got, err := findProvider(t.Context(), c.m.system(), nil)
		if err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func TestFindProviderNone(t *testing.T) {
	m := machine{
		path:    map[string]string{"docker": "", "rabbitmq-server": "x", "rabbitmqctl": "3.10.8"},
		rootErr: errors.New("needs root"),
	}
	_, err := findProvider(t.Context(), m.system(), nil)
	for _, want := range []string{"docker: no daemon", "no podman", "3.10.8 is too old", "needs root", "RABBITMQ_STREAM_URL"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
	m.env = map[string]string{providerVar: "vm"}
	if _, err := findProvider(t.Context(), m.system(), nil); err == nil || !strings.Contains(err.Error(), `"vm"`) {
		t.Errorf("unknown provider: %v", err)
	}
}

// TestRelease: a release is asked of a root file system, whatever the variables
// say.
func TestRelease(t *testing.T) {
	t.Setenv(suiteVar, "bookworm")
	t.Setenv(providerVar, string(Container))
	sys := thisSystem("sid")
	if suite, way := sys.getenv(suiteVar), sys.getenv(providerVar); suite != "sid" || way != string(RootFS) {
		t.Errorf("suite %q, provider %q", suite, way)
	}
	sys = thisSystem("")
	if suite, way := sys.getenv(suiteVar), sys.getenv(providerVar); suite != "bookworm" || way != string(Container) {
		t.Errorf("without a release: suite %q, provider %q", suite, way)
	}
	for p, want := range map[Provider]bool{
		{Kind: RootFS, Root: "/cache/debian-sid"}:    true,
		{Kind: RootFS, Root: "/cache/debian-trixie"}: false,
		{Kind: Path, Bin: "/opt/debian-sid"}:         false,
	} {
		if p.isRelease("sid") != want {
			t.Errorf("%s is sid: want %v", p, want)
		}
	}
}

// TestUpAnotherRelease: what runs is never taken for the release asked for.
func TestUpAnotherRelease(t *testing.T) {
	t.Setenv("RABBITMQ_STREAM_URL", "")
	dir := t.TempDir()
	s := layOut(20000, 1)
	s.Provider = Provider{Kind: RootFS, Version: "4.0.5", Root: "/cache/debian-trixie"}
	must(t, s.save(dir))
	if _, err := UpRelease(t.Context(), dir, "sid", 0, nil); err == nil || !strings.Contains(err.Error(), "4.0.5") {
		t.Errorf("sid where trixie is: %v", err)
	}
	t.Setenv("RABBITMQ_STREAM_URL", "rabbitmq-stream://somewhere")
	if _, err := UpRelease(t.Context(), dir, "sid", 0, nil); !errors.Is(err, ErrExternal) {
		t.Errorf("sid from somebody's broker: %v, want ErrExternal", err)
	}
}
