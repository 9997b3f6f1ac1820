package stream

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// scripted is a broker with one stream, enough of one to run a consumer
// against, whose every move a test decides.
type scripted struct {
	t         testing.TB
	mu        sync.Mutex
	committed int64             // first offset of the last chunk, -1 for none
	stored    map[string]uint64 // by consumer
	history   []uint64          // every offset that was stored, in order
	peers     []*script.Peer
	credit    map[*script.Peer]chan struct{}

	// onSubscribe runs after the answer, on a goroutine of the connection.
	onSubscribe func(p *script.Peer, nth int, spec wire.OffsetSpec)
	// onCommand returns true for what it has dealt with.
	onCommand func(p *script.Peer, key wire.Key, fields []byte) bool

	subscriptions int
	port          int
	piped         bool       // clients connect by a pipe, as in virtual time
	recreated     chan error // what StateStreamRecreated said, of any env
}

const testStream = "orders"

// uri is what Connect takes for the broker.
func (b *scripted) uri() string {
	return fmt.Sprintf("rabbitmq-stream://%s:%s@127.0.0.1:%d/", script.User, url.PathEscape(script.Password), b.port)
}

// pipedScripted returns a broker that clients reach by dial, in virtual time.
func pipedScripted(t testing.TB) *scripted {
	return &scripted{t: t, port: 5552, piped: true, committed: -1, stored: map[string]uint64{}, credit: map[*script.Peer]chan struct{}{}, recreated: make(chan error, 10)}
}

func startScripted(t testing.TB) *scripted {
	b := pipedScripted(t)
	b.piped, b.port = false, script.Listen(t, b.serve)
	return b
}

// dial connects to the broker by a pipe.
func (b *scripted) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go b.serve(script.NewPeer(b.t, theirs))
	return ours, nil
}

// env returns an environment on the broker that is closed with the test.
func (b *scripted) env(t testing.TB) *Env {
	t.Helper()
	cfg := testConfig()
	cfg.URIs = []string{b.uri()}
	if b.piped {
		cfg.Dial = b.dial
	}
	cfg.OnState = func(c StateChange) {
		if c.State == StateStreamRecreated {
			b.recreated <- c.Err
		}
	}
	e, err := Connect(soon(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func (b *scripted) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// drop cuts every connection.
func (b *scripted) drop() {
	b.set(func() {
		for _, p := range b.peers {
			_ = p.Conn.Close()
		}
		b.peers = nil
	})
}

// recreate deletes the stream and creates it again with one chunk.
func (b *scripted) recreate() {
	b.set(func() { b.committed, b.stored = 0, map[string]uint64{} })
}

func (b *scripted) storedOffset(consumer string) (offset uint64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	offset, ok = b.stored[consumer]
	return offset, ok
}

func (b *scripted) serve(p *script.Peer) {
	if !p.Welcome() {
		return
	}
	credit := make(chan struct{}, 1000)
	b.set(func() {
		b.peers = append(b.peers, p)
		b.credit[p] = credit
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(credit)
	for {
		key, fields, ok := p.Next()
		if !ok {
			return
		}
		switch {
		case b.onCommand != nil && b.onCommand(p, key, fields):
		case key == wire.KeySubscribe:
			var f wire.Subscribe
			p.Decode(fields, &f)
			nth := 0
			b.set(func() { nth = b.subscriptions; b.subscriptions++ })
			p.Send(&wire.Response{Key: key, Correlation: f.Correlation, Code: wire.CodeOK})
			if b.onSubscribe != nil {
				wg.Go(func() { b.onSubscribe(p, nth, f.Spec) })
			}
		default:
			b.answer(p, key, fields)
		}
	}
}

// creditOf returns a channel with an item for each chunk that the client has asked
// for since it subscribed. The channel is closed when the client is gone.
func (b *scripted) creditOf(p *script.Peer) chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.credit[p]
}

// deliver writes chunks: the first one for the credit of the subscription, each
// further one when the client asks for it.
func (b *scripted) deliver(p *script.Peer, chunks ...[]byte) {
	for i, chunk := range chunks {
		if i > 0 {
			<-b.creditOf(p)
		}
		p.Write(chunk)
	}
}

func (b *scripted) answer(p *script.Peer, key wire.Key, fields []byte) {
	id, _ := wire.Correlation(fields)
	switch key {
	case wire.KeyMetadata:
		p.Send(&wire.MetadataResponse{
			Correlation: id,
			Brokers:     []wire.BrokerAddress{{Reference: 1, Host: "127.0.0.1", Port: uint32(b.port)}},
			Streams:     []wire.StreamMetadata{{Stream: testStream, Code: wire.CodeOK, Leader: 1}},
		})
	case wire.KeyStreamStats:
		b.mu.Lock()
		n := b.committed
		b.mu.Unlock()
		p.Send(&wire.StreamStatsResponse{Correlation: id, Code: wire.CodeOK, Stats: []wire.Stat{
			{Key: "first_chunk_id", Value: min(n, 0)}, {Key: "committed_chunk_id", Value: n},
		}})
	case wire.KeyQueryOffset:
		var f wire.QueryOffset
		p.Decode(fields, &f)
		resp := &wire.QueryOffsetResponse{Correlation: id, Code: wire.CodeNoOffset}
		if offset, ok := b.storedOffset(f.Reference); ok {
			resp.Code, resp.Offset = wire.CodeOK, offset
		}
		p.Send(resp)
	case wire.KeyStoreOffset:
		var f wire.StoreOffset
		p.Decode(fields, &f)
		b.set(func() { b.stored[f.Reference] = f.Offset; b.history = append(b.history, f.Offset) })
	case wire.KeyUnsubscribe:
		p.Send(&wire.Response{Key: key, Correlation: id, Code: wire.CodeOK})
	case wire.KeyClose:
		p.Send(&wire.Response{Key: key, Correlation: id, Code: wire.CodeOK})
		_ = p.Conn.Close()
	case wire.KeyCredit:
		var f wire.Credit
		p.Decode(fields, &f)
		for range f.Credit {
			b.creditOf(p) <- struct{}{}
		}
	default:
		b.t.Errorf("the client sent %v", key)
	}
}
