package rabbit

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestStateRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if _, err := loadState(dir); !errors.Is(err, ErrNoInstance) {
		t.Fatalf("no state: %v, want ErrNoInstance", err)
	}
	want := layOut(20000, 3)
	want.Provider, want.Cookie = Provider{Kind: RootFS, Root: "/r", Version: "4.0.5"}, "c"
	must(t, want.save(dir))
	got, err := loadState(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	must(t, os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600))
	if _, err := loadState(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("damaged state: %v, want an error that names %s", err, dir)
	}
}

func TestAllocatePorts(t *testing.T) {
	s, err := allocatePorts(3, nil)
	must(t, err)
	seen := map[int]bool{s.EpmdPort: true}
	for _, n := range s.Nodes {
		for _, p := range []int{n.StreamPort, n.StreamTLSPort, n.AMQPPort, n.ManagementPort, n.DistPort} {
			if seen[p] || p < portsMin || p >= portsMax || p >= s.OsirisMin && p <= s.OsirisMax {
				t.Errorf("port %d of %s is used twice or out of range", p, n.Name)
			}
			seen[p] = true
		}
	}
	if s.Nodes[2].Name != "n3" || s.OsirisMax >= portsMax {
		t.Errorf("layout: %+v", s)
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	n := Node{StreamPort: port}
	if err := n.portsFree(); err == nil || !strings.Contains(err.Error(), strconv.Itoa(port)) {
		t.Errorf("error %v, want one that names port %d", err, port)
	}
}

func TestUpRefusesAFullDirectory(t *testing.T) {
	t.Setenv("RABBITMQ_STREAM_URL", "")
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600))
	if _, err := Up(t.Context(), dir, 1, nil); err == nil || !strings.Contains(err.Error(), "precious") {
		t.Errorf("Up in a directory with files: %v", err)
	}
	if _, err := Up(t.Context(), dir, 2, nil); err == nil {
		t.Error("Up with two nodes: no error")
	}
}

func TestExternal(t *testing.T) {
	dir := t.TempDir()
	s := layOut(20000, 1)
	s.Provider = Provider{Kind: RootFS}
	must(t, s.save(dir))
	t.Setenv("RABBITMQ_STREAM_URL", "rabbitmq-stream://u:secret@127.0.0.1:1")
	i, err := Open(dir)
	must(t, err)
	if i.Provider().Kind != External || i.CAFile() != "" || i.StreamTLSURL() != "" {
		t.Errorf("instance: %+v", i)
	}
	if err := i.Kill(t.Context(), "n1"); !errors.Is(err, ErrExternal) {
		t.Errorf("Kill: %v, want ErrExternal", err)
	}
	if _, err := Up(t.Context(), dir, 0, nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("Up with a broker that does not answer: %v", err)
	}

	// The URL that env printed for this instance is not somebody else's.
	own, err := openOwn(dir)
	must(t, err)
	t.Setenv("RABBITMQ_STREAM_URL", own.StreamURL())
	if i, err = Open(dir); err != nil || i.Provider().Kind != RootFS {
		t.Errorf("own URL: %+v, %v", i, err)
	}
}

// TestDownThenUp: the URI of an instance that was taken down is not somebody
// else's, and the next one in the directory has the same.
func TestDownThenUp(t *testing.T) {
	dir := t.TempDir()
	s, err := allocatePorts(1, nil)
	must(t, err)
	s.Provider = Provider{Kind: RootFS}
	must(t, s.save(dir))
	i, err := openOwn(dir)
	must(t, err)
	must(t, i.removeFiles())
	must(t, mustBeEmpty(dir))

	t.Setenv("RABBITMQ_STREAM_URL", s.streamURL())
	if _, err := Open(dir); !errors.Is(err, ErrNoInstance) {
		t.Errorf("Open after Down: %v, want ErrNoInstance", err)
	}
	again, err := allocatePorts(1, loadLast(dir))
	must(t, err)
	if again.streamURL() != s.streamURL() {
		t.Errorf("the next instance is at %s, was at %s", again.streamURL(), s.streamURL())
	}

	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.EpmdPort)))
	must(t, err)
	defer l.Close()
	if again, err = allocatePorts(1, loadLast(dir)); err != nil || again.EpmdPort == s.EpmdPort {
		t.Errorf("with a port taken: %+v, %v; want another block", again, err)
	}
	must(t, again.save(dir))
	if x := externalFor(dir); x != nil {
		t.Errorf("the URI from before is %+v", x)
	}
}
