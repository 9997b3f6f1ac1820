package streamtest

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"time"
)

// Option changes how a Broker is started.
type Option func(*config)

type config struct {
	addr       string
	advertised string // host, or host:port
	management string // address; empty: none
	tls        *tls.Config
	users      []User
	vhosts     []string
	anonymous  string // user; empty: off
	heartbeat  time.Duration
	frameMax   uint32
	memory     int64
	version    string
	start      time.Time // zero: real time
	logger     *slog.Logger
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

// WithAddr sets the address to listen on, as for net.Listen. The default is 127.0.0.1:0, a free port of
// the loopback interface.
func WithAddr(addr string) Option { return func(c *config) { c.addr = addr } }

// WithAdvertised sets the host, or host:port, that clients are told to connect to. The default is
// localhost where the broker listens on loopback or on all interfaces, otherwise the address it listens on.
func WithAdvertised(host string) Option { return func(c *config) { c.advertised = host } }

// WithManagement starts the HTTP management endpoint on addr; port 0 picks a free one, see
// Broker.ManagementURL. There is none by default.
func WithManagement(addr string) Option { return func(c *config) { c.management = addr } }

// WithTLS makes the broker speak TLS only. To offer SASL EXTERNAL, let the configuration verify client
// certificates: the common name of the certificate is the user.
func WithTLS(cfg *tls.Config) Option { return func(c *config) { c.tls = cfg } }

// WithUser adds a user. The first one given replaces the default, guest with password guest; URI uses it.
func WithUser(u User) Option { return func(c *config) { c.users = append(c.users, u) } }

// WithVHost adds a virtual host besides "/".
func WithVHost(name string) Option { return func(c *config) { c.vhosts = append(c.vhosts, name) } }

// WithAnonymous offers SASL ANONYMOUS, which logs in as user. It is off by default.
func WithAnonymous(user string) Option { return func(c *config) { c.anonymous = user } }

// WithHeartbeat sets the interval the broker proposes, in whole seconds; 0 proposes none. The default is
// a minute. As in RabbitMQ, what the client answers is what holds.
func WithHeartbeat(d time.Duration) Option { return func(c *config) { c.heartbeat = d } }

// WithFrameMax sets the largest frame the broker accepts, without its size prefix. The default, also for
// 0, is 1 MiB.
func WithFrameMax(n uint32) Option {
	return func(c *config) {
		if c.frameMax = n; n == 0 {
			c.frameMax = 1 << 20
		}
	}
}

// WithMemoryLimit sets how many bytes the broker stores before it blocks publishers, as RabbitMQ does when
// its disk is full: their connections are not read until there is room again. The default is 4 GiB; give
// streams a max-length-bytes to stay below it.
func WithMemoryLimit(bytes int64) Option { return func(c *config) { c.memory = bytes } }

// WithVersion sets the server version the broker reports; clients switch features on by it. The default
// is the RabbitMQ whose behaviour the broker follows. The behaviour does not change with it.
func WithVersion(v string) Option { return func(c *config) { c.version = v } }

// WithStartTime makes the broker's clock start at t instead of the real time; it runs from there.
func WithStartTime(t time.Time) Option { return func(c *config) { c.start = t } }

// WithLogger sets where refusals and faults are logged. The default is silence. Passwords are never
// logged. The logger's handler must not call the broker.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.logger = l } }

// User is an account of the broker.
type User struct {
	Name     string
	Password string

	// Permissions by virtual host. Nil grants everything in all of them.
	Permissions map[string]Permission
}

// Permission holds the patterns of names a user may configure, write and read. An empty pattern matches
// nothing, as in RabbitMQ; ".*" matches everything.
type Permission struct{ Configure, Write, Read string }

type account struct {
	User
	permissions map[string]*patterns // nil: everything
}

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

// advertise splits what clients are told into host and port.
func (c *config) advertise(ln net.Addr) (host, port string) {
	bound, port, _ := net.SplitHostPort(ln.String())
	if h, p, err := net.SplitHostPort(c.advertised); err == nil {
		return h, p
	}
	if c.advertised != "" {
		return c.advertised, port
	}
	if ip := net.ParseIP(bound); ip == nil || ip.IsLoopback() || ip.IsUnspecified() {
		return "localhost", port
	}
	return bound, port
}
