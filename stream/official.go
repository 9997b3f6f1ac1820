package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/logs"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// This file is the seam to the official client's producer, and the fence
// around it. What it fences is listed in DESIGN.md; in short: an environment
// per link, made and closed under deadlines of ours, its calls never waited
// for without a way out, its confirms always drained.

const (
	linkTimeout      = 10 * time.Second // to make a link
	linkCloseTimeout = time.Second      // to close it politely
	// minOfficialHeartbeat is the least that the official client accepts.
	minOfficialHeartbeat = 3 * time.Second
	// never is for the official client's own time-out of confirms: an
	// unconfirmed message is not given up here but sent again.
	never = 24 * time.Hour
)

// init silences the official client, which logs to the standard logger by
// default. A program that uses it directly can still set a logger of its own.
func init() { logs.SetLogger(silent{}) }

type silent struct{}

func (silent) Info(string, ...any)  {}
func (silent) Error(string, ...any) {}
func (silent) Debug(string, ...any) {}
func (silent) Warn(string, ...any)  {}

// link is one official environment with one producer. Three goroutines belong
// to it: one sends batches, one drains confirms, one waits for its end. close
// waits for them, unless the official client is stuck: then they are left
// behind with it, to end when the operating system ends the connection.
type link struct {
	address  string
	node     string // the leader's advertised address
	frameMax int
	lastID   uint64 // newest publishing id that the broker had
	confirms atomic.Uint64

	relay    *relay // carries the connections where Config.Dial is set
	env      *official.Environment
	producer *official.Producer
	filtered *official.Producer // for messages with a filter value; the sender's
	opts     *official.ProducerOptions
	stream   string
	flight   *inflight

	batches chan []*slot
	spare   chan []*slot // memory of batches, to be used again
	lost    chan struct{}
	once    sync.Once
	mu      sync.Mutex
	err     error
	wg      sync.WaitGroup
}

// dialLink makes a link to the leader's node, under ctx and linkTimeout. leader is
// a way to it that works.
func dialLink(ctx context.Context, cfg Config, leader broker.Contact, stream string, p ProducerConfig, flight *inflight) (*link, error) {
	e := leader.Endpoint
	ctx, cancel := context.WithTimeoutCause(ctx, linkTimeout, broker.OwnReason(fmt.Errorf("%w: no producer at %s within %v", ErrUnreachable, e.Address(), linkTimeout)))
	defer cancel()
	l := &link{
		address: e.Address(), node: leader.Advertised, frameMax: leader.FrameMax, stream: stream, flight: flight,
		batches: make(chan []*slot), spare: make(chan []*slot, 2), lost: make(chan struct{}),
	}
	var err error
	if cfg.Dial != nil {
		if l.relay, err = startRelay(cfg.brokerOptions(), e); err != nil {
			return nil, err
		}
	}
	if err = within(ctx, func() error { return l.open(cfg, leader, p) }, l.discard); err != nil {
		l.relay.close()
		return nil, scrub(err, e)
	}
	return l, nil
}

// explainLink returns what our own client says of a node at which the official
// client has failed, if that is something that trying again does not mend: the
// official client's errors do not tell. Else it returns err.
func (e *Env) explainLink(ctx context.Context, leader broker.Contact, err error) error {
	if isFatal(err) || ctx.Err() != nil {
		return err
	}
	if own := e.cluster.Check(ctx, leader); isFatal(own) {
		return own
	}
	return err
}

// within runs a call of the official client that cannot be cancelled. If ctx
// ends first, the call is left behind, and late cleans up after it.
func within(ctx context.Context, call func() error, late func()) error {
	done := make(chan error, 1)
	var mu sync.Mutex
	abandoned := false
	go func() {
		err := recovered(call)
		mu.Lock()
		defer mu.Unlock()
		if abandoned {
			late()
			return
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	select {
	case err := <-done:
		return err
	default:
		abandoned = true
		return broker.ContextError(ctx)
	}
}

func recovered(call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the official client panicked: %v", r)
		}
	}()
	return call()
}

// open makes environment and producer, blocking.
func (l *link) open(cfg Config, leader broker.Contact, p ProducerConfig) error {
	e := leader.Endpoint
	o := environmentOptions(cfg, e)
	at := broker.Node{Host: e.Host, Port: e.Port}
	if l.relay != nil {
		at = l.relay.node()
		o.ConnectionParameters[0].Host, o.ConnectionParameters[0].Port = at.Host, fmt.Sprint(at.Port)
	}
	if at.Address() != leader.Advertised { // it tries until the leader answers there
		o.SetAddressResolver(official.AddressResolver{Host: officialHost(at.Host), Port: at.Port})
	}
	env, err := official.NewEnvironment(o)
	l.env = env // even with an error
	if err != nil {
		l.discard()
		return officialError(err, e)
	}
	l.opts = official.NewProducerOptions().
		SetProducerName(p.Name).
		SetClientProvidedName(cfg.brokerOptions().ConnectionName("tidemark-producer")).
		SetConfirmationTimeOut(never).
		SetQueueSize(p.MaxInFlight + 2*batchMessages) // its own limit must never wait: ours does
	if p.SubEntries > 1 {
		l.opts.SetSubEntrySize(p.SubEntries).SetCompression(compressionOf(p.Compression))
	}
	if l.producer, err = env.NewProducer(l.stream, l.opts); err != nil {
		l.discard()
		return officialError(err, e)
	}
	confirms := l.producer.NotifyPublishConfirmation()
	closed := l.producer.NotifyClose()
	// Asked on the producer's own connection, after NotifyClose: a drop before
	// that would never be reported.
	id, err := l.producer.GetLastPublishingId()
	if err != nil {
		l.discard()
		return officialError(err, e)
	}
	l.lastID = uint64(max(id, 0))
	l.wg.Add(3)
	go l.send()
	go l.drain(confirms)
	go l.watch(closed)
	return nil
}

// environmentOptions writes the login the way the official client reads it
// back: it puts these parts into a URI unescaped, and unescapes the vhost
// twice.
func environmentOptions(cfg Config, e broker.Endpoint) *official.EnvironmentOptions {
	o := official.NewEnvironmentOptions().
		SetReadBuffer(-1).SetWriteBuffer(-1). // the operating system's own sizes
		SetRequestedHeartbeat(max(cfg.Heartbeat, minOfficialHeartbeat))
	scheme := broker.SchemePlain
	if e.TLS {
		scheme = broker.SchemeTLS
		o.SetTLSConfig(cfg.brokerOptions().TLSConfig(e))
	} else {
		o.SetTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	o.ConnectionParameters = []*official.Broker{{
		Scheme: scheme, Host: officialHost(e.Host), Port: fmt.Sprint(e.Port),
		User:     escapeUser(e.User),
		Password: escapeUser(e.Password),
		Vhost:    url.PathEscape(url.QueryEscape(e.VHost)),
	}}
	return o
}

// officialHost returns a host as the official client writes it into a URI.
func officialHost(host string) string {
	if strings.Contains(host, ":") {
		return "[" + strings.ReplaceAll(host, "%", "%25") + "]" // with a zone, as fe80::1%eth0
	}
	return host
}

// escapeUser escapes every byte that could mean something in a URI.
func escapeUser(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// compressionOf returns the official client's name for a compression.
func compressionOf(c Compression) official.Compression {
	switch none := (official.Compression{}); c {
	case CompressionGzip:
		return none.Gzip()
	case CompressionSnappy:
		return none.Snappy()
	case CompressionLZ4:
		return none.Lz4()
	case CompressionZstd:
		return none.Zstd()
	default:
		return none.None()
	}
}

// send hands batches to the official client, in which it may get stuck.
func (l *link) send() {
	defer l.wg.Done()
	var msgs []message.StreamMessage
	for {
		select {
		case <-l.lost:
			return
		case batch := <-l.batches:
			msgs = msgs[:0]
			for _, s := range batch {
				msgs = append(msgs, s)
			}
			err := recovered(func() error {
				p, err := l.producerFor(batch[0])
				if err != nil {
					return err
				}
				return p.BatchSend(msgs)
			})
			// FrameTooLarge reports each message by itself as well.
			if err != nil && !errors.Is(err, official.FrameTooLarge) {
				l.lose(fmt.Errorf("%w: sending to %s: %v", ErrUnreachable, l.address, err))
				return
			}
			l.reuse(batch)
		}
	}
}

// room returns an empty batch.
func (l *link) room() []*slot {
	select {
	case batch := <-l.spare:
		return batch
	default:
		return make([]*slot, 0, batchMessages)
	}
}

func (l *link) reuse(batch []*slot) {
	clear(batch)
	select {
	case l.spare <- batch[:0]:
	default:
	}
}

// producerFor returns the producer for messages like s. A producer that knows
// filter values writes garbage for messages without one, so that these have
// another; it shares the first one's name, for the broker one and the same.
func (l *link) producerFor(s *slot) (*official.Producer, error) {
	if s.filter == "" {
		return l.producer, nil
	}
	if l.filtered == nil {
		opts := *l.opts
		opts.SetFilter(official.NewProducerFilter(func(m message.StreamMessage) string { return m.(*slot).filter }))
		p, err := l.env.NewProducer(l.stream, &opts)
		if err != nil {
			return nil, err
		}
		l.filtered = p
		confirms, closed := p.NotifyPublishConfirmation(), p.NotifyClose()
		l.wg.Add(2) // its own is not done yet
		go l.drain(confirms)
		go l.watch(closed)
	}
	return l.filtered, nil
}

// drain takes every confirm at once: while one waits, the official client
// reads nothing from the connection.
func (l *link) drain(confirms official.ChannelPublishConfirm) {
	defer l.wg.Done()
	var ids []uint64
	for list := range confirms {
		for len(list) > 0 {
			code := codeOf(list[0])
			n := 0
			for ids = ids[:0]; n < len(list) && codeOf(list[n]) == code; n++ {
				ids = append(ids, idOfStatus(list[n]))
			}
			l.settle(code, ids)
			list = list[n:]
		}
	}
}

// idOfStatus is the id of a message: the official client gives those of sub-batches
// other ones.
func idOfStatus(c *official.ConfirmationStatus) uint64 {
	if s, ok := c.GetMessage().(*slot); ok {
		return s.id
	}
	return uint64(c.GetPublishingId())
}

// codeOf is 0 for a confirmed message.
func codeOf(s *official.ConfirmationStatus) uint16 {
	if s.IsConfirmed() {
		return 0
	}
	return s.GetErrorCode()
}

// The codes that the official client makes up itself: a message timed out, or
// its producer was closed. Neither is an outcome.
const (
	codeTimeout      = 62
	codeClosed       = 63
	codeNoPublisher  = 18
	codeFrameTooLong = 14
)

func (l *link) settle(code uint16, ids []uint64) {
	switch {
	case code == 0:
		l.confirms.Add(uint64(len(ids)))
		l.flight.settle(nil, ids...)
	case code == codeTimeout || code == codeClosed:
	case code == codeNoPublisher:
		l.lose(fmt.Errorf("%w: %s does not know the producer any more", ErrUnreachable, l.address))
	case code == codeFrameTooLong:
		l.flight.settle(fmt.Errorf("%w: it does not fit into a frame of %d bytes", ErrMessageTooLarge, l.frameMax), ids...)
	case l.reason() != nil:
		// The message may have been sent again on the next link by now.
	default:
		l.confirms.Add(1)
		l.flight.settle(fmt.Errorf("%w: code %d", ErrRefused, code), ids...)
	}
}

// watch waits for the end of the official producer. Deletion of the stream and
// a dropped connection look alike here: who connects again finds out.
func (l *link) watch(closed official.ChannelClose) {
	defer l.wg.Done()
	e := <-closed
	l.lose(fmt.Errorf("%w: connection to %s lost: %s", ErrUnreachable, l.address, e.Reason))
}

func (l *link) lose(err error) {
	l.once.Do(func() {
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
		close(l.lost)
	})
}

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// close ends the link and waits for its goroutines, for linkCloseTimeout at
// most: an official client that is stuck in a write never comes back.
func (l *link) close() {
	l.lose(ErrClosed)
	ctx, cancel := context.WithTimeout(context.Background(), linkCloseTimeout)
	defer cancel()
	_ = within(ctx, func() error { l.discard(); l.wg.Wait(); return nil }, func() {})
	l.relay.close()
}

// discard closes whatever there is of the official client, blocking.
func (l *link) discard() {
	_ = recovered(func() error {
		for _, p := range []*official.Producer{l.producer, l.filtered} {
			if p != nil {
				_ = p.Close()
			}
		}
		if l.env != nil {
			_ = l.env.Close()
		}
		return nil
	})
}

// officialError maps the official client's errors to ours.
func officialError(err error, e broker.Endpoint) error {
	for _, m := range []struct{ from, to error }{
		{official.StreamDoesNotExist, ErrStreamNotFound},
		{official.StreamNotAvailable, ErrStreamUnavailable},
		{official.LeaderNotReady, ErrStreamUnavailable},
		{official.CodeAccessRefused, ErrAccessRefused},
		{official.AuthenticationFailure, ErrAuthentication},
		{official.AuthenticationFailureLoopbackError, ErrAuthentication},
		{official.VirtualHostAccessFailure, ErrVirtualHost},
	} {
		if errors.Is(err, m.from) {
			return fmt.Errorf("%w at %s", m.to, e.Address())
		}
	}
	return fmt.Errorf("%w: %s: %v", ErrUnreachable, e.Address(), err)
}

// scrub removes the password from an error that the official client may have
// put it into, in any of the forms in which it was written. The sentinels it
// wraps stay.
func scrub(err error, e broker.Endpoint) error {
	text, clean := err.Error(), err.Error()
	for _, secret := range []string{e.Password, escapeUser(e.Password), url.QueryEscape(e.Password), url.PathEscape(e.Password)} {
		// Replacing a very short password would garble the text and hide
		// nothing; it only ever stands behind a colon.
		clean = strings.ReplaceAll(clean, ":"+secret, ":***")
		if len(secret) > 3 && secret != e.User {
			clean = strings.ReplaceAll(clean, secret, "***")
		}
	}
	if clean == text {
		return err
	}
	return &scrubbed{clean, err}
}

// scrubbed is an error whose cause is matched but not shown.
type scrubbed struct {
	text  string
	cause error
}

func (s *scrubbed) Error() string        { return s.text }
func (s *scrubbed) Is(target error) bool { return errors.Is(s.cause, target) }

// A slot is a message as the official client takes it, its bytes being ready.
var _ message.StreamMessage = (*slot)(nil)

func (s *slot) MarshalBinary() ([]byte, error)                { return s.body, nil }
func (s *slot) UnmarshalBinary([]byte) error                  { return errors.ErrUnsupported }
func (s *slot) SetPublishingId(int64)                         {}
func (s *slot) GetPublishingId() int64                        { return int64(s.id) }
func (s *slot) HasPublishingId() bool                         { return true }
func (s *slot) GetData() [][]byte                             { return nil }
func (s *slot) GetMessageProperties() *amqp.MessageProperties { return nil }
func (s *slot) GetMessageAnnotations() amqp.Annotations       { return nil }
func (s *slot) GetApplicationProperties() map[string]any      { return nil }
func (s *slot) GetMessageHeader() *amqp.MessageHeader         { return nil }
func (s *slot) GetAMQPValue() any                             { return nil }
