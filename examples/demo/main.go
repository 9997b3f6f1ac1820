// Command demo shows, on a real RabbitMQ, that a consumer killed in the middle of
// a message goes on at exactly that message. It builds examples/pub and
// examples/sub, runs them as processes, tells what they printed, and checks it:
//
//	go run ./examples/demo
//
// The broker is the one that RABBITMQ_STREAM_URL names, or one that the demo
// brings up and takes down again, even if the reader of a pipe, such as head,
// closes it. Exit codes: 0 if all was as promised or the reader had enough, 2 for
// wrong usage, else 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
	"github.com/tidemark-go/tidemark/stream"
)

// cleanUpTimeout is how long the demo waits for the broker to end.
const cleanUpTimeout = time.Minute

const help = `demo publishes and consumes on a real RabbitMQ: it kills a consumer in the
middle of a message, and the next one goes on at exactly that message. The broker
is the one that RABBITMQ_STREAM_URL names, or one that the demo brings up and
takes down again; the first time on a machine it is downloaded.

Usage: demo
`

func main() {
	err := parse(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "demo: %v\nUsage: demo\n", err)
		os.Exit(2)
	}
	// A closed pipe is an error of the write: the broker must not outlive us.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = listened(ctx, os.Stdout, func(ctx context.Context, stdout io.Writer) error {
		return run(ctx, stdout, os.Stderr)
	})
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// parse reads a command line that may ask for the help and nothing else. Help
// goes to stdout.
func parse(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, help)
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("it takes no argument, not %q", fs.Arg(0))
	}
	return err
}

// listened calls tell with a context that ends when nobody reads w any more, and
// returns nil for that end.
func listened(ctx context.Context, w io.Writer, tell func(context.Context, io.Writer) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := tell(ctx, writer(func(p []byte) (int, error) {
		n, err := w.Write(p)
		if err != nil {
			cancel(err)
		}
		return n, err
	}))
	if errors.Is(context.Cause(ctx), syscall.EPIPE) {
		return nil
	}
	return err
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// run brings the broker up, tells the story on it and takes it down.
func run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	b, err := rabbit.Up(ctx, filepath.Join(root, ".rabbitmq", "demo"), 1, stderr)
	if b != nil {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
			defer cancel()
			err = errors.Join(err, b.Down(ctx)) // leaves a broker of RABBITMQ_STREAM_URL alone
		}()
	}
	if err != nil {
		return err
	}
	return onBroker(ctx, b, stdout, stderr)
}

// onBroker builds the programs and tells the story.
func onBroker(ctx context.Context, b *rabbit.Instance, stdout, stderr io.Writer) (err error) {
	bin, err := os.MkdirTemp("", "tidemark-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	if err := build(ctx, bin); err != nil {
		return err
	}
	env, err := stream.Connect(ctx, stream.Config{URIs: strings.Split(b.StreamURL(), ",")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	s := newStory(b.StreamURL(), env, bin, stdout, stderr)
	if b.Provider().Kind == rabbit.External {
		s.say("broker", "the RabbitMQ of RABBITMQ_STREAM_URL answers.")
	} else {
		s.say("broker", "a real RabbitMQ %s is running on this machine.", b.Provider().Version)
	}
	return s.tell(ctx)
}

// build builds pub and sub.
func build(ctx context.Context, dir string) error {
	const examples = "github.com/tidemark-go/tidemark/examples/"
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", dir, examples+"pub", examples+"sub").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// moduleRoot returns the repository's directory, wherever in it the demo is
// run.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if filepath.Base(file) != "go.mod" {
		return "", errors.New("not inside the repository: run it there")
	}
	return filepath.Dir(file), nil
}
