package streamtest

import (
	"slices"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// CreateSuperStream, DeleteSuperStream, Route and Partitions.
//
// Not implemented: exchanges other than super streams; the predefined ones exist but have no bindings.

const maxPartitions = 1000

// predefined are the exchanges that every virtual host has, without bindings.
var predefined = []string{"", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic", "amq.rabbitmq.trace"}

// superStream is an exchange whose bindings lead to its partitions.
type superStream struct {
	name     string
	bindings []binding // in the order of the partitions
}

// binding is a partition and the routing key that leads to it.
type binding struct {
	stream, key string
	order       int
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
	for i, partition := range req.Partitions {
		c.vhost.createStream(partition, req.Arguments) // checked above: cannot fail
		super.bindings = append(super.bindings, binding{stream: partition, key: req.BindingKeys[i], order: i})
	}
	c.vhost.supers[name] = super
	return wire.CodeOK
}

// checkSuperStream looks at everything before anything is created, so that nothing is left half-way.
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
	// Only now, and unlike in Create: RabbitMQ stumbles over it while it declares the first partition.
	if _, valid := parseArguments(req.Arguments); !valid && len(req.Partitions) > 0 {
		return wire.CodeInternalError
	}
	return wire.CodeOK
}

func (c *conn) exists(stream string) bool { return c.vhost.streams[stream] != nil }

func (c *conn) deleteSuperStream(req *wire.DeleteSuperStream) {
	super := c.vhost.supers[req.Name]
	code := wire.CodeOK
	switch {
	case !c.may(configure, req.Name):
		code = wire.CodeAccessRefused
	case super == nil:
		code = wire.CodeStreamDoesNotExist
	}
	c.reply(wire.KeyDeleteSuperStream, req.Correlation, code)
	if code != wire.CodeOK {
		return
	}
	delete(c.vhost.supers, req.Name)
	for _, p := range super.bindings {
		if s := c.vhost.streams[p.stream]; s != nil {
			c.b.deleteStream(s)
		}
	}
}

func (c *conn) route(req *wire.Route) {
	super, code := c.findSuper(req.SuperStream)
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
	super, code := c.findSuper(req.SuperStream)
	resp := &wire.StreamsResponse{Key: wire.KeyPartitions, Correlation: req.Correlation, Code: code}
	if super != nil {
		for _, p := range super.bindings {
			resp.Streams = append(resp.Streams, p.stream)
		}
	}
	c.send(resp)
}

// findSuper returns a super stream the user may write to, or the code that says why not; of an exchange
// without bindings there is only the code.
func (c *conn) findSuper(name string) (*superStream, wire.Code) {
	if !c.may(write, name) {
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
