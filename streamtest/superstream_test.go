package streamtest

import (
	"slices"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestSuperStream(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	create := func(name string, partitions, keys []string) wire.Code {
		return c.call(&wire.CreateSuperStream{Correlation: c.next(), Name: name, Partitions: partitions, BindingKeys: keys})
	}
	for _, tt := range []struct {
		name             string
		partitions, keys []string
		want             wire.Code
	}{
		{"sup", []string{"sup-0", "sup-1", "sup-2"}, []string{"a", "b", "b"}, wire.CodeOK},
		{"sup", []string{"x"}, []string{"a"}, wire.CodeStreamAlreadyExists},
		{"other", []string{"x", "sup-1"}, []string{"a", "b"}, wire.CodeStreamAlreadyExists},
		{"other", []string{"x"}, []string{"a", "b"}, wire.CodePreconditionFailed},
		{"other", []string{"x", "x"}, []string{"a", "b"}, wire.CodePreconditionFailed},
		{"amq.other", []string{"x"}, []string{"a"}, wire.CodePreconditionFailed},
		{"empty", nil, nil, wire.CodeOK},
	} {
		if got := create(tt.name, tt.partitions, tt.keys); got != tt.want {
			t.Errorf("create %q %q %q: %v, want %v", tt.name, tt.partitions, tt.keys, got, tt.want)
		}
	}
	list := func(req wire.Frame, key wire.Key) []string {
		c.send(req)
		resp := wire.StreamsResponse{Key: key}
		c.decode(&resp)
		return resp.Streams
	}
	if got := list(&wire.Partitions{SuperStream: "sup"}, wire.KeyPartitions); !slices.Equal(got, []string{"sup-0", "sup-1", "sup-2"}) {
		t.Errorf("partitions %q", got)
	}
	if got := list(&wire.Route{RoutingKey: "b", SuperStream: "sup"}, wire.KeyRoute); !slices.Equal(got, []string{"sup-1", "sup-2"}) {
		t.Errorf("route %q", got)
	}
	if got := list(&wire.Route{RoutingKey: "none", SuperStream: "sup"}, wire.KeyRoute); len(got) != 0 {
		t.Errorf("route to nowhere %q", got)
	}
	if got := list(&wire.Partitions{SuperStream: "amq.direct"}, wire.KeyPartitions); len(got) != 0 {
		t.Errorf("partitions of an exchange %q", got)
	}
	if got := b.Streams(); len(got) != 3 {
		t.Errorf("a refused creation left %q", got)
	}
	c.subscribe(1, "sup-1", fromFirst, 1)
	c.must(&wire.DeleteSuperStream{Correlation: c.next(), Name: "sup"})
	var update wire.MetadataUpdate
	if c.decode(&update); update.Stream != "sup-1" || len(b.Streams()) != 0 {
		t.Errorf("%+v, left %q", update, b.Streams())
	}
}

// TestSuperStreamWithoutMemory expects that the broker refuses a super stream of
// which it cannot store all partitions, and creates none of them.
func TestSuperStreamWithoutMemory(t *testing.T) {
	b := NewBroker(t, WithMemoryLimit(3*streamCost))
	c := openRaw(t, b)
	create := func(name string, partitions ...string) wire.Code {
		return c.call(&wire.CreateSuperStream{
			Correlation: c.next(), Name: name, Partitions: partitions, BindingKeys: make([]string, len(partitions)),
		})
	}
	if code := create("three", "a", "b", "c"); code != wire.CodeInternalError || len(b.Streams()) != 0 {
		t.Errorf("three partitions: %v, left %q", code, b.Streams())
	}
	if code := create("two", "a", "b"); code != wire.CodeOK || len(b.Streams()) != 2 {
		t.Errorf("two partitions: %v, there are %q", code, b.Streams())
	}
	if code := create("empty"); code != wire.CodeInternalError {
		t.Errorf("with full memory: %v", code)
	}
	c.must(&wire.DeleteSuperStream{Correlation: c.next(), Name: "two"})
	if code := create("again", "a", "b"); code != wire.CodeOK {
		t.Errorf("after a deletion: %v", code)
	}
}
