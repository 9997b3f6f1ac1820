package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// capture is the URI of a RabbitMQ. If it is set, TestCapture replaces the
// frames in testdata/captured.txt with those of that broker:
//
//	go test ./internal/wire -run TestCapture -capture "$RABBITMQ_STREAM_URL"
var capture = flag.String("capture", "", "record the frames of the RabbitMQ at this `URI`")

const capturedFile = "testdata/captured.txt"

// emptyFrame returns an empty frame for a key that a broker sends, or nil if
// frames with that key are read in place.
func emptyFrame(key Key) Frame {
	switch key {
	case KeyPeerProperties.Response():
		return &PeerPropertiesResponse{}
	case KeySaslHandshake.Response():
		return &SaslHandshakeResponse{}
	case KeySaslAuthenticate.Response():
		return &SaslAuthenticateResponse{}
	case KeyTune:
		return &Tune{}
	case KeyOpen.Response():
		return &OpenResponse{}
	case KeyExchangeCommandVersions.Response():
		return &ExchangeCommandVersionsResponse{}
	case KeyMetadata.Response():
		return &MetadataResponse{}
	case KeyMetadataUpdate:
		return &MetadataUpdate{}
	case KeyQueryPublisherSequence.Response():
		return &QueryPublisherSequenceResponse{}
	case KeyQueryOffset.Response():
		return &QueryOffsetResponse{}
	case KeyStreamStats.Response():
		return &StreamStatsResponse{}
	case KeyRoute.Response(), KeyPartitions.Response():
		return &StreamsResponse{Key: key}
	case KeyConsumerUpdate:
		return &ConsumerUpdate{}
	case KeyCredit.Response():
		return &CreditResponse{}
	case KeyClose:
		return &Close{}
	case KeyDeliver, KeyPublishConfirm, KeyPublishError:
		return nil
	}
	return &Response{Key: key}
}

// TestCaptured reads every frame that a real RabbitMQ has sent, writes it
// again, and compares the bytes.
func TestCaptured(t *testing.T) {
	text, err := os.ReadFile(capturedFile)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Key]bool{}
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, dump, _ := strings.Cut(line, " ")
		frame, err := hex.DecodeString(dump)
		if err != nil {
			t.Fatal(err)
		}
		key, version, fields, err := SplitHead(frame[SizeLen:])
		if err != nil || key.String() != name {
			t.Fatalf("line %d: %v (%v), want %s", i+1, key, err, name)
		}
		seen[key] = true
		if f := emptyFrame(key); f != nil {
			checkRewritten(t, f, fields, frame)
		} else {
			checkInPlace(t, key, version, fields)
		}
	}
	if len(seen) < 25 {
		t.Errorf("%d kinds of frames were captured", len(seen))
	}
}

// checkRewritten reads fields into f and writes f, which must give frame again.
func checkRewritten(t *testing.T, f Frame, fields, frame []byte) {
	t.Helper()
	if err := Decode(fields, f); err != nil {
		t.Error(err)
	} else if again, err := Append(nil, f); err != nil || !bytes.Equal(again, frame) {
		t.Errorf("%T: %x was read as %+v and written as %x (%v)", f, frame, f, again, err)
	}
}

// checkInPlace reads a frame that has no Frame type.
func checkInPlace(t *testing.T, key Key, version uint16, fields []byte) {
	t.Helper()
	switch key {
	case KeyPublishConfirm:
		if o, err := DecodePublishConfirm(fields); err != nil || o.Len() == 0 {
			t.Errorf("confirm: %v", err)
		}
	case KeyPublishError:
		o, err := DecodePublishError(fields)
		if _, code := o.At(0); err != nil || code != CodePublisherDoesNotExist {
			t.Errorf("error: %v %v", code, err)
		}
	case KeyDeliver:
		d, err := DecodeDeliver(version, fields)
		if err != nil {
			t.Fatal(err)
		}
		chunk, err := ParseChunk(d.Chunk)
		if err != nil || chunk.Check() != nil {
			t.Fatalf("chunk: %v %v", err, chunk.Check())
		}
		entries := chunk.Walk()
		for e, ok := (Entry{}), true; ok; {
			if _, ok = entries.Next(&e); ok && e.Raw == nil {
				t.Fatal("an entry of nothing")
			}
			e = Entry{}
		}
		if entries.Err() != nil {
			t.Error(entries.Err())
		}
	}
}

// TestCapture records the frames of a real RabbitMQ if the flag capture is set.
func TestCapture(t *testing.T) {
	if *capture == "" {
		return
	}
	u, err := url.Parse(*capture)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	r := &recorder{t: t, nc: nc, frames: NewFrameReader(nc, 0)}
	fmt.Fprintf(&r.out, "# What a RabbitMQ sent, recorded on %s by TestCapture: a frame's name and its bytes.\n",
		time.Now().Format(time.DateOnly))
	password, _ := u.User.Password()
	r.record(u.User.Username(), password)
	if err := os.WriteFile(capturedFile, []byte(r.out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recorder talks to a broker and writes down, in the form of capturedFile, what
// that answers.
type recorder struct {
	t      *testing.T
	nc     net.Conn
	frames *FrameReader
	out    strings.Builder
}

// send sends the frame b, unless there is an error already. It records as many
// frames as there are keys in want, and expects these keys in that order.
func (r *recorder) send(b []byte, err error, want ...Key) {
	r.t.Helper()
	if err == nil {
		_, err = r.nc.Write(b)
	}
	for ; err == nil && len(want) > 0; want = want[1:] {
		_ = r.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		var frame []byte
		if frame, err = r.frames.Next(); err != nil {
			break
		}
		key, _, _, _ := SplitHead(frame)
		fmt.Fprintf(&r.out, "%v %08x%x\n", key, len(frame), frame)
		if key != want[0] {
			err = fmt.Errorf("got %v, want %v", key, want[0])
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// ask sends f and records what follows: frames with the keys in want, or else
// the response to f.
func (r *recorder) ask(f Frame, want ...Key) {
	r.t.Helper()
	b, err := Append(nil, f)
	if key, _ := f.Head(); want == nil {
		want = []Key{key.Response()}
	}
	r.send(b, err, want...)
}

func (r *recorder) record(user, password string) {
	r.ask(&PeerProperties{Correlation: 1})
	r.ask(&SaslHandshake{Correlation: 2})
	r.ask(&SaslAuthenticate{
		Correlation: 3, Mechanism: "PLAIN", Data: []byte("\x00" + user + "\x00" + password),
	}, KeySaslAuthenticate.Response(), KeyTune)
	tune, err := Append(nil, &Tune{FrameMax: 1 << 20, Heartbeat: 60})
	r.send(tune, err)
	r.ask(&Open{Correlation: 4, VHost: "/"})
	r.ask(&ExchangeCommandVersions{Correlation: 5})
	stream := fmt.Sprintf("captured-%d", time.Now().UnixNano())
	for i := range uint32(2) {
		r.ask(&Create{Correlation: 6 + i, Stream: stream, Arguments: Properties{{"max-age", "1h"}}})
	}
	r.ask(&Metadata{Correlation: 8, Streams: []string{stream, "captured-missing"}})
	r.publish(stream)
	r.consume(stream)
	r.superStream(stream + "-super")
	r.ask(&Delete{Correlation: 30, Stream: stream}, KeyDelete.Response(), KeyMetadataUpdate)
	r.send([]byte{0, 0, 0, 4, 0x7f, 0xff, 0, 1}, nil, KeyClose)
}

func (r *recorder) publish(stream string) {
	r.ask(&DeclarePublisher{Correlation: 9, PublisherID: 1, Reference: "name", Stream: stream})
	b := BeginPublish(nil, Version1, 1)
	b = AppendPublishEntry(b, 1, []byte("\x00\x53\x75\xa0\x02hi"))
	batch := AppendEntry(AppendEntry(nil, []byte("one")), []byte("two"))
	b = AppendPublishBatch(b, 2, Entry{Records: 2, Uncompressed: uint32(len(batch)), Body: batch})
	r.send(FinishPublish(b, 0, 2), nil, KeyPublishConfirm)
	unknown := AppendPublishEntry(BeginPublish(nil, Version1, 88), 5, []byte("lost"))
	r.send(FinishPublish(unknown, 0, 1), nil, KeyPublishError)
	r.ask(&QueryPublisherSequence{Correlation: 10, Reference: "name", Stream: stream})
	r.ask(&QueryOffset{Correlation: 11, Reference: "reader", Stream: stream})
	store, err := Append(nil, &StoreOffset{Reference: "reader", Stream: stream, Offset: 0})
	r.send(store, err)
	r.ask(&QueryOffset{Correlation: 12, Reference: "reader", Stream: stream})
	r.ask(&StreamStats{Correlation: 13, Stream: stream})
	r.ask(&StreamStats{Correlation: 14, Stream: "captured-missing"})
	r.ask(&DeletePublisher{Correlation: 15, PublisherID: 1})
}

func (r *recorder) consume(stream string) {
	r.ask(&Subscribe{
		Correlation: 16, SubscriptionID: 7, Stream: stream, Spec: OffsetSpec{Type: OffsetFirst}, Credit: 10,
		Properties: Properties{{"name", "group"}, {"single-active-consumer", "true"}},
	}, KeySubscribe.Response(), KeyConsumerUpdate)
	r.ask(&ConsumerUpdateResponse{Code: CodeOK, Spec: OffsetSpec{Type: OffsetFirst}}, KeyDeliver)
	r.ask(&Credit{SubscriptionID: 44, Credit: 1})
	r.ask(&Unsubscribe{Correlation: 17, SubscriptionID: 7})
	r.ask(&Unsubscribe{Correlation: 18, SubscriptionID: 7})
	r.ask(&Subscribe{
		Correlation: 19, SubscriptionID: 8, Stream: stream, Spec: OffsetSpec{Type: OffsetNext}, Credit: 1,
	})
}

func (r *recorder) superStream(name string) {
	r.ask(&CreateSuperStream{
		Correlation: 20, Name: name,
		Partitions: []string{name + "-0", name + "-1"}, BindingKeys: []string{"a", "b"},
	})
	r.ask(&Partitions{Correlation: 21, SuperStream: name})
	r.ask(&Route{Correlation: 22, RoutingKey: "b", SuperStream: name})
	r.ask(&Route{Correlation: 23, RoutingKey: "none", SuperStream: name})
	r.ask(&Partitions{Correlation: 24, SuperStream: "captured-missing"})
	r.ask(&DeleteSuperStream{Correlation: 25, Name: name})
}
