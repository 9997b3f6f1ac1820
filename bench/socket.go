package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/tidemark-go/tidemark/internal/faults"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// consumeSocket reads from a bare connection and does the least that a client
// can do.
func consumeSocket(how mode) runner {
	return func(ctx context.Context, j job, m *meter) error {
		m.untilStored = how == storeEach
		credit, err := parseSchedule(j.Credit)
		if err != nil {
			return err
		}
		return together(m.counters(how.consumers(), j.N), func(c *counter) error {
			conn, err := dialRaw(j.URI)
			if err != nil {
				return err
			}
			defer conn.close()
			run, enough := context.WithCancel(ctx)
			defer enough()
			c.done = enough
			if err := conn.subscribe(j.Stream, credit.first); err != nil {
				return err
			}
			r := reader{raw: conn, ctx: run, credit: credit, each: func(uint64, []byte) error {
				c.message()
				return nil
			}}
			switch how {
			case storeEach:
				r.each = func(offset uint64, _ []byte) (err error) {
					if c.n < c.want {
						err = conn.write(&wire.StoreOffset{Reference: j.Name, Stream: j.Stream, Offset: offset})
					}
					c.message()
					return err
				}
			case slow:
				return slowly(run, c, func(ctx context.Context) error {
					defer context.AfterFunc(ctx, conn.close)() // ends a read at the end of the stream
					r.ctx, r.each = ctx, func(uint64, []byte) error {
						c.n++
						time.Sleep(slowHandler)
						return ctx.Err()
					}
					if err := r.read(); ctx.Err() == nil {
						return err
					}
					return nil
				})
			}
			if err := r.read(); err != nil || how != storeEach {
				return err
			}
			return m.stored(ctx)
		})
	}
}

// reader reads chunks until ctx ends.
type reader struct {
	*raw
	ctx    context.Context
	credit schedule
	each   func(offset uint64, message []byte) error
	done   func() error // nil, or called after each chunk
	kept   bool         // messages are kept, so that chunks are copied
	zstd   *zstd.Decoder
	plain  []byte
}

func (r *reader) read() error {
	credit, err := newCreditor(r.credit)
	if err != nil {
		return err
	}
	for r.ctx.Err() == nil {
		key, version, fields, err := r.next()
		if err != nil {
			return err
		}
		if key != wire.KeyDeliver {
			continue
		}
		if err := credit.chunk(r.raw); err != nil {
			return err
		}
		d, err := wire.DecodeDeliver(version, fields)
		if err != nil {
			return err
		}
		if r.kept {
			d.Chunk = bytes.Clone(d.Chunk)
		}
		if err := r.chunk(d.Chunk); err != nil {
			return err
		}
		if r.done != nil {
			if err := r.done(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reader) chunk(b []byte) error {
	chunk, err := wire.ParseChunk(b)
	if err == nil {
		err = chunk.Check()
	}
	if err != nil || chunk.Type != wire.ChunkUser {
		return err
	}
	walk := chunk.Walk()
	var e wire.Entry
	for {
		offset, ok := walk.Next(&e)
		if !ok {
			return walk.Err()
		}
		if !e.Batch {
			err = r.each(offset, e.Body)
		} else {
			err = r.batch(&e, offset)
		}
		if err != nil {
			return err
		}
	}
}

func (r *reader) batch(e *wire.Entry, offset uint64) (err error) {
	if e.Compression != wire.CompressionZstd {
		return fmt.Errorf("compression %d", e.Compression)
	}
	if r.zstd == nil {
		if r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1)); err != nil {
			return err
		}
	}
	if r.plain, err = r.zstd.DecodeAll(e.Body, r.plain[:0]); err != nil {
		return err
	}
	rest := r.plain
	for i := range uint64(e.Records) {
		message, next, ok := wire.NextRecord(rest)
		if !ok {
			return wire.ErrMalformed
		}
		rest = next
		if err := r.each(offset+i, message); err != nil {
			return err
		}
	}
	return nil
}

// reconnectSocket connects again at once, at the first message not handled.
func reconnectSocket(ctx context.Context, j job, m *meter) error {
	return reconnect(j, m, func(uri string, handled chan<- struct{}) (func() error, error) {
		run, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			for next := uint64(0); run.Err() == nil; {
				err := readFrom(run, uri, j.Stream, &next, handled)
				var closed *net.OpError
				if run.Err() == nil && err != nil && !errors.As(err, &closed) {
					time.Sleep(time.Millisecond) // reset in the middle of a handshake
				}
			}
			ended <- nil
		}()
		return func() error {
			stop()
			return <-ended
		}, nil
	})
}

func readFrom(ctx context.Context, uri, stream string, next *uint64, handled chan<- struct{}) error {
	c, err := dialRaw(uri)
	if err != nil {
		return err
	}
	defer c.close()
	defer context.AfterFunc(ctx, c.close)()
	err = c.ask(&wire.Subscribe{SubscriptionID: 1, Stream: stream, Credit: defaultSchedule.first, Spec: wire.OffsetSpec{Type: wire.OffsetAt, Value: *next}})
	if err != nil {
		return err
	}
	for {
		key, version, fields, err := c.next()
		if err != nil {
			return err
		}
		if key != wire.KeyDeliver {
			continue
		}
		d, err := wire.DecodeDeliver(version, fields)
		if err != nil {
			return err
		}
		chunk, err := wire.ParseChunk(d.Chunk)
		if err != nil {
			return err
		}
		for end := chunk.FirstOffset + uint64(chunk.Records); *next < end; *next++ {
			handled <- struct{}{}
		}
		if err := c.write(&wire.Credit{SubscriptionID: 1, Credit: 1}); err != nil {
			return err
		}
	}
}

// proxyTo starts a proxy that can reset connections, and returns the URI by
// which it is reached.
func proxyTo(uri string) (*faults.Proxy, string, error) {
	a, err := parseURI(uri)
	if err != nil {
		return nil, "", err
	}
	p, err := faults.Start(a.host)
	if err != nil {
		return nil, "", err
	}
	u, err := url.Parse(uri)
	if err != nil {
		p.Close()
		return nil, "", err
	}
	u.Host = p.Addr()
	return p, u.String(), nil
}
