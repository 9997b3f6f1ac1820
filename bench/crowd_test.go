package main

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestStoresIn: a trailer's stored offsets are counted, its other entries not,
// and one that is cut short ends it.
func TestStoresIn(t *testing.T) {
	entry := func(kind byte, name string) []byte {
		b := append([]byte{kind, byte(len(name))}, name...)
		return append(b, make([]byte, 8)...)
	}
	trailer := append(append(entry(1, "a"), entry(0, "writer")...), entry(1, "")...)
	for _, tt := range []struct {
		trailer []byte
		want    int
	}{{nil, 0}, {trailer, 2}, {trailer[:len(trailer)-1], 1}, {[]byte{1}, 0}} {
		if got := storesIn(tt.trailer); got != tt.want {
			t.Errorf("storesIn(%v) = %d, want %d", tt.trailer, got, tt.want)
		}
	}
}

// TestCountChunk: a chunk counts with its trailer, and a short one is an error.
func TestCountChunk(t *testing.T) {
	var n chunkCount
	if err := n.chunk(make([]byte, wire.ChunkHeaderLen-1)); err == nil {
		t.Error("no error for half a header")
	}
}

func TestConnectedTo(t *testing.T) {
	const line = "   3: 0100007F:8AE4 0100007F:15B0 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 20 4 30 10 -1\n"
	mine := map[string]bool{"socket:[4711]": true}
	if !connectedTo(line, 5552, mine) {
		t.Error("a connection to the port is not counted")
	}
	if connectedTo(line, 5551, mine) || connectedTo(line, 5552, nil) || connectedTo("sl local_address", 5552, mine) {
		t.Error("another connection is counted")
	}
}

func TestSchedule(t *testing.T) {
	for _, s := range allSchedules {
		if got, err := parseSchedule(s.String()); got != s || err != nil {
			t.Errorf("%v: %v, %v", s, got, err)
		}
	}
	for _, text := range []string{"", "10", "10+0", "1+2", "40000+1", "x+1"} {
		if s, err := parseSchedule(text); err == nil {
			t.Errorf("%q is %v", text, s)
		}
	}
}

// TestPairedRatio: runs that followed each other are compared, not medians.
func TestPairedRatio(t *testing.T) {
	list := []result{
		{Impl: implTidemark, Latency: 2, p50s: []float64{1, 2, 40}, p99s: []float64{1, 1, 1}},
		{Impl: implOfficial, Latency: 4, p50s: []float64{2, 4, 40}, p99s: []float64{3, 3, 3}},
	}
	setRatios(list)
	if list[0].RatioOfficial != 2 || list[0].RatioOfficialP99 != 3 || list[0].RatioSocket != 0 {
		t.Errorf("%+v", list[0])
	}
}
