package stream

import (
	"strings"
	"testing"
	"time"
)

// TestProducerConfig: the bounds themselves are accepted and kept, and what is
// not set gets its default.
func TestProducerConfig(t *testing.T) {
	for _, cfg := range []ProducerConfig{
		{}, {MaxInFlight: 1}, {MaxInFlight: 30_000}, {MaxInFlight: 30_000, SubEntries: 1}, {MaxInFlight: 60_000, SubEntries: 2}, {MaxInFlight: 900_000, SubEntries: 30},
		{MaxInFlight: 900_000, SuperStream: true}, {SuperStream: true, Routing: RouteByKey()},
		{MaxInFlight: 900_000, SubEntries: 10_000}, {MaxInFlightBytes: 1}, {SubEntries: 1}, {SubEntries: 2, Name: "p"}, {SubEntries: 10_000},
		{SubEntries: 2, Compression: CompressionZstd}, {Name: strings.Repeat("n", 255)}, {ConfirmTimeout: 1}, {ConfirmTimeout: 24 * time.Hour}, {OwnConnection: true, CreationTime: true},
	} {
		want := cfg
		if want.MaxInFlight == 0 {
			want.MaxInFlight = 10_000
			if want.SuperStream {
				want.MaxInFlight = 100_000
			}
		}
		if want.MaxInFlightBytes == 0 {
			want.MaxInFlightBytes = 64 << 20
		}
		if want.ConfirmTimeout == 0 {
			want.ConfirmTimeout = 30 * time.Second
		}
		if got, err := cfg.withDefaults(); err != nil || got != want {
			t.Errorf("%+v became %+v, %v", cfg, got, err)
		}
	}
}

// TestProducerConfigRefused: what cannot work is refused, with its name and what
// would do.
func TestProducerConfigRefused(t *testing.T) {
	for _, test := range []struct {
		cfg  ProducerConfig
		says string
	}{
		{ProducerConfig{MaxInFlight: -1}, "MaxInFlight is -1; it must be from 1 to 30000"},
		{ProducerConfig{MaxInFlight: -1, SuperStream: true}, "MaxInFlight is -1; it must be from 1 to 900000, or 0 for 100000"},
		{ProducerConfig{OwnConnection: true, SuperStream: true}, "use an Env of its own"},
		{ProducerConfig{Routing: RouteByKey()}, "set SuperStream"},
		{ProducerConfig{MaxInFlight: 30_001}, "MaxInFlight is 30001; it must be from 1 to 30000"},
		{ProducerConfig{MaxInFlight: 60_001, SubEntries: 2}, "MaxInFlight is 60001; it must be from 1 to 60000"},
		{ProducerConfig{MaxInFlight: 900_001, SubEntries: 10_000}, "MaxInFlight is 900001; it must be from 1 to 900000"},
		{ProducerConfig{MaxInFlightBytes: -1}, "MaxInFlightBytes is -1"},
		{ProducerConfig{SubEntries: -1}, "SubEntries is -1"},
		{ProducerConfig{SubEntries: 10_001}, "SubEntries is 10001; it must be from 0 to 10000"},
		{ProducerConfig{SubEntries: 2, Compression: CompressionZstd + 1}, "Compression 5"},
		{ProducerConfig{SubEntries: 1, Compression: CompressionGzip}, "set SubEntries to 2 or more"},
		{ProducerConfig{ConfirmTimeout: -1}, "ConfirmTimeout is -1ns"},
		{ProducerConfig{ConfirmTimeout: 24*time.Hour + 1}, "at most 24h0m0s"},
		{ProducerConfig{Name: strings.Repeat("n", 256)}, "producer's name"},
	} {
		_, err := test.cfg.withDefaults()
		if wantErr(t, err, ErrInvalidConfig); err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v does not say %q", err, test.says)
		}
	}
}

// TestRoomInAFrame: a frame has room for its messages beside its own fields. What
// compression does not make smaller becomes a little larger.
func TestRoomInAFrame(t *testing.T) {
	const frame, own = 1 << 20, 4 + 2 + 2 + 1 + 4
	if got := roomIn(frame, false); got != frame-own {
		t.Errorf("there is room for %d bytes, want %d", got, frame-own)
	}
	for _, limit := range []int{4 << 10, 64 << 10, frame} {
		for _, c := range []Compression{CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd} {
			if worst := own + publishingIDBytes + subBatchBound(c, roomIn(limit, true)); worst > limit {
				t.Errorf("compression %d makes a frame of %d bytes, the limit is %d", c, worst, limit)
			}
		}
	}
}
