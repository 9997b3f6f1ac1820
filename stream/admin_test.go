package stream

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestStreamArguments: what is set becomes an argument, and nothing else does.
func TestStreamArguments(t *testing.T) {
	arg := func(key, value string) wire.Property { return wire.Property{Key: key, Value: value} }
	for _, test := range []struct {
		cfg  StreamConfig
		want wire.Properties
	}{
		{StreamConfig{}, nil},
		{StreamConfig{MaxBytes: 1}, wire.Properties{arg("max-length-bytes", "1")}},
		{StreamConfig{MaxAge: time.Second}, wire.Properties{arg("max-age", "1s")}},
		{StreamConfig{MaxAge: 3*time.Second - 1}, wire.Properties{arg("max-age", "2s")}},
		{StreamConfig{SegmentBytes: 1}, wire.Properties{arg("stream-max-segment-size-bytes", "1")}},
		{StreamConfig{FilterSize: 16}, wire.Properties{arg("stream-filter-size-bytes", "16")}},
		{StreamConfig{FilterSize: 255}, wire.Properties{arg("stream-filter-size-bytes", "255")}},
		{StreamConfig{InitialClusterSize: 1}, wire.Properties{arg("initial-cluster-size", "1")}},
		{StreamConfig{LeaderLocator: "balanced"}, wire.Properties{arg("queue-leader-locator", "balanced")}},
		{
			StreamConfig{MaxBytes: 5e9, MaxAge: time.Hour, SegmentBytes: 3e9, InitialClusterSize: 3, LeaderLocator: "client-local"},
			wire.Properties{
				arg("max-length-bytes", "5000000000"), arg("max-age", "3600s"), arg("stream-max-segment-size-bytes", "3000000000"),
				arg("initial-cluster-size", "3"), arg("queue-leader-locator", "client-local"),
			},
		},
	} {
		if got, err := test.cfg.arguments(); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%+v became %v, %v; want %v", test.cfg, got, err, test.want)
		}
	}
	for _, cfg := range []StreamConfig{
		{FilterSize: -1}, {FilterSize: 15}, {FilterSize: 256}, {MaxBytes: -1}, {SegmentBytes: -1}, {MaxAge: -1}, {MaxAge: -time.Hour}, {InitialClusterSize: -1}, {MaxAge: 1}, {MaxAge: time.Second - 1},
	} {
		if got, err := cfg.arguments(); !errors.Is(err, ErrInvalidConfig) || got != nil {
			t.Errorf("%+v became %v, %v", cfg, got, err)
		}
	}
}

// closedEnv is an Env on which every call that is valid returns ErrClosed, and
// does no I/O.
func closedEnv() *Env { return &Env{closing: true} }

// TestNamesAndOffsets: names of consumers and producers of up to 255 bytes and
// offsets up to the largest possible one are valid, and what is not is refused
// before any I/O.
func TestNamesAndOffsets(t *testing.T) {
	e := closedEnv()
	longest := strings.Repeat("n", 255)
	for _, test := range []struct {
		name string
		want error
	}{
		{"", ErrInvalidConfig}, {"n", ErrClosed}, {longest, ErrClosed}, {longest + "n", ErrInvalidConfig},
	} {
		_, queryErr := e.QueryOffset(t.Context(), test.name, "s")
		_, namedErr := e.NewProducer(t.Context(), "s", ProducerConfig{Name: "p" + test.name})
		for call, err := range map[string]error{
			"QueryOffset": queryErr,
			"StoreOffset": e.StoreOffset(t.Context(), test.name, "s", 0),
		} {
			if !errors.Is(err, test.want) {
				t.Errorf("%s with a name of %d bytes: %v, want %v", call, len(test.name), err, test.want)
			}
		}
		want := ErrClosed // an empty name is none
		if len(test.name) >= 255 {
			want = ErrInvalidConfig
		}
		wantErr(t, namedErr, want)
	}
	for name, want := range map[string]error{
		"": ErrInvalidConfig, "n": ErrClosed, strings.Repeat("n", math.MaxInt16): ErrClosed, strings.Repeat("n", math.MaxInt16+1): ErrInvalidConfig,
	} {
		_, producerErr := e.NewProducer(t.Context(), name, ProducerConfig{})
		_, consumerErr := e.NewConsumer(name, ConsumerConfig{})
		wantErr(t, producerErr, want)
		if (consumerErr != nil) != (want == ErrInvalidConfig) {
			t.Errorf("NewConsumer with a name of %d bytes: %v", len(name), consumerErr)
		}
	}
	wantErr(t, e.DeclareStream(t.Context(), "", StreamConfig{}), ErrInvalidConfig)
	wantErr(t, e.StoreOffset(t.Context(), "c", "s", math.MaxInt64), ErrClosed)
	wantErr(t, e.StoreOffset(t.Context(), "c", "s", math.MaxInt64+1), ErrInvalidConfig)
	wantErr(t, e.StoreOffset(t.Context(), "c", "s", BeforeFirst-1), ErrInvalidConfig)
	wantErr(t, e.StoreOffset(t.Context(), "c", "s", BeforeFirst), ErrClosed)
	wantErr(t, e.DeclareStream(t.Context(), "s", StreamConfig{MaxBytes: -1}), ErrInvalidConfig)
	wantErr(t, e.DeleteStream(t.Context(), "s"), ErrClosed)
	_, err := e.Stats(t.Context(), "s")
	wantErr(t, err, ErrClosed)
}

// TestAdminErrorsName: the error of a call names the call and its operands.
func TestAdminErrorsName(t *testing.T) {
	e := closedEnv()
	_, queryErr := e.QueryOffset(t.Context(), "c", "s")
	_, emptyErr := e.QueryOffset(t.Context(), "", "s")
	_, statsErr := e.Stats(t.Context(), "s")
	_, producerErr := e.NewProducer(t.Context(), "s", ProducerConfig{Name: "p"})
	for _, test := range []struct {
		err              error
		op, stream, name string
	}{
		{e.DeclareStream(t.Context(), "s", StreamConfig{}), "declare stream", "s", ""},
		{e.DeclareStream(t.Context(), "s", StreamConfig{MaxAge: -1}), "declare stream", "s", ""},
		{e.DeleteStream(t.Context(), "s"), "delete stream", "s", ""},
		{statsErr, "stats of stream", "s", ""},
		{queryErr, "query offset on stream", "s", "c"},
		{emptyErr, "query offset on stream", "s", ""},
		{e.StoreOffset(t.Context(), "c", "s", 1), "store offset on stream", "s", "c"},
		{e.StoreOffset(t.Context(), "c", "s", math.MaxUint64-1), "store offset on stream", "s", "c"},
		{producerErr, "new producer on stream", "s", "p"},
	} {
		var op *OpError
		if !errors.As(test.err, &op) || op.Op != test.op || op.Stream != test.stream || op.Name != test.name {
			t.Errorf("%v, want the operation %q on %q as %q", test.err, test.op, test.stream, test.name)
		}
	}
}

// TestStats: a new stream is empty, and one with messages begins at 0.
func TestStats(t *testing.T) {
	_, env, name := inStream(t, 0)
	if s, err := env.Stats(t.Context(), name); err != nil || !s.Empty {
		t.Errorf("a new stream has the extent %+v, %v", s, err)
	}
	publish(t, env, name, 0, 10)
	if s, err := env.Stats(t.Context(), name); err != nil || s.Empty || s.FirstOffset != 0 {
		t.Errorf("with ten messages it has %+v, %v", s, err)
	}
	if got := Stats(broker.Extent{FirstOffset: 1, CommittedChunk: 2}); got != (Stats{FirstOffset: 1, CommittedChunk: 2}) {
		t.Errorf("an extent from 1 to 2 became %+v", got)
	}
	_, err := env.Stats(t.Context(), "nowhere")
	wantErr(t, err, ErrStreamNotFound)
}

// TestLargestOffsetIsStored goes to the broker and back.
func TestLargestOffsetIsStored(t *testing.T) {
	b := startScripted(t)
	env := b.env(t)
	must(t, env.StoreOffset(soon(t), "c", testStream, math.MaxInt64))
	if got, err := env.QueryOffset(soon(t), "c", testStream); err != nil || got != math.MaxInt64 {
		t.Errorf("stored %d, %v", got, err)
	}
	_, err := env.QueryOffset(soon(t), "nobody", testStream)
	wantErr(t, err, ErrNoOffset)
}

// TestFurtherArguments: what no field names goes to the broker as it is, in the
// order of the names; what a field sets as well is refused.
func TestFurtherArguments(t *testing.T) {
	args, err := StreamConfig{MaxBytes: 1, Arguments: map[string]string{"z": "1", "a": "", "max-age": "7D"}}.arguments()
	must(t, err)
	if got, want := fmt.Sprint(args), "[{max-length-bytes 1} {a } {max-age 7D} {z 1}]"; got != want {
		t.Errorf("arguments %s, want %s", got, want)
	}
	for name, cfg := range map[string]StreamConfig{
		"max-length-bytes":              {MaxBytes: 1},
		"max-age":                       {MaxAge: time.Hour},
		"stream-max-segment-size-bytes": {SegmentBytes: 1},
		"initial-cluster-size":          {InitialClusterSize: 1},
		"stream-filter-size-bytes":      {FilterSize: 20},
		"queue-leader-locator":          {LeaderLocator: "balanced"},
		"":                              {},
		strings.Repeat("k", 1<<15):      {},
	} {
		cfg.Arguments = map[string]string{name: "1"}
		_, err := cfg.arguments()
		if wantErr(t, err, ErrInvalidConfig); err == nil || !strings.Contains(err.Error(), "Arguments") {
			t.Errorf("%.40q: %v", name, err)
		}
	}
	_, err = StreamConfig{Arguments: map[string]string{"k": strings.Repeat("v", 1<<15)}}.arguments()
	wantErr(t, err, ErrInvalidConfig)
}
