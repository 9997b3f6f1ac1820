package streamtest

import (
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// handler decodes the fields of a command and executes it. The caller holds
// Broker.mu.
type handler func(c *conn, fields []byte) error

// framePtr is a pointer to a frame struct of package wire.
type framePtr[T any] interface {
	*T
	wire.Frame
}

// on turns a function that takes a decoded command into a handler.
func on[T any, P framePtr[T]](do func(*conn, P)) handler {
	return func(c *conn, fields []byte) error {
		req := P(new(T))
		if err := wire.Decode(fields, req); err != nil {
			return err
		}
		do(c, req)
		return nil
	}
}

// handshakeCommands maps each command of the handshake to its phase and
// handler.
var handshakeCommands = map[wire.Key]struct {
	in phase
	do handler
}{
	wire.KeyPeerProperties:   {phasePeerProperties, on((*conn).peerProperties)},
	wire.KeySaslHandshake:    {phaseSaslHandshake, on((*conn).saslHandshake)},
	wire.KeySaslAuthenticate: {phaseAuthenticate, on((*conn).authenticate)},
	wire.KeyTune:             {phaseTune, on((*conn).tune)},
	wire.KeyTune.Response():  {phaseTune, on((*conn).tune)},
	wire.KeyOpen:             {phaseOpen, on((*conn).open)},
}

// commands maps the commands of a ready connection to their handlers. It lacks
// Publish, which has two versions.
var commands map[wire.Key]handler

func init() {
	// An initializer at the declaration would be a cycle: the handlers
	// refer to this table.
	commands = map[wire.Key]handler{
		wire.KeySaslAuthenticate:          on((*conn).reauthenticate),
		wire.KeyExchangeCommandVersions:   on((*conn).exchangeVersions),
		wire.KeyClose:                     on((*conn).closeByClient),
		wire.KeyDeclarePublisher:          on((*conn).declarePublisher),
		wire.KeyDeletePublisher:           on((*conn).deletePublisher),
		wire.KeyQueryPublisherSequence:    on((*conn).querySequence),
		wire.KeySubscribe:                 on((*conn).subscribe),
		wire.KeyUnsubscribe:               on((*conn).unsubscribe),
		wire.KeyCredit:                    on((*conn).credit),
		wire.KeyConsumerUpdate.Response(): on((*conn).consumerUpdated),
		wire.KeyResolveOffsetSpec:         on((*conn).resolveOffsetSpec),
		wire.KeyStoreOffset:               on((*conn).storeOffset),
		wire.KeyQueryOffset:               on((*conn).queryOffset),
		wire.KeyCreate:                    on((*conn).create),
		wire.KeyDelete:                    on((*conn).delete),
		wire.KeyMetadata:                  on((*conn).metadata),
		wire.KeyStreamStats:               on((*conn).streamStats),
		wire.KeyCreateSuperStream:         on((*conn).createSuperStream),
		wire.KeyDeleteSuperStream:         on((*conn).deleteSuperStream),
		wire.KeyRoute:                     on((*conn).route),
		wire.KeyPartitions:                on((*conn).partitions),
	}
}

// dispatch executes a command, or answers it with the code that a test asked
// for. It returns an error if the client broke the protocol.
func (c *conn) dispatch(key wire.Key, version uint16, fields []byte) error {
	if c.phase != phaseReady {
		h, known := handshakeCommands[key]
		// RabbitMQ does not insist on an answer to Tune.
		skipsTune := key == wire.KeyOpen && c.phase == phaseTune
		if !known || h.in != c.phase && !skipsTune || version != wire.Version1 {
			return fmt.Errorf("%w: %v out of order", errCrash, key)
		}
		return c.run(key, fields, h.do)
	}
	if key == wire.KeyPublish && (version < wire.Version2 || !c.b.cfg.noFilters) {
		return c.publish(version, fields)
	}
	do, known := commands[key]
	if !known || version != wire.Version1 {
		return fmt.Errorf("%w: %v version %d", wire.ErrMalformed, key, version)
	}
	return c.run(key, fields, do)
}

// run calls do, unless a test forces an answer to the command.
func (c *conn) run(key wire.Key, fields []byte, do handler) error {
	if code, forced := c.b.faults.answer(key); forced {
		return c.answer(key, fields, code)
	}
	return do(c, fields)
}

// answer answers a command with code instead of executing it.
func (c *conn) answer(key wire.Key, fields []byte, code wire.Code) error {
	switch key {
	case wire.KeyStoreOffset, wire.KeyTune, wire.KeyTune.Response(), wire.KeyConsumerUpdate.Response():
		return nil // these have no answer: the command is lost
	case wire.KeyCredit:
		var req wire.Credit
		if err := wire.Decode(fields, &req); err != nil {
			return err
		}
		c.send(&wire.CreditResponse{Code: code, SubscriptionID: req.SubscriptionID})
		return nil
	case wire.KeyMetadata:
		var req wire.Metadata
		if err := wire.Decode(fields, &req); err != nil {
			return err
		}
		c.send(refusedMetadata(&req, code))
		return nil
	}
	correlation, ok := wire.Correlation(fields)
	if !ok {
		return wire.ErrMalformed
	}
	c.fail(key, correlation, code)
	return nil
}

// fail sends the response to key with code and empty fields. Each command has
// its own layout, and clients expect all of its fields. If code refuses Open or
// SaslAuthenticate, fail ends the connection.
func (c *conn) fail(key wire.Key, correlation uint32, code wire.Code) {
	switch key {
	case wire.KeyQueryOffset:
		c.send(&wire.QueryOffsetResponse{Correlation: correlation, Code: code})
	case wire.KeyQueryPublisherSequence:
		c.send(&wire.QueryPublisherSequenceResponse{Correlation: correlation, Code: code})
	case wire.KeyStreamStats:
		c.send(&wire.StreamStatsResponse{Correlation: correlation, Code: code})
	case wire.KeyRoute, wire.KeyPartitions:
		c.send(&wire.StreamsResponse{Key: key, Correlation: correlation, Code: code})
	case wire.KeyResolveOffsetSpec:
		c.send(&wire.ResolveOffsetSpecResponse{Correlation: correlation, Code: code, Type: wire.OffsetAt})
	case wire.KeyExchangeCommandVersions:
		c.send(&wire.ExchangeCommandVersionsResponse{Correlation: correlation, Code: code})
	case wire.KeyPeerProperties:
		c.send(&wire.PeerPropertiesResponse{Correlation: correlation, Code: code})
	case wire.KeySaslHandshake:
		c.send(&wire.SaslHandshakeResponse{Correlation: correlation, Code: code})
	default:
		c.send(&wire.Response{Key: key, Correlation: correlation, Code: code})
	}
	if code != wire.CodeOK && (key == wire.KeyOpen || key == wire.KeySaslAuthenticate) {
		c.finish()
	}
}

// reply sends the response to a command whose response has no field but the
// code.
func (c *conn) reply(key wire.Key, correlation uint32, code wire.Code) {
	c.send(&wire.Response{Key: key, Correlation: correlation, Code: code})
}
