package rabbit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// StartTimeout is how long a node may take until it answers.
	StartTimeout = 90 * time.Second
	stopTimeout  = 60 * time.Second
	killTimeout  = 10 * time.Second
)

// Up brings the instance in dir up and returns it when every node answers.
// What runs already is left alone, so that Up is also the way to start what
// has crashed. nodes is 1 or 3; 0 means as many as the instance has, 1 for a
// new one. Lines about what is happening go to progress, which may be nil.
//
// The first Up on a machine may download a broker; see the package comment.
func Up(ctx context.Context, dir string, nodes int, progress io.Writer) (*Instance, error) {
	return UpRelease(ctx, dir, "", nodes, progress)
}

// UpRelease is Up for the RabbitMQ of one Debian release, such as trixie or
// sid, which comes from a root file system whatever else this machine has. An
// empty release is Up. UpRelease fails if the instance in dir, or the broker
// that RABBITMQ_STREAM_URL names, is another one.
func UpRelease(ctx context.Context, dir, release string, nodes int, progress io.Writer) (*Instance, error) {
	if nodes != 0 && nodes != 1 && nodes != 3 {
		return nil, fmt.Errorf("%d nodes: an instance has 1 or 3", nodes)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if x := externalFor(dir); x != nil {
		if release != "" {
			return nil, x.refuse("release " + release)
		}
		return &Instance{dir: dir, external: x}, x.probe(ctx)
	}
	unlock, err := lockDir(ctx, dir, progress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	i, err := openOrCreate(ctx, dir, release, nodes, progress)
	if err != nil {
		return nil, err
	}
	return i, i.startMissing(ctx, i.state.Nodes, progress)
}

func openOrCreate(ctx context.Context, dir, release string, nodes int, progress io.Writer) (*Instance, error) {
	i, err := openOwn(dir)
	switch {
	case err == nil && nodes != 0 && nodes != len(i.state.Nodes):
		return nil, fmt.Errorf("the instance in %s has %d node(s), not %d: take it down first", dir, len(i.state.Nodes), nodes)
	case err == nil && release != "" && !i.state.Provider.isRelease(release):
		return nil, fmt.Errorf("the instance in %s is %s, not of %s: take it down first", dir, i.state.Provider, release)
	case err == nil || !errors.Is(err, ErrNoInstance):
		return i, err
	}
	if err := mustBeEmpty(dir); err != nil {
		return nil, err
	}
	p, err := findProvider(ctx, thisSystem(release), progress)
	if err != nil {
		return nil, err
	}
	say(progress, "using %s", p)
	s, err := allocatePorts(max(nodes, 1), loadLast(dir))
	if err != nil {
		return nil, err
	}
	s.Provider, s.Cookie = p, rand.Text()
	if err := s.save(dir); err != nil {
		return nil, err
	}
	return openOwn(dir)
}

// mustBeEmpty keeps an instance from moving in with somebody's files: down
// removes what is in its directory.
func mustBeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockFile && e.Name() != lastFile {
			return fmt.Errorf("%s is not empty (it has %s): an instance needs a directory of its own", dir, e.Name())
		}
	}
	return nil
}

// startMissing starts those of the nodes that do not run, all at once (nodes of
// a new cluster wait for each other), and waits until every one answers.
func (i *Instance) startMissing(ctx context.Context, nodes []Node, progress io.Writer) error {
	if err := i.backend.prepare(ctx); err != nil {
		return err
	}
	began := time.Now()
	for _, n := range nodes {
		pid, err := i.backend.pid(ctx, n)
		if err != nil {
			return err
		}
		if pid != 0 {
			continue
		}
		say(progress, "starting %s", n.Name)
		if err := i.backend.start(ctx, n); err != nil {
			return fmt.Errorf("start %s: %w", n.Name, err)
		}
	}
	for _, n := range nodes {
		if err := i.await(ctx, n); err != nil {
			return err
		}
		say(progress, "%s is up after %.1f s", n.Name, time.Since(began).Seconds())
	}
	return nil
}

// errEnded is why a node is not up.
var errEnded = errors.New("ended while it started")

// await waits until the node answers, and fails at once when it has ended.
func (i *Instance) await(ctx context.Context, n Node) error {
	ctx, cancel := context.WithTimeoutCause(ctx, StartTimeout, fmt.Errorf("not up within %v", StartTimeout))
	defer cancel()
	for {
		probe := n.ready(ctx)
		if probe == nil {
			return nil
		}
		pid, err := i.backend.pid(ctx, n)
		if err != nil {
			return err
		}
		if pid == 0 {
			return fmt.Errorf("%s %w; the end of its log:\n%s", n.Name, errEnded, i.backend.diagnose(ctx, n))
		}
		if sleep(ctx, probeInterval) != nil {
			return fmt.Errorf("%s: %w (%w); the end of its log:\n%s", n.Name, context.Cause(ctx), probe,
				i.backend.diagnose(context.WithoutCancel(ctx), n))
		}
	}
}

// Start starts one node and returns when it answers; nil at once when it runs.
func (i *Instance) Start(ctx context.Context, node string) error {
	return i.change(ctx, "start", node, func(n Node) error {
		err := i.startMissing(ctx, []Node{n}, nil)
		if errors.Is(err, errEnded) && sleep(ctx, time.Second) == nil {
			// Once, a node that was started a second after its SIGKILL ended at once.
			err = i.startMissing(ctx, []Node{n}, nil)
		}
		return err
	})
}

// Stop shuts a node down in order and returns when it has gone. Its data stays.
func (i *Instance) Stop(ctx context.Context, node string) error {
	return i.change(ctx, "stop", node, func(n Node) error {
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		return i.backend.stop(ctx, n)
	})
}

// Kill ends a node without letting it notice, as a crash does, and returns when
// it has gone. Its data stays.
func (i *Instance) Kill(ctx context.Context, node string) error {
	return i.change(ctx, "kill", node, func(n Node) error {
		ctx, cancel := context.WithTimeout(ctx, killTimeout)
		defer cancel()
		return i.backend.kill(ctx, n)
	})
}

// change does something to a node under the instance's lock.
func (i *Instance) change(ctx context.Context, verb, node string, do func(Node) error) error {
	if i.external != nil {
		return i.external.refuse(verb)
	}
	n, err := i.node(node)
	if err != nil {
		return err
	}
	unlock, err := lockDir(ctx, i.dir, nil)
	if err != nil {
		return err
	}
	defer unlock()
	if err := do(n); err != nil {
		return fmt.Errorf("%s %s: %w", verb, node, err)
	}
	return nil
}

// Ctl runs rabbitmqctl against a node and returns what it printed. It starts an
// Erlang machine of its own: count on one or two seconds.
func (i *Instance) Ctl(ctx context.Context, node string, args ...string) (string, error) {
	return i.tool(ctx, node, "rabbitmqctl", args)
}

// Streams is Ctl for rabbitmq-streams.
func (i *Instance) Streams(ctx context.Context, node string, args ...string) (string, error) {
	return i.tool(ctx, node, "rabbitmq-streams", args)
}

func (i *Instance) tool(ctx context.Context, node, tool string, args []string) (string, error) {
	if i.external != nil {
		return "", i.external.refuse(tool)
	}
	n, err := i.node(node)
	if err != nil {
		return "", err
	}
	pid, err := i.backend.pid(ctx, n)
	if err != nil {
		return "", err
	}
	if pid == 0 { // the tool would take long to find out, and start an epmd
		return "", fmt.Errorf("%s: %w: start %s first", tool, ErrNodeDown, node)
	}
	return i.backend.run(ctx, n, tool, args...)
}

// Down ends the instance and removes its data; the broker itself stays in the
// cache. For an external broker it does nothing.
func (i *Instance) Down(ctx context.Context) error {
	if i.external != nil {
		return nil
	}
	unlock, err := lockDir(ctx, i.dir, nil)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := loadState(i.dir); errors.Is(err, ErrNoInstance) {
		return nil // somebody was faster
	}
	stopCtx, cancel := context.WithTimeout(ctx, killTimeout*time.Duration(1+len(i.state.Nodes)))
	defer cancel()
	if err := i.backend.remove(stopCtx); err != nil {
		return fmt.Errorf("take the instance in %s down: %w", i.dir, err)
	}
	return i.removeFiles()
}

// removeFiles empties the instance directory. The state goes last: until then
// another attempt knows what to end. It stays as lastFile, and the lock for
// whoever waits for it.
func (i *Instance) removeFiles() error {
	entries, err := os.ReadDir(i.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains([]string{lockFile, stateFile, lastFile}, e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(i.dir, e.Name())); err != nil {
			return err
		}
	}
	return os.Rename(filepath.Join(i.dir, stateFile), filepath.Join(i.dir, lastFile))
}
