package rabbit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// debianBin is where Debian's package keeps RabbitMQ's own scripts. Those in
	// /usr/sbin insist on switching users.
	debianBin = "/usr/lib/rabbitmq/bin"

	logTail     = 40 // lines
	epmdTimeout = 5 * time.Second
)

// debianPlugins is where Debian's package keeps the plugins. The tools in
// debianBin look for them elsewhere, and then lack the plugins' commands.
func debianPlugins(version string) string {
	return "/usr/lib/rabbitmq/lib/rabbitmq_server-" + version + "/plugins"
}

// raiseFiles is a shell script that becomes the program in its arguments, with
// the file descriptors that a broker with thousands of consumers needs: each
// subscription holds a segment file open, and often a socket. Shells mostly allow
// 1,024. Without the right to set 65,536 it sets as many as it may.
const raiseFiles = `ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)" || true
exec "$0" "$@"
`

// commandFunc returns a command that runs program with exactly this
// environment, and whose process is the program's.
type commandFunc func(ctx context.Context, env []string, program string, args ...string) *exec.Cmd

func plainCommand(ctx context.Context, env []string, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

// local is the backend that runs the broker's programs as processes of this
// machine.
type local struct {
	dir     string
	state   *state
	layout  layout
	bin     string // directory of the scripts, as the processes see it
	command commandFunc
	own     func() error // hands the instance's files to the broker's user
}

func newLocal(dir string, s *state, l layout, bin string, command commandFunc) *local {
	return &local{dir: dir, state: s, layout: l, bin: bin, command: command, own: func() error { return nil }}
}

// prepare writes the instance's files and starts its epmd, Erlang's name
// server: every instance has its own, so that nodes of the same name do not
// meet and the machine's epmd is left alone.
func (b *local) prepare(ctx context.Context) error {
	if err := writeInstanceFiles(b.dir, b.state, b.layout); err != nil {
		return err
	}
	if err := b.own(); err != nil {
		return fmt.Errorf("hand %s to the broker's user: %w", b.dir, err)
	}
	return b.startEpmd(ctx)
}

func (b *local) startEpmd(ctx context.Context) error {
	d := b.epmd()
	if pid, err := d.pid(); pid != 0 || err != nil {
		return err
	}
	if err := portFree(b.state.EpmdPort); err != nil {
		return portTaken(b.dir, err)
	}
	env := nodeEnv(b.state, b.state.Nodes[0], b.layout)
	if err := d.start(b.command(context.Background(), env, "epmd")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, epmdTimeout)
	defer cancel()
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(b.state.EpmdPort))
	// Until it listens; portFree would take the port from it for a moment, in
	// which it may want it, and end.
	for withConn(ctx, at, func(net.Conn) error { return nil }) != nil {
		if pid, err := d.pid(); pid == 0 || err != nil {
			return errors.Join(fmt.Errorf("epmd ended at once:\n%s", tail(d.log, logTail)), err)
		}
		if err := sleep(ctx, probeInterval/5); err != nil {
			return fmt.Errorf("epmd does not listen on port %d: %w", b.state.EpmdPort, err)
		}
	}
	return nil
}

func (b *local) start(_ context.Context, n Node) error {
	if err := n.portsFree(); err != nil {
		return portTaken(b.dir, err)
	}
	env := nodeEnv(b.state, n, b.layout)
	return b.node(n).start(b.command(context.Background(), env, "sh", "-c", raiseFiles, path.Join(b.bin, "rabbitmq-server")))
}

func (b *local) stop(ctx context.Context, n Node) error {
	return b.end(ctx, b.node(n), terminate)
}

func (b *local) kill(ctx context.Context, n Node) error {
	return b.end(ctx, b.node(n), killGroup)
}

func (b *local) end(ctx context.Context, d daemon, signal func(pid int) error) error {
	pid, err := d.pid()
	if pid == 0 || err != nil {
		return err
	}
	if err := signal(pid); err != nil {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return d.waitGone(ctx)
}

func (b *local) pid(_ context.Context, n Node) (int, error) { return b.node(n).pid() }

func (b *local) run(ctx context.Context, n Node, tool string, args ...string) (string, error) {
	cmd := b.command(ctx, nodeEnv(b.state, n, b.layout), path.Join(b.bin, tool), args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), &commandError{
			Command: tool + " " + strings.Join(args, " ") + " on " + n.Name,
			Output:  strings.TrimSpace(string(out)), Err: err,
		}
	}
	return string(out), nil
}

func (b *local) diagnose(_ context.Context, n Node) string {
	// Until the broker has read its configuration it writes to its output only.
	own := filepath.Join(b.dir, n.Name, "log", n.erlangName()+".log")
	return strings.TrimSpace(tail(b.node(n).log, logTail) + "\n" + tail(own, logTail))
}

func (b *local) remove(ctx context.Context) error {
	var errs []error
	for _, n := range b.state.Nodes {
		errs = append(errs, b.kill(ctx, n))
	}
	errs = append(errs, b.end(ctx, b.epmd(), killGroup))
	return errors.Join(errs...)
}

func (b *local) node(n Node) daemon { return b.daemon(n.Name) }
func (b *local) epmd() daemon       { return b.daemon("epmd") }

func (b *local) daemon(name string) daemon {
	return daemon{
		pidFile: filepath.Join(b.dir, name+".pid"),
		log:     filepath.Join(b.dir, name+".log"),
		owner:   filepath.Join(b.dir, name),
	}
}

func portTaken(dir string, err error) error {
	return fmt.Errorf("a port of the instance in %s is taken (%w): take the instance down and up again to choose others", dir, err)
}
