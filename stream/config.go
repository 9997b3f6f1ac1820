package stream

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Config says how an [Env] reaches the broker. Its zero value is the broker on
// this machine with the login guest.
type Config struct {
	// URIs are the nodes to try, in random order, each as
	// rabbitmq-stream://user:password@host:port/vhost, or rabbitmq-stream+tls
	// for TLS. Special characters in user, password and vhost are
	// percent-encoded. An element may also be several URIs separated by commas,
	// as in an environment variable. Default: [DefaultURI] alone.
	URIs []string

	// TLS is used for URIs with rabbitmq-stream+tls. Default: the system's
	// certificate authorities, TLS 1.2 or newer. An empty ServerName is
	// replaced by the URI's host, for every node of the cluster.
	TLS *tls.Config

	// Logger gets a line for each connection lost and won back. Default:
	// nothing is logged. No password is ever logged.
	Logger *slog.Logger

	// Resolve makes, of the address that a node of the cluster advertises, the
	// one at which to reach it, where that is another one: behind a load balancer
	// or a proxy, or in a container. It is called before each connection to a node
	// that the broker has named, unless one of URIs has led to it, possibly on
	// several goroutines at a time, and must not block. What answers must be the node that was asked for; a load balancer
	// is tried 20 times until it is. With TLS the certificate has to be for
	// the resolved host, or for TLS.ServerName. Default nil: as advertised.
	Resolve func(host string, port int) (string, int)

	// DialTimeout bounds one attempt to connect, the login included. Default
	// 4.5 s. Below 3.5 s a refused login looks like a silent broker, since the
	// broker delays that answer by 3 s. A connection that is there already is
	// passed over if it takes longer to answer, or 5 s.
	DialTimeout time.Duration

	// Heartbeat is the interval at which both sides show that they are alive.
	// A peer silent for 1.5 to 2 times as long counts as gone. Default 10 s, minimum
	// 1 s; producers, which run on the official client, use at least 3 s.
	Heartbeat time.Duration

	// Backoff paces the attempts to connect again.
	Backoff Backoff

	// OnState is told what becomes of consumers and producers: connected,
	// reconnecting, closed, that retention has overtaken a consumer or its stream
	// was created again. The changes come one after the other, in the order in which they happened, on
	// a goroutine of the Env that does nothing else: a slow callback holds up
	// the changes behind it, which are kept, and nobody else. Env.Close waits
	// for it, for [CloseTimeout] at most, so it must not be called from it. A
	// panic ends the process. Default nil.
	OnState func(StateChange)
}

// Backoff is the pause between attempts to connect again: the first one comes
// at once, the next after about Min, each further one after about twice the
// last, up to Max. Every pause is a random one of 50 to 100 % of that, so that
// many clients do not return in step.
type Backoff struct {
	Min time.Duration // default 50 ms
	Max time.Duration // default 5 s
}

// pause returns how long to wait before attempt n, the first being 0. random
// returns a number in [0, 1).
func (b Backoff) pause(n int, random func() float64) time.Duration {
	if n <= 0 {
		return 0
	}
	d := b.Min
	for i := 1; i < n && d < b.Max; i++ {
		d *= 2
	}
	d = min(d, b.Max)
	return d/2 + time.Duration(random()*float64(d/2))
}

func (c Config) withDefaults() (Config, []endpoint, error) {
	if len(c.URIs) == 0 {
		c.URIs = []string{DefaultURI}
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
		if *d.value < d.min {
			return c, nil, fmt.Errorf("%w: %s is %v; it must be at least %v, or 0 for the default of %v", ErrInvalidConfig, d.name, *d.value, d.min, d.def)
		}
	}
	var endpoints []endpoint
	for _, list := range c.URIs {
		for _, uri := range splitURIs(list) {
			e, err := parseURI(uri)
			if err != nil {
				return c, nil, err
			}
			endpoints = append(endpoints, e)
		}
	}
	return c, endpoints, nil
}

// tlsConfig is the configuration for one node.
func (c Config) tlsConfig(e endpoint) *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS != nil {
		t = c.TLS.Clone()
	}
	if t.ServerName == "" {
		t.ServerName = e.host
	}
	return t
}

func shuffled(list []endpoint) []endpoint {
	out := make([]endpoint, len(list))
	for i, j := range rand.Perm(len(list)) {
		out[i] = list[j]
	}
	return out
}
