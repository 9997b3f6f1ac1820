package conformance

import (
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

var handshakeRows = []row{
	{name: "the broker tells its version", section: "2.1", run: func(r *run) {
		is(r, strings.Count(r.dial().peerProperties()["version"], "."), 2)
	}},
	{name: "the product is RabbitMQ", section: "2.1", run: func(r *run) {
		is(r, r.dial().peerProperties()["product"], "RabbitMQ")
	}},
	{name: "PLAIN is offered", section: "2.2", run: func(r *run) {
		c := r.dial()
		c.peerProperties()
		is(r, slices.Contains(c.mechanisms(), "PLAIN"), true)
	}},
	{name: "AMQPLAIN, PLAIN and ANONYMOUS are offered", section: "2.2", run: func(r *run) {
		c := r.dial()
		c.peerProperties()
		is(r, slices.Sorted(slices.Values(c.mechanisms())), []string{"AMQPLAIN", "ANONYMOUS", "PLAIN"})
	}},
	{name: "Tune follows the login and proposes 1 MiB and a minute", section: "2.4", run: func(r *run) {
		c := r.dial()
		c.login("guest")
		var tune wire.Tune
		c.decode(&tune)
		is(r, tune, wire.Tune{FrameMax: 1 << 20, Heartbeat: 60})
	}},
	{name: "Tune is answered as a request", section: "2.4", run: tuned(wire.Tune{FrameMax: 1 << 20, Heartbeat: 60})},
	{name: "Tune is answered as a response", section: "2.4", run: tuned(wire.Tune{FrameMax: 1 << 20, Response: true})},
	{name: "Tune is answered with no frame limit", section: "2.4", run: tuned(wire.Tune{Heartbeat: 60})},
	{name: "Tune is answered with more than was proposed", section: "2.4", run: tuned(wire.Tune{FrameMax: 1 << 30, Heartbeat: 600})},
	{name: "Open advertises what Metadata says", section: "2.5", run: func(r *run) {
		c, s := r.open(), r.stream()
		brokers := c.metadata(s).Brokers
		is(r, len(brokers), 1)
		is(r, brokers[0].Host, c.host)
		is(r, strconv.Itoa(int(brokers[0].Port)), c.port)
	}},
	{name: "Open of an unknown virtual host is refused, then the end", section: "2.5", run: func(r *run) {
		c := r.dial()
		c.login("guest")
		is(r, c.open("cf-no-such-vhost"), wire.CodeVHostAccessFailure)
		c.ended()
	}},
	{name: "Open without any permission is refused, then the end", section: "2.5", run: func(r *run) {
		c := r.dial()
		c.login(nobody)
		is(r, c.open("/"), wire.CodeVHostAccessFailure)
		c.ended()
	}},
	{name: "Open with permissions elsewhere only is refused", section: "2.5", run: func(r *run) {
		c := r.dial()
		c.login(reader)
		is(r, c.open(otherVHost), wire.CodeVHostAccessFailure)
	}},
	{name: "a heartbeat before anything else is ignored", section: "1 Heartbeat", run: func(r *run) {
		c := r.dial()
		// One write sends both: RabbitMQ 4.0.5 ended 2 of 60
		// connections whose first bytes were a heartbeat alone.
		c.send(&wire.Heartbeat{}, &wire.PeerProperties{Correlation: c.next()})
		var resp wire.PeerPropertiesResponse
		c.decode(&resp)
		is(r, resp.Code, ok)
	}},
	{name: "SaslHandshake first ends the connection", section: "1 Bad input", run: outOfOrder(&wire.SaslHandshake{}, false)},
	{name: "SaslAuthenticate first ends the connection", section: "1 Bad input",
		run: outOfOrder(&wire.SaslAuthenticate{Mechanism: "PLAIN", Data: []byte(plain("guest", "guest"))}, false)},
	{name: "Open before the login ends the connection", section: "1 Bad input", run: outOfOrder(&wire.Open{VHost: "/"}, false)},
	{name: "Tune need not be answered before Open", section: "1 Bad input", run: func(r *run) {
		c := r.dial()
		c.login("guest")
		c.expect(wire.KeyTune)
		c.send(&wire.Open{Correlation: c.next(), VHost: "/"})
		var resp wire.OpenResponse
		c.decode(&resp)
		is(r, resp.Code, ok)
		c.quiet()
	}},
	{name: "PeerProperties twice ends the connection", section: "1 Bad input", run: func(r *run) {
		c := r.dial()
		c.peerProperties()
		c.send(&wire.PeerProperties{})
		c.endedAfter(wire.KeyPeerProperties.Response())
	}},
	{name: "Tune twice ends the connection", section: "1 Bad input", run: func(r *run) {
		c := r.dial()
		c.login("guest")
		c.expect(wire.KeyTune)
		c.send(&wire.Tune{}, &wire.Tune{})
		c.ended()
	}},
	{name: "Close during the handshake ends the connection", section: "2.7", run: func(r *run) {
		c := r.dial()
		c.peerProperties()
		c.send(&wire.Close{Code: ok})
		c.endedAfter(wire.KeyClose.Response())
	}},
	{name: "Create before Open ends the connection", section: "1 Bad input", run: outOfOrder(&wire.Create{Stream: "cf-never"}, true)},
	{name: "ExchangeCommandVersions before Open ends the connection", section: "2.6",
		run: outOfOrder(&wire.ExchangeCommandVersions{}, true)},
	{name: "Metadata first ends the connection", section: "1 Bad input", run: outOfOrder(&wire.Metadata{}, false)},
	{name: "whoever says nothing is cut off after ten seconds", section: "2", run: func(r *run) {
		r = r.own()
		c := r.dial()
		c.peerProperties() // so that the broker knows the connection
		r.wait(10 * time.Second)
		c.ended()
	}},
	{name: "the commands are listed with their versions", section: "2.6", run: func(r *run) {
		got := r.open().exchange()
		want := map[wire.Key]uint16{wire.KeyPublish: 2}
		for _, key := range listedKeys {
			want[key] = 1
		}
		if r.since("4.3.0") {
			want[wire.KeyResolveOffsetSpec] = 1
		}
		is(r, got, want)
	}},
	{name: "versions are exchanged as often as the client likes", section: "2.6", run: func(r *run) {
		c := r.open()
		is(r, len(c.exchange(wire.CommandVersion{Key: wire.KeyPublish, Min: 1, Max: 2})), len(c.exchange()))
	}},
	{name: "an unknown command in ExchangeCommandVersions ends the connection", section: "1 Bad input", run: func(r *run) {
		c := r.open()
		c.send(&wire.ExchangeCommandVersions{Commands: []wire.CommandVersion{{Key: 999, Min: 1, Max: 1}}})
		c.ended()
	}},
	{name: "correlation ids may be anything", section: "1", run: func(r *run) {
		c := r.open()
		for _, id := range []uint32{0, 7, 7, 1<<32 - 1} {
			c.corr = id - 1
			is(r, c.sequence("", "cf-never"), number{noStream, 0})
		}
	}},
	{name: "requests are answered in order", section: "1", run: func(r *run) {
		c := r.open()
		var all []wire.Frame
		for i := range 50 {
			all = append(all, &wire.Unsubscribe{Correlation: uint32(2 * i)}, &wire.QueryOffset{Correlation: uint32(2*i + 1), Stream: "cf-never"})
		}
		c.send(all...)
		for i := range 50 {
			resp, offset := wire.Response{Key: wire.KeyUnsubscribe}, wire.QueryOffsetResponse{}
			c.decode(&resp)
			c.decode(&offset)
			is(r, [2]uint32{resp.Correlation, offset.Correlation}, [2]uint32{uint32(2 * i), uint32(2*i + 1)})
		}
	}},
	{name: "an idle connection gets heartbeats", section: "1 Heartbeat", run: func(r *run) {
		c := r.beating(1)
		for range 2 {
			f, err := c.readAny()
			is(r, err, nil)
			is(r, f.key, wire.KeyHeartbeat)
			is(r, len(f.fields), 0)
		}
	}},
	{name: "who is silent for three intervals is cut off without a word", section: "1 Heartbeat", run: func(r *run) {
		start := time.Now()
		r.beating(1).ended() // skips the broker's heartbeats
		if d := time.Since(start); d < 2*time.Second {
			r.Errorf("after %v", d)
		}
	}},
	{name: "who sends is not cut off", section: "1 Heartbeat", run: func(r *run) {
		c := r.beating(1)
		for start := time.Now(); time.Since(start) < 4*time.Second; {
			f, err := c.readAny() // paces the loop: half a second each
			is(r, err, nil)
			is(r, f.key, wire.KeyHeartbeat)
			c.send(&wire.Heartbeat{})
		}
	}},
	{name: "a heartbeat that falls due before Open ends the connection", section: "1 Heartbeat", run: func(r *run) {
		c := r.dial()
		c.login("guest")
		c.expect(wire.KeyTune)
		c.send(&wire.Tune{Heartbeat: 1})
		c.patient(5 * time.Second) // the time-out of the handshake is longer
		f, err := c.readAny()
		is(r, f.key, 0)
		is(r, err, io.EOF)
	}},
	{name: "everything works over TLS", section: "2", run: func(r *run) {
		c := r.dialTLS()
		c.login("guest")
		is(r, c.open("/"), ok)
		is(r, c.delete("cf-never"), noStream)
		is(r, c.call(&wire.Close{Correlation: c.next(), Code: ok}), ok)
		c.ended()
	}},
	{name: "EXTERNAL is not offered over TLS without client certificates", section: "2.2", run: func(r *run) {
		c := r.dialTLS()
		c.peerProperties()
		is(r, slices.Contains(c.mechanisms(), "EXTERNAL"), false)
		is(r, c.sasl("EXTERNAL", ""), wire.CodeSaslMechanismNotSupported)
		c.ended()
	}},
}

// listedKeys holds the commands that RabbitMQ 4.0 lists, except Publish.
var listedKeys = []wire.Key{
	wire.KeyDeclarePublisher, wire.KeyQueryPublisherSequence, wire.KeyDeletePublisher, wire.KeySubscribe,
	wire.KeyCredit, wire.KeyStoreOffset, wire.KeyQueryOffset, wire.KeyUnsubscribe, wire.KeyCreate,
	wire.KeyDelete, wire.KeyMetadata, wire.KeyClose, wire.KeyHeartbeat, wire.KeyRoute, wire.KeyPartitions,
	wire.KeyStreamStats, wire.KeyCreateSuperStream, wire.KeyDeleteSuperStream,
}

func tuned(tune wire.Tune) func(*run) {
	return func(r *run) {
		c := r.dial()
		c.login("guest")
		is(r, c.openTuned("/", &tune), ok)
		c.quiet()
	}
}

// outOfOrder sends a command where the handshake expects another one, at its
// start or after the login. The broker must end the connection; RabbitMQ may
// answer first.
func outOfOrder(f wire.Frame, loggedIn bool) func(*run) {
	return func(r *run) {
		c := r.dial()
		if loggedIn {
			c.login("guest")
			c.expect(wire.KeyTune)
		}
		c.send(f)
		key, _ := f.Head()
		c.endedAfter(key.Response())
	}
}

// beating opens a connection with a heartbeat interval in seconds.
func (r *run) beating(seconds uint32) *client {
	r.Helper()
	c := r.dial()
	c.login("guest")
	is(r, c.openTuned("/", &wire.Tune{Heartbeat: seconds}), ok)
	return c
}

// The broker answers a refused login and then ends the connection. RabbitMQ
// answers after three seconds.
var authenticateRows = []row{
	{name: "PLAIN", section: "2.3", run: authenticates("PLAIN", plain("guest", "guest"), ok)},
	{name: "wrong password", section: "2.3", run: authenticates("PLAIN", plain("guest", "x"), wire.CodeAuthenticationFailure)},
	{name: "unknown user", section: "2.3", run: authenticates("PLAIN", plain("cf-who", "x"), wire.CodeAuthenticationFailure)},
	{name: "empty password", section: "2.3", run: authenticates("PLAIN", plain("guest", ""), wire.CodeAuthenticationFailure)},
	{name: "PLAIN without NUL", section: "2.3", run: authenticates("PLAIN", "guest", wire.CodeSaslError)},
	{name: "PLAIN with an authorization identity", section: "2.3",
		run: authenticates("PLAIN", "guest"+plain("guest", "guest"), wire.CodeSaslError)},
	{name: "PLAIN without data", section: "2.3", run: authenticates("PLAIN", "", wire.CodeSaslError)},
	{name: "unknown mechanism", section: "2.3", run: authenticates("CF", "x", wire.CodeSaslMechanismNotSupported)},
	{name: "EXTERNAL without TLS", section: "2.3", run: authenticates("EXTERNAL", "", wire.CodeSaslMechanismNotSupported)},
	{name: "ANONYMOUS logs in as guest", section: "2.3", run: func(r *run) {
		c := r.dial()
		is(r, c.authenticate("ANONYMOUS", "anything"), ok)
		is(r, c.open("/"), ok)
	}},
	{name: "again on an open connection, without another Tune", section: "2.3", run: func(r *run) {
		c := r.open()
		is(r, c.sasl("PLAIN", plain("guest", "guest")), ok)
		c.quiet()
	}},
	{name: "again with another mechanism", section: "2.3", since: "4.3.0",
		run:    again("ANONYMOUS", "x", wire.CodeSaslCannotChangeMechanism, (*client).ended),
		before: again("ANONYMOUS", "x", wire.CodeSaslCannotChangeMechanism, (*client).quiet)},
	{name: "again with an unknown mechanism", section: "2.3", since: "4.3.0",
		run:    again("CF", "x", wire.CodeSaslCannotChangeMechanism, (*client).ended),
		before: again("CF", "x", wire.CodeSaslCannotChangeMechanism, (*client).quiet)},
	{name: "again as another user", section: "2.3", since: "4.3.0",
		run:    again("PLAIN", plain(writer, writer), wire.CodeSaslCannotChangeUsername, (*client).ended),
		before: again("PLAIN", plain(writer, writer), wire.CodeSaslCannotChangeUsername, (*client).quiet)},
	{name: "again with a wrong password", section: "2.3", since: "4.3.0",
		run:    again("PLAIN", plain("guest", "x"), wire.CodeAuthenticationFailure, (*client).ended),
		before: again("PLAIN", plain("guest", "x"), wire.CodeAuthenticationFailure, (*client).quiet)},
}

// again authenticates on an open connection, expects the code want and then
// calls then. After a refusal RabbitMQ 4.0.5 goes on; 4.3.6 ends the
// connection.
func again(mechanism, data string, want wire.Code, then func(*client)) func(*run) {
	return func(r *run) {
		c := r.open()
		is(r, c.sasl(mechanism, data), want)
		then(c)
	}
}

func authenticates(mechanism, data string, want wire.Code) func(*run) {
	return func(r *run) {
		c := r.dial()
		is(r, c.authenticate(mechanism, data), want)
		if want != ok {
			c.ended()
			return
		}
		c.expect(wire.KeyTune)
	}
}
