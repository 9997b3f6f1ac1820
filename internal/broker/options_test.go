package broker

import (
	"crypto/tls"
	"slices"
	"testing"
)

func TestTLSConfigServerName(t *testing.T) {
	e := Endpoint{Host: "broker"}
	if got := (Options{}).TLSConfig(e); got.ServerName != "broker" || got.MinVersion != tls.VersionTLS12 {
		t.Errorf("default: server name %q, least version %x", got.ServerName, got.MinVersion)
	}
	own := &tls.Config{}
	if got := (Options{TLS: own}).TLSConfig(e); got.ServerName != "broker" || own.ServerName != "" {
		t.Errorf("own: server name %q, and %q in the caller's", got.ServerName, own.ServerName)
	}
	if got := (Options{TLS: &tls.Config{ServerName: "other"}}).TLSConfig(e); got.ServerName != "other" {
		t.Errorf("named: %q", got.ServerName)
	}
}

func TestShuffledKeepsEveryNode(t *testing.T) {
	in := []Endpoint{{Host: "a"}, {Host: "b"}, {Host: "c"}}
	firsts := map[string]bool{}
	for range 200 {
		out := shuffled(in)
		firsts[out[0].Host] = true
		for _, e := range in {
			if len(out) != len(in) || !slices.Contains(out, e) {
				t.Fatalf("%v became %v", in, out)
			}
		}
	}
	if len(firsts) != len(in) {
		t.Errorf("in 200 tries only %v came first", firsts)
	}
}
