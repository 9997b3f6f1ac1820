package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// broker is what is measured on.
type broker struct {
	uri   string
	name  string // product and version
	about string // the same with where it is and where it comes from
	close func() error
}

// rabbitDir is where the bench's own RabbitMQ lives, below the working
// directory.
var rabbitDir = filepath.Join(".rabbitmq", "bench")

// openBroker finds or starts the broker that the options ask for.
func openBroker(ctx context.Context, o options, progress io.Writer) (*broker, error) {
	b := &broker{uri: o.uri, close: func() error { return nil }}
	var from string
	var err error
	switch {
	case o.uri != "":
		from = "given with -uri"
	case o.broker == brokerStreamtest:
		from = "streamtest, in a process of its own"
		err = b.startStreamtest(ctx, progress)
	default:
		from, err = b.startRabbit(ctx, progress)
	}
	if err != nil {
		return nil, err
	}
	c, err := dialRaw(b.uri)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	defer c.close()
	a, err := parseURI(b.uri)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.name = c.product
	if o.uri == "" && o.broker == brokerStreamtest {
		b.name = "streamtest"
	}
	b.about = fmt.Sprintf("%s on %s (%s)", b.name, a.host, from)
	return b, nil
}

// startRabbit brings a RabbitMQ up. One that was up before stays up.
func (b *broker) startRabbit(ctx context.Context, progress io.Writer) (from string, err error) {
	running := false
	if i, err := rabbit.Open(rabbitDir); err == nil {
		running = i.Probe(ctx) == nil
	}
	i, err := rabbit.Up(ctx, rabbitDir, 1, progress)
	if err != nil {
		return "", err
	}
	b.uri, _, _ = strings.Cut(i.StreamURL(), ",")
	if !running {
		b.close = func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			return i.Down(ctx)
		}
	}
	return i.Provider().String(), nil
}

// startStreamtest starts the in-process broker as a child.
func (b *broker) startStreamtest(ctx context.Context, stderr io.Writer) error {
	cmd, err := child(ctx, job{Broker: true}, stderr)
	if err != nil {
		return err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.close = func() error { return errors.Join(stdin.Close(), cmd.Wait()) }
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return errors.Join(fmt.Errorf("starting streamtest: %w", err), b.close())
	}
	b.uri = strings.TrimSpace(line)
	return nil
}

// child is a process of this program that does a job.
func child(ctx context.Context, j job, stderr io.Writer) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return childOf(ctx, self, j, stderr)
}

// childOf is a process of a bench, this one or another, that does a job.
func childOf(ctx context.Context, program string, j job, stderr io.Writer) (*exec.Cmd, error) {
	spec, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), childVariable+"="+string(spec))
	cmd.Stderr = stderr
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}
