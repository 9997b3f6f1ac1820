package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// invocation is a parsed command line.
type invocation struct {
	verb    verb
	dir     string // empty: the default
	nodes   int    // of up; 0: as many as there are
	release string // of up; empty: any
	json    bool   // of status
	node    string // of the verbs that take one
	args    []string
}

// parse reads a command line. --dir may stand before or after the verb. What
// follows the node of a verb that passes arguments on (ctl, streams) is never a
// flag of ours.
func parse(args []string) (invocation, error) {
	var inv invocation
	var name string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "-h" || arg == "-help" || arg == "--help":
			inv.verb = verbs["help"]
			return inv, nil
		case strings.HasPrefix(arg, "-"):
			rest, err := inv.flag(arg, args)
			if err != nil {
				return inv, err
			}
			args = rest
		case name == "":
			v, ok := verbs[arg]
			if !ok {
				return inv, fmt.Errorf("unknown verb %q", arg)
			}
			name, inv.verb = arg, v
		case inv.verb.node && inv.node == "":
			inv.node = arg
			if inv.verb.passes {
				inv.args, args = args, nil
			}
		default:
			return inv, fmt.Errorf("%s: unexpected argument %q", name, arg)
		}
	}
	return inv, inv.check(name)
}

// flag reads one flag, whose value may be the next of args, and returns the
// rest of them.
func (inv *invocation) flag(arg string, args []string) ([]string, error) {
	name, value, inline := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if name == "json" && !inline {
		inv.json = true
		return args, nil
	}
	set, ok := map[string]func(string) error{"dir": inv.setDir, "nodes": inv.setNodes, "release": inv.setRelease}[name]
	if !ok {
		return nil, fmt.Errorf("unknown flag %s", arg)
	}
	if !inline {
		if len(args) == 0 {
			return nil, fmt.Errorf("flag %s needs a value", arg)
		}
		value, args = args[0], args[1:]
	}
	return args, set(value)
}

func (inv *invocation) setDir(value string) error {
	if inv.dir = value; value == "" {
		return errors.New("flag --dir is empty")
	}
	return nil
}

func (inv *invocation) setNodes(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || !slices.Contains([]int{1, 3}, n) {
		return fmt.Errorf("--nodes %s: want 1 or 3", value)
	}
	inv.nodes = n
	return nil
}

func (inv *invocation) setRelease(value string) error {
	if inv.release = value; !slices.Contains([]string{"trixie", "sid"}, value) {
		return fmt.Errorf("--release %s: want trixie or sid", value)
	}
	return nil
}

// check finds what is missing and what does not belong together.
func (inv *invocation) check(name string) error {
	switch {
	case name == "":
		return errors.New("no verb")
	case inv.verb.node && inv.node == "":
		return fmt.Errorf("%s: which node? n1, n2 or n3", name)
	case inv.verb.node && !slices.Contains([]string{"n1", "n2", "n3"}, inv.node):
		return fmt.Errorf("%s: unknown node %q: n1, n2 or n3", name, inv.node)
	case inv.verb.passes && len(inv.args) == 0:
		return fmt.Errorf("%s %s: no command to pass on, try: %s %s help", name, inv.node, name, inv.node)
	case inv.nodes != 0 && name != "up":
		return fmt.Errorf("%s: --nodes is a flag of up", name)
	case inv.release != "" && name != "up":
		return fmt.Errorf("%s: --release is a flag of up", name)
	case inv.json && name != "status":
		return fmt.Errorf("%s: --json is a flag of status", name)
	}
	return nil
}
