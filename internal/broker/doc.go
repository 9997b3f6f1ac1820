// Package broker reaches a RabbitMQ broker over the stream protocol. It reads
// URIs, logs in, makes the calls of one connection, finds the node that has a
// stream, and shares connections among those who read. It turns response codes
// into errors.
//
// It knows no consumer and no producer. It is the floor above internal/wire and
// below stream:
//
//	Endpoint       a URI, parsed: where to dial, and the login
//	Conn           one connection, past its handshake; calls.go lists its calls
//	Cluster        the nodes of one broker; which of them has a stream
//	Lease          a subscription's place on a shared connection
//	OffsetWriter   stores offsets, one after the other, as fast as RabbitMQ takes them
package broker
