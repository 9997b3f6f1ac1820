package stream

import (
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestSubBatchesOfOursElsewhere: the official client and our own consumer read
// our sub-batches from a broker, between single messages.
func TestSubBatchesOfOursElsewhere(t *testing.T) { onBrokers(t, testSubBatchesOfOursElsewhere) }

func testSubBatchesOfOursElsewhere(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	var want []string
	frame, id := wire.BeginPublish(nil, wire.Version1, 1), uint64(0)
	for _, c := range []Compression{CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd} {
		bodies := []string{"", "a", benchBody(int(c), 50_000), strings.Repeat("x", 20_000)}
		id += 2
		frame = wire.AppendPublishEntry(frame, id-1, appendData(nil, []byte("single")))
		frame = append(frame, 0, 0, 0, 0, 0, 0, 0, byte(id))
		var err error
		frame, err = appendSubBatch(frame, c, len(bodies), recordsOf(t, bodies...))
		must(t, err)
		want = append(append(want, "single"), bodies...)
	}
	rawPublishFrame(t, b.StreamURL(), stream, wire.FinishPublish(frame, 0, int(id)), int(id))
	for i, d := range published(t, env, stream, len(want)) {
		if string(d.Body) != want[i] {
			t.Errorf("our consumer: message %d has %d bytes, want %d", i, len(d.Body), len(want[i]))
		}
	}
	got := make(chan string, len(want))
	handle := func(_ official.ConsumerContext, m *amqp.Message) { got <- string(m.GetData()) }
	c, err := officialEnvironment(t, b.StreamURL()).NewConsumer(stream, handle, official.NewConsumerOptions().SetOffset(official.OffsetSpecification{}.First()))
	must(t, err)
	for i := range want {
		if body := recv(t, got, "a message at the official client"); body != want[i] {
			t.Errorf("the official client: message %d has %d bytes, want %d", i, len(body), len(want[i]))
		}
	}
	must(t, c.Close())
}

// publishFrame sends a Publish frame of publisher 1 on a connection of its own,
// and waits for so many confirms.
func rawPublishFrame(t testing.TB, uri, stream string, frame []byte, confirms int) {
	t.Helper()
	u, err := url.Parse(uri)
	must(t, err)
	password, _ := u.User.Password()
	nc, err := net.Dial("tcp", u.Host)
	must(t, err)
	defer nc.Close()
	must(t, nc.SetDeadline(time.Now().Add(patience)))
	frames := wire.NewFrameReader(nc, 0)
	call := func(f wire.Frame, answer wire.Key) []byte {
		out, err := wire.Append(nil, f)
		must(t, err)
		_, err = nc.Write(out)
		must(t, err)
		return awaitFrame(t, frames, answer)
	}
	call(&wire.PeerProperties{}, wire.KeyPeerProperties.Response())
	call(&wire.SaslHandshake{}, wire.KeySaslHandshake.Response())
	call(&wire.SaslAuthenticate{Mechanism: "PLAIN", Data: []byte("\x00" + u.User.Username() + "\x00" + password)}, wire.KeyTune)
	tuned, err := wire.Append(nil, &wire.Tune{FrameMax: 1 << 20, Response: true})
	must(t, err)
	_, err = nc.Write(tuned)
	must(t, err)
	call(&wire.Open{VHost: "/"}, wire.KeyOpen.Response())
	call(&wire.DeclarePublisher{PublisherID: 1, Stream: stream}, wire.KeyDeclarePublisher.Response())
	_, err = nc.Write(frame)
	must(t, err)
	for confirms > 0 {
		ids := awaitFrame(t, frames, wire.KeyPublishConfirm)
		confirms -= (len(ids) - 5) / 8
	}
}

// awaitFrame returns the fields of the next frame with a key.
func awaitFrame(t testing.TB, frames *wire.FrameReader, want wire.Key) []byte {
	t.Helper()
	for {
		frame, err := frames.Next()
		must(t, err)
		key, _, fields, err := wire.SplitHead(frame)
		if must(t, err); key == want {
			return fields
		}
	}
}
