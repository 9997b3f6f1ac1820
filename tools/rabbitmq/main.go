// Command rabbitmq gets and runs a real RabbitMQ on this machine, one node or a
// cluster of three, for the tests and examples of this repository:
//
//	go run ./tools/rabbitmq up
//	eval "$(go run ./tools/rabbitmq env)"
//	go run ./tools/rabbitmq kill n1
//	go run ./tools/rabbitmq down
//
// See "go run ./tools/rabbitmq help".
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes of the built program. "go run" makes 1 of 2 and 3.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitDown   = 3 // of status: something is down
)

func main() {
	// A closed pipe must not end up or down half-way.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process: it parses, does and reports.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	inv, err := parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "rabbitmq: %v\nUsage: rabbitmq [--dir DIR] VERB [ARGS]; rabbitmq help lists verbs and flags\n", err)
		return exitUsage
	}
	code, err := inv.verb.do(ctx, command{invocation: inv, stdout: stdout, stderr: stderr})
	if err != nil {
		fmt.Fprintf(stderr, "rabbitmq: %v\n", err)
	}
	return code
}
