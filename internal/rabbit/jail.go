package rabbit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// jailMount is where a jailed process finds the instance directory. The root
// file system has an empty directory there.
const jailMount = "/instance"

// jailScript runs as root in a mount namespace of its own. What it mounts
// exists for the process it becomes and its children only: nothing is mounted
// on the machine, nothing is left behind after a crash, and no rm -rf can reach
// the machine's /dev through a forgotten mount. The root file system is shared
// by all instances and therefore read-only.
//
// $1 is the root file system, $2 the instance directory, the rest the command.
const jailScript = `set -e
root=$1 instance=$2
shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$instance" "$root` + jailMount + `"
mount --bind "$instance/hosts" "$root/etc/hosts"
cd /
exec chroot --userspec=rabbitmq:rabbitmq "$root" "$@"
`

// jail is a Debian root file system in which the broker's programs run as its
// user rabbitmq.
type jail struct {
	root string // of the file system
	dir  string // of the instance
}

// command returns program, ready to run in the jail with exactly this
// environment. The process that is started becomes the program: no shell stays
// in between, and its process id is the program's.
func (j jail) command(ctx context.Context, env []string, program string, args ...string) *exec.Cmd {
	argv := append([]string{"--mount", "--propagation", "private", "--",
		"sh", "-c", jailScript, "jail", j.root, j.dir, program}, args...)
	cmd := exec.CommandContext(ctx, "unshare", argv...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	return cmd
}

// prepare writes the files of the instance that the jail mounts, and gives the
// instance to the broker's user.
func (j jail) prepare() error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	hosts := "127.0.0.1 localhost " + name + "\n"
	if err := os.WriteFile(filepath.Join(j.dir, "hosts"), []byte(hosts), 0o644); err != nil {
		return err
	}
	uid, gid, err := lookupUser(filepath.Join(j.root, "etc", "passwd"), "rabbitmq")
	if err != nil {
		return err
	}
	// Not what is below: a node that runs has files there that come and go.
	paths := []string{j.dir}
	for _, pattern := range []string{"home", "home/.erlang.cookie", "n[1-3]", "n[1-3]/*"} {
		found, _ := filepath.Glob(filepath.Join(j.dir, pattern)) // fails for a bad pattern only
		paths = append(paths, found...)
	}
	for _, path := range paths {
		if err := os.Lchown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// lookupUser finds a user in a passwd file that is not this machine's.
func lookupUser(passwd, name string) (uid, gid int, err error) {
	data, err := os.ReadFile(passwd)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(line, ":")
		if len(f) < 4 || f[0] != name {
			continue
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		return uid, gid, errors.Join(err1, err2)
	}
	return 0, 0, fmt.Errorf("no user %q in %s", name, passwd)
}

// canJail says why this machine cannot run a jail; nil when it can.
func canJail(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--",
		"sh", "-c", "mount -t tmpfs tmpfs /tmp").CombinedOutput()
	if err != nil {
		return &commandError{Command: "unshare --mount", Output: strings.TrimSpace(string(out)), Err: err}
	}
	return nil
}
