package broker

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	local := Endpoint{Host: "localhost", Port: 5552, User: "guest", Password: "guest", VHost: "/"}
	with := func(change func(*Endpoint)) Endpoint {
		e := local
		change(&e)
		return e
	}
	login := func(user, password string) Endpoint {
		return with(func(e *Endpoint) { e.Host, e.User, e.Password = "h", user, password })
	}
	vhost := func(v string) Endpoint { return with(func(e *Endpoint) { e.Host, e.VHost = "h", v }) }
	for uri, want := range map[string]Endpoint{
		"rabbitmq-stream://guest:guest@localhost:5552/%2f": local,
		"rabbitmq-stream://":               local,
		"rabbitmq-stream:///":              local,
		"rabbitmq-stream://localhost/%2f":  local,
		"rabbitmq-stream://localhost/%2F":  local,
		"rabbitmq-stream://:5552":          local,
		"RABBITMQ-STREAM://localhost":      local,
		"rabbitmq-stream+tls://":           with(func(e *Endpoint) { e.TLS, e.Port = true, 5551 }),
		"rabbitmq-stream+tls://h:1/v":      with(func(e *Endpoint) { e.TLS, e.Port, e.Host, e.VHost = true, 1, "h", "v" }),
		"rabbitmq-stream://h:65535":        with(func(e *Endpoint) { e.Host, e.Port = "h", 65535 }),
		"rabbitmq-stream://h:":             with(func(e *Endpoint) { e.Host = "h" }),
		"rabbitmq-stream://[::1]:5553":     with(func(e *Endpoint) { e.Host, e.Port = "::1", 5553 }),
		"rabbitmq-stream://[fe80::1%25en]": with(func(e *Endpoint) { e.Host = "fe80::1%en" }),
		"rabbitmq-stream://u:p@h":          login("u", "p"),
		"rabbitmq-stream://u:a%40b%2Fc@h":  login("u", "a@b/c"),
		"rabbitmq-stream://u:a@b@h":        login("u", "a@b"),
		"rabbitmq-stream://u:a:b%25@h":     login("u", "a:b%"),
		"rabbitmq-stream://u:a+b%20c@h":    login("u", "a+b c"),
		"rabbitmq-stream://u:%C3%BCber@h":  login("u", "über"),
		"rabbitmq-stream://a%40b:p@h":      login("a@b", "p"),
		"rabbitmq-stream://h/a%2Fb":        vhost("a/b"),
		"rabbitmq-stream://h/%2fa":         vhost("/a"),
		"rabbitmq-stream://h/a+b%20c":      vhost("a+b c"),
		"rabbitmq-stream://h/a@b:c":        vhost("a@b:c"),
		"rabbitmq-stream://h/%252f":        vhost("%2f"),
		"rabbitmq-stream://h/%C3%BC":       vhost("ü"),
	} {
		got, err := parseURI(uri)
		if err != nil || got != want {
			t.Errorf("parseURI(%q) = %+v, %v, want %+v", uri, got, err, want)
		}
	}
}

func TestParseURIErrors(t *testing.T) {
	for uri, says := range map[string]string{
		"":                                   "scheme",
		"localhost:5552":                     "scheme",
		"amqp://localhost":                   "scheme",
		"http://localhost":                   "scheme",
		"rabbitmq-stream:localhost":          "//",
		"rabbitmq-stream://h/v?x=y":          "?",
		"rabbitmq-stream://h/v#x":            "#",
		"rabbitmq-stream://h:0":              "port",
		"rabbitmq-stream://h:65536":          "port",
		"rabbitmq-stream://h:99999999999999": "port",
		"rabbitmq-stream://h:x":              "cannot be read",
		"rabbitmq-stream://u:p/w@h":          "cannot be read",
		"rabbitmq-stream://u:p%w@h":          "cannot be read",
		"rabbitmq-stream://u:p#w@h":          "cannot be read",
		"rabbitmq-stream://u:p w@h":          "cannot be read",
		"rabbitmq-stream://[::1":             "cannot be read",
		"rabbitmq-stream://u@h":              "user and password",
		"rabbitmq-stream://u:@h":             "user and password",
		"rabbitmq-stream://:p@h":             "user and password",
		"rabbitmq-stream://@h":               "user and password",
		"rabbitmq-stream://h/a/b":            "one vhost",
		"rabbitmq-stream://h/a/":             "one vhost",
		"rabbitmq-stream://h/%zz":            "cannot be read",
		"rabbitmq-stream://h/%2f,":           "comma",
		"rabbitmq-stream://h,":               "comma",
		",rabbitmq-stream://h":               "comma",
		"rabbitmq-stream://h/a,b":            "%2C",
		"rabbitmq-stream://a,b":              "several hosts",
		"rabbitmq-stream://a:5552,b:5552/":   "several hosts",
		"rabbitmq-stream://u:p@a:5552,b":     "several hosts",
		"rabbitmq-stream://a;b":              "several hosts",
		"rabbitmq-stream://::1":              "brackets",
		"rabbitmq-stream://fe80::1:5552/":    "brackets",
	} {
		_, err := parseURI(uri)
		if !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), says) {
			t.Errorf("parseURI(%q): %v, want ErrInvalidConfig saying %q", uri, err, says)
		}
	}
}

// TestRedactURI is about URIs that are not even well-formed.
func TestRedactURI(t *testing.T) {
	for uri, want := range map[string]string{
		"rabbitmq-stream://u:secret@h/v":    "rabbitmq-stream://u:***@h/v",
		"rabbitmq-stream://u:sec@ret@h/v":   "rabbitmq-stream://u:***@h/v",
		"rabbitmq-stream://u:sec/r#?et@h/v": "rabbitmq-stream://***#***",
		"rabbitmq-stream://u:1?se@h/v":      "rabbitmq-stream://***?***",
		"rabbitmq-stream://u:a@h?secret":    "rabbitmq-stream://u:***@h?***",
		"rabbitmq-stream://u:a@b?secret@h":  "rabbitmq-stream://u:***@b?***",
		"rabbitmq-stream://h/v?password=s":  "rabbitmq-stream://h/v?***",
		"rabbitmq-stream://h?pass=s@cret":   "rabbitmq-stream://h?***",
		"rabbitmq-stream://h/v#secret":      "rabbitmq-stream://h/v#***",
		"rabbitmq-stream://secret@h":        "rabbitmq-stream://:***@h",
		"rabbitmq-stream://u:secret":        "rabbitmq-stream://***",
		"rabbitmq-stream://u:secret/v":      "rabbitmq-stream://***",
		"rabbitmq-stream://u:sec/ret":       "rabbitmq-stream://***",
		"rabbitmq-stream://h:5552/v":        "rabbitmq-stream://h:5552/v",
		"rabbitmq-stream://h:99999/v":       "rabbitmq-stream://h:99999/v",
		"rabbitmq-stream://[::1]:5552/v":    "rabbitmq-stream://[::1]:5552/v",
		"rabbitmq-stream://h/v":             "rabbitmq-stream://h/v",
		"rabbitmq-stream:u:secret@h":        "rabbitmq-stream:***@h",
		"rabbitmq-stream:u:sec://ret@h":     "rabbitmq-stream:***@h",
		"rabbitmq-stream:/u:sec://ret@h":    "rabbitmq-stream:***@h",
		"u:sec://ret@h":                     "u:***@h",
		"u:secret@h":                        "u:***@h",
		"localhost:5552":                    "localhost:5552",
		"":                                  "",
	} {
		if got := redactURI(uri); got != want {
			t.Errorf("redactURI(%q) = %q, want %q", uri, got, want)
		}
	}
}

// FuzzParseURI: the password, however it is written, is not in the error, and
// percent-encoded it comes back whole.
func FuzzParseURI(f *testing.F) {
	for _, password := range []string{"p@ss", "a/b", "a%b", "a:b", "a+b c", "über", "a#b?c", "%zz", "x://y", "]", "\x00"} {
		f.Add("rabbitmq-stream://", "user", password, "host:5552/v")
		f.Add("amqp://", "user", password, "host/v/w?x")
		f.Add("rabbitmq-stream:", "", password, "h")
		f.Add("", "me", password, "[::1")
	}
	f.Fuzz(func(t *testing.T, scheme, user, password, rest string) {
		// A mark makes the password recognisable; what stands before it or
		// behind it is the fuzzer's.
		const mark = "Qx7zP"
		password = mark + password + mark
		if strings.Contains(scheme+user+rest, mark) || strings.ContainsAny(user+scheme, "@") || strings.Contains(user, ":") {
			return
		}
		if _, err := parseURI(scheme + user + ":" + password + "@" + rest); err != nil && strings.Contains(err.Error(), mark) {
			t.Errorf("the password is in the error: %v", err)
		}
		if _, err := parseURI(scheme + rest + "?password=" + password); err != nil && strings.Contains(err.Error(), mark) {
			t.Errorf("what stands behind a ? is in the error: %v", err)
		}
		e, err := parseURI("rabbitmq-stream://u:" + url.PathEscape(password) + "@h")
		if err != nil || e.Password != password {
			t.Errorf("password %q was read as %q: %v", password, e.Password, err)
		}
		if strings.Contains(e.String(), mark) {
			t.Errorf("String shows the password: %v", e)
		}
	})
}

func TestSplitURIs(t *testing.T) {
	for list, want := range map[string][]string{
		"rabbitmq-stream://a":                            {"rabbitmq-stream://a"},
		"rabbitmq-stream://a,rabbitmq-stream+tls://b":    {"rabbitmq-stream://a", "rabbitmq-stream+tls://b"},
		"rabbitmq-stream://u:a,b@h,rabbitmq-stream://h2": {"rabbitmq-stream://u:a,b@h", "rabbitmq-stream://h2"},
		"rabbitmq-stream://a,":                           {"rabbitmq-stream://a,"},
		"rabbitmq-stream://a,,rabbitmq-stream://b":       {"rabbitmq-stream://a,", "rabbitmq-stream://b"},
		"rabbitmq-stream://a , rabbitmq-stream://b":      {"rabbitmq-stream://a", "rabbitmq-stream://b"},
		"": {""},
	} {
		if got := splitURIs(list); !slices.Equal(got, want) {
			t.Errorf("splitURIs(%q) = %q, want %q", list, got, want)
		}
	}
}

func TestParseURIs(t *testing.T) {
	got, err := ParseURIs([]string{"rabbitmq-stream://a,rabbitmq-stream://b", "rabbitmq-stream://c"})
	var hosts []string
	for _, e := range got {
		hosts = append(hosts, e.Host)
	}
	if want := []string{"a", "b", "c"}; err != nil || !slices.Equal(hosts, want) {
		t.Errorf("hosts %q, %v, want %q", hosts, err, want)
	}
	got, err = ParseURIs([]string{"rabbitmq-stream://a", "rabbitmq-stream://b,amqp://c", "rabbitmq-stream://d:0"})
	if got != nil || !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), "amqp://c") {
		t.Errorf("%v, %v; want the first URI that is wrong", got, err)
	}
}

// TestParseURIsChecks: mistakes of whole lists, by the name of what is wrong.
func TestParseURIsChecks(t *testing.T) {
	for _, test := range []struct {
		lists []string
		says  string
	}{
		{[]string{""}, "URIs[0] is empty"},
		{[]string{"rabbitmq-stream://a", " "}, "URIs[1] is empty"},
		{[]string{","}, "comma"},
		{[]string{"rabbitmq-stream://a/v,"}, "comma"},
		{[]string{"rabbitmq-stream://a,,rabbitmq-stream://b"}, "comma"},
		{[]string{"rabbitmq-stream://a,amqp://b"}, "several hosts"},
		{[]string{"rabbitmq-stream://a/v", "rabbitmq-stream://b"}, `the vhosts "v" and "/"`},
	} {
		got, err := ParseURIs(test.lists)
		if got != nil || !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%q: %v, %v, want it to say %q", test.lists, got, err, test.says)
		}
	}
	if _, err := ParseURIs([]string{"rabbitmq-stream://a/%2f", "rabbitmq-stream://b"}); err != nil {
		t.Errorf("one vhost, written in two ways: %v", err)
	}
}

func TestEndpointString(t *testing.T) {
	e := Endpoint{Host: "::1", Port: 5551, TLS: true, User: "a/b", Password: "secret", VHost: "/x"}
	if got, want := e.String(), "rabbitmq-stream+tls://a%2Fb@[::1]:5551/%2Fx"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if got := e.At(Node{"other", 1}); got.Address() != "other:1" || got.Password != "secret" || !got.TLS || got.VHost != "/x" {
		t.Errorf("At changed more than the address: %+v", got)
	}
}
