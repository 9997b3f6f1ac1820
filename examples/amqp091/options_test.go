package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Setenv("RABBITMQ_AMQP_URL", "")
	o, err := parse([]string{"publish"}, io.Discard)
	if err != nil || o.uri != defaultURI || o.stream != "stream_queue" || o.from != 500 || o.to != 600 {
		t.Errorf("publish: %+v, %v", o, err)
	}
	for s, want := range map[string]any{
		"first": "first", "last": "last", "next": "next", "1h": "1h", "7D": "7D", "30m": "30m",
		"0": int64(0), "290": int64(290),
		"2026-01-02T15:04:05Z": time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC),
	} {
		if o, err := parse([]string{"consume", "-offset", s}, io.Discard); err != nil || o.offset != want {
			t.Errorf("-offset %s: %#v, %v; want %#v", s, o.offset, err, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"", "publish or consume"},
		{"browse", "publish or consume"},
		{"-max 1", "publish or consume"},
		{"consume -offset -1", `"-1" for flag -offset: want first`},
		{"consume -offset 7d", `"7d" for flag -offset: want first`},
		{"consume -offset 0h", `"0h" for flag -offset`},
		{"consume -offset 9223372036854775808", `"9223372036854775808" for flag -offset`},
		{"consume -max 0", `"0" for flag -max`},
		{"publish -from x", `"x" for flag -from`},
		{"publish -from 700", "-from 700 is beyond -to 600"},
		{"publish -stream=", "-stream is empty"},
		{"publish amqp://u:s3cr3t@h", "-uri"},
		{"publish -uri amqp://u:s3cr3t%zz@h", "percent-encode"},
	} {
		_, err := parse(strings.Fields(c.line), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: error %v, want one with %q", c.line, err, c.want)
		}
	}
}
