package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const (
	someCorrelation = 0x01020304
	someNumber      = 0x1122334455667788
)

// samples returns a frame of each type, none of whose fields has its zero
// value. Their bytes stand in testdata/golden.txt, under "layout." and the name
// of the type.
func samples() []Frame {
	return slices.Concat(handshakeSamples(), adminSamples(), consumeSamples(), publishSamples())
}

func handshakeSamples() []Frame {
	return []Frame{
		&PeerProperties{someCorrelation, Properties{{"product", "tidemark"}, {"connection_name", "me!"}}},
		&PeerPropertiesResponse{someCorrelation, CodeStreamAlreadyExists, Properties{{"version", "4.0.51"}}},
		&SaslHandshake{someCorrelation},
		&SaslHandshakeResponse{someCorrelation, CodeStreamNotAvailable, []string{"PLAIN", "OTHERS"}},
		&SaslAuthenticate{someCorrelation, "PLAIN", []byte("\x00u\x00p")},
		&SaslAuthenticateResponse{someCorrelation, CodeSaslChallenge, "why"},
		&Tune{FrameMax: 1 << 20, Heartbeat: 60, Response: true},
		&Open{someCorrelation, "/"},
		&OpenResponse{someCorrelation, CodeOK, Properties{{"host", "rabbit"}}},
		&ExchangeCommandVersions{someCorrelation, []CommandVersion{{KeyPublish, 1, 3}, {KeyDeliver, 4, 5}}},
		&ExchangeCommandVersionsResponse{
			someCorrelation, CodeSaslMechanismNotSupported, []CommandVersion{{KeyPublish, 1, 3}}},
		&Close{someCorrelation, CodeFrameTooLarge, "big"},
		&Heartbeat{},
		&Response{KeyCreate, someCorrelation, CodePreconditionFailed},
	}
}

func adminSamples() []Frame {
	return []Frame{
		&Create{someCorrelation, "orders", Properties{{"max-age", "PT1H30M5S"}}},
		&Delete{someCorrelation, "orders"},
		&CreateSuperStream{
			someCorrelation, "s", []string{"s-0", "s-1"}, []string{"0", "1"}, Properties{{"a-me", "10"}}},
		&DeleteSuperStream{someCorrelation, "orders"},
		&Metadata{someCorrelation, []string{"a", "bc"}},
		&MetadataResponse{
			someCorrelation,
			[]BrokerAddress{{1, "h", 5552}, {2, "hh", 5553}},
			[]StreamMetadata{{"abc", CodeSaslError, 2, []uint16{1, 3}}},
		},
		&MetadataUpdate{CodeStreamNotAvailable, "gone"},
		&Route{someCorrelation, "key", "s"},
		&Partitions{someCorrelation, "s"},
		&StreamsResponse{KeyRoute, someCorrelation, CodeOK, []string{"s-0", "s-1"}},
		&StreamStats{someCorrelation, "orders"},
		&StreamStatsResponse{someCorrelation, CodeOK, []Stat{{"first", -2}, {"last", someNumber}}},
	}
}

func consumeSamples() []Frame {
	at := OffsetSpec{OffsetAt, someNumber}
	return []Frame{
		&Subscribe{
			someCorrelation, 2, "orders", OffsetSpec{OffsetTimestamp, 0x8877665544332211}, 0x0102,
			Properties{{"name", "c"}}},
		&Unsubscribe{someCorrelation, 2},
		&Credit{2, -3},
		&CreditResponse{CodeSubscriptionIDDoesNotExist, 0x2c},
		&StoreOffset{"name", "orders", someNumber},
		&QueryOffset{someCorrelation, "me", "orders"},
		&QueryOffsetResponse{someCorrelation, CodeOK, someNumber},
		&ConsumerUpdate{someCorrelation, 2, true},
		&ConsumerUpdateResponse{someCorrelation, CodeOK, at},
		&ResolveOffsetSpec{someCorrelation, "orders", at, Properties{{"k", "vv"}}},
		&ResolveOffsetSpecResponse{someCorrelation, CodeOK, OffsetAt, someNumber},
	}
}

func publishSamples() []Frame {
	return []Frame{
		&DeclarePublisher{someCorrelation, 2, "r", "strea"},
		&DeletePublisher{someCorrelation, 2},
		&QueryPublisherSequence{someCorrelation, "r", "st"},
		&QueryPublisherSequenceResponse{someCorrelation, CodeOK, someNumber},
	}
}

func typeName(f Frame) string { return reflect.TypeOf(f).Elem().Name() }

// TestLayouts encodes and decodes a frame of each type and compares it with the
// bytes that the specification wants.
func TestLayouts(t *testing.T) {
	frames := golden(t)
	for _, sample := range samples() {
		t.Run(typeName(sample), func(t *testing.T) {
			frame := frames["layout."+typeName(sample)]
			if frame == nil {
				t.Fatal("its bytes are not in testdata/golden.txt")
			}
			checkGolden(t, frame, sample)
		})
	}
}

// TestLayoutsOfAllTypes: samples and blanks leave out no type that has a
// layout, and samples no field.
func TestLayoutsOfAllTypes(t *testing.T) {
	var sampled, blanked []string
	for _, sample := range samples() {
		sampled = append(sampled, typeName(sample))
		v := reflect.ValueOf(sample).Elem()
		for i := range v.NumField() {
			if hasZero(v.Field(i)) {
				t.Errorf("%s: the sample's %s has a zero", typeName(sample), v.Type().Field(i).Name)
			}
		}
	}
	for _, frame := range blanks() {
		blanked = append(blanked, typeName(frame))
	}
	slices.Sort(sampled)
	slices.Sort(blanked)
	declared := typesWithLayout(t)
	if !slices.Equal(sampled, declared) {
		t.Errorf("samples of %v, but there are %v", sampled, declared)
	}
	if !slices.Equal(slices.Compact(blanked), declared) {
		t.Errorf("blanks of %v, but there are %v", blanked, declared)
	}
}

// hasZero reports whether v, or a field or an element of it, is zero or empty.
// Bytes may be 0.
func hasZero(v reflect.Value) bool {
	switch {
	case v.IsZero():
		return true
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		for i := range v.Len() {
			if hasZero(v.Index(i)) {
				return true
			}
		}
		return v.Len() == 0
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if hasZero(v.Field(i)) {
				return true
			}
		}
	}
	return false
}

// typesWithLayout returns the types of this package that have a fields method,
// in alphabetical order.
func typesWithLayout(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv != nil && f.Name.Name == "fields" {
				types = append(types, f.Recv.List[0].Type.(*ast.StarExpr).X.(*ast.Ident).Name)
			}
		}
	}
	slices.Sort(types)
	return types
}

// optionalFrom is where the fields of a sample may end early: the properties
// behind that many bytes may be missing.
var optionalFrom = map[string]int{"Subscribe": 25, "ResolveOffsetSpec": 22}

// TestLayoutsTruncated: fields that end early are malformed, wherever they end.
func TestLayoutsTruncated(t *testing.T) {
	for _, sample := range samples() {
		name := typeName(sample)
		fields := fieldsOf(t, sample)
		for n := range len(fields) {
			err := Decode(bytes.Clone(fields[:n]), blank(sample))
			if optional, ok := optionalFrom[name]; ok && n == optional {
				if err != nil {
					t.Errorf("%s without properties: %v", name, err)
				}
			} else if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "short frame") &&
				!strings.Contains(err.Error(), "array longer") {
				t.Errorf("%s: %d of %d bytes: %v", name, n, len(fields), err)
			}
		}
	}
}

// TestLayoutsLeftOver: fields that go on are malformed, but for those of
// ConsumerUpdateResponse.
func TestLayoutsLeftOver(t *testing.T) {
	for _, sample := range samples() {
		err := Decode(append(fieldsOf(t, sample), 0), blank(sample))
		if typeName(sample) == "ConsumerUpdateResponse" {
			if err != nil {
				t.Errorf("an offset that the type does not have: %v", err)
			}
		} else if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "left over") {
			t.Errorf("%s and a byte: %v", typeName(sample), err)
		}
	}
}

// TestErrorsNameCommand: errors of Append and Decode say which command they are
// about.
func TestErrorsNameCommand(t *testing.T) {
	err := Decode([]byte{1}, &Response{Key: KeyDelete})
	if err == nil || !strings.HasPrefix(err.Error(), "decode DeleteResponse: ") {
		t.Errorf("Decode: %v", err)
	}
	_, err = Append(nil, &Delete{Stream: strings.Repeat("x", maxString+1)})
	if err == nil || !strings.HasPrefix(err.Error(), "encode Delete: ") {
		t.Errorf("Append: %v", err)
	}
}

// TestAppendKeepsPrefix: what appends a frame leaves alone what was there, and
// counts only the frame's own bytes.
func TestAppendKeepsPrefix(t *testing.T) {
	ids := []uint64{5, 6}
	appenders := map[string]func(b []byte) []byte{
		"PublishConfirm": func(b []byte) []byte { return AppendPublishConfirm(b, 1, ids) },
		"PublishError":   func(b []byte) []byte { return AppendPublishError(b, 1, CodeNoOffset, ids) },
		"Deliver 1": func(b []byte) []byte {
			return append(AppendDeliverHead(b, Version1, 1, 2, 3), "abc"...)
		},
		"Deliver 2": func(b []byte) []byte {
			return append(AppendDeliverHead(b, Version2, 1, 2, 3), "abc"...)
		},
		"Publish 1": func(b []byte) []byte {
			start := len(b)
			b = AppendPublishEntry(BeginPublish(b, Version1, 1), 2, []byte("abc"))
			return FinishPublish(AppendPublishBatch(b, 3, Entry{Records: 2}), start, 2)
		},
		"Publish 2": func(b []byte) []byte {
			start := len(b)
			b = AppendPublishFiltered(BeginPublish(b, Version2, 1), 2, []byte("f"), []byte("abc"))
			return FinishPublish(b, start, 1)
		},
	}
	for _, sample := range samples() {
		appenders[typeName(sample)] = func(b []byte) []byte {
			b, err := Append(b, sample)
			if err != nil {
				t.Error(err)
			}
			return b
		}
	}
	for name, appendTo := range appenders {
		alone := appendTo(nil)
		if size := binary.BigEndian.Uint32(alone); int(size) != len(alone)-SizeLen {
			t.Errorf("%s: size %d of %d bytes", name, size, len(alone))
		}
		if got := appendTo([]byte("before")); string(got) != "before"+string(alone) {
			t.Errorf("%s: %x behind a prefix, %x alone", name, got, alone)
		}
	}
}

// TestAppendFails: an error leaves the bytes before the frame as they were.
func TestAppendFails(t *testing.T) {
	long := strings.Repeat("x", maxString+1)
	for _, f := range []Frame{
		&Open{VHost: long}, &Create{Stream: "s", Arguments: Properties{{"key", long}}},
		&Metadata{Streams: []string{"s", long}}, &Subscribe{Spec: OffsetSpec{Type: 6}},
	} {
		b, err := Append([]byte("before"), f)
		if string(b) != "before" || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %q, %v", typeName(f), b, err)
		}
	}
}

func fieldsOf(t *testing.T, f Frame) []byte {
	t.Helper()
	b, err := Append(nil, f)
	if err != nil {
		t.Fatal(err)
	}
	return b[SizeLen+HeadLen:]
}
