package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSub: each message comes once over two runs, those of a customer in order.
func TestSub(t *testing.T) {
	b := streamtest.NewBroker(t)
	publish(t, b.URI(), 10, 7)
	var out strings.Builder
	for _, most := range []string{"25", "45"} {
		if err := run(t.Context(), []string{"-uri", b.URI(), "-super", "orders", "-max", most}, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	next, partitions := map[string]int{}, map[string]bool{}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for _, line := range lines {
		fields := strings.Split(line, "\t")
		if want := fmt.Sprint("event ", next[fields[2]]); len(fields) != 4 || fields[3] != want {
			t.Fatalf("%q, want %s", line, want)
		}
		next[fields[2]]++
		partitions[fields[0]] = true
	}
	if len(lines) != 70 || len(next) != 10 || len(partitions) < 2 {
		t.Errorf("%d lines of %d customers and %d partitions", len(lines), len(next), len(partitions))
	}
}

// publish publishes the events of some customers.
func publish(t *testing.T, uri string, customers, events int) {
	t.Helper()
	env, err := stream.Connect(t.Context(), stream.Config{URIs: []string{uri}})
	if err != nil {
		t.Fatal(err)
	}
	defer env.Close()
	if err := env.DeclareSuperStream(t.Context(), "orders", stream.SuperStreamConfig{Partitions: 3}); err != nil {
		t.Fatal(err)
	}
	p, err := env.NewProducer(t.Context(), "orders", stream.ProducerConfig{SuperStream: true})
	if err != nil {
		t.Fatal(err)
	}
	for n := range events {
		for c := range customers {
			key := fmt.Sprint("customer ", c)
			m := stream.Message{Key: key, Body: fmt.Append(nil, "event ", n), Properties: &stream.Properties{Subject: key}}
			if err := p.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSubFails: an error of the broker's, and one of the command line.
func TestSubFails(t *testing.T) {
	b := streamtest.NewBroker(t)
	for _, args := range [][]string{{"-uri", b.URI(), "-super", "nowhere"}, {"-nonsense"}} {
		if err := run(context.Background(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v worked", args)
		}
	}
}
