package wire

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"
)

// golden returns the frames of testdata/golden.txt by their names.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	frames := make(map[string][]byte)
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		name, spec, _ := strings.Cut(line, " ")
		frames[name] = parseGolden(t, spec)
	}
	return frames
}

// parseGolden converts a frame as golden.txt writes it: hexadecimal bytes and
// texts in quotes.
func parseGolden(t testing.TB, spec string) []byte {
	t.Helper()
	var frame []byte
	for i, part := range strings.Split(spec, `"`) {
		if i%2 == 1 {
			frame = append(frame, part...)
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			t.Fatalf("%q: %v", spec, err)
		}
		frame = append(frame, b...)
	}
	return frame
}

// TestGoldenFrames encodes and decodes frames as RabbitMQ 4.0.5 sent them.
func TestGoldenFrames(t *testing.T) {
	frames := golden(t)
	tests := map[string]Frame{
		"Heartbeat": &Heartbeat{},
		"Tune":      &Tune{FrameMax: 1 << 20, Heartbeat: 60},
		"SaslHandshakeResponse": &SaslHandshakeResponse{
			Correlation: 2, Code: CodeOK, Mechanisms: []string{"AMQPLAIN", "PLAIN", "ANONYMOUS"}},
		"SaslAuthenticateResponse": &SaslAuthenticateResponse{Correlation: 3, Code: CodeOK},
		"OpenResponse": &OpenResponse{Correlation: 4, Code: CodeOK, Properties: Properties{
			{"advertised_port", "5552"}, {"advertised_host", "localhost"}}},
		"OpenRefused":    &OpenResponse{Correlation: 4, Code: CodeVHostAccessFailure},
		"CreateResponse": &Response{Key: KeyCreate, Correlation: 5, Code: CodeOK},
		"Close":          &Close{Correlation: 1, Code: CodeUnknownFrame, Reason: "unknown frame"},
		"CreditResponse": &CreditResponse{Code: CodeSubscriptionIDDoesNotExist, SubscriptionID: 0x2c},
		"MetadataUpdate": &MetadataUpdate{Code: CodeStreamNotAvailable, Stream: "pf-d"},
		"ConsumerUpdate": &ConsumerUpdate{SubscriptionID: 1, Active: true},
		"QueryOffsetNone": &QueryOffsetResponse{
			Correlation: 6, Code: CodeNoOffset},
		"StreamStatsMissing": &StreamStatsResponse{Correlation: 7, Code: CodeStreamDoesNotExist},
		"RouteNoMatch":       &StreamsResponse{Key: KeyRoute, Correlation: 8, Code: CodeOK},
		"MetadataMissing": &MetadataResponse{Correlation: 9, Streams: []StreamMetadata{
			{Stream: "pf-nope", Code: CodeStreamDoesNotExist, Leader: NoLeader}}},
		"MetadataLive": &MetadataResponse{Correlation: 10,
			Brokers: []BrokerAddress{{Host: "localhost", Port: 5552}},
			Streams: []StreamMetadata{{Stream: "pf-d", Code: CodeOK}}},
		"Subscribe": &Subscribe{Correlation: 11, SubscriptionID: 2, Stream: "s",
			Spec: OffsetSpec{Type: OffsetAt, Value: 5}, Credit: 10},
		"SubscribeFiltered": &Subscribe{Correlation: 11, SubscriptionID: 2, Stream: "s",
			Spec: OffsetSpec{Type: OffsetNext}, Credit: 10, Properties: Properties{{"filter.state", "New York"}}},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) { checkGolden(t, frames[name], want) })
	}
}

// checkGolden encodes want, which must give frame, and decodes frame, which
// must give want.
func checkGolden(t *testing.T, frame []byte, want Frame) {
	got, err := Append(nil, want)
	if err != nil || !bytes.Equal(got, frame) {
		t.Fatalf("encoded %x, %v; want %x", got, err, frame)
	}
	key, version, fields, err := SplitHead(frame[SizeLen:])
	if wantKey, wantVersion := want.Head(); err != nil || key != wantKey || version != wantVersion {
		t.Fatalf("head %v %d, %v; want %v %d", key, version, err, wantKey, wantVersion)
	}
	decoded := blank(want)
	if err := Decode(fields, decoded); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(decoded, want) {
		t.Fatalf("decoded %+v, want %+v", decoded, want)
	}
}

// blank returns an empty frame of f's type. If the type serves several keys,
// blank keeps the one of f.
func blank(f Frame) Frame {
	b := reflect.New(reflect.TypeOf(f).Elem())
	for _, name := range []string{"Key", "Response"} {
		if field := b.Elem().FieldByName(name); field.IsValid() {
			field.Set(reflect.ValueOf(f).Elem().FieldByName(name))
		}
	}
	return b.Interface().(Frame)
}

func TestGoldenConfirms(t *testing.T) {
	frames := golden(t)
	if got := AppendPublishConfirm(nil, 1, []uint64{5}); !bytes.Equal(got, frames["PublishConfirm"]) {
		t.Errorf("PublishConfirm %x, want %x", got, frames["PublishConfirm"])
	}
	got := AppendPublishError(nil, 0x58, CodePublisherDoesNotExist, []uint64{5, 6})
	if !bytes.Equal(got, frames["PublishError"]) {
		t.Errorf("PublishError %x, want %x", got, frames["PublishError"])
	}
	o, err := DecodePublishError(frames["PublishError"][SizeLen+HeadLen:])
	if err != nil || o.PublisherID != 0x58 || o.Len() != 2 {
		t.Fatalf("%+v, %v", o, err)
	}
	if id, code := o.At(1); id != 6 || code != CodePublisherDoesNotExist {
		t.Errorf("second outcome: id %d, %v", id, code)
	}
	o, err = DecodePublishConfirm(frames["PublishConfirm"][SizeLen+HeadLen:])
	if id, code := o.At(0); err != nil || o.Len() != 1 || id != 5 || code != CodeOK {
		t.Errorf("confirm: %d ids, id %d, %v, %v", o.Len(), id, code, err)
	}
}

func TestGoldenDeliver(t *testing.T) {
	frames := golden(t)
	for version, name := range map[uint16]string{1: "DeliverV1", 2: "DeliverV2"} {
		frame := frames[name]
		d, err := DecodeDeliver(version, frame[SizeLen+HeadLen:])
		if err != nil || d.SubscriptionID != 1 {
			t.Fatalf("%s: %+v, %v", name, d, err)
		}
		if want := uint64(7) * uint64(version-1); d.CommittedChunk != want {
			t.Errorf("%s: committed chunk %d, want %d", name, d.CommittedChunk, want)
		}
		got := append(AppendDeliverHead(nil, version, 1, 7, len(d.Chunk)), d.Chunk...)
		if !bytes.Equal(got, frame) {
			t.Errorf("%s: encoded %x, want %x", name, got, frame)
		}
		checkSingleChunk(t, d.Chunk)
	}
}

func checkSingleChunk(t *testing.T, b []byte) {
	t.Helper()
	c, err := ParseChunk(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	header := make([]byte, ChunkHeaderLen)
	c.Put(header)
	if !bytes.Equal(header, b[:ChunkHeaderLen]) {
		t.Errorf("header %x, want %x", header, b[:ChunkHeaderLen])
	}
	var e Entry
	w := c.Walk()
	if offset, ok := w.Next(&e); !ok || offset != 0 || string(e.Body) != "x" {
		t.Errorf("entry %q at %d, %v", e.Body, offset, ok)
	}
	if _, ok := w.Next(&e); ok || w.Err() != nil {
		t.Errorf("second entry %v, %v", ok, w.Err())
	}
}
