package streamtest

import (
	"slices"
	"strconv"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	defaultSegmentBytes = 500_000_000
	maxSegmentBytes     = 3_000_000_000
)

// limits holds the arguments of a stream that bound its log.
type limits struct {
	maxBytes     int64         // 0: unlimited
	maxAge       time.Duration // 0: unlimited
	segmentBytes int64
}

// comparedArguments lists the arguments that Create compares when the stream
// already exists. RabbitMQ ignores all others there.
var comparedArguments = []string{
	"max-length-bytes", "max-age", "stream-max-segment-size-bytes", "initial-cluster-size", "queue-leader-locator",
	"stream-filter-size-bytes",
}

var leaderLocators = []string{"client-local", "balanced", "random", "least-leaders", "min-masters"}

// parseArguments validates the arguments of Create and ignores those it does
// not know. It refuses two that RabbitMQ does not: RabbitMQ's connection
// crashes on a max-length-bytes that is not a number, and RabbitMQ accepts any
// max-age.
func parseArguments(args wire.Properties) (limits, bool) {
	l, ok := limits{segmentBytes: defaultSegmentBytes}, true
	integer := func(key string, low, high int64) int64 {
		text, given := args.Get(key)
		if !given {
			return 0
		}
		n, err := strconv.ParseInt(text, 10, 64)
		ok = ok && err == nil && n >= low && n <= high
		return n
	}
	l.maxBytes = integer("max-length-bytes", -1<<62, 1<<62)
	if n := integer("stream-max-segment-size-bytes", -1<<62, maxSegmentBytes); n != 0 {
		l.segmentBytes = n
	}
	integer("initial-cluster-size", 1, 1<<62)
	integer("stream-filter-size-bytes", 16, 255)
	if text, given := args.Get("max-age"); given {
		age, valid := parseAge(text)
		l.maxAge, ok = age, ok && valid
	}
	if text, given := args.Get("queue-leader-locator"); given {
		ok = ok && slices.Contains(leaderLocators, text)
	}
	return l, ok
}

// parseAge reads an age: a positive number and a unit, as in 7D, 12h or 30s.
// The units are Y (365 days), M (30 days), D, h, m and s.
func parseAge(text string) (time.Duration, bool) {
	const day = 24 * time.Hour
	units := map[byte]time.Duration{
		'Y': 365 * day, 'M': 30 * day, 'D': day, 'h': time.Hour, 'm': time.Minute, 's': time.Second,
	}
	if text == "" {
		return 0, false
	}
	unit, known := units[text[len(text)-1]]
	n, err := strconv.ParseInt(text[:len(text)-1], 10, 64)
	if !known || err != nil || n <= 0 {
		return 0, false
	}
	// A Duration holds 292 years. A longer age becomes that maximum: data
	// never gets that old.
	if n > int64(1<<63-1)/int64(unit) {
		return 1<<63 - 1, true
	}
	return time.Duration(n) * unit, true
}

// equivalent reports whether a and b agree on comparedArguments. An argument
// that is missing equals only one that is missing too.
func equivalent(a, b wire.Properties) bool {
	for _, key := range comparedArguments {
		x, inA := a.Get(key)
		y, inB := b.Get(key)
		if inA != inB || x != y && (key != "max-age" || !sameAge(x, y)) {
			return false
		}
	}
	return true
}

// sameAge reports whether x and y are ages of the same length: 1h equals 60m.
func sameAge(x, y string) bool {
	a, okA := parseAge(x)
	b, okB := parseAge(y)
	return okA && okB && a == b
}
