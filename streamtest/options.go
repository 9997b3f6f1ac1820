package streamtest

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Option is a setting of a Broker, for Start and NewBroker. If an option occurs
// twice, the last one counts, except for WithUser and WithVHost, which add up.
type Option func(*config)

type config struct {
	addr       string
	advertised string // host, host:port or :port; see splitAdvertised
	tls        *tls.Config
	users      []User
	vhosts     []string
	anonymous  string // user of SASL ANONYMOUS; empty: not offered
	heartbeat  time.Duration
	frameMax   uint32
	memory     int64
	version    string
	// see WithSubscriptionDelay; 0: none
	subscriptionDelay time.Duration
	apart             bool      // see WithSeparateFrames
	stepDownBug       bool      // see WithStepDownBug
	oneByOne          bool      // see WithMembersLeavingOneByOne
	noFilters         bool      // see WithoutFilters
	inMemory          bool      // see InMemory
	start             time.Time // zero: real time
	logger            *slog.Logger
}

func newConfig(opts []Option) config {
	cfg := config{
		addr: "127.0.0.1:0", heartbeat: time.Minute, frameMax: 1 << 20, memory: 4 << 30, version: "4.3.6",
		logger: slog.New(slog.DiscardHandler), vhosts: []string{defaultVHost},
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	if len(cfg.users) == 0 {
		cfg.users = []User{{Name: "guest", Password: "guest"}}
	}
	return cfg
}

// WithAddr sets the TCP address to listen on, as host:port in the format of
// net.Listen. The default is 127.0.0.1:0, a free port of the loopback
// interface.
func WithAddr(addr string) Option { return func(c *config) { c.addr = addr } }

// WithAdvertised sets the host, or host:port, that the broker tells clients to
// connect to, in URI, Open and Metadata. Start fails unless the port is a
// number from 1 to 65535. The default port is the one the broker listens on.
// The default host is localhost if the broker listens on an IPv4 address of the
// loopback interface or on all interfaces, and otherwise the address it listens
// on.
func WithAdvertised(host string) Option { return func(c *config) { c.advertised = host } }

// WithTLS makes the broker speak only TLS to stream clients. cfg must contain a
// certificate. The broker also offers SASL EXTERNAL if cfg.ClientAuth is
// tls.VerifyClientCertIfGiven or tls.RequireAndVerifyClientCert. The common
// name of the client certificate is then the name of the user. The default is
// plain TCP.
func WithTLS(cfg *tls.Config) Option { return func(c *config) { c.tls = cfg } }

// WithUser adds a user. The first WithUser replaces the default user, which is
// guest with password guest. URI contains the first user. As in RabbitMQ, the
// user guest can log in with a password only over the loopback interface.
func WithUser(u User) Option { return func(c *config) { c.users = append(c.users, u) } }

// WithVHost adds a virtual host. The virtual host "/" always exists.
func WithVHost(name string) Option { return func(c *config) { c.vhosts = append(c.vhosts, name) } }

// WithAnonymous makes the broker offer SASL ANONYMOUS, which logs clients in as
// user without a password. The user must exist. By default the broker does not
// offer it.
func WithAnonymous(user string) Option { return func(c *config) { c.anonymous = user } }

// WithHeartbeat sets the heartbeat interval that the broker proposes. It drops
// fractions of a second; 0 proposes no heartbeats. The default is one minute.
// As in RabbitMQ, the interval that the client answers applies.
func WithHeartbeat(d time.Duration) Option { return func(c *config) { c.heartbeat = d } }

// WithFrameMax sets the length in bytes of the longest frame that the broker
// accepts after Open, without the four bytes of its size prefix. The client may
// agree on less. The default, also for 0, is 1 MiB. Before Open the limit is
// 8,192 bytes, as in RabbitMQ 4.3.5.
func WithFrameMax(n uint32) Option {
	return func(c *config) {
		if c.frameMax = n; n == 0 {
			c.frameMax = 1 << 20
		}
	}
}

// WithMemoryLimit sets the number of bytes, approximately, that the broker may
// store. The default is 4 GiB. At the limit it blocks publishers, as RabbitMQ
// does when its disk is full: it does not read the connections that have a
// publisher, and refuses DeclarePublisher with PreconditionFailed. It also
// refuses Create with InternalError, and drops StoreOffset under a new name.
// All this ends when a deletion or retention frees memory. Give streams a
// max-length-bytes to stay below the limit.
func WithMemoryLimit(bytes int64) Option { return func(c *config) { c.memory = bytes } }

// WithVersion sets the RabbitMQ version that the broker reports, by which
// clients switch features on. The behaviour of the broker does not change with
// it. The default is 4.3.6, whose behaviour the broker follows.
func WithVersion(v string) Option { return func(c *config) { c.version = v } }

// Version returns the RabbitMQ version that the broker reports; see WithVersion.
func (b *Broker) Version() string { return b.cfg.version }

// WithStepDownBug gives the broker a bug of RabbitMQ 4.1.2 to 4.1.8, all of 4.2,
// and 4.3.0 to 4.3.3, and makes it report version, which should be one of these. A
// single active consumer of a super stream that is chosen again while it steps
// down counts as active and is never told: the group has no reader until its
// members change. That happens where a member joins and leaves again before the
// active one has answered.
func WithStepDownBug(version string) Option {
	return func(c *config) { c.version, c.stepDownBug = version, true }
}

// WithMembersLeavingOneByOne makes the broker treat the single active consumers
// of a connection that ends, and those that join while another steps down, as
// RabbitMQ 4.0 does, and makes it report version, which should be a 4.0. The
// members of the connection leave their groups one after the other, and after
// each the broker chooses among those that are left, so that others may be told
// to step down and to go on. Later versions remove all first. A member that steps
// down is not told again if the choice changes before it has answered; later
// versions tell it.
func WithMembersLeavingOneByOne(version string) Option {
	return func(c *config) { c.version, c.oneByOne = version, true }
}

// WithSubscriptionDelay makes subscriptions that share a connection cost what
// they cost in RabbitMQ below 4.2.2, where d is one millisecond. The default, 0
// and below, is what they cost in later versions: nothing.
//
// With a delay, a commit to a stream makes a connection with n subscriptions of
// that stream try all of them n times, and sleep for d after each that has
// credit and no chunk left to get: n times n times d in all. A StoreOffset is a
// commit too. A Credit and a Subscribe that find no chunk left cost d. While a
// connection sleeps it sends no chunk, and the commands of the client wait
// until it has served the commits before them. A chunk that is there meanwhile
// is sent when the turn of its subscription comes, within n times d. Clients
// that tell by its version whether a broker is that slow need WithVersion as
// well. d is real time, which Advance does not move.
func WithSubscriptionDelay(d time.Duration) Option {
	return func(c *config) { c.subscriptionDelay = max(d, 0) }
}

// WithSeparateFrames makes each Publish frame a chunk of its own, or several if
// it has very many messages. A test can then say which messages share a chunk.
//
// By default frames that arrive together share chunks of up to 32 messages, a
// limit that doubles up to 8,192 while chunks are full, as in RabbitMQ. There a
// filter lets through the other messages of a chunk too, and a subscription
// that begins at the last chunk gets all of it.
func WithSeparateFrames() Option { return func(c *config) { c.apart = true } }

// WithoutFilters makes the broker behave as RabbitMQ below 3.13, which has no
// filters: it does not offer version 2 of Publish and closes the connection of a
// client that sends it, and it ignores the filter of a Subscribe. The version that
// it reports is 3.12.14, unless a WithVersion follows.
func WithoutFilters() Option {
	return func(c *config) { c.noFilters, c.version = true, "3.12.14" }
}

// WithStartTime sets the time of the broker's clock at Start. The clock runs
// from there; see Broker.Now. The default is the real time. Heartbeats and
// time-outs do not depend on it.
func WithStartTime(t time.Time) Option { return func(c *config) { c.start = t } }

// WithLogger makes the broker log refused logins, malformed frames, lost
// stores, a full memory and its own failures. By default it logs nothing. It
// never logs a password. The handler of the logger must not call the broker: it
// may run while the broker holds its mutex, and would then wait for ever.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.logger = l } }

// User is a user of the broker, for WithUser.
type User struct {
	// Name is the name with which clients log in.
	Name string
	// Password is the password for SASL PLAIN and package management.
	Password string

	// Permissions holds what the user may do, by virtual host. The user
	// cannot open a virtual host that is missing. A nil map grants
	// everything in all virtual hosts.
	Permissions map[string]Permission
}

// Permission says what a user may do in a virtual host, by the names of streams
// and super streams. Each field is a regular expression in the syntax of
// package regexp. It matches anywhere in the name unless ^ and $ anchor it;
// ".*" matches every name. As in RabbitMQ, an empty one matches no name.
type Permission struct {
	// Configure matches the names that the user may create and delete. To
	// create or delete a super stream, the user also needs Read for its
	// name and Write for its partitions.
	Configure string
	// Write matches the names that the user may publish to. It also grants
	// Metadata, Route and Partitions.
	Write string
	// Read matches the names that the user may consume from. It also grants
	// StoreOffset, Metadata, Partitions and the queries of offsets,
	// publishing ids and statistics.
	Read string
}

// account is a User with its patterns compiled.
type account struct {
	User
	permissions map[string]*patterns // by virtual host; nil: everything
}

// patterns is a compiled Permission.
type patterns struct{ configure, write, read *regexp.Regexp }

func newAccount(u User) (*account, error) {
	a := &account{User: u}
	if u.Permissions == nil {
		return a, nil
	}
	a.permissions = make(map[string]*patterns)
	for vhost, p := range u.Permissions {
		compiled := new(patterns)
		for _, x := range []struct {
			text string
			to   **regexp.Regexp
		}{{p.Configure, &compiled.configure}, {p.Write, &compiled.write}, {p.Read, &compiled.read}} {
			if x.text == "" {
				x.text = "^$"
			}
			re, err := regexp.Compile(x.text)
			if err != nil {
				return nil, fmt.Errorf("permission of user %q in vhost %q: %w", u.Name, vhost, err)
			}
			*x.to = re
		}
		a.permissions[vhost] = compiled
	}
	return a, nil
}

// advertise returns the host and port that clients are told, if the broker
// listens on ln.
func (c *config) advertise(ln net.Addr) (host, port string) {
	bound, port, _ := net.SplitHostPort(ln.String())
	host, given, _ := splitAdvertised(c.advertised) // Start has refused what is wrong
	if given != "" {
		port = given
	}
	if host == "" {
		host = defaultHost(bound)
	}
	return host, port
}

// defaultHost returns the host that reaches a listener on the address bound.
// localhost may resolve to IPv4 alone.
func defaultHost(bound string) string {
	ip := net.ParseIP(bound)
	if ip == nil || ip.IsUnspecified() || ip.IsLoopback() && ip.To4() != nil {
		return "localhost"
	}
	return bound
}

// splitAdvertised splits the argument of WithAdvertised. A part that is missing
// is empty.
func splitAdvertised(text string) (host, port string, err error) {
	if host, port, err := net.SplitHostPort(text); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", "", fmt.Errorf("advertised address %q: the port must be a number from 1 to 65535", text)
		}
		return host, port, nil
	}
	host = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	if strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return "", "", fmt.Errorf("advertised address %q: want host, host:port or [IPv6]:port", text)
	}
	return host, "", nil
}
