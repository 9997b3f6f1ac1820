package streamtest

import (
	"slices"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles CreateSuperStream, DeleteSuperStream, Route and Partitions.
//
// Not implemented: exchanges other than super streams. The predefined exchanges
// exist, without bindings.

const maxPartitions = 1000

// predefined lists the exchanges that RabbitMQ creates in every virtual host.
var predefined = []string{"", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic", "amq.rabbitmq.trace"}

// superStream is a super stream: in RabbitMQ an exchange whose bindings lead to
// the partitions.
type superStream struct {
	name     string
	bindings []binding // in the order of the partitions
}

// binding leads from a routing key to a partition.
type binding struct {
	stream, key string
	order       int // index of the partition
}

// unbind removes all bindings that lead to a stream.
func (s *superStream) unbind(stream string) {
	s.bindings = slices.DeleteFunc(s.bindings, func(p binding) bool { return p.stream == stream })
}

func (c *conn) createSuperStream(req *wire.CreateSuperStream) {
	c.reply(wire.KeyCreateSuperStream, req.Correlation, c.addSuperStream(req))
}

func (c *conn) addSuperStream(req *wire.CreateSuperStream) wire.Code {
	name := cleanName(req.Name)
	if code := c.checkSuperStream(name, req); code != wire.CodeOK {
		return code
	}
	super := &superStream{name: name}
	if _, given := req.Arguments.Get("queue-leader-locator"); !given {
		req.Arguments = append(req.Arguments, wire.Property{Key: "queue-leader-locator", Value: "balanced"})
	}
	c.b.addStored(streamCost, false)
	for i, partition := range req.Partitions {
		// checkSuperStream has ruled out every failure.
		c.vhost.createStream(partition, req.Arguments)
		super.bindings = append(super.bindings, binding{stream: partition, key: req.BindingKeys[i], order: i})
	}
	c.vhost.supers[name] = super
	return wire.CodeOK
}

// checkSuperStream checks the name and all partitions before the first is
// created, so that a refused request creates nothing.
func (c *conn) checkSuperStream(name string, req *wire.CreateSuperStream) wire.Code {
	if !validName(name) || len(req.Partitions) != len(req.BindingKeys) ||
		len(req.Partitions) > maxPartitions {
		return wire.CodePreconditionFailed
	}
	if !c.may(configure, name) || !c.may(read, name) {
		return wire.CodeAccessRefused
	}
	seen := make(map[string]bool)
	for i, partition := range req.Partitions {
		partition = cleanName(partition)
		req.Partitions[i] = partition
		if seen[partition] || !validName(partition) {
			return wire.CodePreconditionFailed
		}
		seen[partition] = true
		if !c.may(configure, partition) || !c.may(write, partition) {
			return wire.CodeAccessRefused
		}
	}
	if c.vhost.supers[name] != nil || slices.ContainsFunc(req.Partitions, c.exists) {
		return wire.CodeStreamAlreadyExists
	}
	// RabbitMQ finds an invalid argument only when it declares the first
	// partition. Hence the check comes last, needs a partition, and has
	// another code than in Create.
	if _, valid := parseArguments(req.Arguments); !valid && len(req.Partitions) > 0 {
		return wire.CodeInternalError
	}
	if !c.b.fits(streamCost * int64(1+len(req.Partitions))) {
		return wire.CodeInternalError
	}
	return wire.CodeOK
}

func (c *conn) exists(stream string) bool { return c.vhost.streams[stream] != nil }

func (c *conn) deleteSuperStream(req *wire.DeleteSuperStream) {
	super := c.vhost.supers[req.Name]
	code := wire.CodeOK
	switch {
	case !c.mayDelete(req.Name, super):
		code = wire.CodeAccessRefused
	case super == nil:
		code = wire.CodeStreamDoesNotExist
	}
	c.reply(wire.KeyDeleteSuperStream, req.Correlation, code)
	if code != wire.CodeOK {
		return
	}
	delete(c.vhost.supers, req.Name)
	c.b.addStored(-streamCost, c.b.full())
	for _, p := range super.bindings {
		if s := c.vhost.streams[p.stream]; s != nil {
			c.b.deleteStream(s)
		}
	}
}

// mayDelete reports whether the user may delete a super stream, which needs what
// its creation needed. super is nil if there is none; whoever may configure it
// learns that.
func (c *conn) mayDelete(name string, super *superStream) bool {
	if super == nil {
		return c.may(configure, name)
	}
	return c.may(configure, name) && c.may(read, name) && !slices.ContainsFunc(super.bindings, func(p binding) bool {
		return !c.may(configure, p.stream) || !c.may(write, p.stream)
	})
}

func (c *conn) route(req *wire.Route) {
	super, code := c.findSuper(req.SuperStream, c.may(write, req.SuperStream))
	resp := &wire.StreamsResponse{Key: wire.KeyRoute, Correlation: req.Correlation, Code: code}
	if super != nil {
		for _, p := range super.bindings {
			if p.key == req.RoutingKey {
				resp.Streams = append(resp.Streams, p.stream)
			}
		}
	}
	c.send(resp)
}

func (c *conn) partitions(req *wire.Partitions) {
	super, code := c.findSuper(req.SuperStream, c.may(read, req.SuperStream) || c.may(write, req.SuperStream))
	resp := &wire.StreamsResponse{Key: wire.KeyPartitions, Correlation: req.Correlation, Code: code}
	if super != nil {
		for _, p := range super.bindings {
			resp.Streams = append(resp.Streams, p.stream)
		}
	}
	c.send(resp)
}

// findSuper returns a super stream, or nil and the code that says why not.
// allowed says that the user has the permission. For a predefined exchange,
// which has no bindings, findSuper returns nil and CodeOK.
func (c *conn) findSuper(name string, allowed bool) (*superStream, wire.Code) {
	if !allowed {
		return nil, wire.CodeAccessRefused
	}
	if super := c.vhost.supers[name]; super != nil {
		return super, wire.CodeOK
	}
	if slices.Contains(predefined, name) {
		return nil, wire.CodeOK
	}
	return nil, wire.CodeStreamDoesNotExist
}
