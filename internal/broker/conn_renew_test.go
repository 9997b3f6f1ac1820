package broker

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestRenewSecret: the broker gets the user with the new secret, and who dials
// after that uses it.
func TestRenewSecret(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		var sent []string
		b.on(func(p *script.Peer, key wire.Key, fields []byte) bool {
			var f wire.SaslAuthenticate
			if key == wire.KeySaslAuthenticate && p.Decode(fields, &f) {
				sent = append(sent, f.Mechanism+string(f.Data))
			}
			return false
		})
		b.refuse(wire.KeyDeclarePublisher, wire.CodeStreamDoesNotExist)
		c := b.dial(t, hooks{})
		check.Nil(t, c.RenewSecret(t.Context(), "new"))
		b.took(t, `declare 0 "" `, "SaslAuthenticate")
		if !slices.Equal(sent, []string{"PLAIN\x00u\x00new"}) || c.Contact().Endpoint.Password != "new" {
			t.Errorf("sent %q, and %q is in use", sent, c.Contact().Endpoint.Password)
		}
		b.refuse(wire.KeySaslAuthenticate, wire.CodeAuthenticationFailure)
		err := c.RenewSecret(t.Context(), "se:cr@t")
		check.Err(t, err, ErrAuthentication)
		says(t, err, `user "u" at h:1`)
		if strings.Contains(err.Error(), "se:cr@t") || c.Contact().Endpoint.Password != "new" {
			t.Errorf("%v; %q is in use", err, c.Contact().Endpoint.Password)
		}
		b.took(t, `declare 0 "" `, "SaslAuthenticate")
		b.refuse(wire.KeyDeclarePublisher, wire.CodePreconditionFailed)
		check.Err(t, c.RenewSecret(t.Context(), "newer"), ErrBlocked)
		b.took(t, `declare 0 "" `)
		_ = b.conns[0].socket.Close()
		check.Err(t, c.RenewSecret(t.Context(), "newer"), ErrUnreachable)
	})
}

// A connection for publishing has no id left for the question.
func TestRenewSecretOfPublishers(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		p, _ := b.publisher(t, b.publishing(t, time.Hour), "s")
		defer p.Release()
		check.Nil(t, p.lease.conn.RenewSecret(t.Context(), script.Password))
		b.took(t, `declare 1 "" s`, "SaslAuthenticate")
	})
}

// TestRenewSecretOnABroker: the same on streamtest. A disk alarm does not end the
// connection.
func TestRenewSecretOnABroker(t *testing.T) {
	b, c := onBroker(t)
	ctx := check.Soon(t)
	admin, err := c.adminConn(ctx)
	check.Nil(t, err)
	check.Nil(t, admin.RenewSecret(ctx, "guest"))
	b.SetDiskAlarm(true)
	check.Err(t, admin.RenewSecret(ctx, "guest"), ErrBlocked)
	b.SetDiskAlarm(false)
	check.Nil(t, admin.RenewSecret(ctx, "guest"))
	check.Nil(t, admin.Reason())
	check.Err(t, admin.RenewSecret(ctx, "wrong"), ErrAuthentication)
}
