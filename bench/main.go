// Command bench compares this library with the official client and with a bare
// socket, on the same broker, in one run:
//
//	go run ./bench                          the cases with few consumers, messages of 100 bytes
//	go run ./bench -case consume -size all  one case, 10 B to 10 KiB
//	go run ./bench -case fan-out,fan-in     families of cases: 1 to 1,000 consumers
//	go run ./bench -case producers-stream   10 and 1,000 producers
//	go run ./bench -case all -json          everything, one JSON object per line
//	go run ./bench -case publish-async -impl tidemark,official,java   beside RabbitMQ's Java client too
//	go run ./bench -h                       what the cases are, and their figures
//
// The implementations are:
//
//	tidemark  this library
//	official  rabbitmq-stream-go-client as its README says, but with the operating
//	          system's socket buffers: its own of 8 KiB stall on loopback
//	socket    the ceiling: a bare connection on internal/wire that checks CRCs and
//	          walks the entries, and has no reconnects, no cancellation, no API. Where
//	          chunks are read, the bench measures it with several credit schedules
//	          (-credit) and shows the best; where messages are published, with several
//	          windows (-window). The best of several that differ by chance is better
//	          than each of them: for a close comparison give the best one alone
//
//	java      RabbitMQ's Java client with its defaults, in the cases that -h lists. It is
//	          measured only if -impl names it, for it needs a JDK of version 11 or
//	          later, and Maven. What it publishes or reads first, so that its virtual
//	          machine is warm, is not counted
//
// With -before there is another one: this library as another program measures it, a
// bench that is built from another commit.
//
// Each measurement is a process of its own, so that CPU time and allocations
// are its own. The implementations take turns (A B C A B C), so that a busy
// moment of the machine meets all of them. The bench shows medians over -runs,
// with the spread. Time and CPU count from the first message handled to the
// last one. Bodies are made before, and the socket's messages are encoded before.
// What counts as published is looked for in the stream. A measurement that does
// not end within -timeout fails; the others go on, and the bench fails at the end.
// Percentiles of latency are those of each run, the ratios those of runs that
// followed each other, and of both the bench shows the median. Where connections
// are reset, the percentiles are those of all runs. The live heap is what a garbage
// collection left, the most of all runs. Connections, resident memory and the
// load average are known on Linux only; elsewhere the table says "unknown" and
// JSON leaves them out.
//
// 1,000 consumers need some 2,500 file descriptors of the broker, and of this
// program.
//
// Exit codes: 0 measured, 1 something failed or interrupted, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes of the built program. "go run" makes 1 of 2.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if spec, ok := os.LookupEnv(childVariable); ok {
		os.Exit(childMain(spec, os.Stdout, os.Stderr))
	}
	// A closed pipe must not end the bench before its broker.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, errHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return exitUsage
	}
	if err := measure(ctx, o, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// measure brings a broker up, measures everything and reports.
func measure(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	java, err := compileJava(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, java.remove()) }()
	b, err := openBroker(ctx, o, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if !o.json {
		fmt.Fprintf(stdout, "broker   %s\nmachine  %s\n", b.about, machine())
	}
	p := newPlan(o, b)
	p.java = java
	defer func() { err = errors.Join(err, p.cleanUp()) }()
	results, err := p.run(ctx, stderr)
	if err != nil {
		return err
	}
	write := writeTable
	if o.json {
		write = writeJSON
	}
	return errors.Join(write(stdout, results), failures(results))
}
