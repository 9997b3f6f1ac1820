package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// verb is one thing the command can do.
type verb struct {
	node   bool // takes a node
	passes bool // passes the rest of the line on
	do     func(context.Context, command) (exitCode int, err error)
}

// command is a parsed command line and where its output goes.
type command struct {
	invocation
	stdout, stderr io.Writer
}

var verbs map[string]verb

func init() { // not a literal: help refers to parse, which refers to verbs
	verbs = map[string]verb{
		"up":      {do: up},
		"down":    {do: down},
		"status":  {do: status},
		"env":     {do: env},
		"ctl":     {node: true, passes: true, do: tool((*rabbit.Instance).Ctl)},
		"streams": {node: true, passes: true, do: tool((*rabbit.Instance).Streams)},
		"kill":    {node: true, do: change("killed", (*rabbit.Instance).Kill)},
		"stop":    {node: true, do: change("stopped", (*rabbit.Instance).Stop)},
		"start":   {node: true, do: change("started", (*rabbit.Instance).Start)},
		"help":    {do: help},
	}
}

func up(ctx context.Context, c command) (int, error) {
	dir, err := c.instanceDir()
	if err != nil {
		return exitFailed, err
	}
	i, err := rabbit.UpRelease(ctx, dir, c.release, c.nodes, c.stderr)
	if err != nil {
		return exitFailed, err
	}
	if i.Provider().Kind == rabbit.External {
		fmt.Fprintln(c.stdout, "using the broker of RABBITMQ_STREAM_URL, which answers")
		return exitOK, nil
	}
	fmt.Fprintf(c.stdout, "up: %s\nin a shell: eval \"$(go run ./tools/rabbitmq env%s)\"\n", i.StreamURL(), c.dirFlag())
	return exitOK, nil
}

func down(ctx context.Context, c command) (int, error) {
	i, err := c.open()
	switch {
	case errors.Is(err, rabbit.ErrNoInstance):
		fmt.Fprintf(c.stdout, "already down\n%s\n", unsetLine)
		return exitOK, nil
	case err != nil:
		return exitFailed, err
	case i.Provider().Kind == rabbit.External:
		fmt.Fprintln(c.stdout, "nothing to take down: RABBITMQ_STREAM_URL names a broker this tool did not start")
		return exitOK, nil
	}
	if err := i.Down(ctx); err != nil {
		return exitFailed, err
	}
	fmt.Fprintf(c.stdout, "down, data removed\n%s\n", unsetLine)
	return exitOK, nil
}

// unsetLine undoes eval "$(go run ./tools/rabbitmq env)". With these variables
// set, programs look for a broker that is gone.
const unsetLine = "in a shell that has its variables: " +
	"unset RABBITMQ_STREAM_URL RABBITMQ_AMQP_URL RABBITMQ_MANAGEMENT_URL RABBITMQ_STREAM_TLS_URL RABBITMQ_CA_FILE"

func env(_ context.Context, c command) (int, error) {
	i, err := c.open()
	if err != nil {
		return exitFailed, err
	}
	for _, v := range []struct{ name, value string }{
		{"RABBITMQ_STREAM_URL", i.StreamURL()},
		{"RABBITMQ_AMQP_URL", i.AMQPURL()},
		{"RABBITMQ_MANAGEMENT_URL", i.ManagementURL()},
		{"RABBITMQ_STREAM_TLS_URL", i.StreamTLSURL()},
		{"RABBITMQ_CA_FILE", i.CAFile()},
	} {
		if v.value != "" {
			fmt.Fprintf(c.stdout, "export %s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`))
		}
	}
	return exitOK, nil
}

func status(ctx context.Context, c command) (int, error) {
	i, err := c.open()
	if errors.Is(err, rabbit.ErrNoInstance) {
		if c.json {
			fmt.Fprintln(c.stdout, "[]")
		}
		return exitDown, err
	}
	if err != nil {
		return exitFailed, err
	}
	if i.Provider().Kind == rabbit.External {
		return externalStatus(ctx, c, i)
	}
	nodes, err := i.Status(ctx)
	if err != nil {
		return exitFailed, err
	}
	code := exitOK
	for _, n := range nodes {
		if !n.Up {
			code = exitDown
		}
	}
	if c.json {
		e := json.NewEncoder(c.stdout)
		e.SetIndent("", "  ")
		return code, e.Encode(nodes)
	}
	return code, printTable(c.stdout, nodes)
}

// externalStatus reports on a broker of which only the address is known.
func externalStatus(ctx context.Context, c command, i *rabbit.Instance) (int, error) {
	if err := i.Probe(ctx); err != nil {
		return exitDown, err
	}
	if c.json {
		fmt.Fprintln(c.stdout, "[]")
		return exitOK, nil
	}
	fmt.Fprintln(c.stdout, "the broker of RABBITMQ_STREAM_URL answers; this tool did not start it")
	return exitOK, nil
}

func printTable(w io.Writer, nodes []rabbit.NodeStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tSTATE\tPID\tSTREAM\tSTREAM TLS\tAMQP\tMANAGEMENT")
	for _, n := range nodes {
		state, pid := "down", "-"
		if n.PID != 0 {
			state, pid = "starting", fmt.Sprint(n.PID)
		}
		if n.Up {
			state = "up"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\n", n.Name, state, pid,
			n.StreamPort, n.StreamTLSPort, n.AMQPPort, n.ManagementPort)
	}
	return t.Flush()
}

// change is a verb that does something to one node.
func change(done string, do func(*rabbit.Instance, context.Context, string) error) func(context.Context, command) (int, error) {
	return func(ctx context.Context, c command) (int, error) {
		i, err := c.open()
		if err != nil {
			return exitFailed, err
		}
		began := time.Now()
		if err := do(i, ctx, c.node); err != nil {
			return exitFailed, err
		}
		fmt.Fprintf(c.stdout, "%s %s in %.1f s\n", done, c.node, time.Since(began).Seconds())
		return exitOK, nil
	}
}

// tool is a verb that passes its arguments on to a program of RabbitMQ.
func tool(run func(*rabbit.Instance, context.Context, string, ...string) (string, error)) func(context.Context, command) (int, error) {
	return func(ctx context.Context, c command) (int, error) {
		i, err := c.open()
		if err != nil {
			return exitFailed, err
		}
		out, err := run(i, ctx, c.node, c.args...)
		if err != nil {
			return exitFailed, err // it has the output in it
		}
		fmt.Fprint(c.stdout, out)
		return exitOK, nil
	}
}
