package rabbit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// container is the backend that runs every node in a container. One more, which
// runs epmd, owns the network that all share and publishes the ports: so the
// nodes reach each other as localhost, as they do without containers, and any
// of them may be killed. Data is in the instance directory.
//
// One thing differs from the other ways: the ports of a node that is down still
// accept connections, and close them at once, because the engine holds them.
type container struct {
	dir    string
	state  *state
	layout layout
	engine string
	image  string
	prefix string // of the containers' names
}

func newContainer(dir string, s *state) *container {
	sum := sha256.Sum256([]byte(dir))
	return &container{
		dir: dir, state: s, engine: s.Provider.Engine, image: s.Provider.Image,
		// Published ports lead to the container's own address, not its loopback.
		layout: layout{base: jailMount, listen: "0.0.0.0"},
		prefix: "tidemark-" + hex.EncodeToString(sum[:5]) + "-",
	}
}

func (b *container) prepare(ctx context.Context) error {
	if err := writeInstanceFiles(b.dir, b.state, b.layout); err != nil {
		return err
	}
	pid, err := b.inspect(ctx, "net")
	if pid != 0 || err != nil {
		return err
	}
	var publish []string
	for _, n := range b.state.Nodes {
		for _, port := range []int{n.StreamPort, n.StreamTLSPort, n.AMQPPort, n.ManagementPort} {
			publish = append(publish, "--publish", fmt.Sprintf("127.0.0.1:%d:%d", port, port))
		}
	}
	return b.launch(ctx, "net", b.state.Nodes[0], publish, "epmd")
}

func (b *container) start(ctx context.Context, n Node) error {
	return b.launch(ctx, n.Name, n, []string{"--network", "container:" + b.prefix + "net"}, "rabbitmq-server")
}

// launch starts the container of that name, and makes it first when there is
// none.
func (b *container) launch(ctx context.Context, name string, n Node, network []string, program string) error {
	if b.known(ctx, name) {
		_, err := b.do(ctx, "start", b.prefix+name)
		return err
	}
	args := append([]string{"run", "--detach", "--name", b.prefix + name, "--user", b.user(),
		"--volume", b.dir + ":" + jailMount + ":z", "--entrypoint", "sh"}, network...)
	for _, kv := range nodeEnv(b.state, n, b.layout) {
		args = append(args, "--env", kv)
	}
	_, err := b.do(ctx, append(args, b.image, "-c", raiseFiles, program)...)
	return err
}

// user owns the instance directory as the container sees it: ourselves, which a
// rootless podman calls root.
func (b *container) user() string {
	if b.engine == "podman" {
		return "0:0"
	}
	return fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
}

func (b *container) stop(ctx context.Context, n Node) error {
	if pid, err := b.inspect(ctx, n.Name); pid == 0 || err != nil {
		return err
	}
	_, err := b.do(ctx, "stop", "--time", strconv.Itoa(int(stopTimeout.Seconds())), b.prefix+n.Name)
	return err
}

func (b *container) kill(ctx context.Context, n Node) error {
	if pid, err := b.inspect(ctx, n.Name); pid == 0 || err != nil {
		return err
	}
	if _, err := b.do(ctx, "kill", "--signal", "KILL", b.prefix+n.Name); err != nil {
		return err
	}
	for {
		if pid, err := b.inspect(ctx, n.Name); pid == 0 || err != nil {
			return err
		}
		if err := sleep(ctx, probeInterval); err != nil {
			return err
		}
	}
}

func (b *container) pid(ctx context.Context, n Node) (int, error) { return b.inspect(ctx, n.Name) }

func (b *container) run(ctx context.Context, n Node, tool string, args ...string) (string, error) {
	return b.do(ctx, append([]string{"exec", b.prefix + n.Name, tool}, args...)...)
}

func (b *container) diagnose(ctx context.Context, n Node) string {
	out, _ := b.do(ctx, "logs", "--tail", strconv.Itoa(logTail), b.prefix+n.Name)
	return out
}

// remove removes the containers that there are, the network's last.
func (b *container) remove(ctx context.Context) error {
	names := []string{"net"}
	for _, n := range b.state.Nodes {
		names = append([]string{n.Name}, names...)
	}
	var errs []error
	for _, name := range names {
		if b.known(ctx, name) {
			// At once, also with engines whose rm is polite first; fails when it
			// does not run.
			_, _ = b.do(ctx, "kill", "--signal", "KILL", b.prefix+name)
			_, err := b.do(ctx, "rm", "--force", "--volumes", b.prefix+name)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// known reports whether there is a container of that name, running or not.
func (b *container) known(ctx context.Context, name string) bool {
	_, err := b.do(ctx, "container", "inspect", b.prefix+name)
	return err == nil
}

// inspect returns the process id of a container, 0 when it does not run.
func (b *container) inspect(ctx context.Context, name string) (int, error) {
	out, err := b.do(ctx, "container", "inspect", "--format", "{{.State.Running}} {{.State.Pid}}", b.prefix+name)
	if err != nil {
		said := strings.ToLower(out)
		if strings.Contains(said, "no such container") || strings.Contains(said, "no container with") {
			return 0, nil
		}
		return 0, err
	}
	running, pid, _ := strings.Cut(strings.TrimSpace(out), " ")
	if running != "true" {
		return 0, nil
	}
	return strconv.Atoi(pid)
}

// do runs the engine.
func (b *container) do(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, b.engine, args...).CombinedOutput()
	if err != nil {
		return string(out), &commandError{Command: b.engine + " " + args[0], Output: strings.TrimSpace(string(out)), Err: err}
	}
	return string(out), nil
}
