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

	"github.com/tidemark-go/tidemark/internal/rabbit"
	"github.com/tidemark-go/tidemark/stream"
)

const (
	first = 100 // the first number
	total = 2000
	half  = total / 2
	name  = "demo" // of the consumer
)

// story publishes and consumes on a stream of its own, and tells what happens.
type story struct {
	env            *stream.Env
	bin            string // where pub and sub are
	uri            string
	stream         string
	stdout, stderr io.Writer
}

func newStory(b *rabbit.Instance, env *stream.Env, bin string, stdout, stderr io.Writer) *story {
	return &story{env: env, bin: bin, uri: b.StreamURL(), stream: "demo-" + rand.Text()[:6], stdout: stdout, stderr: stderr}
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
	if err := s.publish(ctx); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stream.CloseTimeout)
		defer cancel()
		err = errors.Join(err, s.env.DeleteStream(ctx, s.stream))
	}()
	last, err := s.killedRun(ctx)
	if err != nil {
		return err
	}
	stored, err := s.settled(ctx, last)
	if err != nil {
		return err
	}
	s.say("broker", "it has offset %d stored for the consumer %q.", stored, name)
	if err := s.secondRun(ctx, stored); err != nil {
		return err
	}
	s.verdict(last - stored)
	return nil
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

// killedRun kills sub as soon as it is seen to have printed half of the
// messages, and returns the offset of the last one that it printed.
func (s *story) killedRun(ctx context.Context) (last int, err error) {
	cmd := s.program(ctx, "sub", "-name", name)
	end, lines, err := start(cmd)
	if err != nil {
		return 0, err
	}
	s.say("sub", "a process of its own (pid %d) prints each message and stores its offset:", cmd.Process.Pid)
	for i := range half {
		if err = lines.want(i); err != nil {
			return 0, errors.Join(err, cmd.Process.Kill(), end())
		}
		if i < 2 {
			s.show(i, "")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		return 0, err
	}
	for last = half - 1; err == nil; last++ {
		err = lines.want(last + 1)
	}
	last-- // the line that was not there
	_ = end()
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	if last == total-1 {
		return 0, errors.New("sub had printed everything before the SIGKILL came: run the demo again on a less busy machine")
	}
	s.show(last, "")
	s.say("SIGKILL", "ended it half-way: %d messages printed, %d not.", last+1, total-last-1)
	return last, nil
}

// settled returns the stored offset once the broker has read what the killed
// process had sent. That is the offset of the last message printed, or of the
// one before it if the last was still in hand.
func (s *story) settled(ctx context.Context, last int) (int, error) {
	deadline := time.Now().Add(time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		offset, err := s.env.QueryOffset(ctx, name, s.stream)
		if err != nil {
			return 0, err
		}
		stored := int(offset)
		late := time.Now().After(deadline)
		switch {
		case stored == last, stored == last-1 && late:
			return stored, nil
		case stored > last || late:
			return 0, fmt.Errorf("offset %d is stored, after %d was printed last", stored, last)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// secondRun starts sub again and expects exactly what follows the stored
// offset.
func (s *story) secondRun(ctx context.Context, stored int) error {
	next := stored + 1
	cmd := s.program(ctx, "sub", "-name", name, "-max", strconv.Itoa(total-next))
	end, lines, err := start(cmd)
	if err != nil {
		return err
	}
	s.say("sub", "a new process (pid %d), told nothing but its name, asks the broker:", cmd.Process.Pid)
	for i := next; i < total; i++ {
		if err := lines.want(i); err != nil {
			return fmt.Errorf("the second run: %w", errors.Join(err, cmd.Process.Kill(), end()))
		}
		if i == next {
			s.show(i, "  <- exactly the next one")
		}
	}
	s.show(total-1, "")
	if err := end(); err != nil {
		return fmt.Errorf("the end of the second run: %w", err)
	}
	offset, err := s.env.QueryOffset(ctx, name, s.stream)
	if err != nil || offset != total-1 {
		return fmt.Errorf("stored at the end: offset %d, %w; want %d", offset, err, total-1)
	}
	return nil
}

func (s *story) verdict(twice int) {
	inHand := ""
	if twice > 0 {
		inHand = " (it was in hand when the process died)"
	}
	s.say("checked", "%d of %d messages seen, in order, 0 missing, %d seen twice%s.", total, total, twice, inHand)
}

// printed is what a sub has printed, to be read line by line.
type printed struct{ *bufio.Reader }

// start starts a program and returns its lines. end waits for the program and
// returns how it ended, with what it wrote to stderr. The caller calls end
// after it has read the last line.
func start(cmd *exec.Cmd) (end func() error, lines printed, err error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, printed{}, err
	}
	if err := cmd.Start(); err != nil {
		return nil, printed{}, err
	}
	end = func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("sub: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
		}
		return nil
	}
	return end, printed{bufio.NewReader(out)}, nil
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
