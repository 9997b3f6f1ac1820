package conformance

import (
	"fmt"
	"slices"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Rows use these short names for codes, properties and offset specs.
const (
	ok              = wire.CodeOK
	noStream        = wire.CodeStreamDoesNotExist
	subscribed      = wire.CodeSubscriptionIDExists
	noSubscription  = wire.CodeSubscriptionIDDoesNotExist
	streamExists    = wire.CodeStreamAlreadyExists
	notAvailable    = wire.CodeStreamNotAvailable
	accessRefused   = wire.CodeAccessRefused
	precondition    = wire.CodePreconditionFailed
	noPublisher     = wire.CodePublisherDoesNotExist
	noOffset        = wire.CodeNoOffset
	unknownFrame    = wire.CodeUnknownFrame
	activeConsumer  = "single-active-consumer"
	superStreamProp = "super-stream"
)

var (
	first = wire.OffsetSpec{Type: wire.OffsetFirst}
	last  = wire.OffsetSpec{Type: wire.OffsetLast}
	next  = wire.OffsetSpec{Type: wire.OffsetNext}
	none  = wire.OffsetSpec{Type: wire.OffsetNone}
)

func at(offset uint64) wire.OffsetSpec { return wire.OffsetSpec{Type: wire.OffsetAt, Value: offset} }
func from(millis int64) wire.OffsetSpec {
	return wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: uint64(millis)}
}

// number is an answer that consists of a code and a 64-bit number.
type number struct {
	code  wire.Code
	value uint64
}

// names is an answer that consists of a code and names of streams.
type names struct {
	code    wire.Code
	streams []string
}

func props(pairs ...string) wire.Properties {
	var p wire.Properties
	for i := 0; i < len(pairs); i += 2 {
		p = append(p, wire.Property{Key: pairs[i], Value: pairs[i+1]})
	}
	return p
}

func (c *client) peerProperties() map[string]string {
	c.t.Helper()
	c.send(&wire.PeerProperties{Correlation: c.next(), Properties: props("connection_name", c.t.Name())})
	var resp wire.PeerPropertiesResponse
	c.decode(&resp)
	is(c.t, resp.Code, ok)
	got := make(map[string]string)
	for _, p := range resp.Properties {
		got[p.Key] = p.Value
	}
	return got
}

func (c *client) mechanisms() []string {
	c.t.Helper()
	c.send(&wire.SaslHandshake{Correlation: c.next()})
	var resp wire.SaslHandshakeResponse
	c.decode(&resp)
	is(c.t, resp.Code, ok)
	return resp.Mechanisms
}

// authenticate runs the handshake up to the answer to SaslAuthenticate, which
// it returns.
func (c *client) authenticate(mechanism, data string) wire.Code {
	c.t.Helper()
	c.peerProperties()
	c.mechanisms()
	return c.sasl(mechanism, data)
}

func (c *client) sasl(mechanism, data string) wire.Code {
	c.t.Helper()
	return c.call(&wire.SaslAuthenticate{Correlation: c.next(), Mechanism: mechanism, Data: []byte(data)})
}

func plain(user, password string) string { return "\x00" + user + "\x00" + password }

func (c *client) login(user string) {
	c.t.Helper()
	is(c.t, c.authenticate("PLAIN", plain(user, user)), ok)
}

// open answers Tune, asking for no heartbeats, and opens a virtual host.
func (c *client) open(vhost string) wire.Code {
	c.t.Helper()
	return c.openTuned(vhost, &wire.Tune{FrameMax: 1 << 20})
}

func (c *client) openTuned(vhost string, tune *wire.Tune) wire.Code {
	c.t.Helper()
	c.expect(wire.KeyTune)
	c.send(tune, &wire.Open{Correlation: c.next(), VHost: vhost})
	var resp wire.OpenResponse
	c.decode(&resp)
	is(c.t, resp.Correlation, c.corr)
	c.host, _ = resp.Properties.Get("advertised_host")
	c.port, _ = resp.Properties.Get("advertised_port")
	return resp.Code
}

// exchange tells the broker the command versions of the client and returns
// those of the broker.
func (c *client) exchange(commands ...wire.CommandVersion) map[wire.Key]uint16 {
	c.t.Helper()
	c.send(&wire.ExchangeCommandVersions{Correlation: c.next(), Commands: commands})
	var resp wire.ExchangeCommandVersionsResponse
	c.decode(&resp)
	is(c.t, resp.Code, ok)
	is(c.t, resp.Correlation, c.corr)
	got := make(map[wire.Key]uint16)
	for _, v := range resp.Commands {
		is(c.t, v.Min, 1)
		got[v.Key] = v.Max
	}
	return got
}

func (c *client) create(stream string, args ...string) wire.Code {
	c.t.Helper()
	return c.call(&wire.Create{Correlation: c.next(), Stream: stream, Arguments: props(args...)})
}

func (c *client) delete(stream string) wire.Code {
	c.t.Helper()
	return c.call(&wire.Delete{Correlation: c.next(), Stream: stream})
}

func (c *client) createSuper(name string, partitions, keys []string, args ...string) wire.Code {
	c.t.Helper()
	return c.call(&wire.CreateSuperStream{
		Correlation: c.next(), Name: name, Partitions: partitions, BindingKeys: keys, Arguments: props(args...),
	})
}

func (c *client) deleteSuper(name string) wire.Code {
	c.t.Helper()
	return c.call(&wire.DeleteSuperStream{Correlation: c.next(), Name: name})
}

func (c *client) partitions(name string) names {
	c.t.Helper()
	return c.streams(&wire.Partitions{Correlation: c.next(), SuperStream: name})
}

func (c *client) route(key, name string) names {
	c.t.Helper()
	return c.streams(&wire.Route{Correlation: c.next(), RoutingKey: key, SuperStream: name})
}

func (c *client) streams(f wire.Frame) names {
	c.t.Helper()
	c.send(f)
	key, _ := f.Head()
	resp := wire.StreamsResponse{Key: key}
	c.decode(&resp)
	is(c.t, resp.Correlation, c.corr)
	return names{resp.Code, resp.Streams}
}

// metadata returns the answer with its streams sorted by name, because the
// broker may answer in any order.
func (c *client) metadata(streams ...string) wire.MetadataResponse {
	c.t.Helper()
	c.send(&wire.Metadata{Correlation: c.next(), Streams: streams})
	var resp wire.MetadataResponse
	c.decode(&resp)
	is(c.t, resp.Correlation, c.corr)
	slices.SortFunc(resp.Streams, func(a, b wire.StreamMetadata) int { return slices.Compare([]byte(a.Stream), []byte(b.Stream)) })
	return resp
}

// gone expects the MetadataUpdate that says that a stream no longer exists.
func (c *client) gone(stream string) {
	c.t.Helper()
	var update wire.MetadataUpdate
	c.decode(&update)
	is(c.t, update, wire.MetadataUpdate{Code: notAvailable, Stream: stream})
}

func (c *client) declare(id uint8, reference, stream string) wire.Code {
	c.t.Helper()
	return c.call(&wire.DeclarePublisher{Correlation: c.next(), PublisherID: id, Reference: reference, Stream: stream})
}

func (c *client) deletePublisher(id uint8) wire.Code {
	c.t.Helper()
	return c.call(&wire.DeletePublisher{Correlation: c.next(), PublisherID: id})
}

func (c *client) sequence(reference, stream string) number {
	c.t.Helper()
	c.send(&wire.QueryPublisherSequence{Correlation: c.next(), Reference: reference, Stream: stream})
	var resp wire.QueryPublisherSequenceResponse
	c.decode(&resp)
	is(c.t, resp.Correlation, c.corr)
	return number{resp.Code, resp.Sequence}
}

// publish sends one frame of messages with these ids. Each body is an m and the
// id.
func (c *client) publish(publisher uint8, ids ...uint64) {
	c.t.Helper()
	c.write(messages(publisher, ids...))
}

// messages is the frame that publish sends.
func messages(publisher uint8, ids ...uint64) []byte {
	b := wire.BeginPublish(nil, wire.Version1, publisher)
	for _, id := range ids {
		b = wire.AppendPublishEntry(b, id, fmt.Appendf(nil, "m%d", id))
	}
	return wire.FinishPublish(b, 0, len(ids))
}

// publishBatch sends one frame with one sub-batch of two messages of the same
// body.
func (c *client) publishBatch(publisher uint8, id uint64, body string) {
	c.t.Helper()
	records := wire.AppendEntry(wire.AppendEntry(nil, []byte(body)), []byte(body))
	c.publishEntry(publisher, id, wire.Entry{Body: records, Records: 2, Uncompressed: uint32(len(records))})
}

func (c *client) publishEntry(publisher uint8, id uint64, batch wire.Entry) {
	c.t.Helper()
	b := wire.BeginPublish(nil, wire.Version1, publisher)
	c.write(wire.FinishPublish(wire.AppendPublishBatch(b, id, batch), 0, 1))
}

// filtered sends one frame of version 2 with one message per filter value, and
// waits for the confirms. The broker may make several chunks of it. Each body
// is the value; "null" stands for no value.
func (c *client) filtered(publisher uint8, values ...string) {
	c.t.Helper()
	b := wire.BeginPublish(nil, wire.Version2, publisher)
	var ids []uint64
	for i, v := range values {
		filter := []byte(v)
		if v == "null" {
			filter = nil
		}
		b = wire.AppendPublishFiltered(b, uint64(i), filter, []byte(v))
		ids = append(ids, uint64(i))
	}
	c.write(wire.FinishPublish(b, 0, len(values)))
	c.confirmed(publisher, ids...)
}

// confirmed expects the confirms of exactly these ids, in one or more frames
// and in any order.
func (c *client) confirmed(publisher uint8, ids ...uint64) {
	c.t.Helper()
	var got []uint64
	for len(got) < len(ids) {
		o, err := wire.DecodePublishConfirm(c.expect(wire.KeyPublishConfirm).fields)
		if err != nil {
			c.t.Fatal(err)
		}
		is(c.t, o.PublisherID, publisher)
		for i := range o.Len() {
			id, _ := o.At(i)
			got = append(got, id)
		}
	}
	slices.Sort(got)
	is(c.t, got, slices.Sorted(slices.Values(ids)))
}

// refused expects a PublishError with code for exactly these ids, in this
// order.
func (c *client) refused(publisher uint8, code wire.Code, ids ...uint64) {
	c.t.Helper()
	o, err := wire.DecodePublishError(c.expect(wire.KeyPublishError).fields)
	if err != nil {
		c.t.Fatal(err)
	}
	is(c.t, o.PublisherID, publisher)
	var got []uint64
	for i := range o.Len() {
		id, why := o.At(i)
		is(c.t, why, code)
		got = append(got, id)
	}
	is(c.t, got, ids)
}
