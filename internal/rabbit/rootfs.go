package rabbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	// cacheVar overrides the directory of what was downloaded. suiteVar and
	// mirrorVar override the release and where its packages come from.
	cacheVar  = "TIDEMARK_RABBITMQ_CACHE"
	suiteVar  = "TIDEMARK_RABBITMQ_SUITE"
	mirrorVar = "TIDEMARK_RABBITMQ_MIRROR"

	// debianSuite is the first Debian release whose RabbitMQ is new enough.
	debianSuite = "trixie"
)

// cacheDir is where root file systems are kept: outside of the repository, so
// that clones share them.
func cacheDir() (string, error) {
	if dir := os.Getenv(cacheVar); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w: set %s", err, cacheVar)
	}
	return filepath.Join(dir, "tidemark", "rabbitmq"), nil
}

// findRootFS returns the cached root file system, and makes it first when there
// is none.
func findRootFS(ctx context.Context, getenv func(string) string, progress io.Writer) (Provider, error) {
	if runtime.GOOS != "linux" {
		return Provider{}, fmt.Errorf("needs Debian or Ubuntu, this is %s", runtime.GOOS)
	}
	if uid := os.Getuid(); uid != 0 {
		return Provider{}, fmt.Errorf("needs root, this is user id %d", uid)
	}
	if err := canJail(ctx); err != nil {
		return Provider{}, fmt.Errorf("this root may not mount (in a container, give it CAP_SYS_ADMIN): %w", err)
	}
	cache, err := cacheDir()
	if err != nil {
		return Provider{}, err
	}
	unlock, err := lockDir(ctx, cache, progress)
	if err != nil {
		return Provider{}, err
	}
	defer unlock()
	rel, err := chooseRelease(ctx, os.DirFS("/"), getenv, aptCandidate)
	if err != nil {
		return Provider{}, err
	}
	root := filepath.Join(cache, rel.id+"-"+rel.suite)
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		if err := buildRootFS(ctx, root, rel, progress); err != nil {
			return Provider{}, err
		}
	}
	v, err := rootFSVersion(root)
	if err != nil {
		return Provider{}, fmt.Errorf("%w: remove %s to have it made again", err, root)
	}
	return Provider{Kind: RootFS, Version: v, Root: root}, nil
}

// buildRootFS makes the root file system beside its final place and moves it
// there when it is complete, so that what is in the cache is always whole. The
// caller has the cache's lock.
func buildRootFS(ctx context.Context, root string, rel release, progress io.Writer) error {
	if err := ensureDebootstrap(ctx, progress); err != nil {
		return err
	}
	partial := root + ".partial"
	if err := os.RemoveAll(partial); err != nil { // of somebody who was interrupted
		return err
	}
	if err := debootstrap(ctx, partial, rel, progress); err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	if err := finishRootFS(partial); err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	return os.Rename(partial, root)
}

// finishRootFS checks the version, adds what a jail mounts over, and drops the
// packages, which nobody needs again.
func finishRootFS(root string) error {
	v, err := rootFSVersion(root)
	if err != nil {
		return err
	}
	if err := newEnough(v); err != nil {
		return fmt.Errorf("%w: set %s to a newer release", err, suiteVar)
	}
	if err := os.MkdirAll(filepath.Join(root, jailMount), 0o755); err != nil {
		return err
	}
	hosts, err := os.OpenFile(filepath.Join(root, "etc", "hosts"), os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	packages, _ := filepath.Glob(filepath.Join(root, "var/cache/apt/archives/*.deb"))
	for _, name := range packages {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return hosts.Close()
}

// rootFSVersion is the version of the RabbitMQ in a root file system.
func rootFSVersion(root string) (string, error) {
	const prefix = "rabbitmq_server-"
	found, _ := filepath.Glob(filepath.Join(root, "usr/lib/rabbitmq/lib", prefix+"*"))
	if len(found) == 0 {
		return "", fmt.Errorf("no RabbitMQ in %s", root)
	}
	return strings.TrimPrefix(filepath.Base(found[0]), prefix), nil
}

// ensureDebootstrap installs debootstrap when this machine does not have it.
func ensureDebootstrap(ctx context.Context, progress io.Writer) error {
	if _, err := exec.LookPath("debootstrap"); err == nil {
		return nil
	}
	say(progress, "installing debootstrap with apt-get")
	err := aptGet(ctx, "install", "-y", "--no-install-recommends", "debootstrap")
	if err == nil {
		return nil
	}
	if err := aptGet(ctx, "update"); err != nil {
		return err
	}
	return aptGet(ctx, "install", "-y", "--no-install-recommends", "debootstrap")
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return &commandError{Command: "apt-get " + strings.Join(args, " "), Output: strings.TrimSpace(string(out)), Err: err}
	}
	return nil
}
