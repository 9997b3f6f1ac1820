package streamtest

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles PeerProperties, SaslHandshake, Tune, Open,
// ExchangeCommandVersions and Close.
//
// Not implemented: limits on the number of connections per virtual host, user
// or node. Two things differ from RabbitMQ. The broker refuses a login or a
// virtual host at once, RabbitMQ after three seconds. The broker ignores an
// unknown key in ExchangeCommandVersions, on which RabbitMQ ends the
// connection.

func (c *conn) peerProperties(req *wire.PeerProperties) {
	c.properties = req.Properties
	c.advance(phaseSaslHandshake)
	c.send(&wire.PeerPropertiesResponse{
		Correlation: req.Correlation, Code: wire.CodeOK, Properties: wire.Properties{
			{Key: "cluster_name", Value: "streamtest@localhost"},
			{Key: "information", Value: "In-process broker of tidemark, for tests and development"},
			{Key: "platform", Value: "Go"},
			{Key: "product", Value: "RabbitMQ"},
			{Key: "version", Value: c.b.cfg.version},
		},
	})
}

// advance enters a phase of the handshake and gives the client stepTimeout for
// its next command.
func (c *conn) advance(to phase) {
	c.phase = to
	c.timers.deadline = c.b.protocolNow().Add(stepTimeout)
}

func (c *conn) saslHandshake(req *wire.SaslHandshake) {
	c.advance(phaseAuthenticate)
	c.send(&wire.SaslHandshakeResponse{
		Correlation: req.Correlation, Code: wire.CodeOK, Mechanisms: c.mechanisms(),
	})
}

func (c *conn) tune(req *wire.Tune) {
	limit := c.b.cfg.frameMax
	if req.FrameMax != 0 {
		limit = min(limit, req.FrameMax)
	}
	c.timers.pendingMax = limit
	c.startHeartbeat(time.Duration(req.Heartbeat) * time.Second)
	c.advance(phaseOpen)
}

func (c *conn) open(req *wire.Open) {
	vh := c.b.vhosts[req.VHost]
	if vh == nil || !c.user.mayEnter(req.VHost) {
		c.fail(wire.KeyOpen, req.Correlation, wire.CodeVHostAccessFailure)
		return
	}
	c.vhost, c.phase = vh, phaseReady
	c.timers.deadline = time.Time{}
	c.frames.SetMax(c.timers.pendingMax)
	host, port := c.b.cfg.advertise(c.b.ln.Addr())
	c.send(&wire.OpenResponse{
		Correlation: req.Correlation, Code: wire.CodeOK, Properties: wire.Properties{
			{Key: "advertised_port", Value: port}, {Key: "advertised_host", Value: host},
		},
	})
}

// serverCommands lists the commands that a client may send on a ready
// connection, with their versions.
var serverCommands = commandsUpTo(wire.Version2)

// commandsBeforeFilters is serverCommands of a broker without filters.
var commandsBeforeFilters = commandsUpTo(wire.Version1)

// commandsUpTo lists the commands with a highest version of Publish.
func commandsUpTo(publish uint16) []wire.CommandVersion {
	var list []wire.CommandVersion
	for _, key := range []wire.Key{
		wire.KeyDeclarePublisher, wire.KeyPublish, wire.KeyQueryPublisherSequence, wire.KeyDeletePublisher,
		wire.KeySubscribe, wire.KeyCredit, wire.KeyStoreOffset, wire.KeyQueryOffset, wire.KeyUnsubscribe,
		wire.KeyCreate, wire.KeyDelete, wire.KeyMetadata, wire.KeyClose, wire.KeyHeartbeat, wire.KeyRoute,
		wire.KeyPartitions, wire.KeyStreamStats, wire.KeyCreateSuperStream, wire.KeyDeleteSuperStream,
		wire.KeyResolveOffsetSpec,
	} {
		v := wire.CommandVersion{Key: key, Min: wire.Version1, Max: wire.Version1}
		if key == wire.KeyPublish {
			v.Max = publish
		}
		list = append(list, v)
	}
	return list
}

func (c *conn) exchangeVersions(req *wire.ExchangeCommandVersions) {
	for _, v := range req.Commands {
		// RabbitMQ switches to version 2 only if it is the client's
		// highest, and never switches back.
		if v.Key == wire.KeyDeliver && v.Max == wire.Version2 {
			c.deliver = wire.Version2
		}
	}
	offer := serverCommands
	if c.b.cfg.noFilters {
		offer = commandsBeforeFilters
	}
	c.send(&wire.ExchangeCommandVersionsResponse{Correlation: req.Correlation, Code: wire.CodeOK, Commands: offer})
}

func (c *conn) closeByClient(req *wire.Close) {
	c.reply(wire.KeyClose, req.Correlation, wire.CodeOK)
	c.finish()
}
