package rabbit

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
)

// external is a broker somebody else runs.
type external struct {
	stream, amqp, management string
}

// externalFor returns the broker that RABBITMQ_STREAM_URL names, nil when it is
// not set or names the instance in dir, as it does after
// eval "$(go run ./tools/rabbitmq env)". It may also name the instance that was
// in dir before and has been taken down.
func externalFor(dir string) *external {
	stream := os.Getenv("RABBITMQ_STREAM_URL")
	if stream == "" {
		return nil
	}
	current, _ := loadState(dir) // one that cannot be read is not ours to name
	for _, s := range []*state{current, loadLast(dir)} {
		if s != nil && s.streamURL() == stream {
			return nil
		}
	}
	return &external{
		stream:     stream,
		amqp:       os.Getenv("RABBITMQ_AMQP_URL"),
		management: os.Getenv("RABBITMQ_MANAGEMENT_URL"),
	}
}

// probe fails when none of the URIs answers.
func (x *external) probe(ctx context.Context) error {
	var last error
	for raw := range strings.SplitSeq(x.stream, ",") {
		u, err := url.Parse(strings.TrimSpace(raw))
		if err != nil {
			return fmt.Errorf("RABBITMQ_STREAM_URL is not a URI: unset it, or set rabbitmq-stream://USER:PASSWORD@HOST:PORT")
		}
		if last = x.reachable(ctx, u); last == nil {
			return nil
		}
	}
	return fmt.Errorf("the broker of RABBITMQ_STREAM_URL does not answer (%w): start it, or unset the variable to have one started", last)
}

func (x *external) reachable(ctx context.Context, u *url.URL) error {
	port := u.Port()
	if strings.HasSuffix(u.Scheme, "+tls") {
		if port == "" {
			port = "5551"
		}
		return withConn(ctx, net.JoinHostPort(u.Hostname(), port), func(net.Conn) error { return nil })
	}
	if port == "" {
		port = "5552"
	}
	return probeStream(ctx, net.JoinHostPort(u.Hostname(), port))
}

func (x *external) refuse(verb string) error {
	return fmt.Errorf("%s: %w: RABBITMQ_STREAM_URL names the broker in use; unset it to work with one of our own", verb, ErrExternal)
}
