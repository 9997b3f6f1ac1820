package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/tidemark-go/tidemark/streamtest"
)

// brokerFlags are the flags of tidemark broker.
type brokerFlags struct {
	addr, management, user, cert, key string
}

// runBroker runs the broker until ctx ends.
func runBroker(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts, err := parseBrokerFlags(args, stderr)
	if err != nil {
		return err
	}
	b, err := streamtest.Start(opts...)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Stream broker at %s\n", b.URI())
	if url := b.ManagementURL(); url != "" {
		fmt.Fprintf(stdout, "Management at %s\n", url)
	}
	fmt.Fprintln(stdout, "It keeps nothing on disk and is for development and tests. Stop it with Ctrl-C.")
	<-ctx.Done()
	return b.Close()
}

// parseBrokerFlags turns arguments into options. It tells the user on stderr
// what is wrong with them.
func parseBrokerFlags(args []string, stderr io.Writer) ([]streamtest.Option, error) {
	var f brokerFlags
	fs := flag.NewFlagSet("tidemark broker", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&f.addr, "addr", "127.0.0.1:5552", "listen for stream clients on `host:port`; port 0 picks a free one")
	fs.StringVar(&f.management, "management", "127.0.0.1:15672", "listen for HTTP management on `host:port`; an empty value turns it off")
	fs.StringVar(&f.user, "user", "guest:guest", "accept one user, given as `name:password`")
	fs.StringVar(&f.cert, "tls-cert", "", "speak TLS with the certificate in this PEM `file`; needs -tls-key")
	fs.StringVar(&f.key, "tls-key", "", "use the private key in this PEM `file`; needs -tls-cert")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil, err
	} else if err != nil {
		return nil, errUsage
	}
	opts, err := f.options(fs.Args())
	if err != nil {
		fmt.Fprintf(stderr, "tidemark broker: %v\n", err)
		return nil, errUsage
	}
	return opts, nil
}

func (f *brokerFlags) options(rest []string) ([]streamtest.Option, error) {
	if len(rest) > 0 {
		return nil, fmt.Errorf("unexpected argument %q", rest[0])
	}
	for name, addr := range map[string]string{"-addr": f.addr, "-management": f.management} {
		if _, _, err := net.SplitHostPort(addr); err != nil && (addr != "" || name == "-addr") {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	name, password, found := strings.Cut(f.user, ":")
	if !found || name == "" {
		return nil, errors.New("-user: want name:password")
	}
	opts := []streamtest.Option{
		streamtest.WithAddr(f.addr), streamtest.WithManagement(f.management),
		streamtest.WithUser(streamtest.User{Name: name, Password: password}),
	}
	if (f.cert == "") != (f.key == "") {
		return nil, errors.New("-tls-cert and -tls-key go together")
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
		opts = append(opts, streamtest.WithTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))
	}
	return opts, nil
}
