// Command demo shows, on a real RabbitMQ, that a consumer killed half-way goes
// on at exactly the next message. It builds examples/pub and examples/sub, runs
// them as processes, tells what they printed, and checks it:
//
//	go run ./examples/demo
//
// The broker is the one that RABBITMQ_STREAM_URL names, or one that the demo
// brings up and takes down again. Exit codes: 0 if all was as promised, else 1.
package main

import (
	"context"
	"errors"
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

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
	const examples = "github.com/tidemark-go/tidemark/examples/"
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, examples+"pub", examples+"sub").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	env, err := stream.Connect(ctx, stream.Config{URIs: strings.Split(b.StreamURL(), ",")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	s := newStory(b, env, bin, stdout, stderr)
	if b.Provider().Kind == rabbit.External {
		s.say("broker", "the RabbitMQ of RABBITMQ_STREAM_URL answers.")
	} else {
		s.say("broker", "a real RabbitMQ %s is running on this machine.", b.Provider().Version)
	}
	return s.tell(ctx)
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
