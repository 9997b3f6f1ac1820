package rabbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// providerVar forces one way: container, path or rootfs.
	providerVar = "TIDEMARK_RABBITMQ_PROVIDER"
	// image is what a container engine runs.
	image = "rabbitmq:4-management"

	engineTimeout  = 5 * time.Second
	versionTimeout = 30 * time.Second
)

// system is what of this machine the choice depends on. Tests put a machine of
// their own in its place.
type system struct {
	getenv   func(string) string
	lookPath func(string) (string, error)
	exists   func(path string) bool
	version  func(bin string) string // of the RabbitMQ whose scripts are in bin, as its files tell
	run      func(ctx context.Context, program string, args ...string) (string, error)
	rootfs   func(ctx context.Context, progress io.Writer) (Provider, error)
}

// thisSystem is this machine. A release takes the place of the variables that
// say where the broker comes from.
func thisSystem(release string) system {
	getenv := os.Getenv
	if release != "" {
		forced := map[string]string{suiteVar: release, providerVar: string(RootFS)}
		getenv = func(key string) string { return cmp.Or(forced[key], os.Getenv(key)) }
	}
	return system{
		getenv:   getenv,
		lookPath: exec.LookPath,
		exists:   func(path string) bool { _, err := os.Stat(path); return err == nil },
		version:  installedVersion,
		run: func(ctx context.Context, program string, args ...string) (string, error) {
			cmd := exec.CommandContext(ctx, program, args...)
			cmd.WaitDelay = time.Second
			// Even "rabbitmqctl version" starts an epmd where there is none.
			cmd.Env = append(os.Environ(), "ERL_EPMD_ADDRESS=127.0.0.1")
			out, err := cmd.CombinedOutput()
			return string(out), err
		},
		rootfs: func(ctx context.Context, progress io.Writer) (Provider, error) {
			return findRootFS(ctx, getenv, progress)
		},
	}
}

// findProvider tries the ways in order. When none works its error says for each
// why not, and what the user can do.
func findProvider(ctx context.Context, sys system, progress io.Writer) (Provider, error) {
	ways := []struct {
		kind Kind
		find func(context.Context, io.Writer) (Provider, error)
	}{
		{Container, sys.findContainer},
		{Path, sys.findPath},
		{RootFS, sys.rootfs},
	}
	forced := Kind(sys.getenv(providerVar))
	if forced != "" && !slices.Contains([]Kind{Container, Path, RootFS}, forced) {
		return Provider{}, fmt.Errorf("%s=%q: want %s, %s or %s", providerVar, forced, Container, Path, RootFS)
	}
	var tried []error
	for _, way := range ways {
		if forced != "" && way.kind != forced {
			continue
		}
		p, err := way.find(ctx, progress)
		if err == nil {
			return p, nil
		}
		if ctx.Err() != nil {
			return Provider{}, ctx.Err()
		}
		tried = append(tried, fmt.Errorf("- %s: %w", way.kind, err))
	}
	return Provider{}, fmt.Errorf(`no way to run RabbitMQ on this machine. Tried:
%w
Do one of these: start docker or podman; put a rabbitmq-server %v or newer on PATH; run as root on Debian or Ubuntu; or set RABBITMQ_STREAM_URL to a broker that runs`,
		errors.Join(tried...), oldest)
}

// findContainer finds an engine whose daemon answers and gets the image.
func (sys system) findContainer(ctx context.Context, progress io.Writer) (Provider, error) {
	var errs []error
	for _, engine := range []string{"docker", "podman"} {
		if _, err := sys.lookPath(engine); err != nil {
			errs = append(errs, fmt.Errorf("no %s on PATH", engine))
			continue
		}
		quick, cancel := context.WithTimeout(ctx, engineTimeout)
		out, err := sys.run(quick, engine, "info")
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s does not answer (%s)", engine, lastLine(out, err)))
			continue
		}
		if _, err := sys.run(ctx, engine, "image", "inspect", image); err != nil {
			say(progress, "pulling %s with %s", image, engine)
			if out, err := sys.run(ctx, engine, "pull", image); err != nil {
				errs = append(errs, fmt.Errorf("%s pull %s: %s", engine, image, lastLine(out, err)))
				continue
			}
		}
		return Provider{Kind: Container, Engine: engine, Image: image}, nil
	}
	return Provider{}, joinLine(errs)
}

// findPath finds a server on PATH that is new enough.
func (sys system) findPath(ctx context.Context, _ io.Writer) (Provider, error) {
	server, err := sys.lookPath("rabbitmq-server")
	if err != nil {
		return Provider{}, errors.New("no rabbitmq-server on PATH")
	}
	bin := filepath.Dir(server)
	if sys.exists(debianBin + "/rabbitmq-server") {
		bin = debianBin
	}
	v := sys.version(bin)
	if v == "" { // an unusual place: ask, which takes a second and leaves an epmd behind
		quick, cancel := context.WithTimeout(ctx, versionTimeout)
		defer cancel()
		out, err := sys.run(quick, filepath.Join(bin, "rabbitmqctl"), "version")
		if err != nil {
			return Provider{}, fmt.Errorf("%s/rabbitmqctl version: %s", bin, lastLine(out, err))
		}
		v = lastLine(out, nil)
	}
	if err := newEnough(v); err != nil {
		return Provider{}, fmt.Errorf("%s: %w", server, err)
	}
	return Provider{Kind: Path, Version: v, Bin: bin}, nil
}

// installedVersion finds the version in the name of the core's plugin, which
// every kind of package has beside the scripts; empty when it is not there.
func installedVersion(bin string) string {
	script, err := filepath.EvalSymlinks(filepath.Join(bin, "rabbitmq-server"))
	if err != nil {
		return ""
	}
	const prefix = "rabbit-"
	found, _ := filepath.Glob(filepath.Join(filepath.Dir(script), "..", "plugins", prefix+"[0-9]*"))
	if len(found) == 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), prefix), ".ez")
}

// lastLine is what a program said last, with its error when it said nothing.
func lastLine(out string, err error) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if last == "" && err != nil {
		return err.Error()
	}
	return last
}

// joinLine joins errors on one line.
func joinLine(errs []error) error {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return errors.New(strings.Join(all, "; "))
}
