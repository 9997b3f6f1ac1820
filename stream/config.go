package stream

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// DefaultURI is the broker that [Connect] uses when Config.URIs is empty.
const DefaultURI = "rabbitmq-stream://guest:guest@localhost:5552/%2f"

const (
	defaultEnvMaxBuffered = 64 << 20
	maxMaxBuffered        = 1 << 30

	defaultEnvMaxInFlightBytes = 256 << 20
)

// Config says how an [Env] reaches the broker. With the zero value it connects
// to the broker on this machine as the user guest.
type Config struct {
	// URIs are the nodes to try, in random order. A URI has the form
	// rabbitmq-stream://user:password@host:port/vhost, or rabbitmq-stream+tls
	// for TLS. Special characters in user, password and vhost are
	// percent-encoded. An element may also be several URIs separated by commas,
	// as in an environment variable. Default: [DefaultURI] alone.
	URIs []string

	// Wait makes [Connect] try again, paced by Backoff, what trying again can
	// mend: a broker that is not up yet, a host that is not known yet. Connect
	// then blocks until its ctx ends. What a person has to mend fails at once,
	// such as a refused login or a wrong certificate. Each attempt that fails is
	// logged. Default false: one attempt for each URI.
	Wait bool

	// ConnectionName is the name under which RabbitMQ's management shows the
	// connections of the Env, followed by the role of each: "billing@host
	// tidemark-consumer". The roles are tidemark-admin, tidemark-consumer,
	// tidemark-store and tidemark-producer. At most 255 bytes of UTF-8 without
	// control characters. Default: the program's name, "@", and the host's.
	ConnectionName string

	// TLS is used for URIs with rabbitmq-stream+tls. One rule holds for
	// consumers, producers and administration: if ServerName is set, the
	// certificate of every node must be for that name, as with one certificate
	// for a whole cluster. If it is empty, the certificate of each node must be
	// for the host that the Env dials for that node: the URI's, the one that the
	// broker advertises, or what Resolve returns.
	//
	// If the broker demands client certificates (ssl_options.verify =
	// verify_peer and fail_if_no_peer_cert = true), set Certificates or
	// GetClientCertificate. The login is still the URI's user and password. A
	// broker that refuses the certificate, or gets none, is [ErrTLS].
	//
	// Default: the system's certificate authorities, TLS 1.2 or newer.
	TLS *tls.Config

	// Dial makes each connection to a node, as through a proxy or an SSH tunnel.
	// network is "tcp" and address is host:port. TLS and the protocol run over
	// what it returns. It must return when ctx ends, at the latest. Several
	// goroutines may call it at a time. An error is [ErrUnreachable] and comes
	// again in the errors of the Env; errors.Is and errors.As find it.
	//
	// Default nil: a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Logger gets a line for each connection that is lost or made again, for
	// each failure of a handler that is tried again or settled, and for each
	// store that failed. It never gets a password. Default: nothing is logged.
	Logger *slog.Logger

	// Resolve maps a node's advertised address to one that this client can
	// reach. It serves clients behind a load balancer, a proxy or a container's
	// network. The Env calls it before it connects to a node that the broker
	// has named. It may dial a node without it if a URI has led to that node.
	// Several goroutines may call Resolve at a time, and it must not block.
	//
	// The node that answers must be the one that was asked for. Behind a load
	// balancer another one may answer; the Env then dials again. A consumer
	// dials 20 times before it counts the node as unreachable. Default nil: the
	// advertised address.
	Resolve func(host string, port int) (string, int)

	// DialTimeout bounds one attempt to connect, the login included. If it is
	// below 3.5 s, a refused login looks like a silent broker, because RabbitMQ
	// delays that answer by 3 s. Default 4.5 s, at most 24 h.
	//
	// A consumer that joins an open connection first asks whether the peer
	// answers. If there is no answer within DialTimeout, and within 5 s at
	// most, the consumer makes a new connection.
	DialTimeout time.Duration

	// Heartbeat is the interval at which both sides show that they are alive. A
	// peer counts as gone once it has been silent for 1.5 to 2 heartbeats.
	// Default 10 s, from 1 s to 24 h.
	Heartbeat time.Duration

	// Backoff paces the attempts to connect again. Default: from 50 ms to 5 s.
	Backoff Backoff

	// MaxBuffered bounds the memory of the chunks that all consumers of the Env
	// have on their way, waiting, or being handled, as
	// ConsumerConfig.MaxBuffered does for one of them. They share it by need: a
	// consumer at the end of its stream takes next to nothing, and one that
	// catches up takes as much as it can use, up to its own MaxBuffered and up
	// to half of what the others leave. So n consumers that catch up have
	// 1/(n+1) of it each. What a slow consumer keeps counts as its own. Default
	// 64 MiB, at most 1 GiB.
	//
	// Every consumer may have one chunk, whatever the others have, so the
	// memory in use can reach MaxBuffered + consumers * L, where L is the size
	// of the largest chunk. It can be more for a while, because a consumer
	// cannot take back what it has asked for: if chunks grow suddenly, or if
	// slow consumers at the end of their streams suddenly get much. What each
	// consumer has then is bounded as ConsumerConfig.MaxBuffered says. Copies
	// of the messages that are being handled are not counted: about 64 KiB for
	// a consumer of messages of 100 bytes.
	MaxBuffered int

	// MaxInFlightBytes bounds the bytes of the messages that all producers of the
	// Env have on their way, as ProducerConfig.MaxInFlightBytes does for one of
	// them. A producer that has none may always have one message, so that none
	// waits for another one. Default 256 MiB.
	MaxInFlightBytes int

	// OnState gets each change of a consumer or producer; see [State]. The Env
	// calls it on a goroutine of its own, for one change at a time, in the
	// order of the changes. A slow callback delays only the changes behind it,
	// which are kept. Env.Close waits for it, for [CloseTimeout] at most, so
	// the callback must not call Env.Close. A panic ends the process. Default
	// nil: no callback.
	OnState func(StateChange)
}

// maxDuration is the longest duration that a setting may have. Multiples of it
// do not overflow, and what takes longer stands still.
const maxDuration = 24 * time.Hour

// Backoff paces attempts. The first attempt comes at once, the second one after
// about Min, and each further one after about twice the last pause, up to Max.
// Every pause is random, from 50 to 100 % of that, so that many clients do not
// return in step. The defaults are those of the field that holds the Backoff.
// Both are at most 24 h.
type Backoff struct {
	Min time.Duration
	Max time.Duration
}

// pause returns how long to wait before the next attempt, after a number of
// failures. Without a failure that is 0. random returns a number in [0, 1).
func (b Backoff) pause(failures int, random func() float64) time.Duration {
	if failures <= 0 {
		return 0
	}
	d := b.Min
	for i := 1; i < failures && d < b.Max; i++ {
		d *= 2
	}
	d = min(d, b.Max)
	return d/2 + time.Duration(random()*float64(d/2))
}

// withDefaults returns the configuration with its defaults filled in, and its
// URIs parsed. It fails if a setting cannot work.
func (c Config) withDefaults() (Config, []broker.Endpoint, error) {
	if len(c.URIs) == 0 {
		c.URIs = []string{DefaultURI}
	}
	if c.ConnectionName == "" {
		c.ConnectionName = defaultConnectionName()
	}
	if err := checkConnectionName(c.ConnectionName); err != nil {
		return c, nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
		min   time.Duration
	}{
		{"DialTimeout", &c.DialTimeout, 4500 * time.Millisecond, time.Millisecond},
		{"Heartbeat", &c.Heartbeat, 10 * time.Second, time.Second},
		{"Backoff.Min", &c.Backoff.Min, 50 * time.Millisecond, time.Millisecond},
		{"Backoff.Max", &c.Backoff.Max, max(5*time.Second, c.Backoff.Min), c.Backoff.Min},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < d.min || *d.value > maxDuration {
			return c, nil, fmt.Errorf("%w: %s is %v; it must be from %v to %v, or 0 for the default of %v", ErrInvalidConfig, d.name, *d.value, d.min, maxDuration, d.def)
		}
	}
	if c.MaxInFlightBytes == 0 {
		c.MaxInFlightBytes = defaultEnvMaxInFlightBytes
	}
	if c.MaxInFlightBytes < 1 {
		return c, nil, fmt.Errorf("%w: Config.MaxInFlightBytes is %d; it must be positive, or 0 for 256 MiB", ErrInvalidConfig, c.MaxInFlightBytes)
	}
	if c.MaxBuffered == 0 {
		c.MaxBuffered = defaultEnvMaxBuffered
	}
	if c.MaxBuffered < 1 || c.MaxBuffered > maxMaxBuffered {
		return c, nil, fmt.Errorf("%w: Config.MaxBuffered is %d bytes; it must be from 1 to %d, or 0 for %d", ErrInvalidConfig, c.MaxBuffered, maxMaxBuffered, defaultEnvMaxBuffered)
	}
	endpoints, err := broker.ParseURIs(c.URIs)
	return c, endpoints, err
}

// brokerOptions returns the part of the configuration that internal/broker
// needs.
func (c Config) brokerOptions() broker.Options {
	return broker.Options{
		TLS: c.TLS, Resolve: c.Resolve, Dial: c.Dial, Name: c.ConnectionName,
		DialTimeout: c.DialTimeout, Heartbeat: c.Heartbeat,
	}
}

// defaultConnectionName returns the program's name and the host's.
func defaultConnectionName() string {
	program := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	name := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '_'
		}
		return r
	}, program+"@"+host)
	for len(name) > maxName {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	return name
}

// checkConnectionName rejects what the broker's management cannot show.
func checkConnectionName(name string) error {
	if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%w: ConnectionName is %.40q; it must be valid UTF-8 without control characters and have at most %d bytes", ErrInvalidConfig, name, maxName)
	}
	return nil
}
