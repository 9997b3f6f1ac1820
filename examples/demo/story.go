package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tidemark-go/tidemark/stream"
)

const (
	first = 100 // the first number
	total = 2000
	half  = total / 2
	name  = "demo" // of the consumer

	// patience is how long the story may take on a machine that is busy.
	patience = 5 * time.Minute
)

// story publishes and consumes on a stream of its own, and tells what happens.
type story struct {
	env            *stream.Env
	bin            string // where pub and sub are
	uri            string
	stream         string
	stdout, stderr io.Writer
}

func newStory(uri string, env *stream.Env, bin string, stdout, stderr io.Writer) *story {
	return &story{env: env, bin: bin, uri: uri, stream: "demo-" + rand.Text()[:6], stdout: stdout, stderr: stderr}
}

// say writes a line of the story. who is the program that it is about.
func (s *story) say(who, format string, args ...any) {
	fmt.Fprintf(s.stdout, "%-8s %s\n", who, fmt.Sprintf(format, args...))
}

// show writes a message as sub printed it.
func (s *story) show(offset int, remark string) {
	fmt.Fprintf(s.stdout, "%15d  %d%s\n", offset, first+offset, remark)
}

// tell publishes, kills the consumer half-way, runs it again and checks what
// both runs printed.
func (s *story) tell(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.publish(ctx); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stream.CloseTimeout)
		defer cancel()
		err = errors.Join(err, s.env.DeleteStream(ctx, s.stream))
	}()
	if err := s.killedRun(ctx); err != nil {
		return err
	}
	if err := s.wantStored(ctx, half-1); err != nil {
		return err
	}
	s.say("broker", "it has offset %d stored for the consumer %q.", half-1, name)
	if err := s.secondRun(ctx); err != nil {
		return err
	}
	s.say("checked", "%d of %d messages seen, in order, 0 missing, 0 seen twice.", total, total)
	return ctx.Err() // of a reader that did not see the last line
}

func (s *story) program(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), append([]string{"-stream", s.stream}, args...)...)
	cmd.Env = append(os.Environ(), "RABBITMQ_STREAM_URL="+s.uri) // not in the arguments: it has a password
	return cmd
}

func (s *story) publish(ctx context.Context) error {
	cmd := s.program(ctx, "pub", "-from", strconv.Itoa(first), "-to", strconv.Itoa(first+total))
	cmd.Stderr = s.stderr
	out, err := cmd.Output()
	if want := fmt.Sprintf("published %d\n", total); err == nil && string(out) != want {
		err = fmt.Errorf("it printed %q, not %q", out, want)
	}
	if err != nil {
		return fmt.Errorf("pub: %w", err)
	}
	s.say("pub", "published %d messages, the numbers %d to %d; the broker confirmed each.", total, first, first+total-1)
	return nil
}

// killedRun kills sub while it has the message half in hand. That message holds
// sub, so that it prints exactly half of the messages however fast it is. The
// kill waits until the broker has the offset of the last one of these: with
// StorePolicy{Every: 1} sub has sent it before it took the next message.
func (s *story) killedRun(ctx context.Context) error {
	cmd := s.program(ctx, "sub", "-name", name, "-hold", strconv.Itoa(half))
	end, lines, inHand, err := start(cmd)
	if err != nil {
		return err
	}
	s.say("sub", "a process of its own (pid %d) prints each message and stores its offset:", cmd.Process.Pid)
	for i := range half {
		if err = lines.want(i); err != nil {
			return errors.Join(err, cmd.Process.Kill(), end())
		}
		if i < 2 {
			s.show(i, "")
		}
	}
	s.show(half-1, "")
	select {
	case <-inHand:
		err = s.awaitStored(ctx, half-1)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return errors.Join(err, cmd.Process.Kill(), end())
	}
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	line, err := lines.ReadString('\n')
	_ = end() // killed
	if line != "" || !errors.Is(err, io.EOF) {
		return fmt.Errorf("sub printed %q after %d messages, %w", line, half, err)
	}
	s.say("SIGKILL", "ended it in the middle of the next message: %d messages printed, %d not.", half, total-half)
	return nil
}

// awaitStored waits until the broker has the offset.
func (s *story) awaitStored(ctx context.Context, offset uint64) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		stored, err := s.env.QueryOffset(ctx, name, s.stream)
		if err != nil && !errors.Is(err, stream.ErrNoOffset) || err == nil && stored == offset {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wantStored checks the stored offset.
func (s *story) wantStored(ctx context.Context, want uint64) error {
	offset, err := s.env.QueryOffset(ctx, name, s.stream)
	if err != nil {
		return err
	}
	if offset != want {
		return fmt.Errorf("offset %d is stored, want %d", offset, want)
	}
	return nil
}

// secondRun starts sub again and expects exactly what the first run has not
// handled.
func (s *story) secondRun(ctx context.Context) error {
	cmd := s.program(ctx, "sub", "-name", name, "-max", strconv.Itoa(total-half))
	end, lines, _, err := start(cmd)
	if err != nil {
		return err
	}
	s.say("sub", "a new process (pid %d), told nothing but its name, asks the broker:", cmd.Process.Pid)
	for i := half; i < total; i++ {
		if err := lines.want(i); err != nil {
			return fmt.Errorf("the second run: %w", errors.Join(err, cmd.Process.Kill(), end()))
		}
		if i == half {
			s.show(i, "  <- exactly the next one")
		}
	}
	s.show(total-1, "")
	if err := end(); err != nil {
		return fmt.Errorf("the end of the second run: %w", err)
	}
	return s.wantStored(ctx, total-1)
}

// printed is what a sub has printed, to be read line by line.
type printed struct{ *bufio.Reader }

// start starts a sub and returns its lines. inHand is closed when sub says that
// it holds a message. end waits for sub and returns how it ended, with what it
// wrote to stderr. The caller calls end after it has read the last line.
func start(cmd *exec.Cmd) (end func() error, lines printed, inHand <-chan struct{}, err error) {
	stderr := &heard{word: []byte("holding"), said: make(chan struct{})}
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, printed{}, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, printed{}, nil, err
	}
	end = func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("sub: %w: %s", err, bytes.TrimSpace(stderr.all))
		}
		return nil
	}
	return end, printed{bufio.NewReader(out)}, stderr.said, nil
}

// heard keeps what is written to it, and closes said at the word.
type heard struct {
	word, all []byte
	said      chan struct{}
}

func (h *heard) Write(p []byte) (int, error) {
	before := bytes.Contains(h.all, h.word)
	h.all = append(h.all, p...)
	if !before && bytes.Contains(h.all, h.word) {
		close(h.said)
	}
	return len(p), nil
}

// want reads a line and compares it with the message that belongs at offset.
func (p printed) want(offset int) error {
	line, err := p.ReadString('\n')
	if err != nil {
		return fmt.Errorf("the line of offset %d: %w", offset, err)
	}
	if want := fmt.Sprintf("%d\t%d\n", offset, first+offset); line != want {
		return fmt.Errorf("sub printed %q, not %q", line, want)
	}
	return nil
}
