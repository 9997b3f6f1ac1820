package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func unhex(t *testing.T, dump string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(dump, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantError(t *testing.T, what string, err error, text string) {
	t.Helper()
	if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v, want one with %q", what, err, text)
	}
}

func TestSplitHead(t *testing.T) {
	body := unhex(t, "8015 0002 0708")
	for n := range HeadLen {
		_, _, fields, err := SplitHead(body[:n])
		if wantError(t, "a short body", err, "no key"); fields != nil {
			t.Errorf("%d bytes have the fields %x", n, fields)
		}
	}
	for n := HeadLen; n <= len(body); n++ {
		key, version, fields, err := SplitHead(body[:n])
		if err != nil || key != KeyOpen.Response() || version != 2 || !bytes.Equal(fields, body[HeadLen:n]) {
			t.Errorf("%d bytes: %v, version %d, %x, %v", n, key, version, fields, err)
		}
	}
}

func TestCorrelation(t *testing.T) {
	fields := []byte{1, 2, 3, 4, 5}
	for n := range len(fields) + 1 {
		id, ok := Correlation(fields[:n])
		if ok != (n >= 4) || ok && id != 0x01020304 || !ok && id != 0 {
			t.Errorf("%d bytes: %#x, %v", n, id, ok)
		}
	}
}

// TestStringLengths: a string is read and written up to the longest that the
// protocol can carry, and null is read as empty.
func TestStringLengths(t *testing.T) {
	content := bytes.Repeat([]byte("x"), math.MaxUint16)
	read := func(announced uint16, there int) (string, error) {
		fields := append(binary.BigEndian.AppendUint16(make([]byte, 4), announced), content[:there]...)
		f := Open{VHost: "before"}
		err := Decode(fields, &f)
		return f.VHost, err
	}
	for _, n := range []int{0, 1, 255, 256, maxString - 1, maxString} {
		if s, err := read(uint16(n), n); err != nil || s != string(content[:n]) {
			t.Errorf("a string of %d bytes was read as %d, %v", n, len(s), err)
		}
		b, err := Append(nil, &Open{VHost: string(content[:n])})
		if want := SizeLen + HeadLen + 4 + 2 + n; err != nil || len(b) != want {
			t.Errorf("a string of %d bytes made a frame of %d, want %d, %v", n, len(b), want, err)
		}
		if n > 0 {
			_, err = read(uint16(n), n-1)
			wantError(t, "a string that is cut", err, "short frame")
		}
	}
	for _, n := range []int{maxString + 1, math.MaxUint16 - 1} {
		_, err := read(uint16(n), n)
		wantError(t, "a negative length", err, "negative string length")
	}
	if s, err := read(nullString, 0); err != nil || s != "" {
		t.Errorf("null was read as %q, %v", s, err)
	}
	_, err := Append(nil, &Open{VHost: string(content[:maxString+1])})
	wantError(t, "a string above the limit", err, "string too long")
}

// TestBytes: bytes tell null from empty in both directions, and alias the frame
// without reaching beyond themselves.
func TestBytes(t *testing.T) {
	const head = "01020304 0000"
	for dump, want := range map[string][]byte{
		"ffffffff": nil, "00000000": {}, "00000001 07": {7}, "00000003 010203": {1, 2, 3},
	} {
		fields := unhex(t, head+dump)
		f := SaslAuthenticate{Data: []byte("before")}
		err := Decode(fields, &f)
		if err != nil || !bytes.Equal(f.Data, want) || (f.Data == nil) != (want == nil) {
			t.Errorf("%s: %v, want %v, %v", dump, f.Data, want, err)
		}
		if cap(f.Data) != len(f.Data) {
			t.Errorf("%s: a capacity of %d for %d bytes", dump, cap(f.Data), len(f.Data))
		}
		got := fieldsOf(t, &SaslAuthenticate{Correlation: someCorrelation, Data: want})
		if !bytes.Equal(got, fields) {
			t.Errorf("%v was written as %x, want %x", want, got, fields)
		}
		if len(f.Data) > 0 {
			if fields[len(fields)-1]++; f.Data[len(f.Data)-1] != fields[len(fields)-1] {
				t.Errorf("%s: a copy", dump)
			}
		}
	}
	for _, dump := range []string{"00000001", "00000003 0102", "7fffffff 01", "80000000 01", "fffffffe 01"} {
		wantError(t, dump, Decode(unhex(t, head+dump), &SaslAuthenticate{}), "short frame")
	}
}

func TestBoundedInt(t *testing.T) {
	for n, want := range map[uint32]int{
		0: 0, 1: 1, 1<<31 - 2: 1<<31 - 2, 1<<31 - 1: 1<<31 - 1, 1 << 31: -1, 1<<31 + 1: -1, 1<<32 - 1: -1,
	} {
		if got := boundedInt(n); got != want {
			t.Errorf("boundedInt(%d) is %d, want %d", n, got, want)
		}
	}
}

func TestBoolean(t *testing.T) {
	for b, want := range map[byte]bool{0: false, 1: true, 2: true, 0xff: true} {
		for _, before := range []bool{false, true} {
			f := ConsumerUpdate{Active: before}
			if err := Decode([]byte{0, 0, 0, 0, 0, b}, &f); err != nil || f.Active != want {
				t.Errorf("%d was read as %v, %v", b, f.Active, err)
			}
		}
	}
	for b, active := range []bool{false, true} {
		if got := fieldsOf(t, &ConsumerUpdate{Active: active}); got[5] != byte(b) {
			t.Errorf("%v was written as %d", active, got[5])
		}
	}
}

// arrayCases has every list of every command: the fields up to the list's
// count, the shortest item, and the shortest fields behind the list.
var arrayCases = []struct {
	frame               Frame
	before, item, after string
	length              func(Frame) int
}{
	{&PeerProperties{}, "00000000", "0000 0000", "",
		func(f Frame) int { return len(f.(*PeerProperties).Properties) }},
	{&PeerPropertiesResponse{}, "00000000 0001", "0000 0000", "",
		func(f Frame) int { return len(f.(*PeerPropertiesResponse).Properties) }},
	{&SaslHandshakeResponse{}, "00000000 0001", "0000", "",
		func(f Frame) int { return len(f.(*SaslHandshakeResponse).Mechanisms) }},
	{&OpenResponse{}, "00000000 0001", "0000 0000", "",
		func(f Frame) int { return len(f.(*OpenResponse).Properties) }},
	{&ExchangeCommandVersions{}, "00000000", "0000 0000 0000", "",
		func(f Frame) int { return len(f.(*ExchangeCommandVersions).Commands) }},
	{&ExchangeCommandVersionsResponse{}, "00000000 0001", "0000 0000 0000", "",
		func(f Frame) int { return len(f.(*ExchangeCommandVersionsResponse).Commands) }},
	{&Create{}, "00000000 0000", "0000 0000", "",
		func(f Frame) int { return len(f.(*Create).Arguments) }},
	{&CreateSuperStream{}, "00000000 0000", "0000", "00000000 00000000",
		func(f Frame) int { return len(f.(*CreateSuperStream).Partitions) }},
	{&CreateSuperStream{}, "00000000 0000 00000000", "0000", "00000000",
		func(f Frame) int { return len(f.(*CreateSuperStream).BindingKeys) }},
	{&CreateSuperStream{}, "00000000 0000 00000000 00000000", "0000 0000", "",
		func(f Frame) int { return len(f.(*CreateSuperStream).Arguments) }},
	{&Metadata{}, "00000000", "0000", "",
		func(f Frame) int { return len(f.(*Metadata).Streams) }},
	{&MetadataResponse{}, "00000000", "0000 0000 00000000", "00000000",
		func(f Frame) int { return len(f.(*MetadataResponse).Brokers) }},
	{&MetadataResponse{}, "00000000 00000000", "0000 0000 0000 00000000", "",
		func(f Frame) int { return len(f.(*MetadataResponse).Streams) }},
	{&MetadataResponse{}, "00000000 00000000 00000001 0000 0000 0000", "0000", "",
		func(f Frame) int {
			if r := f.(*MetadataResponse); len(r.Streams) > 0 {
				return len(r.Streams[0].Replicas)
			}
			return 0
		}},
	{&StreamsResponse{Key: KeyRoute}, "00000000 0001", "0000", "",
		func(f Frame) int { return len(f.(*StreamsResponse).Streams) }},
	{&StreamStatsResponse{}, "00000000 0001", "0000 0000000000000000", "",
		func(f Frame) int { return len(f.(*StreamStatsResponse).Stats) }},
	{&Subscribe{}, "00000000 00 0000 0001 0000", "0000 0000", "",
		func(f Frame) int { return len(f.(*Subscribe).Properties) }},
	{&ResolveOffsetSpec{}, "00000000 0000 0001", "0000 0000", "",
		func(f Frame) int { return len(f.(*ResolveOffsetSpec).Properties) }},
}

// TestArrayCounts: a list has as many items as its count says. A count is
// refused at once if so many items, be they as short as can be, do not fit.
func TestArrayCounts(t *testing.T) {
	const refused = "array longer than its frame"
	for _, c := range arrayCases {
		name := typeName(c.frame) + " " + c.before
		before, item, after := unhex(t, c.before), unhex(t, c.item), unhex(t, c.after)
		decode := func(count uint32, items int) (int, error) {
			rest := append(bytes.Repeat(item, items), after...)
			f := blank(c.frame)
			err := Decode(slices.Concat(before, binary.BigEndian.AppendUint32(nil, count), rest), f)
			return c.length(f), err
		}
		for _, n := range []int{0, 1, 2, 5} {
			if got, err := decode(uint32(n), n); got != n || err != nil {
				t.Errorf("%s: %d items, want %d, %v", name, got, n, err)
			}
			fit := (n*len(item) + len(after)) / len(item)
			if _, err := decode(uint32(fit), n); err != nil && strings.Contains(err.Error(), refused) {
				t.Errorf("%s: refused to look for %d items", name, fit)
			}
			for _, count := range []uint32{uint32(fit) + 1, 1<<31 - 1, 1 << 31, 1<<32 - 2} {
				got, err := decode(count, n)
				if wantError(t, name, err, refused); got != 0 {
					t.Errorf("%s: %d items for a count of %d", name, got, count)
				}
			}
		}
		if got, err := decode(nullArray, 0); got != 0 || err != nil {
			t.Errorf("%s: null has %d items, %v", name, got, err)
		}
	}
}

// TestNullReplaces: null and empty values replace what the frame held before.
func TestNullReplaces(t *testing.T) {
	for _, count := range []string{"00000000", "ffffffff"} {
		f := Metadata{Streams: []string{"before"}}
		if err := Decode(unhex(t, "00000000"+count), &f); err != nil || f.Streams != nil {
			t.Errorf("streams %v, %v", f.Streams, err)
		}
	}
	f := Metadata{Streams: []string{"before"}}
	if err := Decode(unhex(t, "00000000 0000"), &f); err == nil || f.Streams != nil {
		t.Errorf("streams %v without a whole count, %v", f.Streams, err)
	}
	o := Open{VHost: "before"}
	if err := Decode(unhex(t, "00000000 ffff"), &o); err != nil || o.VHost != "" {
		t.Errorf("virtual host %q, %v", o.VHost, err)
	}
}

// TestFirstErrorSticks: behind what is malformed nothing is read, and the error
// is about that.
func TestFirstErrorSticks(t *testing.T) {
	// The reference has a negative length. A stream and an offset follow.
	f := StoreOffset{}
	err := Decode(unhex(t, "8000 0001 73 0000000000000005"), &f)
	if wantError(t, "StoreOffset", err, "negative string length"); f != (StoreOffset{}) {
		t.Errorf("read %+v", f)
	}
	// The first stream's replicas do not fit. Another stream would follow.
	m := MetadataResponse{}
	err = Decode(unhex(t, "00000000 00000000 00000002 0000 0001 0000 7fffffff 0000 0001 0000 00000000"), &m)
	if wantError(t, "MetadataResponse", err, "array longer"); m.Streams[1].Code != 0 {
		t.Errorf("read %+v", m)
	}
	// The offset type is unknown. A credit follows.
	s := Subscribe{}
	err = Decode(unhex(t, "00000000 00 0000 0009 0007"), &s)
	if !errors.Is(err, ErrOffsetType) || s.Credit != 0 {
		t.Errorf("read %+v, %v", s, err)
	}
	if err := Decode(unhex(t, "00000000 00 0000 00"), &s); errors.Is(err, ErrOffsetType) {
		t.Errorf("an offset type that is cut: %v", err)
	}
}

// TestArrayStopsAtError: an array does not look at the items behind one that is
// malformed.
func TestArrayStopsAtError(t *testing.T) {
	c := codec{buf: []byte{0, 0, 0, 3, 0, 0, 0}, decoding: true}
	var items []int
	seen := 0
	array(&c, &items, 1, func(c *codec, _ *int) {
		if seen++; seen == 2 {
			c.fail("second item")
		}
	})
	if seen != 2 || c.err == nil || c.buf != nil {
		t.Errorf("%d items were looked at, %v, %x is left", seen, c.err, c.buf)
	}
}

// TestOffsetSpecs: every type of offset, with a value or without one, where it
// is allowed.
func TestOffsetSpecs(t *testing.T) {
	value := "0000000000000007"
	for offsetType := OffsetNone; offsetType <= OffsetTimestamp+1; offsetType++ {
		spec := OffsetSpec{Type: offsetType}
		want := binary.BigEndian.AppendUint16(nil, uint16(offsetType))
		if offsetType == OffsetAt || offsetType == OffsetTimestamp {
			spec.Value, want = 7, append(want, unhex(t, value)...)
		}
		for _, c := range []struct {
			frame, decoded Frame
			before, after  string
			none           bool
		}{
			{&Subscribe{Spec: spec}, &Subscribe{}, "00000000 00 0000", "0000", false},
			{&ResolveOffsetSpec{Spec: spec}, &ResolveOffsetSpec{}, "00000000 0000", "", false},
			{&ConsumerUpdateResponse{Spec: spec}, &ConsumerUpdateResponse{}, "00000000 0000", "", true},
		} {
			fields := slices.Concat(unhex(t, c.before), want, unhex(t, c.after))
			b, err := Append(nil, c.frame)
			decodeErr := Decode(fields, c.decoded)
			if offsetType > OffsetTimestamp || offsetType == OffsetNone && !c.none {
				if !errors.Is(err, ErrOffsetType) || !errors.Is(decodeErr, ErrOffsetType) {
					t.Errorf("%s with type %d: %v, %v", typeName(c.frame), offsetType, err, decodeErr)
				}
				continue
			}
			if err != nil || !bytes.Equal(b[SizeLen+HeadLen:], fields) {
				t.Errorf("%s with type %d: %x, want %x, %v", typeName(c.frame), offsetType, b, fields, err)
			}
			if decodeErr != nil || !reflect.DeepEqual(c.decoded, c.frame) {
				t.Errorf("read %+v, want %+v, %v", c.decoded, c.frame, decodeErr)
			}
		}
	}
	// rstream sends an offset with every type.
	var f ConsumerUpdateResponse
	err := Decode(unhex(t, "00000000 0001 0003"+value), &f)
	if err != nil || f.Spec != (OffsetSpec{Type: OffsetNext}) {
		t.Errorf("read %+v, %v", f, err)
	}
	if !errors.Is(ErrOffsetType, ErrMalformed) {
		t.Error("ErrOffsetType does not wrap ErrMalformed")
	}
}

// TestOptionalProperties: properties at the end may be missing, and empty ones
// are not written.
func TestOptionalProperties(t *testing.T) {
	for _, c := range []struct {
		frame  Frame
		before string
	}{
		{&Subscribe{Spec: OffsetSpec{Type: OffsetFirst}}, "00000000 00 0000 0001 0000"},
		{&ResolveOffsetSpec{Spec: OffsetSpec{Type: OffsetFirst}}, "00000000 0000 0001"},
	} {
		if got, want := fieldsOf(t, c.frame), unhex(t, c.before); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", typeName(c.frame), got, want)
		}
		for _, properties := range []string{"", "00000000"} {
			f := blank(c.frame)
			if err := Decode(unhex(t, c.before+properties), f); err != nil || !reflect.DeepEqual(f, c.frame) {
				t.Errorf("%s: %+v, %v", typeName(c.frame), f, err)
			}
		}
	}
}

// TestFieldsOfSomeCodes: two responses have a field with one code only.
func TestFieldsOfSomeCodes(t *testing.T) {
	for code := CodeOK; code <= CodeSaslCannotChangeUsername; code++ {
		want := 6
		if code == CodeSaslChallenge {
			want += 2 + len("why")
		}
		if got := fieldsOf(t, &SaslAuthenticateResponse{Code: code, Challenge: "why"}); len(got) != want {
			t.Errorf("SaslAuthenticateResponse with %v: %x", code, got)
		}
		want = 6
		if code == CodeOK {
			want += 4 + 4 + len("kv")
		}
		if got := fieldsOf(t, &OpenResponse{Code: code, Properties: Properties{{"k", "v"}}}); len(got) != want {
			t.Errorf("OpenResponse with %v: %x", code, got)
		}
	}
}

func TestPropertiesGet(t *testing.T) {
	p := Properties{{"first", "1"}, {"twice", "2"}, {"empty", ""}, {"twice", "3"}, {"last", "4"}}
	for key, want := range map[string]string{"first": "1", "twice": "3", "empty": "", "last": "4"} {
		if got, ok := p.Get(key); !ok || got != want {
			t.Errorf("%s: %q, %v", key, got, ok)
		}
	}
	for _, p := range []Properties{p, nil} {
		if got, ok := p.Get("none"); ok || got != "" {
			t.Errorf("none: %q, %v", got, ok)
		}
	}
}

func TestNames(t *testing.T) {
	for key, want := range map[Key]string{
		KeyDeclarePublisher: "DeclarePublisher", KeyDeclarePublisher.Response(): "DeclarePublisherResponse",
		KeyResolveOffsetSpec: "ResolveOffsetSpec", KeyResolveOffsetSpec.Response(): "ResolveOffsetSpecResponse",
		0: "Key(0x0)", 0x20: "Key(0x20)", 0x21: "Key(0x21)", 0x7fff: "Key(0x7fff)",
		0x8000: "Key(0x8000)", 0x8020: "Key(0x8020)", 0xffff: "Key(0xffff)",
	} {
		if got := key.String(); got != want {
			t.Errorf("key %#x is %q, want %q", uint16(key), got, want)
		}
	}
	for code, want := range map[Code]string{
		CodeOK: "ok", CodeSaslCannotChangeUsername: "SASL cannot change username",
		0: "code 0", 22: "code 22", 23: "code 23", math.MaxUint16: "code 65535",
	} {
		if got := code.String(); got != want {
			t.Errorf("code %d is %q, want %q", uint16(code), got, want)
		}
	}
	names := map[string]bool{}
	for key := KeyDeclarePublisher; key <= KeyResolveOffsetSpec; key++ {
		names[key.String()], names[key.Response().String()] = true, true
		if key.IsResponse() || !key.Response().IsResponse() || key.Response().Request() != key ||
			key.Request() != key || key.Response().Response() != key.Response() {
			t.Errorf("%v: response %v", key, key.Response())
		}
		if strings.HasPrefix(key.String(), "Key(") {
			t.Errorf("%v has no name", key)
		}
	}
	for code := CodeOK; code <= CodeSaslCannotChangeUsername; code++ {
		names[code.String()] = true
		if strings.HasPrefix(code.String(), "code ") {
			t.Errorf("%v has no text", code)
		}
	}
	if want := 2*int(KeyResolveOffsetSpec) + int(CodeSaslCannotChangeUsername); len(names) != want {
		t.Errorf("%d names for %d", len(names), want)
	}
}
