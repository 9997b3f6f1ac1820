package stream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestSuperStreamPlan: partitions are named and bound as other clients do it, and
// what cannot work is refused before any I/O.
func TestSuperStreamPlan(t *testing.T) {
	names, keys, err := SuperStreamConfig{Partitions: 3}.plan("s", "/")
	must(t, err)
	if !slices.Equal(names, []string{"s-0", "s-1", "s-2"}) || !slices.Equal(keys, []string{"0", "1", "2"}) {
		t.Errorf("%q bound with %q", names, keys)
	}
	names, keys, err = SuperStreamConfig{BindingKeys: []string{"amer", "emea"}}.plan("s", "/")
	must(t, err)
	if !slices.Equal(names, []string{"s-amer", "s-emea"}) || !slices.Equal(keys, []string{"amer", "emea"}) {
		t.Errorf("%q bound with %q", names, keys)
	}
	e := closedEnv()
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for name, cfg := range map[string]SuperStreamConfig{
		"no partitions":    {},
		"negative":         {Partitions: -1},
		"too many":         {Partitions: 1001},
		"too many keys":    {BindingKeys: many},
		"both":             {Partitions: 1, BindingKeys: []string{"a"}},
		"a key twice":      {BindingKeys: []string{"a", "b", "a"}},
		"a long key":       {BindingKeys: []string{strings.Repeat("k", 256)}},
		"a line break":     {BindingKeys: []string{"a\n"}},
		"no UTF-8":         {BindingKeys: []string{"\xff"}},
		"a bad argument":   {Partitions: 1, StreamConfig: StreamConfig{MaxBytes: -1}},
		"a long partition": {BindingKeys: []string{strings.Repeat("k", 233)}},
	} {
		if err := e.DeclareSuperStream(t.Context(), "s", cfg); !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", strings.Repeat("n", 256), "a\nb"} {
		wantErr(t, e.DeclareSuperStream(t.Context(), name, SuperStreamConfig{Partitions: 1}), ErrInvalidConfig)
	}
	wantErr(t, e.DeclareSuperStream(t.Context(), "s", SuperStreamConfig{Partitions: 1000}), ErrClosed)
	wantErr(t, e.DeleteSuperStream(t.Context(), "s"), ErrClosed)
	_, err = e.Partitions(t.Context(), "")
	wantErr(t, err, ErrInvalidConfig)
	_, err = e.Route(t.Context(), "s", strings.Repeat("k", 256))
	wantErr(t, err, ErrInvalidConfig)
	_, err = e.Route(t.Context(), "s", "")
	wantErr(t, err, ErrClosed)
}

// testSuperStreams declares, asks and deletes on a broker of either kind.
func testSuperStreams(t *testing.T, env *Env, name string) {
	ctx := inTime(t)
	keyed := SuperStreamConfig{BindingKeys: []string{"amer", "emea"}, StreamConfig: StreamConfig{MaxBytes: 5e9}}
	must(t, env.DeclareSuperStream(ctx, name, keyed))
	t.Cleanup(func() { _ = env.DeleteSuperStream(soon(t), name) })
	must(t, env.DeclareSuperStream(ctx, name, keyed)) // as services do at each start

	want := []string{name + "-amer", name + "-emea"}
	partitions, err := env.Partitions(ctx, name)
	must(t, err)
	if !slices.Equal(partitions, want) {
		t.Errorf("the partitions are %q, want %q", partitions, want)
	}
	for key, want := range map[string][]string{"emea": want[1:], "amer": want[:1], "apac": nil} {
		if got, err := env.Route(ctx, name, key); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s leads to %q, %v; want %q", key, got, err, want)
		}
	}
	must(t, env.DeclareStream(ctx, want[0], StreamConfig{MaxBytes: 5e9, LeaderLocator: "balanced"})) // each is a stream

	for what, cfg := range map[string]SuperStreamConfig{
		"other arguments":  {BindingKeys: keyed.BindingKeys},
		"other partitions": {Partitions: 2, StreamConfig: keyed.StreamConfig},
		"another order":    {BindingKeys: []string{"emea", "amer"}, StreamConfig: keyed.StreamConfig},
		"one more":         {BindingKeys: []string{"amer", "emea", "apac"}, StreamConfig: keyed.StreamConfig},
	} {
		if err := env.DeclareSuperStream(ctx, name, cfg); !errors.Is(err, ErrStreamMismatch) || !strings.Contains(err.Error(), "exists with other") {
			t.Errorf("%s: %v", what, err)
		}
	}
	err = env.DeclareSuperStream(ctx, name+"-x", SuperStreamConfig{Partitions: 1, StreamConfig: StreamConfig{Arguments: map[string]string{"max-age": "soon"}}})
	wantErr(t, err, ErrStreamMismatch)

	must(t, env.DeleteSuperStream(ctx, name))
	wantErr(t, env.DeleteSuperStream(ctx, name), ErrStreamNotFound)
	_, err = env.Partitions(ctx, name)
	wantErr(t, err, ErrStreamNotFound)
	_, err = env.Route(ctx, name, "emea")
	wantErr(t, err, ErrStreamNotFound)
	wantErr(t, env.DeleteStream(ctx, want[0]), ErrStreamNotFound)

	must(t, env.DeclareStream(ctx, want[1], StreamConfig{}))
	t.Cleanup(func() { _ = env.DeleteStream(soon(t), want[1]) })
	err = env.DeclareSuperStream(ctx, name, keyed)
	if !errors.Is(err, ErrStreamMismatch) || !strings.Contains(err.Error(), want[1]) {
		t.Errorf("a stream has the name of a partition: %v", err)
	}
}

func TestSuperStreams(t *testing.T) {
	onBrokers(t, func(t *testing.T, b testBroker) {
		testSuperStreams(t, connect(t, b.StreamURL()), fmt.Sprintf("orders-%d", rand.Uint64()))
	})
}

func TestShortList(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g"}
	for n, want := range map[int]string{0: `[]`, 5: `["a" "b" "c" "d" "e"]`, 7: `["a" "b" "c" "d" "e"] and 2 more`} {
		if got := shortList(names[:n]); got != want {
			t.Errorf("%d names: %s, want %s", n, got, want)
		}
	}
}
