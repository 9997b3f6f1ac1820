package broker

import (
	"context"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// RenewSecret gives the broker a new secret of the connection's user, such as an
// OAuth 2 token, while the connection goes on. Contact has the secret from then on.
// A broker that does not take it answers with an error (ErrAuthentication), and
// may end the connection, as RabbitMQ does since 4.1.4.
//
// A broker with a disk alarm would end the connection. So RenewSecret asks first
// whether it has one, and returns ErrBlocked if so. It cannot ask on a connection
// for publishing, whose publishers have their ids: do not call it there while they
// are blocked.
func (c *Conn) RenewSecret(ctx context.Context, secret string) error {
	if !c.patient() {
		if err := c.checkAlarm(ctx); err != nil {
			return err
		}
	}
	user := c.endpoint.User
	var answer wire.SaslAuthenticateResponse
	err := c.call(ctx, func(id uint32) wire.Frame { return plainLogin(id, user, secret) }, &answer)
	switch {
	case err != nil:
		return err
	case answer.Code != wire.CodeOK:
		return fmt.Errorf("%w: the new secret of user %q at %s (%v)", ErrAuthentication, user, c.endpoint.Address(), answer.Code)
	}
	c.renewed.Store(&secret)
	return nil
}

// checkAlarm returns an error if the broker has a disk alarm. RabbitMQ says so to
// whoever declares a publisher, before it looks at anything else; there is no
// stream without a name.
func (c *Conn) checkAlarm(ctx context.Context) error {
	code, err := c.request(ctx, wire.KeyDeclarePublisher, func(id uint32) wire.Frame {
		return &wire.DeclarePublisher{Correlation: id}
	})
	if err == nil && code == wire.CodePreconditionFailed {
		err = fmt.Errorf("%w: %s has a disk alarm", ErrBlocked, c.endpoint.Address())
	}
	return err
}
