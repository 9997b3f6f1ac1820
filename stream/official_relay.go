package stream

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// relay carries the official client's connections to a node over Config.Dial.
// The official client dials itself and lets nobody else do it (client.go,
// connect), so it dials the relay, on loopback. Bytes pass as they are: with TLS
// the relay sees what an eavesdropper sees. A relay belongs to one link. Each
// connection has two goroutines, for which close waits.
type relay struct {
	options  broker.Options
	endpoint broker.Endpoint
	ln       net.Listener

	life context.Context
	end  context.CancelFunc
	wg   sync.WaitGroup
}

func startRelay(o broker.Options, e broker.Endpoint) (*relay, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{options: o, endpoint: e, ln: ln}
	r.life, r.end = context.WithCancel(context.Background())
	r.wg.Go(r.accept)
	return r, nil
}

// node returns where the official client finds the relay.
func (r *relay) node() broker.Node {
	return broker.Node{Host: "127.0.0.1", Port: r.ln.Addr().(*net.TCPAddr).Port}
}

// accept ends when the relay is closed.
func (r *relay) accept() {
	for {
		client, err := r.ln.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.carry(client) })
	}
}

// carry connects to the node and passes bytes both ways until one side ends. If
// the node cannot be reached, it hangs up.
func (r *relay) carry(client net.Conn) {
	defer client.Close()
	dialing, cancel := context.WithTimeout(r.life, r.options.DialTimeout)
	node, err := r.options.DialRaw(dialing, r.endpoint)
	cancel()
	if err != nil {
		return
	}
	defer context.AfterFunc(r.life, func() { _ = client.Close(); _ = node.Close() })()
	r.wg.Go(func() {
		_, _ = io.Copy(client, node)
		_ = client.Close()
	})
	_, _ = io.Copy(node, client)
	_ = node.Close()
}

// close ends the relay with its connections and waits for its goroutines. A nil
// relay does nothing.
func (r *relay) close() {
	if r == nil {
		return
	}
	r.end()
	_ = r.ln.Close()
	r.wg.Wait()
}
