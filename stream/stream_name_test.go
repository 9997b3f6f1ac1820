package stream

import (
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestNewStreamNames: RabbitMQ 4.0.5 creates those that are refused here as well,
// and then does not find them, has no leader for them, or closes the connection
// (TestRealNames).
func TestNewStreamNames(t *testing.T) {
	of := func(n int, s string) string { return strings.Repeat(s, n) }
	for _, test := range []struct {
		what, name, vhost string
		says              string // empty: it is a name
	}{
		{"letters", of(233, "n"), "/", ""},
		{"one letter more", of(234, "n"), "/", "at most 233 work"},
		{"letters of two bytes", of(233, "é"), "/", ""},
		{"one of them more", of(234, "é"), "/", "has 234 characters"},
		{"letters of four bytes", of(233, "😀"), "/", ""},
		{"one of those more", of(234, "😀"), "/", "at most 233 work"},
		{"letters with a mark", of(233, "e\u0301"), "/", ""},
		{"one of which more", of(234, "e\u0301"), "/", "at most 233 work"},
		{"with a vhost", of(229, "n"), "vhost", ""},
		{"one more, with a vhost", of(230, "n"), "vhost", "at most 229 work"},
		{"a vhost that leaves no room", "n", of(234, "v"), "at most 0 work"},
		{"a vhost that leaves less than no room", "n", of(255, "v"), "at most 0 work"},
		{"empty", "", "/", "is empty"},
		{"a line break", "a\nb", "/", "line break"},
		{"a carriage return", "a\rb", "/", "line break"},
		{"at the end", "ab\n", "/", "line break"},
		{"Latin-1", "a\xff", "/", "UTF-8"},
		{"half a letter", "\xc3", "/", "UTF-8"},
		{"spaces", " a b ", "/", ""},
		{"controls", "a\x00\t\x7f", "/", ""},
		{"dots", "..", "/", ""},
	} {
		err := checkNewStream(test.name, test.vhost)
		if test.says == "" {
			if err != nil {
				t.Errorf("%s: %v", test.what, err)
			}
			continue
		}
		if wantErr(t, err, ErrInvalidConfig); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want it to say %q", test.what, err, test.says)
		}
	}
}

// TestDeclareKnowsItsVHost: the Env knows from its URI how long a name may be.
func TestDeclareKnowsItsVHost(t *testing.T) {
	b := streamtest.NewBroker(t, streamtest.WithVHost("vhost"))
	env := connect(t, strings.TrimSuffix(b.URI(), "/%2f")+"/vhost")
	must(t, env.DeclareStream(soon(t), strings.Repeat("n", 229), StreamConfig{}))
	wantErr(t, env.DeclareStream(soon(t), strings.Repeat("n", 230), StreamConfig{}), ErrInvalidConfig)
}

// TestLongNamesAreRead: a stream that another client has made is read and
// published to, however long its name is.
func TestLongNamesAreRead(t *testing.T) {
	b := streamtest.NewBroker(t)
	name := strings.Repeat("é", 240)
	must(t, b.CreateStream(name))
	env := connect(t, b.URI())
	publish(t, env, name, 0, 3)
	c, err := env.NewConsumer(name, ConsumerConfig{})
	must(t, err)
	n := 0
	for _, err := range c.All(soon(t)) {
		must(t, err)
		if n++; n == 3 {
			break
		}
	}
	_, err = env.Stats(soon(t), name)
	must(t, err)
}
