package rabbit

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// Kind is a way to run a broker.
type Kind string

// The ways, in the order in which they are tried.
const (
	External  Kind = "external"  // RABBITMQ_STREAM_URL names a broker; it is used, never controlled
	Container Kind = "container" // docker or podman
	Path      Kind = "path"      // a rabbitmq-server on PATH
	RootFS    Kind = "rootfs"    // a Debian root file system in the cache
)

// Provider is how an instance's brokers are run, with what that way needs.
type Provider struct {
	Kind    Kind   `json:"kind"`
	Version string `json:"version,omitempty"` // of RabbitMQ, where known before it runs
	Engine  string `json:"engine,omitempty"`  // Container: the engine's command
	Image   string `json:"image,omitempty"`   // Container: the image
	Bin     string `json:"bin,omitempty"`     // Path: the directory of the scripts
	Root    string `json:"root,omitempty"`    // RootFS: the root directory
}

func (p Provider) String() string {
	switch p.Kind {
	case Container:
		return fmt.Sprintf("%s containers of %s", p.Engine, p.Image)
	case Path:
		return fmt.Sprintf("rabbitmq-server %s from %s", p.Version, p.Bin)
	case RootFS:
		return fmt.Sprintf("RabbitMQ %s from %s", p.Version, p.Root)
	default:
		return string(p.Kind)
	}
}

// isRelease reports whether p is the root file system of a Debian release. The
// directory's name ends with it.
func (p Provider) isRelease(release string) bool {
	return p.Kind == RootFS && strings.HasSuffix(filepath.Base(p.Root), "-"+release)
}

// backend controls the nodes of one instance. Its methods return as soon as
// the operating system has done its part; whether a node answers is for the
// caller to probe.
type backend interface {
	// prepare makes what all nodes share, where it is missing.
	prepare(ctx context.Context) error
	start(ctx context.Context, n Node) error
	// stop shuts the node down in order; kill does not let it notice. Both
	// return when it has gone, and nil when it was not running.
	stop(ctx context.Context, n Node) error
	kill(ctx context.Context, n Node) error
	// pid is the process id of the node's beam, 0 when it is not running.
	pid(ctx context.Context, n Node) (int, error)
	// run runs one of the command line tools against the node.
	run(ctx context.Context, n Node, tool string, args ...string) (string, error)
	// diagnose returns the end of what the node said.
	diagnose(ctx context.Context, n Node) string
	// remove ends everything and leaves only the instance directory.
	remove(ctx context.Context) error
}

func newBackend(dir string, s *state) (backend, error) {
	l := layout{base: dir, listen: "127.0.0.1"}
	switch p := s.Provider; p.Kind {
	case Container:
		return newContainer(dir, s), nil
	case Path:
		if p.Bin == debianBin {
			l.plugins = debianPlugins(p.Version)
		}
		return newLocal(dir, s, l, p.Bin, plainCommand), nil
	case RootFS:
		j := jail{root: p.Root, dir: dir}
		l.base, l.plugins = jailMount, debianPlugins(p.Version)
		b := newLocal(dir, s, l, debianBin, j.command)
		b.own = j.prepare
		return b, nil
	default:
		return nil, fmt.Errorf("%s: provider %q is unknown: take the instance down with the tool that made it", dir, p.Kind)
	}
}
