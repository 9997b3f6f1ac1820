package streamtest

import (
	"strconv"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles Create, Delete, Metadata and StreamStats.
//
// Not implemented: classic and quorum queues, whose names RabbitMQ refuses to a
// stream; further nodes, and with them replicas. Unlike RabbitMQ the broker
// refuses an invalid max-age or max-length-bytes.

func (c *conn) create(req *wire.Create) {
	name := cleanName(req.Stream)
	code := wire.CodeAccessRefused
	if c.may(configure, name) {
		code = c.vhost.createStream(name, req.Arguments)
	}
	c.reply(wire.KeyCreate, req.Correlation, code)
}

func (c *conn) delete(req *wire.Delete) {
	if !c.may(configure, req.Stream) {
		c.reply(wire.KeyDelete, req.Correlation, wire.CodeAccessRefused)
		return
	}
	s := c.vhost.streams[req.Stream]
	if s == nil {
		c.reply(wire.KeyDelete, req.Correlation, wire.CodeStreamDoesNotExist)
		return
	}
	// If this connection used the stream, its MetadataUpdate follows the
	// answer.
	c.reply(wire.KeyDelete, req.Correlation, wire.CodeOK)
	c.b.deleteStream(s)
}

func (c *conn) metadata(req *wire.Metadata) {
	resp := &wire.MetadataResponse{Correlation: req.Correlation}
	seen := make(map[string]bool)
	for _, name := range req.Streams {
		if seen[name] {
			continue
		}
		seen[name] = true
		m := wire.StreamMetadata{Stream: name, Code: wire.CodeAccessRefused, Leader: wire.NoLeader}
		if c.may(read, name) || c.may(write, name) {
			m.Code = c.locate(name, &m)
		}
		if m.Code == wire.CodeOK && len(resp.Brokers) == 0 {
			resp.Brokers = c.b.nodes()
		}
		resp.Streams = append(resp.Streams, m)
	}
	c.send(resp)
}

// locate enters the nodes of a stream. It returns CodeOK, or the code that says
// why there is none.
func (c *conn) locate(name string, m *wire.StreamMetadata) wire.Code {
	s, code := c.find(name)
	switch {
	case code != wire.CodeOK:
	case s.leaderless:
		m.Replicas = []uint16{0}
	default:
		m.Leader = 0
	}
	return code
}

// nodes returns the only node of the broker. Its address equals the one that
// Open advertises, because clients compare the two.
func (b *Broker) nodes() []wire.BrokerAddress {
	host, port := b.cfg.advertise(b.ln.Addr())
	n, _ := strconv.ParseUint(port, 10, 16) // Start has refused what is no number
	return []wire.BrokerAddress{{Reference: 0, Host: host, Port: uint32(n)}}
}

// refusedMetadata returns an answer to Metadata with code for each stream. The
// answer has no code of its own.
func refusedMetadata(req *wire.Metadata, code wire.Code) *wire.MetadataResponse {
	resp := &wire.MetadataResponse{Correlation: req.Correlation}
	for _, name := range req.Streams {
		resp.Streams = append(resp.Streams, wire.StreamMetadata{Stream: name, Code: code, Leader: wire.NoLeader})
	}
	return resp
}

func (c *conn) streamStats(req *wire.StreamStats) {
	s, code := c.findReadable(req.Stream)
	if code != wire.CodeOK {
		c.fail(wire.KeyStreamStats, req.Correlation, code)
		return
	}
	first, last, committed := int64(-1), int64(-1), int64(-1)
	if id, ok := s.log.lastChunk(); ok {
		first, last, committed = int64(s.log.chunks[0].first), int64(id), int64(s.log.next-1)
	}
	c.send(&wire.StreamStatsResponse{Correlation: req.Correlation, Code: wire.CodeOK, Stats: []wire.Stat{
		{Key: "committed_chunk_id", Value: last},
		{Key: "committed_offset", Value: committed},
		{Key: "first_chunk_id", Value: first},
		{Key: "last_chunk_id", Value: last},
	}})
}
