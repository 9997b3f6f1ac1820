package stream

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"testing"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// pair is a cluster of two nodes. The first one, a script at 127.0.0.1, knows
// where streams are and has none. The second one, in streamtest, is advertised as
// localhost and leads every stream.
type pair struct {
	uri      string
	host     string // at which the leader is advertised
	leader   *streamtest.Broker
	replicas []int // ports at localhost of further nodes that have the stream
}

// startPair starts two nodes with TLS, or without it if first and second are nil.
func startPair(t *testing.T, first, second *tls.Config, opts ...streamtest.Option) *pair {
	t.Helper()
	opts = append(opts, streamtest.WithTLS(second), streamtest.WithUser(streamtest.User{Name: script.User, Password: script.Password}))
	p := &pair{host: "localhost", leader: streamtest.NewBroker(t, opts...)}
	p.leader.CreateStream(testStream)
	scheme := "rabbitmq-stream"
	if first != nil {
		scheme += "+tls"
	}
	port := script.Listen(t, func(peer *script.Peer) {
		if first != nil {
			secure := tls.Server(peer.Conn, first)
			if secure.Handshake() != nil {
				return
			}
			peer = script.NewPeer(t, secure)
		}
		p.serve(t, peer)
	})
	p.uri = fmt.Sprintf("%s://%s:%s@127.0.0.1:%d", scheme, script.User, url.PathEscape(script.Password), port)
	return p
}

func (p *pair) serve(t *testing.T, peer *script.Peer) {
	if !peer.Welcome() {
		return
	}
	for {
		key, fields, ok := peer.Next()
		if !ok {
			return
		}
		id, _ := wire.Correlation(fields)
		if key == wire.KeyClose {
			peer.Send(&wire.Response{Key: key, Correlation: id, Code: wire.CodeOK})
			return
		}
		if key != wire.KeyMetadata {
			t.Errorf("the first node was sent %v", key)
		}
		answer := &wire.MetadataResponse{
			Correlation: id,
			Brokers:     []wire.BrokerAddress{{Reference: 1, Host: p.host, Port: uint32(check.Port(t, p.leader.Addr()))}},
			Streams:     []wire.StreamMetadata{{Stream: testStream, Code: wire.CodeOK, Leader: 1}},
		}
		for i, port := range p.replicas {
			answer.Brokers = append(answer.Brokers, wire.BrokerAddress{Reference: uint16(2 + i), Host: "localhost", Port: uint32(port)})
			answer.Streams[0].Replicas = append(answer.Streams[0].Replicas, uint16(2+i))
		}
		peer.Send(answer)
	}
}

// connect connects to the pair with a TLS configuration.
func (p *pair) connect(t *testing.T, cfg *tls.Config) (*Env, error) {
	t.Helper()
	return p.connectWith(t, Config{TLS: cfg})
}

// connectWith is connect with other settings.
func (p *pair) connectWith(t *testing.T, cfg Config) (*Env, error) {
	t.Helper()
	cfg.URIs = []string{p.uri}
	env, err := Connect(soon(t), cfg)
	if err == nil {
		t.Cleanup(func() { _ = env.Close() })
	}
	return env, err
}

// publishAndRead publishes a message, and reads it.
func publishAndRead(t *testing.T, env *Env) (published, read error) {
	t.Helper()
	p, err := env.NewProducer(soon(t), testStream, ProducerConfig{})
	if err == nil {
		published = p.Publish(soon(t), Message{Body: []byte("x")})
		must(t, p.Close(soon(t)))
	} else {
		published = err
	}
	c, err := env.NewConsumer(testStream, ConsumerConfig{})
	must(t, err)
	for _, err := range c.All(soon(t)) {
		return published, err
	}
	return published, nil
}
