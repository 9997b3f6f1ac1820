package main

import (
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Setenv("RABBITMQ_STREAM_URL", "rabbitmq-stream://env:s3cr3t@h")
	const env = "rabbitmq-stream://env:s3cr3t@h"
	for _, c := range []struct {
		args []string
		want options
	}{
		{nil, options{[]string{env}, "stream_queue", 100, 300}},
		{[]string{"-uri", "a,b", "-stream", "s", "-from", "0", "-to", "9223372036854775807"},
			options{[]string{"a", "b"}, "s", 0, 9223372036854775807}},
		{[]string{"-from=5", "-to=5"}, options{[]string{env}, "stream_queue", 5, 5}},
	} {
		got, err := parse(c.args, io.Discard)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.args, got, err, c.want)
		}
	}
	t.Setenv("RABBITMQ_STREAM_URL", "")
	if o, err := parse(nil, io.Discard); err != nil || o.uris[0] != "rabbitmq-stream://guest:guest@localhost:5552/%2f" {
		t.Errorf("without a URI: %+v, %v", o, err)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"-from x", `"x" for flag -from: want a whole number`},
		{"-from -1", `"-1" for flag -from: want a whole number`},
		{"-to 1.5", `"1.5" for flag -to: want a whole number`},
		{"-to 9223372036854775808", `"9223372036854775808" for flag -to`},
		{"-from 301", "-from 301 is beyond -to 300"},
		{"-nosuch", "-nosuch"},
		{"extra", "-stream"},
	} {
		_, err := parse(strings.Fields(c.line), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.line, err, c.want)
		}
	}
}

// TestProgress: a writer that is no terminal sees nothing.
func TestProgress(t *testing.T) {
	var w strings.Builder
	show, end := progress(&w, 10)
	show(10)
	end()
	if w.Len() > 0 {
		t.Errorf("wrote %q", w.String())
	}
}
