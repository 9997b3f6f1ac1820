package stream

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// DefaultURI is the broker that [Connect] uses when none is named.
const DefaultURI = "rabbitmq-stream://guest:guest@localhost:5552/%2f"

const (
	schemePlain = "rabbitmq-stream"
	schemeTLS   = "rabbitmq-stream+tls"

	defaultPort    = 5552
	defaultTLSPort = 5551
)

// endpoint is a parsed URI: where to connect, and as whom.
type endpoint struct {
	host     string
	port     int
	tls      bool
	user     string
	password string
	vhost    string
}

// address is what to dial.
func (e endpoint) address() string { return net.JoinHostPort(e.host, strconv.Itoa(e.port)) }

// at is the same login at another node of the cluster.
func (e endpoint) at(host string, port int) endpoint {
	e.host, e.port = host, port
	return e
}

// String names the endpoint without its password.
func (e endpoint) String() string {
	scheme := schemePlain
	if e.tls {
		scheme = schemeTLS
	}
	return fmt.Sprintf("%s://%s@%s/%s", scheme, url.PathEscape(e.user), e.address(), url.PathEscape(e.vhost))
}

// parseURI reads rabbitmq-stream://user:password@host:port/vhost. Missing parts
// are guest, guest, localhost, 5552 (5551 with TLS) and the vhost "/". User,
// password and vhost are percent-decoded. Errors show the URI without password.
func parseURI(text string) (endpoint, error) {
	bad := func(format string, args ...any) (endpoint, error) {
		return endpoint{}, fmt.Errorf("%w: URI %q: %s", ErrInvalidConfig, redactURI(text), fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(text)
	if err != nil {
		// The cause may quote a part of the password: it stays out.
		return bad("it cannot be read; write %s://user:password@host:port/vhost and percent-encode special characters (@ as %%40, / as %%2F, %% as %%25)", schemePlain)
	}
	e := endpoint{host: u.Hostname(), user: "guest", password: "guest", vhost: "/"}
	switch u.Scheme {
	case schemePlain:
		e.port = defaultPort
	case schemeTLS:
		e.port, e.tls = defaultTLSPort, true
	default:
		return bad("the scheme must be %s or %s", schemePlain, schemeTLS)
	}
	switch {
	case u.Opaque != "":
		return bad("the scheme must be followed by //")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("it takes no ? or # part; settings are fields of Config, and such a character in a password is written %%3F or %%23")
	}
	if e.host == "" {
		e.host = "localhost"
	}
	if u.Port() != "" {
		if e.port, err = strconv.Atoi(u.Port()); err != nil || e.port < 1 || e.port > 65535 {
			return bad("the port must be from 1 to 65535")
		}
	}
	if err := e.login(u.User); err != nil {
		return bad("%v", err)
	}
	if e.vhost, err = vhostOf(u); err != nil {
		return bad("%v", err)
	}
	return e, nil
}

func (e *endpoint) login(info *url.Userinfo) error {
	if info == nil {
		return nil
	}
	password, given := info.Password()
	if info.Username() == "" || !given || password == "" {
		return errors.New("it needs both user and password, as user:password@; leave both out for guest:guest")
	}
	e.user, e.password = info.Username(), password
	return nil
}

// vhostOf takes the vhost from the path: none, "/" and "/%2f" are the vhost "/".
func vhostOf(u *url.URL) (string, error) {
	segment := strings.TrimPrefix(u.EscapedPath(), "/")
	if segment == "" {
		return "/", nil
	}
	if strings.Contains(segment, "/") {
		return "", errors.New("the path is one vhost; write a / within its name as %2F")
	}
	vhost, err := url.PathUnescape(segment)
	if err != nil {
		return "", errors.New("the vhost is not valid percent-encoding")
	}
	return vhost, nil
}

// redactURI hides whatever could be a password, however broken the URI is:
// everything between the first colon of the user part and the last @, or, in a
// text that has no @ and is no URI either, everything after the scheme.
func redactURI(text string) string {
	start := 0
	// The first colon is the scheme's: a later :// is part of a password.
	if i := strings.Index(text, ":"); i >= 0 && strings.HasPrefix(text[i:], "://") && !strings.Contains(text[:i], "/") {
		start = i + len("://")
	}
	at := strings.LastIndex(text, "@")
	if at < start {
		if _, err := url.Parse(text); err != nil {
			return text[:start] + "***"
		}
		return text
	}
	user, _, found := strings.Cut(text[start:at], ":")
	if !found {
		user = ""
	}
	return text[:start] + user + ":***" + text[at:]
}

// splitURIs cuts a list of URIs at the commas. A comma within a password is
// not one: it is not followed by a scheme.
func splitURIs(list string) []string {
	var out []string
	for start, i := 0, 0; ; i++ {
		next := strings.IndexByte(list[i:], ',')
		if next < 0 {
			return append(out, strings.TrimSpace(list[start:]))
		}
		if i += next; strings.HasPrefix(strings.TrimLeft(list[i+1:], " "), schemePlain) {
			out = append(out, strings.TrimSpace(list[start:i]))
			start = i + 1
		}
	}
}
