package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// group is what is compared: the implementations of one case and size.
type group struct {
	benchCase
	size, n int
	samples map[string][]sample
	load    *float64 // nil: unknown
}

// plan is everything to be measured on a broker.
type plan struct {
	o       options
	broker  *broker
	id      string // in the names of the streams
	groups  []*group
	streams []string // to be deleted
}

// maxResets bounds how often a connection is reset, and officialResets for the
// official client, which takes seconds each time.
const (
	maxResets      = 200
	officialResets = 3
)

func newPlan(o options, b *broker) *plan {
	p := &plan{o: o, broker: b, id: "bench-" + strings.ToLower(rand.Text()[:8])}
	for _, c := range o.cases {
		for _, size := range o.sizes {
			n := o.n
			if n == 0 {
				n = c.n(size)
			}
			if c.name == "reconnect" {
				n = min(n, maxResets)
			}
			p.groups = append(p.groups, &group{benchCase: c, size: size, n: n, samples: map[string][]sample{}})
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
	total, done := p.o.runs*len(p.groups)*len(p.o.impls), 0
	for range p.o.runs {
		for _, g := range p.groups {
			for _, impl := range p.o.impls {
				p.progress(stderr, fmt.Sprintf("%d of %d: %s, %d bytes, %s", done+1, total, g.name, g.size, impl))
				s, err := p.one(ctx, g, impl, stderr)
				if err != nil {
					p.progress(stderr, "")
					return nil, err
				}
				g.samples[impl] = append(g.samples[impl], s)
				done++
			}
			g.load = load()
		}
	}
	p.progress(stderr, "")
	return p.results(), nil
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
	return p.with(func(c *raw) error {
		err := p.create(c, name)
		if err == nil && g.content != contentNone {
			if err = c.declare(name); err == nil {
				err = c.fill(g.content, g.n, g.size)
			}
		}
		if err != nil {
			return fmt.Errorf("fill a stream: %w", err)
		}
		return nil
	})
}

func (p *plan) streamOf(g *group) string {
	return fmt.Sprintf("%s-%s-%d", p.id, g.content, g.size)
}

func (p *plan) create(c *raw, stream string) error {
	err := c.create(stream)
	if err == nil {
		p.streams = append(p.streams, stream)
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

// one makes one measurement, in a child.
func (p *plan) one(ctx context.Context, g *group, impl string, stderr io.Writer) (s sample, err error) {
	j := job{
		Case: g.name, Impl: impl, URI: p.broker.uri, Stream: p.streamOf(g), N: g.n, Size: g.size,
		Name: p.id + "-" + rand.Text()[:8], Profile: p.o.profile,
	}
	if g.name == "reconnect" && impl == implOfficial {
		j.N = min(j.N, officialResets)
	}
	if g.content.own() {
		j.Stream = p.id + "-" + rand.Text()[:8]
		if err := p.make(j.Stream, g); err != nil {
			return s, err
		}
		defer func() { err = errors.Join(err, p.cleanUpOne(j.Stream)) }()
	}
	var said bytes.Buffer // the official client logs what is not an error here
	cmd, err := child(ctx, j, &said)
	if err != nil {
		return s, err
	}
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return s, context.Cause(ctx)
	}
	if err != nil {
		return s, fmt.Errorf("%s, %d bytes, %s: %w\n%s", g.name, g.size, impl, err, said.String())
	}
	// The official client logs on stdout: the sample is the last line.
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return s, json.Unmarshal(lines[len(lines)-1], &s)
}

func (p *plan) results() []result {
	var all []result
	for _, g := range p.groups {
		var list []result
		for _, impl := range p.o.impls {
			r := summarize(g.samples[impl])
			r.Case, r.Impl, r.Size, r.Broker, r.Load = g.name, impl, g.size, p.broker.name, g.load
			r.MB = r.Rate * float64(g.size) / 1e6
			list = append(list, r)
		}
		setRatios(list)
		all = append(all, list...)
	}
	return all
}

// cleanUpOne deletes a stream.
func (p *plan) cleanUpOne(stream string) error {
	for i, s := range p.streams {
		if s == stream {
			p.streams = append(p.streams[:i], p.streams[i+1:]...)
			break
		}
	}
	return p.with(func(c *raw) error { return c.delete(stream) })
}

// cleanUp deletes the streams that are left.
func (p *plan) cleanUp() error {
	if len(p.streams) == 0 {
		return nil
	}
	return p.with(func(c *raw) error {
		var errs []error
		for _, s := range p.streams {
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
