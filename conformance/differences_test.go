package conformance

import (
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// difference says that streamtest deliberately does not do what a row says.
type difference struct {
	reason  string
	instead func(r *run) // what streamtest does
}

// differences lists all differences, by "group/row".
var differences = map[string]difference{
	"handshake/AMQPLAIN, PLAIN and ANONYMOUS are offered": {
		reason: "no stream client uses AMQPLAIN, whose data is an AMQP 0.9.1 table",
		instead: func(r *run) {
			c := r.dial()
			c.peerProperties()
			is(r, c.mechanisms(), []string{"PLAIN", "ANONYMOUS"})
		},
	},
	"handshake/an unknown command in ExchangeCommandVersions ends the connection": {
		reason: "a bug of RabbitMQ: a client that knows more commands than the broker cannot connect",
		instead: func(r *run) {
			r.open().exchange(wire.CommandVersion{Key: 999, Min: 1, Max: 1})
		},
	},
	"malformed/null string": {
		reason: "the protocol allows a null string, RabbitMQ does not; streamtest takes it as empty",
		instead: func(r *run) {
			c := r.open()
			c.write(raw(wire.KeyDelete, 1, 0, 0, 0, 1, 0xff, 0xff))
			resp := wire.Response{Key: wire.KeyDelete}
			c.decode(&resp)
			is(r, resp.Code, noStream)
		},
	},
	"malformed/the count of a Publish does not matter": {
		reason: "a wrong count is a bug of the client that a test should find; streamtest ends the connection",
		instead: func(r *run) {
			c := r.publisher("")
			c.write(raw(wire.KeyPublish, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'x'))
			c.ended()
		},
	},
	"malformed/commands with lists, a byte short or long": {
		reason: "a bug of RabbitMQ; streamtest sends Close, as after every malformed frame",
		instead: func(r *run) {
			for _, f := range withLists {
				short, long := misfit(r, f)
				malformed(short)(r)
				malformed(long)(r)
			}
		},
	},
	"backlog/what is in a packet with the last entry is handled": {
		reason: "what is in a packet is a matter of luck; streamtest stops behind the frame, so that a test always sees the same",
		instead: func(r *run) {
			b := r.backlog(r.open, 1, 1)
			b.c.entries(1, publishCredit-1, 1)
			b.c.write(slices.Concat(messages(2, 1), messages(3, 1)))
			b.unread()
			b.write(0)
			b.write(1)
			b.c.settled(map[uint8]int{1: publishCredit - 1, 2: 1, 3: 1})
		},
	},
	"create/max-length-bytes that is no number": {
		reason: "a bug of RabbitMQ, whose connection crashes; a refusal shows a test what is wrong",
		instead: func(r *run) {
			is(r, r.open().create(r.name(), "max-length-bytes", "lots"), precondition)
		},
	},
	"create/max-age that is no age": {
		reason: "a bug of RabbitMQ, which creates a stream that does not work; a refusal shows a test what is wrong",
		instead: func(r *run) {
			c := r.open()
			for _, age := range []string{"10", "0s", "-1s", "x"} {
				is(r, c.create(r.name(), "max-age", age), precondition)
			}
		},
	},
	"offset/takes an offset of a quiet stream": {
		reason: "tests expect consecutive offsets; Broker.SkipOffsets makes such a gap",
		instead: func(r *run) {
			s := r.tracked()
			r.append(s, 0, 1)
			c := r.open()
			is(r, c.subscribe(1, s, first, 1), ok)
			is(r, c.chunks(1, 1), []uint64{0})
		},
	},
	"stats/a stored offset counts as a chunk": {
		reason: "streamtest stores an offset outside of the log, where all chunks hold messages",
		instead: func(r *run) {
			_, stats := r.open().stats(r.tracked())
			is(r, stats, figures(-1, -1, -1))
		},
	},
	"resolve/on nothing but a stored offset": {
		reason:  "streamtest stores an offset outside of the log, where it takes no offset",
		instead: func(r *run) { is(r, r.open().resolve(r.tracked(), next), number{ok, 0}) },
	},
	"deliver/tracking is delivered to who asks for all chunks": {
		reason: "streamtest stores an offset outside of the log; no client asks for such chunks",
		instead: func(r *run) {
			c, s := r.open(), r.tracked()
			is(r, c.subscribe(1, s, first, 1, "chunk_selector", "all"), ok)
			c.quiet()
		},
	},
	"subscribe/a byte left over without properties is ignored": {
		reason: "a bug of the client that a test should find",
		instead: func(r *run) {
			_, long := misfit(r, &wire.Subscribe{Stream: r.stream(), Spec: first, Credit: 1})
			malformed(long)(r)
		},
	},
	"retention/a reader that was overtaken first reads its segment to the end": {
		reason: "RabbitMQ goes on reading a deleted file that is still open; streamtest keeps no removed segment",
		instead: func(r *run) {
			c, left := r.overtaken()
			c.credit(1, 1)
			is(r, c.chunks(1, 1), []uint64{left})
		},
	},
}

// check fails the test unless streamtest differs as listed: the row must fail,
// and instead must pass.
func (d difference) check(t *testing.T, b *broker, row row) {
	t.Logf("differs: %s", d.reason)
	rec := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		row.run(newRun(rec, b, differencePatience))
	}()
	<-done
	if !rec.failed() {
		t.Error("streamtest does what the row says: take it off the list of differences")
	}
	d.instead(newRun(t, b, patience))
}

// recorder is a testing.TB for a row that is expected to fail. It records the
// failure and does not fail the real test.
type recorder struct {
	testing.TB
	mu  sync.Mutex
	bad bool
}

func (r *recorder) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bad
}

func (r *recorder) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad = true
}

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Error(args ...any)                 { r.Log(args...); r.Fail() }
func (r *recorder) Errorf(format string, args ...any) { r.Logf(format, args...); r.Fail() }
func (r *recorder) Fatal(args ...any)                 { r.Log(args...); r.FailNow() }
func (r *recorder) Fatalf(format string, args ...any) { r.Logf(format, args...); r.FailNow() }
