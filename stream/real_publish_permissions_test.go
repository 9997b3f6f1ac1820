package stream

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// TestRealPublishPermissions: an unnamed producer needs the permission to write and
// nothing else. What is refused names the permission that is missing, and for whom.
func TestRealPublishPermissions(t *testing.T) {
	b := realBroker(t)
	if b.Provider().Kind == rabbit.External {
		t.Fatal("needs rabbitmqctl; let tools/rabbitmq bring up its own broker")
	}
	// One run of rabbitmqctl for all.
	var code []string
	for user, may := range map[string][2]string{"only-writes": {".*", ""}, "only-reads": {"", ".*"}, "does-nothing": {"", ""}} {
		code = append(code, fmt.Sprintf(`catch rabbit_auth_backend_internal:add_user(<<"%[1]s">>, <<"secret">>, <<"test">>),
			ok = rabbit_auth_backend_internal:set_permissions(<<"%[1]s">>, <<"/">>, <<"">>, <<"%[2]s">>, <<"%[3]s">>, <<"test">>)`, user, may[0], may[1]))
	}
	out, err := b.Ctl(t.Context(), "n1", "eval", strings.Join(code, ", ")+".")
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	all := connect(t, b.StreamURL())
	stream := newStream(t, all)
	as := func(user string) *Env {
		u := url.URL{Scheme: "rabbitmq-stream", Host: at(t, b.StreamURL()), User: url.UserPassword(user, "secret")}
		return connect(t, u.String())
	}
	publish(t, as("only-writes"), stream, 0, 10)
	wantNumbers(t, readAll(t, all, stream), 0, 10)
	for _, test := range []struct{ user, name, lacks string }{
		{"only-writes", "n", "read"},
		{"only-reads", "", "write"},
		{"only-reads", "n", "write"},
		{"does-nothing", "", ""}, // RabbitMQ 4.3 does not even say where the stream is
	} {
		t.Run(test.user+"/"+test.name, func(t *testing.T) {
			err := within5s(t, ErrAccessRefused, func(ctx context.Context) error {
				p, err := as(test.user).NewProducer(ctx, stream, ProducerConfig{Name: test.name})
				if err == nil {
					_ = p.Close(ctx)
				}
				return err
			})
			if text := err.Error(); !strings.Contains(text, test.user) || !strings.Contains(text, "permission") || test.lacks != "" && !strings.Contains(text, "permission to "+test.lacks) || !strings.Contains(text, stream) {
				t.Errorf("%v does not say that %s may not %s %s", err, test.user, test.lacks, stream)
			}
		})
	}
}
