package examples_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestFilter: each run of filter prints the orders of its region, and goes on
// where the last one has ended.
func TestFilter(t *testing.T) {
	b := streamtest.NewBroker(t)
	filter := func(args ...string) string {
		t.Helper()
		r := finish(t, b.URI(), "filter", args...)
		if r.code != 0 || r.stderr != "" {
			t.Fatalf("filter %q: exit code %d, stderr %q", args, r.code, r.stderr)
		}
		return r.stdout
	}
	orders := func(region string, first, end int) string {
		var text strings.Builder
		for n := first; n < end; n++ {
			fmt.Fprintf(&text, "%s order %d\n", region, n)
		}
		return text.String()
	}
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"-publish", "20"}, "published 60\n"},
		{[]string{"-region", "eu", "-max", "15"}, orders("eu", 0, 15)},
		{[]string{"-region", "eu", "-max", "5"}, orders("eu", 15, 20)},
		{[]string{"-region", "asia", "-max", "20"}, orders("asia", 0, 20)},
		{[]string{"-publish", "3"}, "published 9\n"},
		{[]string{"-region", "asia", "-max", "3"}, orders("asia", 0, 3)},
	} {
		if got := filter(step.args...); got != step.want {
			t.Errorf("filter %q prints %q, want %q", step.args, got, step.want)
		}
	}
}
