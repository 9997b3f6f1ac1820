package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"strings"

	"github.com/tidemark-go/tidemark/streamtest"
	"github.com/tidemark-go/tidemark/streamtest/management"
)

// brokerFlags are the flags of tidemark broker.
type brokerFlags struct {
	addr, management, user, cert, key, anonymous string
	frameMax                                     uint
}

// runBroker runs the broker until ctx ends.
func runBroker(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f, opts, err := parseBrokerFlags(args, stdout, stderr)
	if err != nil {
		return err
	}
	b, err := streamtest.Start(opts...)
	if err != nil {
		return withRemedy(err, "choose another address with -addr host:port (port 0 picks a free one)")
	}
	api, err := f.startManagement(b)
	if err != nil {
		return errors.Join(err, b.Close())
	}
	fmt.Fprintf(stdout, "Stream broker at %s\n", b.URI())
	if api != nil {
		fmt.Fprintf(stdout, "Management at %s\n", api.URL())
	}
	fmt.Fprintln(stdout, "It keeps nothing on disk and is for development and tests. Stop it with Ctrl-C.")
	if api == nil {
		<-ctx.Done()
		return b.Close()
	}
	select {
	case <-ctx.Done():
	case <-api.Done():
	}
	return errors.Join(api.Close(), b.Close())
}

// startManagement starts the management of b. It returns nil if the flag turns it
// off.
func (f *brokerFlags) startManagement(b *streamtest.Broker) (*management.Server, error) {
	if f.management == "" {
		return nil, nil
	}
	api, err := management.Start(b, f.management)
	if err != nil {
		return nil, withRemedy(err, "choose another address with -management host:port (port 0 picks a free one), "+
			`or do without management: -management ""`)
	}
	return api, nil
}

// withRemedy adds the remedy to an error, if that says on which address nothing
// can listen.
func withRemedy(err error, remedy string) error {
	var failed *net.OpError
	if !errors.As(err, &failed) || failed.Op != "listen" || failed.Addr == nil {
		return err
	}
	return fmt.Errorf("%w; %s", err, remedy)
}

// parseBrokerFlags returns the flags, and the options that they stand for. It
// shows the help on stdout, and tells the user on stderr what is wrong.
func parseBrokerFlags(args []string, stdout, stderr io.Writer) (*brokerFlags, []streamtest.Option, error) {
	f := new(brokerFlags)
	fs := f.flagSet()
	var said bytes.Buffer
	fs.SetOutput(&said)
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		_, _ = said.WriteTo(stdout) // nobody else to tell
		return nil, nil, err
	} else if err != nil {
		_, _ = said.WriteTo(stderr)
		return nil, nil, errUsage
	}
	opts, err := f.options(fs.Args())
	if err != nil {
		fmt.Fprintf(stderr, "tidemark broker: %v\n", err)
		return nil, nil, errUsage
	}
	return f, opts, nil
}

// flagSet returns the flags, which set the fields of f.
func (f *brokerFlags) flagSet() *flag.FlagSet {
	fs := flag.NewFlagSet("tidemark broker", flag.ContinueOnError)
	fs.StringVar(&f.addr, "addr", "127.0.0.1:5552", "listen for stream clients on `host:port`; port 0 picks a free one")
	fs.StringVar(&f.management, "management", "127.0.0.1:15672", "listen for HTTP management on `host:port`; an empty value turns it off")
	fs.StringVar(&f.user, "user", "guest:guest", "accept one user, given as `name:password`")
	fs.StringVar(&f.cert, "tls-cert", "", "speak TLS with the certificate in this PEM `file`; needs -tls-key")
	fs.StringVar(&f.key, "tls-key", "", "use the private key in this PEM `file`; needs -tls-cert")
	fs.StringVar(&f.anonymous, "anonymous", "", "log in as this `user` who asks for SASL ANONYMOUS, as RabbitMQ does with guest; empty: not offered")
	fs.UintVar(&f.frameMax, "frame-max", 1<<20, "refuse frames of more `bytes`; RabbitMQ 4.3 refuses those above 1 MiB, 4.0 to 4.2.5 none")
	return fs
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
		streamtest.WithAddr(f.addr),
		streamtest.WithUser(streamtest.User{Name: name, Password: password}),
		streamtest.WithAnonymous(f.anonymous), streamtest.WithFrameMax(uint32(f.frameMax)),
	}
	if f.anonymous != "" && f.anonymous != name {
		return nil, fmt.Errorf("-anonymous: there is no user %q; -user makes the only one", f.anonymous)
	}
	if f.frameMax == 0 || f.frameMax > math.MaxInt32 {
		return nil, fmt.Errorf("-frame-max: want 1 to %d", math.MaxInt32)
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
