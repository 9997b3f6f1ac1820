package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

func TestBroker(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"broker", "-addr", "127.0.0.1:0", "-management", "127.0.0.1:0", "-user", "me:secret"}, in, io.Discard)
		in.Close()
	}()
	lines := bufio.NewScanner(out)
	lines.Scan()
	uri := strings.TrimPrefix(lines.Text(), "Stream broker at ")
	env, err := stream.NewEnvironment(stream.NewEnvironmentOptions().SetUri(uri))
	if err != nil {
		t.Fatalf("%q: %v", uri, err)
	}
	if err := env.Close(); err != nil {
		t.Error(err)
	}
	lines.Scan()
	if !strings.HasPrefix(lines.Text(), "Management at http://127.0.0.1:") {
		t.Errorf("second line %q", lines.Text())
	}
	lines.Scan()
	if !strings.Contains(lines.Text(), "keeps nothing on disk") {
		t.Errorf("third line %q", lines.Text())
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := map[string]struct {
		args []string
		code int
		says string
	}{
		"no command":         {nil, 2, "Usage"},
		"unknown":            {[]string{"nope"}, 2, `unknown command "nope"`},
		"unknown flag":       {[]string{"broker", "-nope"}, 2, "flag provided but not defined"},
		"argument":           {[]string{"broker", "x"}, 2, `unexpected argument "x"`},
		"bad address":        {[]string{"broker", "-addr", "5552"}, 2, "-addr: address 5552: missing port"},
		"no address":         {[]string{"broker", "-addr", ""}, 2, "-addr"},
		"bad management":     {[]string{"broker", "-management", "x"}, 2, "-management"},
		"bad user":           {[]string{"broker", "-user", "guest"}, 2, "want name:password"},
		"half TLS":           {[]string{"broker", "-tls-cert", "f"}, 2, "go together"},
		"no such file":       {[]string{"broker", "-tls-cert", "/no/f", "-tls-key", "/no/f"}, 2, "no such file"},
		"port taken":         {[]string{"broker", "-addr", taken.Addr().String(), "-management", ""}, 1, "address already in use"},
		"port taken, remedy": {[]string{"broker", "-addr", taken.Addr().String(), "-management", ""}, 1, "another address with -addr"},
		"management taken":   {[]string{"broker", "-addr", ":0", "-management", taken.Addr().String()}, 1, "listen for management"},
		"management taken, remedy": {[]string{"broker", "-addr", ":0", "-management", taken.Addr().String()}, 1,
			`in use; choose another address with -management host:port (port 0 picks a free one), or do without management: -management ""`},
		"anonymous nobody": {[]string{"broker", "-anonymous", "x"}, 2, `no user "x"`},
		"no frame":         {[]string{"broker", "-frame-max", "0"}, 2, "-frame-max: want 1 to"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := run(t.Context(), tt.args, io.Discard, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("exit code %d, %q; want %d and %q", code, stderr.String(), tt.code, tt.says)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, tt := range []struct{ args, says string }{{"help", "broker"}, {"broker -h", "-tls-cert"}} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(tt.args), &stdout, &stderr)
		if code != 0 || !strings.Contains(stdout.String(), tt.says) || stderr.Len() > 0 {
			t.Errorf("%s: exit code %d, %q, on stderr %q", tt.args, code, stdout.String(), stderr.String())
		}
	}
}
