//go:build unix

package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/faults"
	"github.com/tidemark-go/tidemark/internal/history"
)

// childOfGroup holds, as JSON, what a process that is a member of a group is told.
// It writes down what it does on file 3, a history.Record for each thing, before
// it does the next one.
const childOfGroup = "TIDEMARK_CHILD_OF_GROUP"

// memberSettings is what a member is told.
type memberSettings struct {
	ID         uint16
	URIs       []string
	Ports      map[int]int // where the brokers' ports are to be reached
	Stream     string      // or super stream
	Super      bool
	Partitions []string // the super stream's, or the stream alone
	Heartbeat  time.Duration
	Workers    int
}

// groupKeys is the number of keys of a partition.
const groupKeys = 16

func groupKey(number uint32) uint32 { return number % groupKeys }

// groupBody holds the number of a message in its partition.
func groupBody(number int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(number)) }

// TestChildOfGroup is not a test but a process that is a member of a group.
func TestChildOfGroup(t *testing.T) {
	text := os.Getenv(childOfGroup)
	if text == "" {
		return
	}
	m := &memberProcess{out: os.NewFile(3, "records")}
	must(t, json.Unmarshal([]byte(text), &m.memberSettings))
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	defer m.slowDown()()
	if err := m.run(ctx); err != nil {
		t.Fatalf("member %d: %v", m.ID, err)
	}
	m.write(history.Record{Kind: history.Done})
}

// memberProcess is the process's side.
type memberProcess struct {
	memberSettings
	out  *os.File
	slow atomic.Bool // each handler takes its time
}

// slowTime is how long a member is slow after SIGUSR1, so that it has messages at
// hand when something befalls it.
const slowTime = 3500 * time.Millisecond

// slowDown makes the member slow for a while at each SIGUSR1, until stop is called.
func (m *memberProcess) slowDown() (stop func()) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	go func() {
		for range told {
			m.slow.Store(true)
			time.AfterFunc(slowTime, func() { m.slow.Store(false) })
		}
	}()
	return func() { signal.Stop(told); close(told) }
}

func (m *memberProcess) run(ctx context.Context) error {
	env, err := Connect(ctx, Config{
		URIs: m.URIs, Heartbeat: m.Heartbeat, Backoff: Backoff{Max: time.Second}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Resolve: func(host string, port int) (string, int) { return host, m.Ports[port] },
		OnState: func(c StateChange) {
			switch c.State {
			case StateReconnecting, StateOverlap:
				m.write(history.Record{Kind: history.Lost})
			case StateWaiting:
				m.write(history.Record{Kind: history.Waits, Partition: m.partition(c.Stream)})
			}
		},
	})
	if err != nil {
		return err
	}
	c, err := env.NewConsumer(m.Stream, m.config())
	if err != nil {
		return errors.Join(err, env.Close())
	}
	return errors.Join(c.Run(ctx, m.handle), env.Close())
}

func (m *memberProcess) config() ConsumerConfig {
	cfg := ConsumerConfig{
		Name: groupName, SingleActive: true, SuperStream: m.Super, Workers: m.Workers,
		OnActive: func(_ context.Context, stream string, next uint64) error {
			m.write(history.Record{Kind: history.Active, Partition: m.partition(stream), Offset: next})
			return nil
		},
		OnInactive: func(ctx context.Context, stream string) error {
			if ctx.Err() != nil { // another one may be active already
				m.write(history.Record{Kind: history.Lost})
			}
			m.write(history.Record{Kind: history.Inactive, Partition: m.partition(stream)})
			return nil
		},
	}
	if m.Workers > 0 {
		cfg.KeyOf = func(d *Delivery) string { return strconv.Itoa(int(groupKey(binary.BigEndian.Uint32(d.Body)))) }
	}
	return cfg
}

func (m *memberProcess) partition(stream string) uint8 {
	return uint8(slices.Index(m.Partitions, stream))
}

// handle takes no time for most messages, and some for a few. Every other member
// cannot keep up, so that it has messages at hand when it loses its connection.
func (m *memberProcess) handle(_ context.Context, d *Delivery) error {
	r := history.Record{Kind: history.Begun, Partition: m.partition(d.Stream), Number: binary.BigEndian.Uint32(d.Body), Offset: d.Offset}
	m.write(r)
	switch k := rand.IntN(20_000); {
	case m.slow.Load():
		pause(5 * time.Millisecond)
	case k == 0:
		pause(20 * time.Millisecond)
	case k < 20, m.ID%2 == 1 && k%8 == 0:
		pause(time.Millisecond)
	}
	r.Kind = history.Ended
	m.write(r)
	return nil
}

// write writes a record down, in one call, so that a kill loses all of it or
// nothing.
func (m *memberProcess) write(r history.Record) {
	r.Member, r.At = m.ID, time.Now().UnixNano()
	if _, err := m.out.Write(history.Append(nil, r)); err != nil {
		os.Exit(3) // who started it is gone
	}
}

// memberOutside is a member as the test sees it: a process with a proxy of its own to
// each node.
type memberOutside struct {
	t       *testing.T
	id      uint16
	cmd     *exec.Cmd
	proxies []*faults.Proxy
	stderr  *bytes.Buffer
	exited  chan struct{}
	err     error       // of the process, after exited
	busy    atomic.Bool // something is being done to it
	wg      sync.WaitGroup
}

// startOutside starts a process. record is called for each of its records, on
// another goroutine.
func startOutside(t *testing.T, s memberSettings, uris []string, record func(history.Record)) *memberOutside {
	t.Helper()
	m := &memberOutside{t: t, id: s.ID, cmd: exec.Command(os.Args[0], "-test.run=^TestChildOfGroup$"), stderr: new(bytes.Buffer), exited: make(chan struct{})}
	s.URIs, s.Ports = m.behindProxies(uris)
	text, err := json.Marshal(s)
	must(t, err)
	records, out, err := os.Pipe()
	must(t, err)
	m.cmd.Env = append(os.Environ(), childOfGroup+"="+string(text))
	m.cmd.ExtraFiles, m.cmd.Stderr, m.cmd.Stdout = []*os.File{out}, m.stderr, m.stderr
	must(t, m.cmd.Start())
	_ = out.Close()
	m.wg.Go(func() { m.read(records, record) })
	go func() {
		m.err = m.cmd.Wait()
		m.wg.Wait()
		for _, p := range m.proxies {
			p.Close()
		}
		close(m.exited)
	}()
	t.Cleanup(m.kill)
	return m
}

// behindProxies starts a proxy for each node. It returns the URIs of the proxies,
// and their ports by those of the nodes.
func (m *memberOutside) behindProxies(uris []string) (behind []string, ports map[int]int) {
	m.t.Helper()
	ports = map[int]int{}
	for _, uri := range uris {
		u, err := url.Parse(uri)
		must(m.t, err)
		p, err := faults.Start(u.Host)
		must(m.t, err)
		p.KeepAddresses()
		m.proxies = append(m.proxies, p)
		port, err := strconv.Atoi(u.Port())
		must(m.t, err)
		ports[port] = p.Port()
		u.Host = net.JoinHostPort("localhost", strconv.Itoa(p.Port()))
		behind = append(behind, u.String())
	}
	return behind, ports
}

func (m *memberOutside) read(from *os.File, record func(history.Record)) {
	defer func() { _ = from.Close() }()
	b := make([]byte, history.Size*1024)
	for have := 0; ; {
		n, err := from.Read(b[have:])
		have += n
		whole := have - have%history.Size
		for i := 0; i < whole; i += history.Size {
			r, err := history.Parse(b[i : i+history.Size])
			if err != nil {
				m.t.Errorf("member %d: %v", m.id, err)
				return
			}
			record(r)
		}
		have = copy(b, b[whole:have])
		if err != nil {
			if !errors.Is(err, io.EOF) {
				m.t.Errorf("member %d: %v", m.id, err)
			}
			return
		}
	}
}

func (m *memberOutside) signal(s syscall.Signal) { _ = m.cmd.Process.Signal(s) }

// kill kills the process and waits for its end.
func (m *memberOutside) kill() {
	m.signal(syscall.SIGKILL)
	<-m.exited
}

// stop asks the process to end and waits until it has.
func (m *memberOutside) stop() {
	m.t.Helper()
	m.signal(syscall.SIGTERM)
	select {
	case <-m.exited:
	case <-time.After(timeLimit()):
		m.signal(syscall.SIGQUIT) // it writes its goroutines down
		<-m.exited
		m.t.Errorf("member %d does not end: %s", m.id, m.stderr)
		return
	}
	if m.err != nil {
		m.t.Errorf("member %d: %v: %s", m.id, m.err, lastLines(m.stderr.String(), 20))
	}
}

func (m *memberOutside) each(do func(*faults.Proxy)) {
	for _, p := range m.proxies {
		do(p)
	}
}

// lastLines returns the last n lines of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
