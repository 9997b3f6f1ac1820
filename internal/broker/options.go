package broker

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// Options say how a Cluster reaches its nodes. DialTimeout and Heartbeat have no
// default here: the caller sets both.
type Options struct {
	// TLS is cloned for each connection with TLS. Nil stands for the system's
	// certificate authorities and TLS 1.2 or newer.
	TLS *tls.Config
	// Resolve maps a node's advertised address to one that this client can
	// reach. Nil stands for the advertised address.
	Resolve func(host string, port int) (string, int)
	// Dial makes the connection that TLS and the protocol run over. Nil stands
	// for a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Name comes before the role in the names of connections. It may be empty.
	Name string
	// DialTimeout bounds one attempt to connect, the login included.
	DialTimeout time.Duration
	// Heartbeat is the interval at which both sides show that they are alive.
	Heartbeat time.Duration

	// ReadersPerNode is how many connections to a node the leases share. A further
	// one is made only when all of them are full. 0 stands for GOMAXPROCS, and for
	// 256 where the broker is older than 4.2.2; see SleepsPerSubscription.
	ReadersPerNode int
	// PermitRenewal is the age at which an OffsetWriter replaces its
	// subscription. 0 stands for a minute.
	PermitRenewal time.Duration
}

// defaultPermitRenewal is short because the subscription keeps a file of the
// stream open on the broker, which retention may have removed.
const defaultPermitRenewal = time.Minute

func (o Options) withDefaults() Options {
	if o.PermitRenewal == 0 {
		o.PermitRenewal = defaultPermitRenewal
	}
	return o
}

// ConnectionName returns the name of a connection with a role, such as
// "tidemark-consumer".
func (o Options) ConnectionName(role string) string {
	if o.Name == "" {
		return role
	}
	return o.Name + " " + role
}

// TLSConfig returns the TLS configuration for one node. A ServerName that is set
// is the name in every node's certificate. An empty one becomes the host that is
// dialed for that node.
func (o Options) TLSConfig(e Endpoint) *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLS != nil {
		t = o.TLS.Clone()
	}
	if t.ServerName == "" {
		t.ServerName = e.Host
	}
	return t
}

// resolve returns the address at which this client can reach a node.
func (o Options) resolve(n Node) (Node, error) {
	if o.Resolve == nil {
		return n, nil
	}
	host, port := o.Resolve(n.Host, n.Port)
	if host == "" || port < 1 || port > 65535 {
		return n, fmt.Errorf("%w: Config.Resolve returned the host %q and the port %d for %s", ErrInvalidConfig, host, port, n.Address())
	}
	return Node{host, port}, nil
}
