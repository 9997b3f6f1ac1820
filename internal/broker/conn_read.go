package broker

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Read reads from the socket and counts for the keeper. The frame reader calls
// it.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.socket.Read(p)
	c.reads.Add(1)
	c.hearing.heard()
	return n, err
}

// read is the reader.
func (c *Conn) read() {
	defer c.wg.Done()
	for {
		frame, err := c.frames.Next()
		if err == nil {
			err = c.dispatch(frame)
		}
		if err != nil || !c.frames.Ready() {
			if flushErr := c.flush(); err == nil {
				err = flushErr
			}
		}
		if err != nil {
			c.fail(c.readError(err))
			return
		}
	}
}

// flush passes on what the deliver hook has collected.
func (c *Conn) flush() error {
	if c.hooks.flush == nil {
		return nil
	}
	return c.hooks.flush()
}

func (c *Conn) readError(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %s closed the connection", ErrUnreachable, c.endpoint.Address())
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, wire.ErrFrameTooLarge):
		return fmt.Errorf("%w: from %s: %v", ErrProtocol, c.endpoint.Address(), err)
	case errors.Is(err, ErrUnreachable):
		return err
	}
	return c.lost(err)
}

// lost is the reason of a connection whose socket fails.
func (c *Conn) lost(err error) error {
	return fmt.Errorf("%w: connection to %s lost: %v", ErrUnreachable, c.endpoint.Address(), err)
}

// dispatch hands a frame to its hook or its caller. An error ends the
// connection.
func (c *Conn) dispatch(frame []byte) error {
	key, version, fields, err := wire.SplitHead(frame)
	if err != nil {
		return err
	}
	if key != wire.KeyDeliver { // whoever learns of this frame has the chunks before it
		if err := c.flush(); err != nil {
			return err
		}
	}
	switch key {
	case wire.KeyDeliver:
		d, err := wire.DecodeDeliver(version, fields)
		if err == nil && c.hooks.deliver != nil {
			err = c.hooks.deliver(d, frame)
		}
		return err
	case wire.KeyPublishConfirm, wire.KeyPublishError:
		return c.outcomes(key, fields)
	case wire.KeyMetadataUpdate:
		var m wire.MetadataUpdate
		if err := wire.Decode(fields, &m); err != nil {
			return err
		}
		if c.hooks.moved != nil {
			c.hooks.moved(m.Stream)
		}
	case wire.KeyCredit.Response():
		var r wire.CreditResponse
		if wire.Decode(fields, &r) == nil && c.hooks.creditRefused != nil {
			c.hooks.creditRefused(r.SubscriptionID, r.Code)
		}
	case wire.KeyConsumerUpdate:
		return c.consumerUpdate(fields)
	case wire.KeyClose:
		return c.closedByPeer(fields)
	default: // a heartbeat needs no answer
		if key.IsResponse() {
			c.answer(fields)
		}
	}
	return nil
}

// outcomes hands a list of confirms or refusals to its hook.
func (c *Conn) outcomes(key wire.Key, fields []byte) error {
	decode := wire.DecodePublishConfirm
	if key == wire.KeyPublishError {
		decode = wire.DecodePublishError
	}
	o, err := decode(fields)
	if err == nil && c.hooks.outcomes != nil {
		c.hooks.outcomes(o)
	}
	return err
}

// consumerUpdate hands what the broker says of a member of a group to its hook.
func (c *Conn) consumerUpdate(fields []byte) error {
	var u wire.ConsumerUpdate
	if err := wire.Decode(fields, &u); err != nil {
		return err
	}
	if c.hooks.consumerUpdate != nil {
		c.hooks.consumerUpdate(u)
	} else {
		c.declineUpdate(u.Correlation)
	}
	return nil
}

// declineUpdate answers a ConsumerUpdate that concerns nobody any more. It never
// waits. Without an answer the broker would close the connection after 60 s.
func (c *Conn) declineUpdate(correlation uint32) {
	c.offer(mustEncode(&wire.ConsumerUpdateResponse{Correlation: correlation, Code: wire.CodeOK}))
}

// closedByPeer answers the peer's Close and returns what the peer gave as its
// reason.
func (c *Conn) closedByPeer(fields []byte) error {
	var f wire.Close
	if err := wire.Decode(fields, &f); err != nil {
		return err
	}
	reason := fmt.Errorf("%w: %s closed the connection: %s (%v)", ErrUnreachable, c.endpoint.Address(), f.Reason, f.Code)
	if f.Code == wire.CodeFrameTooLarge {
		reason = fmt.Errorf("%w: %w", reason, ErrFrameRefused)
	}
	c.mu.Lock()
	c.peersReason = reason // before the answer, which may fail
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), lastWords) // the writer's queue may be full
	defer cancel()
	_, _ = c.post(ctx, &wire.Response{Key: wire.KeyClose, Correlation: f.Correlation, Code: wire.CodeOK})
	return reason
}
