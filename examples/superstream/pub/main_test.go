package main

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestPub: all events of a customer are in one partition, in order, and a second
// run adds its own.
func TestPub(t *testing.T) {
	b := streamtest.NewBroker(t)
	var out strings.Builder
	for range 2 {
		if err := run(t.Context(), []string{"-uri", b.URI(), "-customers", "10", "-events", "7"}, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if want := "published 70 events of 10 customers to events\n"; out.String() != want+want {
		t.Errorf("printed %q", out.String())
	}
	partitionOf, next := map[string]int{}, map[string]int{}
	for p := range 3 {
		for _, m := range b.Messages(fmt.Sprint("events-", p)) {
			key := m.Properties.Subject
			if at, seen := partitionOf[key]; seen && at != p {
				t.Errorf("%s is in the partitions %d and %d", key, at, p)
			}
			if want := fmt.Sprint("event ", next[key]%7); m.String() != want {
				t.Errorf("%s: %s, want %s", key, m, want)
			}
			partitionOf[key] = p
			next[key]++
		}
	}
	for key, n := range next {
		if n != 14 {
			t.Errorf("%s has %d events", key, n)
		}
	}
	if len(next) != 10 {
		t.Errorf("%d customers have events", len(next))
	}
}

// TestPubFails: an error of the broker's, and one of the command line.
func TestPubFails(t *testing.T) {
	b := streamtest.NewBroker(t)
	for _, args := range [][]string{{"-uri", b.URI(), "-partitions", "0"}, {"-uri", b.URI(), "-events", "-1"}, {"-nonsense"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v worked", args)
		}
	}
}
