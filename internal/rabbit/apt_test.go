package rabbit

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

const deb822Sources = `# A comment
Types: deb deb-src
# in between
URIs: http://mirror.example/debian
Suites: bookworm
  bookworm-updates
Components: main contrib

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
`

func TestParseDeb822(t *testing.T) {
	want := []aptSource{
		{"http://mirror.example/debian", []string{"bookworm", "bookworm-updates"}, []string{"main", "contrib"}},
		{"http://mirror.example/debian-security", []string{"bookworm-security"}, []string{"main"}},
	}
	if got := parseDeb822(deb822Sources); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseOneLine(t *testing.T) {
	text := `
# deb http://comment.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # trailing
deb http://short.example/
`
	want := []aptSource{{"http://mirror.example/debian", []string{"bookworm"}, []string{"main", "contrib"}}}
	if got := parseOneLine(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestChooseMirror(t *testing.T) {
	third := aptSource{"http://third.example/apt", []string{"nodistro"}, []string{"main"}}
	security := aptSource{"http://mirror.example/debian-security", []string{"bookworm-security"}, []string{"main"}}
	release := aptSource{"http://mirror.example/debian", []string{"bookworm"}, []string{"main"}}
	stable := aptSource{"http://stable.example/debian", []string{"stable"}, []string{"main"}}
	cdrom := aptSource{"cdrom:[Debian]", []string{"bookworm"}, []string{"main"}}
	for _, c := range []struct {
		name    string
		sources []aptSource
		want    string
	}{
		{"release among others", []aptSource{third, security, cdrom, stable, release}, release.uri},
		{"by its role", []aptSource{third, security, stable}, stable.uri},
		{"none", []aptSource{third, security, cdrom}, ""},
	} {
		if got, _ := chooseMirror(c.sources, "bookworm"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestChooseRelease(t *testing.T) {
	debian := fstest.MapFS{
		"etc/os-release":                          {Data: []byte("ID=debian\nVERSION_CODENAME=bookworm\n")},
		"etc/apt/sources.list.d/debian.sources":   {Data: []byte(deb822Sources)},
		"etc/apt/sources.list.d/ignored.sources~": {Data: []byte("Types: deb\nURIs: http://x.example\n")},
	}
	ubuntu := fstest.MapFS{
		"etc/os-release":       {Data: []byte("ID=ubuntu\nVERSION_CODENAME=\"questing\"\n")},
		"etc/apt/sources.list": {Data: []byte("deb mirror+file:/etc/apt/mirrors.txt questing main universe\n")},
		"etc/apt/mirrors.txt":  {Data: []byte("# list\nhttp://near.example/ubuntu/\tpriority:1\nhttp://far.example/ubuntu/\n")},
	}
	for _, c := range []struct {
		name      string
		fsys      fstest.MapFS
		env       map[string]string
		candidate string
		want      release
		wantErr   string
	}{
		{name: "debian", fsys: debian, want: release{"debian", "trixie", "http://mirror.example/debian", "main"}},
		{
			name: "overridden", fsys: debian, env: map[string]string{suiteVar: "sid", mirrorVar: "http://m.example"},
			want: release{"debian", "sid", "http://m.example", "main"},
		},
		{
			name: "new ubuntu", fsys: ubuntu, candidate: "4.0.5-1ubuntu2",
			want: release{"ubuntu", "questing", "http://near.example/ubuntu/", "main,universe"},
		},
		{name: "old ubuntu", fsys: ubuntu, candidate: "3.12.1-1ubuntu1", wantErr: "too old"},
		{name: "no package", fsys: ubuntu, wantErr: "no package"},
		{name: "another system", fsys: fstest.MapFS{"etc/os-release": {Data: []byte("ID=alpine\n")}}, wantErr: `"alpine"`},
		{name: "no sources", fsys: fstest.MapFS{"etc/os-release": debian["etc/os-release"]}, wantErr: mirrorVar},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := chooseRelease(t.Context(), c.fsys, func(k string) string { return c.env[k] },
				func(context.Context) (string, error) {
					if c.candidate == "" {
						return "", errors.New("no package")
					}
					return c.candidate, nil
				})
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Fatalf("error %v, want one with %q", err, c.wantErr)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestParsePolicy(t *testing.T) {
	out := "rabbitmq-server:\n  Installed: (none)\n  Candidate: 4.0.5-8\n  Version table:\n"
	if v, ok := parsePolicy(out); v != "4.0.5-8" || !ok {
		t.Errorf("got %q, %v", v, ok)
	}
	if v, ok := parsePolicy("x:\n  Candidate: (none)\n"); ok {
		t.Errorf("no candidate: got %q", v)
	}
}

func TestNewEnough(t *testing.T) {
	for v, want := range map[string]bool{
		"4.0.5": true, "3.13.0": true, "3.13.7+dfsg": true, "10.0": true, "1:4.1.0-rc.1": true, "4.2-beta": true,
		"3.12.1-1ubuntu1": false, "3.9.9": false, "": false, "four": false, "4": false, "4.x": false,
	} {
		if err := newEnough(v); (err == nil) != want {
			t.Errorf("%q: %v, want new enough: %v", v, err, want)
		}
	}
}
