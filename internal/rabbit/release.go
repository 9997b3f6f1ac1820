package rabbit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
)

// release is what a root file system is made of.
type release struct {
	id         string // debian or ubuntu
	suite      string
	mirror     string
	components string
}

// chooseRelease decides for the machine whose root is fsys. On Debian it is the
// release that has a RabbitMQ that is new enough, from the machine's own mirror.
// Ubuntu's mirrors have no Debian releases: there it is the machine's release,
// if its RabbitMQ (whose version candidate returns) will do.
func chooseRelease(ctx context.Context, fsys fs.FS, getenv func(string) string,
	candidate func(context.Context) (string, error),
) (release, error) {
	osRelease, err := readOSRelease(fsys)
	if err != nil {
		return release{}, err
	}
	rel := release{id: osRelease["ID"], suite: getenv(suiteVar), mirror: getenv(mirrorVar), components: "main"}
	codename := osRelease["VERSION_CODENAME"]
	switch rel.id {
	case "debian":
		if rel.suite == "" {
			rel.suite = debianSuite
		}
	case "ubuntu":
		rel.components = "main,universe"
		if rel.suite == "" {
			if err := ubuntuWillDo(ctx, codename, candidate); err != nil {
				return release{}, err
			}
			rel.suite = codename
		}
	default:
		return release{}, fmt.Errorf("needs Debian or Ubuntu, this is %q", rel.id)
	}
	if rel.mirror == "" {
		mirror, ok := chooseMirror(readAptSources(fsys), codename)
		if !ok {
			return release{}, fmt.Errorf("apt's sources name no mirror of %s: set %s", rel.id, mirrorVar)
		}
		rel.mirror = mirror
	}
	return rel, nil
}

func ubuntuWillDo(ctx context.Context, codename string, candidate func(context.Context) (string, error)) error {
	v, err := candidate(ctx)
	if err != nil {
		return err
	}
	if err := newEnough(v); err != nil {
		return fmt.Errorf("of Ubuntu %s: %w (its mirrors have no newer one; use a container engine, or set %s and %s to another release and its mirror)",
			codename, err, suiteVar, mirrorVar)
	}
	return nil
}

// aptCandidate is the version of rabbitmq-server that apt would install.
func aptCandidate(ctx context.Context) (string, error) {
	for _, update := range []bool{false, true} {
		if update {
			if err := aptGet(ctx, "update"); err != nil {
				return "", err
			}
		}
		out, err := exec.CommandContext(ctx, "apt-cache", "policy", "rabbitmq-server").Output()
		if err != nil {
			return "", &commandError{Command: "apt-cache policy rabbitmq-server", Err: err}
		}
		if v, ok := parsePolicy(string(out)); ok {
			return v, nil
		}
	}
	return "", errors.New("apt knows no package rabbitmq-server")
}

// parsePolicy reads the candidate from what apt-cache policy prints.
func parsePolicy(out string) (string, bool) {
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate:"); ok {
			v = strings.TrimSpace(v)
			return v, v != "" && v != "(none)"
		}
	}
	return "", false
}

func readOSRelease(fsys fs.FS) (map[string]string, error) {
	data, err := fs.ReadFile(fsys, "etc/os-release")
	if err != nil {
		// Often a symbolic link to an absolute path, which fs.FS may refuse.
		data, err = fs.ReadFile(fsys, "usr/lib/os-release")
	}
	if err != nil {
		return nil, fmt.Errorf("needs Debian or Ubuntu: %w", err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[name] = strings.Trim(value, `"'`)
	}
	return fields, nil
}
