package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/faults"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// group is what is compared: the implementations of one case and size.
type group struct {
	benchCase
	size, n    int
	contenders []contender
	samples    map[contender][]sample
	failed     map[contender]error // why it is not measured any more
	load       *float64            // nil: unknown
}

// contender is an implementation, with the credit that a socket gives, or the
// window in which it publishes.
type contender struct {
	impl   string
	credit schedule
	window window
}

// contendersOf are those that a case compares, with messages of a size.
func contendersOf(c benchCase, o options, size int) (list []contender) {
	for _, impl := range o.impls {
		if c.run[impl] == nil && impl != implBefore {
			continue
		}
		schedules := []schedule{defaultSchedule}
		switch {
		case impl != implSocket || c.schedules == nil:
		case o.credit != nil:
			schedules = o.credit
		default:
			schedules = c.schedules
		}
		for _, s := range schedules {
			for _, w := range windowsOf(c, o, impl, size) {
				list = append(list, contender{impl, s, w})
			}
		}
	}
	return list
}

// largeMessage is the size from which on some ten messages make a large frame.
const largeMessage = 4 << 10

// windowsOf are the windows that an implementation is measured with.
func windowsOf(c benchCase, o options, impl string, size int) []window {
	switch {
	case impl != implSocket || c.windows == nil:
		return []window{{}}
	case o.windows != nil:
		return o.windows
	case size >= largeMessage && !c.compressed:
		return largeMessages
	}
	return c.windows
}

// plan is everything to be measured on a broker.
type plan struct {
	o      options
	broker *broker
	id     string // in the names of the streams
	groups []*group
	far    map[time.Duration]*farBroker
	java   javaProgram // empty: the Java client is not measured

	mu      sync.Mutex
	streams map[string]bool // to be deleted
	supers  []string        // super streams to be deleted
}

// farBroker is the broker with a delay before it.
type farBroker struct {
	proxy *faults.Proxy
	uri   string
	rtt   float64 // median of a call, in milliseconds
}

// maxResets bounds how often a connection is reset, and officialResets for the
// official client, which takes seconds each time.
const (
	maxResets      = 1000
	officialResets = 3
)

func newPlan(o options, b *broker) *plan {
	p := &plan{o: o, broker: b, id: "bench-" + strings.ToLower(rand.Text()[:8]), far: map[time.Duration]*farBroker{}, streams: map[string]bool{}}
	for _, c := range o.cases {
		if o.rate > 0 && c.rate > 0 {
			c.rate = o.rate
		}
		for _, size := range o.sizes {
			n := o.n
			if n == 0 {
				n = c.n(size)
			}
			if c.resets {
				n = min(n, maxResets)
			}
			p.groups = append(p.groups, &group{benchCase: c, size: size, n: n, contenders: contendersOf(c, o, size),
				samples: map[contender][]sample{}, failed: map[contender]error{}})
		}
	}
	return p
}

// run measures in turns: in each run every case, and in each case every
// implementation.
func (p *plan) run(ctx context.Context, stderr io.Writer) ([]result, error) {
	if err := p.fill(ctx, stderr); err != nil {
		return nil, err
	}
	total, done := 0, 0
	for _, g := range p.groups {
		total += p.o.runs * len(g.contenders)
	}
	for range p.o.runs {
		for _, g := range p.groups {
			for _, c := range g.contenders {
				p.progress(stderr, fmt.Sprintf("%d of %d: %s, %d bytes, %s", done+1, total, g.name, g.size, c.impl))
				if err := p.measureNext(ctx, g, c); err != nil {
					p.progress(stderr, "")
					return nil, err
				}
				done++
			}
			g.load = load()
		}
	}
	p.progress(stderr, "")
	return p.results(), nil
}

// measureNext makes one more measurement. One that fails is noted, and that
// implementation's last in this case: the others go on.
func (p *plan) measureNext(ctx context.Context, g *group, c contender) error {
	if g.failed[c] != nil {
		return nil
	}
	s, err := p.one(ctx, g, c)
	var failed *failedError
	switch {
	case err == nil:
		g.samples[c] = append(g.samples[c], s)
	case errors.As(err, &failed):
		g.failed[c] = err
	default:
		return err
	}
	return nil
}

// failedError is why a measurement failed, in the words of its process.
type failedError struct {
	j   job
	err error
	out string
}

func (e *failedError) Error() string {
	return fmt.Sprintf("%s, %d bytes, %s: %v\n%s", e.j.Case, e.j.Size, e.j.Impl, e.err, strings.TrimSpace(e.out))
}

// fill makes the streams to be read, one for each size and content, as long as
// the longest case needs.
func (p *plan) fill(ctx context.Context, stderr io.Writer) error {
	need := map[string]*group{}
	var order []string
	for _, g := range p.groups {
		if g.content.own() {
			continue
		}
		name := p.streamOf(g)
		if need[name] == nil {
			order = append(order, name)
		}
		if need[name] == nil || need[name].n < g.n {
			need[name] = g
		}
	}
	for _, name := range order {
		g := need[name]
		if err := ctx.Err(); err != nil {
			return err
		}
		p.progress(stderr, fmt.Sprintf("filling a stream with %d messages of %d bytes, %s", g.n, g.size, g.content))
		if err := p.make(name, g); err != nil {
			return err
		}
	}
	return nil
}

// make makes a stream for a group, with its messages.
func (p *plan) make(name string, g *group) error {
	return p.with(func(c *raw) error { return p.makeOn(c, name, g) })
}

func (p *plan) makeOn(c *raw, name string, g *group) error {
	if g.content == contentSuper {
		return p.makeFullSuper(name, g)
	}
	err := p.create(c, name)
	if err == nil && g.content != contentNone {
		err = p.fillOn(c, name, g)
	}
	if err == nil {
		err = checkChunks(c, name, g.content)
	}
	if err != nil {
		return fmt.Errorf("fill a stream: %w", err)
	}
	return nil
}

// fillOn fills a stream.
func (p *plan) fillOn(c *raw, name string, g *group) error {
	err := c.declare(name)
	if err == nil {
		err = c.fill(g.content, g.inStream(g.n), g.size)
	}
	return errors.Join(err, c.ask(&wire.DeletePublisher{PublisherID: 1}))
}

// checkChunks makes sure that a stream has the chunks that its content promises,
// but for a few that the broker merged.
func checkChunks(c *raw, name string, kind content) error {
	want, ok := map[content]float64{contentChunks1: 1, contentChunks15: 15}[kind]
	if !ok {
		return nil
	}
	n, err := c.countChunks(name)
	if err == nil && float64(n.records) > 1.05*want*float64(n.chunks) {
		err = fmt.Errorf("the broker made %d chunks of %d messages, which is more than %v in each", n.chunks, n.records, want)
	}
	return err
}

func (p *plan) streamOf(g *group) string {
	return fmt.Sprintf("%s-%s-%d", p.id, g.content, g.size)
}

func (p *plan) create(c *raw, stream string) error {
	err := c.create(stream)
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.streams[stream] = true
	}
	return err
}

// with runs f on a connection to the broker.
func (p *plan) with(f func(*raw) error) error {
	c, err := dialRaw(p.broker.uri)
	if err != nil {
		return err
	}
	defer c.close()
	return f(c)
}

// forEach calls f for each of a job's streams, over several connections.
func (p *plan) forEach(stream string, streams int, f func(c *raw, stream string) error) error {
	const conns = 8
	return allOf(min(conns, max(1, streams)), func(k int) error {
		return p.with(func(c *raw) error {
			for i := k; i < max(1, streams); i += conns {
				if err := f(c, streamName(stream, streams, i)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// one makes one measurement, in a child.
func (p *plan) one(ctx context.Context, g *group, c contender) (s sample, err error) {
	uri, err := p.uriFor(g)
	if err != nil {
		return s, err
	}
	j := job{
		Case: g.name, Impl: c.impl, URI: uri, Stream: p.streamOf(g), N: g.n, Size: g.size,
		Name: p.id + "-" + rand.Text()[:8], Profile: p.o.profile, Credit: c.credit.String(), Timeout: p.o.timeout,
		Consumers: g.consumers, Streams: g.streams, Rate: g.rate, Limit: g.limit, Window: c.window.String(), Producers: g.producers, InFlight: p.o.flight, Reuse: p.o.reuse,
	}
	if g.named {
		j.Producer = j.Name
	}
	if c.impl == implOfficial {
		j.N = g.officialN(j.N)
	}
	if c.impl == implJava {
		j.ClassPath = p.java.classPath
	}
	if !g.content.own() {
		return p.measure(ctx, j)
	}
	j.Stream = p.id + "-" + rand.Text()[:8]
	if g.super {
		if err := p.makeSuper(j.Stream, g); err != nil {
			return s, err
		}
		defer func() { err = errors.Join(err, p.deleteSuper(j.Stream)) }()
		return p.measure(ctx, j)
	}
	defer func() { err = errors.Join(err, p.forEach(j.Stream, j.Streams, p.delete)) }()
	if err := p.forEach(j.Stream, j.Streams, func(c *raw, stream string) error { return p.makeOn(c, stream, g) }); err != nil {
		return s, err
	}
	if s, err = p.measure(ctx, j); err == nil && g.consumers > 0 {
		err = p.countStores(j, &s)
	}
	if err == nil && g.publishes() && g.streams == 0 {
		err = p.checkPublished(j, s.N+s.WarmUp)
	}
	return s, err
}

// checkPublished makes sure that what counts as confirmed is in the stream. One
// with stored offsets in it may be longer.
func (p *plan) checkPublished(j job, n int) error {
	return p.with(func(c *raw) error {
		last, err := c.lastOffset(j.Stream)
		if err == nil && last+1 < uint64(n) {
			err = &failedError{j, fmt.Errorf("%d messages are in the stream, and %d count as confirmed", last+1, n), ""}
		}
		return err
	})
}

// measure runs a child and reads its sample.
func (p *plan) measure(ctx context.Context, j job) (s sample, err error) {
	var said bytes.Buffer // the official client logs what is not an error here
	limited, cancel := context.WithTimeout(ctx, j.Timeout+childKill)
	defer cancel()
	cmd, err := p.childFor(limited, j, &said)
	if err != nil {
		return s, err
	}
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return s, context.Cause(ctx)
	}
	if err != nil {
		return s, &failedError{j, errors.Join(err, limited.Err()), said.String()}
	}
	// The official client logs on stdout: the sample is the last line.
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return s, json.Unmarshal(lines[len(lines)-1], &s)
}

// childFor is the process that makes a measurement.
func (p *plan) childFor(ctx context.Context, j job, stderr io.Writer) (*exec.Cmd, error) {
	if j.Impl != implBefore {
		return child(ctx, j, stderr)
	}
	j.Impl, j.Profile = implTidemark, ""
	return childOf(ctx, p.o.before, j, stderr)
}

// countStores notes how many chunks the stores of a measurement made.
func (p *plan) countStores(j job, s *sample) error {
	var mu sync.Mutex
	var sum chunkCount
	err := p.forEach(j.Stream, j.Streams, func(c *raw, stream string) error {
		n, err := c.countChunks(stream)
		mu.Lock()
		defer mu.Unlock()
		sum.add(n)
		return err
	})
	s.StoreChunks, s.Stores = sum.tracking, sum.stores
	return err
}

// uriFor is where the broker is for a group: behind a proxy if it has a delay.
func (p *plan) uriFor(g *group) (string, error) {
	if g.delay == 0 {
		return p.broker.uri, nil
	}
	if p.far[g.delay] == nil {
		proxy, uri, err := proxyTo(p.broker.uri)
		if err != nil {
			return "", err
		}
		proxy.Delay(g.delay)
		far := &farBroker{proxy: proxy, uri: uri}
		p.far[g.delay] = far
		if far.rtt, err = roundTrip(uri); err != nil {
			return "", err
		}
	}
	return p.far[g.delay].uri, nil
}

// roundTrip is how long a call takes, in milliseconds: the median of several.
func roundTrip(uri string) (float64, error) {
	c, err := dialRaw(uri)
	if err != nil {
		return 0, err
	}
	defer c.close()
	var list []float64
	for range 20 {
		begin := time.Now()
		if err := c.call(&wire.Metadata{Streams: []string{"none"}}, &wire.MetadataResponse{}); err != nil {
			return 0, err
		}
		list = append(list, time.Since(begin).Seconds()*1000)
	}
	return statOf(list).median, nil
}

func (p *plan) results() []result {
	var all []result
	for _, g := range p.groups {
		var list []result
		for _, impl := range p.o.impls {
			r := g.best(impl)
			r.Case, r.Impl, r.Size, r.Broker, r.Load = g.name, impl, g.size, p.broker.name, g.load
			r.MB = r.Rate * float64(g.size) / 1e6
			if far := p.far[g.delay]; far != nil {
				r.Delay, r.RTT = g.delay.Seconds()*1000, far.rtt
			}
			list = append(list, r)
		}
		setRatios(list)
		all = append(all, list...)
	}
	for i, g := range p.groups {
		k := slices.IndexFunc(p.groups, func(b *group) bool { return b.name == g.base && b.size == g.size })
		if k >= 0 {
			own, base := len(p.o.impls)*i, len(p.o.impls)*k
			setBase(all[own:own+len(p.o.impls)], all[base:base+len(p.o.impls)], g.base)
		}
	}
	return all
}

// best is the result of an implementation, and of the schedule with the highest
// rate if there are several.
func (g *group) best(impl string) (best result) {
	several := 0
	for _, c := range g.contenders {
		if c.impl != impl {
			continue
		}
		r := summarize(g.samples[c])
		r.Credit = c.credit.String()
		if c.window.frame > 0 {
			r.Window = c.window.String()
		}
		if err := g.failed[c]; err != nil {
			r.Failed = err.Error()
		}
		if several++; several == 1 || r.Rate > best.Rate {
			best = r
		}
	}
	if impl != implSocket || g.schedules == nil {
		best.Credit = ""
	}
	return best
}

func (p *plan) delete(c *raw, stream string) error {
	p.mu.Lock()
	made := p.streams[stream]
	delete(p.streams, stream)
	p.mu.Unlock()
	if !made {
		return nil
	}
	return c.delete(stream)
}

// cleanUp deletes the streams that are left, and ends the proxies.
func (p *plan) cleanUp() error {
	for _, far := range p.far {
		far.proxy.Close()
	}
	var left []string
	for s := range p.streams {
		left = append(left, s)
	}
	slices.Sort(left)
	if len(left)+len(p.supers) == 0 {
		return nil
	}
	return p.with(func(c *raw) error {
		var errs []error
		for _, s := range p.supers {
			errs = append(errs, c.ask(&wire.DeleteSuperStream{Name: s}))
		}
		for _, s := range left {
			errs = append(errs, c.delete(s))
		}
		return errors.Join(errs...)
	})
}

// progress shows one line on a terminal, and nothing elsewhere.
func (p *plan) progress(w io.Writer, text string) {
	if isTerminal(w) {
		fmt.Fprintf(w, "\r\x1b[K%s", text)
	}
}

// allOf runs f for 0 up to n at the same time.
func allOf(n int, f func(int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
