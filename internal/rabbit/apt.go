package rabbit

import (
	"bufio"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// aptSource is one place apt gets packages from.
type aptSource struct {
	uri        string
	suites     []string
	components []string
}

// readAptSources returns the binary package sources of the machine whose root
// is fsys, in both of apt's formats, in the order of its files. What cannot be
// read or understood is left out: apt itself would complain about it.
func readAptSources(fsys fs.FS) []aptSource {
	var all []aptSource
	read := func(name string) {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return
		}
		if path.Ext(name) == ".sources" {
			all = append(all, parseDeb822(string(data))...)
		} else {
			all = append(all, parseOneLine(string(data))...)
		}
	}
	read("etc/apt/sources.list")
	for _, pattern := range []string{"etc/apt/sources.list.d/*.list", "etc/apt/sources.list.d/*.sources"} {
		names, _ := fs.Glob(fsys, pattern) // the only error is a bad pattern
		for _, name := range names {
			read(name)
		}
	}
	for i := range all {
		all[i].uri = resolveMirror(fsys, all[i].uri)
	}
	return all
}

// parseOneLine reads lines like
//
//	deb [arch=amd64 signed-by=FILE] URI SUITE COMPONENT...
func parseOneLine(text string) []aptSource {
	var all []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if before, after, ok := strings.Cut(line, "["); ok {
			_, after, _ = strings.Cut(after, "]")
			line = before + after
		}
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "deb" {
			continue
		}
		all = append(all, aptSource{uri: f[1], suites: f[2:3], components: f[3:]})
	}
	return all
}

// parseDeb822 reads stanzas of "Field: value" lines that empty lines separate.
func parseDeb822(text string) []aptSource {
	var all []aptSource
	stanza := map[string]string{}
	flush := func() {
		if slices.Contains(strings.Fields(stanza["types"]), "deb") && strings.ToLower(stanza["enabled"]) != "no" {
			for _, uri := range strings.Fields(stanza["uris"]) {
				all = append(all, aptSource{
					uri:        uri,
					suites:     strings.Fields(stanza["suites"]),
					components: strings.Fields(stanza["components"]),
				})
			}
		}
		clear(stanza)
	}
	var field string
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t': // continues the field above
			stanza[field] += " " + strings.TrimSpace(line)
		default:
			name, value, _ := strings.Cut(line, ":")
			field = strings.ToLower(strings.TrimSpace(name))
			stanza[field] = strings.TrimSpace(value)
		}
	}
	flush()
	return all
}

// resolveMirror turns apt's mirror+file:LIST into the first mirror of the list,
// and leaves every other URI as it is.
func resolveMirror(fsys fs.FS, uri string) string {
	list, ok := strings.CutPrefix(uri, "mirror+file:")
	if !ok {
		return uri
	}
	data, err := fs.ReadFile(fsys, strings.TrimLeft(list, "/"))
	if err != nil {
		return uri
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(f[0], "#") {
			return f[0]
		}
	}
	return uri
}

// chooseMirror returns the URI of the machine's own distribution, whose release
// has this code name. Sources of third parties and of security updates hold
// other packages; they lose against one that has the release itself.
func chooseMirror(sources []aptSource, codename string) (string, bool) {
	for _, exact := range []bool{true, false} {
		for _, s := range sources {
			usable := slices.Contains(s.components, "main") && strings.Contains(s.uri, "://") &&
				!strings.HasPrefix(s.uri, "mirror+") && !strings.HasPrefix(s.uri, "cdrom:")
			if !usable {
				continue
			}
			if exact && !slices.Contains(s.suites, codename) {
				continue
			}
			if !exact && !namesRelease(s) {
				continue
			}
			return s.uri, true
		}
	}
	return "", false
}

// namesRelease reports whether the source follows a release by its role, not by
// its code name.
func namesRelease(s aptSource) bool {
	return slices.ContainsFunc([]string{"stable", "testing", "unstable", "sid", "oldstable"}, func(role string) bool {
		return slices.Contains(s.suites, role)
	})
}
