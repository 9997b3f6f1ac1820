package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// The schemes of a URI.
const (
	SchemePlain = "rabbitmq-stream"
	SchemeTLS   = "rabbitmq-stream+tls"
)

const (
	defaultPort    = 5552
	defaultTLSPort = 5551
)

// Endpoint is a parsed URI: where to dial, and the login.
type Endpoint struct {
	Host     string
	Port     int
	TLS      bool
	User     string
	Password string
	VHost    string
}

// Address returns the host and the port to dial.
func (e Endpoint) Address() string { return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) }

// At returns the same login at another address of the cluster.
func (e Endpoint) At(n Node) Endpoint {
	e.Host, e.Port = n.Host, n.Port
	return e
}

// String returns the endpoint as a URI without its password.
func (e Endpoint) String() string {
	scheme := SchemePlain
	if e.TLS {
		scheme = SchemeTLS
	}
	return fmt.Sprintf("%s://%s@%s/%s", scheme, url.PathEscape(e.User), e.Address(), url.PathEscape(e.VHost))
}

// ParseURIs parses every URI of the lists. A list is one URI, or several
// separated by commas. The first URI that is wrong is an ErrInvalidConfig, and so
// are URIs of different vhosts: a stream's name means another stream in each.
func ParseURIs(lists []string) ([]Endpoint, error) {
	var endpoints []Endpoint
	for i, list := range lists {
		if strings.TrimSpace(list) == "" {
			return nil, fmt.Errorf("%w: URIs[%d] is empty, as it is when read from a variable that is not set: set it, or leave URIs nil for the broker on this machine", ErrInvalidConfig, i)
		}
		for _, uri := range splitURIs(list) {
			e, err := parseURI(uri)
			if err != nil {
				return nil, err
			}
			endpoints = append(endpoints, e)
		}
	}
	for _, e := range endpoints {
		if first := endpoints[0]; e.VHost != first.VHost {
			return nil, fmt.Errorf("%w: the URIs name the vhosts %q and %q: all nodes of a cluster have the same ones, so name one in all URIs", ErrInvalidConfig, first.VHost, e.VHost)
		}
	}
	return endpoints, nil
}

// parseURI reads rabbitmq-stream://user:password@host:port/vhost. A part that
// is missing defaults to guest, guest, localhost, 5552 (5551 with TLS) and the
// vhost "/". User, password and vhost are percent-decoded. Errors show the URI
// without its password.
func parseURI(text string) (Endpoint, error) {
	bad := func(format string, args ...any) (Endpoint, error) {
		return Endpoint{}, fmt.Errorf("%w: URI %q: %s", ErrInvalidConfig, redactURI(text), fmt.Sprintf(format, args...))
	}
	if strings.HasPrefix(text, ",") || strings.HasSuffix(text, ",") {
		return bad("it begins or ends with a comma, which only stands between two URIs; in a vhost it is written %%2C")
	}
	if strings.ContainsAny(hostPart(text), ",;") {
		return bad("it names several hosts; write a whole URI for each node, with commas between them")
	}
	u, err := url.Parse(text)
	if err != nil {
		// The parser's own error may quote a part of the password.
		return bad("it cannot be read; write %s://user:password@host:port/vhost and percent-encode special characters (@ as %%40, / as %%2F, %% as %%25)", SchemePlain)
	}
	e := Endpoint{Host: u.Hostname(), User: "guest", Password: "guest", VHost: "/"}
	switch u.Scheme {
	case SchemePlain:
		e.Port = defaultPort
	case SchemeTLS:
		e.Port, e.TLS = defaultTLSPort, true
	default:
		return bad("the scheme must be %s or %s", SchemePlain, SchemeTLS)
	}
	switch {
	case u.Opaque != "":
		return bad("the scheme must be followed by //")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("it takes no ? or # part; settings are fields of Config, and such a character in a password is written %%3F or %%23")
	}
	if name := strings.TrimSuffix(u.Host, ":"+u.Port()); !strings.HasPrefix(name, "[") && strings.Contains(name, ":") {
		return bad("its host contains a colon; an IPv6 address stands in brackets, as in [::1]:5552")
	}
	if e.Host == "" {
		e.Host = "localhost"
	}
	if u.Port() != "" {
		if e.Port, err = strconv.Atoi(u.Port()); err != nil || e.Port < 1 || e.Port > 65535 {
			return bad("the port must be from 1 to 65535")
		}
	}
	if err := e.setLogin(u.User); err != nil {
		return bad("%v", err)
	}
	if e.VHost, err = vhostOf(u); err != nil {
		return bad("%v", err)
	}
	return e, nil
}

// hostPart returns what stands where a URI has its host and port, also in a text
// that is no URI.
func hostPart(text string) string {
	_, rest, found := strings.Cut(text, "://")
	if !found {
		return ""
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = rest[at+1:]
	}
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// setLogin takes user and password from a URI that has them.
func (e *Endpoint) setLogin(info *url.Userinfo) error {
	if info == nil {
		return nil
	}
	password, given := info.Password()
	if info.Username() == "" || !given || password == "" {
		return errors.New("it needs both user and password, as user:password@; leave both out for guest:guest")
	}
	e.User, e.Password = info.Username(), password
	return nil
}

// vhostOf returns the vhost that the path names. An empty path, "/" and "/%2f"
// name the vhost "/".
func vhostOf(u *url.URL) (string, error) {
	segment := strings.TrimPrefix(u.EscapedPath(), "/")
	if segment == "" {
		return "/", nil
	}
	if strings.Contains(segment, "/") {
		return "", errors.New("the path is one vhost; write a / within its name as %2F")
	}
	if strings.Contains(segment, ",") {
		return "", errors.New("the vhost contains a comma; write several URIs each with its scheme, and a comma within a vhost as %2C")
	}
	vhost, err := url.PathUnescape(segment)
	if err != nil {
		return "", errors.New("the vhost is not valid percent-encoding")
	}
	return vhost, nil
}

// redactURI hides whatever could be a password, however broken the URI is. It
// hides what stands between the first colon of the user part and the last @, and
// everything from the first ? or # on, as in ?password=. In a text without @ that
// is no URI either, it hides everything after the scheme.
func redactURI(text string) string {
	if i := strings.IndexAny(text, "?#"); i >= 0 {
		return redactLogin(text[:i], true) + text[i:i+1] + "***"
	}
	return redactLogin(text, false)
}

// redactLogin is redactURI for a text without ? and #. With cut, something is
// missing at its end, which may be the rest of a password.
func redactLogin(text string, cut bool) string {
	start := 0
	// Only the first colon can end the scheme. A later :// belongs to a password.
	if i := strings.Index(text, ":"); i >= 0 && strings.HasPrefix(text[i:], "://") && !strings.Contains(text[:i], "/") {
		start = i + len("://")
	}
	at := strings.LastIndex(text, "@")
	if at < start {
		if _, err := url.Parse(text); err != nil || cut && strings.Contains(text[start:], ":") {
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

// splitURIs cuts a list of URIs at its commas. A comma that no scheme follows
// belongs to a password.
func splitURIs(list string) []string {
	var uris []string
	for start, i := 0, 0; ; i++ {
		next := strings.IndexByte(list[i:], ',')
		if next < 0 {
			return append(uris, strings.TrimSpace(list[start:]))
		}
		if i += next; strings.HasPrefix(strings.TrimLeft(list[i+1:], " "), SchemePlain) {
			uris = append(uris, strings.TrimSpace(list[start:i]))
			start = i + 1
		}
	}
}

// shuffled returns the endpoints in random order.
func shuffled(endpoints []Endpoint) []Endpoint {
	out := make([]Endpoint, len(endpoints))
	for i, j := range rand.Perm(len(endpoints)) {
		out[i] = endpoints[j]
	}
	return out
}
