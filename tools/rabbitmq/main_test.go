package main

import (
	"bytes"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]invocation{
		"up":                                 {},
		"up --nodes 3 --dir d":               {nodes: 3, dir: "d"},
		"--dir=d up -nodes=1":                {nodes: 1, dir: "d"},
		"--dir d ctl n2 list_queues --dir x": {dir: "d", node: "n2", args: []string{"list_queues", "--dir", "x"}},
		"kill n1 --dir d":                    {dir: "d", node: "n1"},
		"status --json":                      {json: true},
		"up --release sid":                   {release: "sid"},
	} {
		got, err := parse(strings.Fields(line))
		got.verb = verb{}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", line, got, err, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Setenv("RABBITMQ_STREAM_URL", "")
	dir := filepath.Join(t.TempDir(), "none")
	for line, want := range map[string]int{
		"":                     exitUsage,
		"destroy":              exitUsage,
		"up now":               exitUsage,
		"up --nodes 2":         exitUsage,
		"up --nodes":           exitUsage,
		"up --fast":            exitUsage,
		"up --release=buster":  exitUsage,
		"up --release":         exitUsage,
		"down --release sid":   exitUsage,
		"down --nodes 1":       exitUsage,
		"down --json":          exitUsage,
		"down --dir=":          exitUsage,
		"kill":                 exitUsage,
		"kill n4":              exitUsage,
		"kill n1 n2":           exitUsage,
		"ctl n1":               exitUsage,
		"help":                 exitOK,
		"up -h":                exitOK,
		"down --dir " + dir:    exitOK,
		"env --dir " + dir:     exitFailed,
		"kill n1 --dir " + dir: exitFailed,
		"status --dir " + dir:  exitDown,
	} {
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), strings.Fields(line), &stdout, &stderr); got != want {
			t.Errorf("%q: exit code %d, want %d\n%s%s", line, got, want, &stdout, &stderr)
		}
		if want != exitOK && stderr.Len() == 0 {
			t.Errorf("%q: failed without a word", line)
		}
	}
}
