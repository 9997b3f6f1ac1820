package main

import (
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/stream"
)

func TestParse(t *testing.T) {
	t.Setenv("RABBITMQ_STREAM_URL", "")
	got, err := parse([]string{"-uri", "a,b", "-name", "billing", "-store", "auto", "-max", "7", "-hold", "0"}, io.Discard)
	want := options{uris: []string{"a", "b"}, stream: "stream_queue", name: "billing", start: stream.Stored(stream.First()), max: 7, hold: 0}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	got, err = parse(nil, io.Discard)
	want = options{uris: []string{stream.DefaultURI}, stream: "stream_queue", name: "go",
		start: stream.Stored(stream.First()), store: stream.StorePolicy{Every: 1}, hold: -1}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("defaults: %+v, %v; want %+v", got, err, want)
	}
}

func TestParseStart(t *testing.T) {
	at := func(s string) stream.Start {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return stream.Since(v)
	}
	for s, want := range map[string]stream.Start{
		"stored":                    stream.Stored(stream.First()),
		"first":                     stream.First(),
		"last":                      stream.Last(),
		"next":                      stream.Next(),
		"0":                         stream.At(0),
		"290":                       stream.At(290),
		"9223372036854775807":       stream.At(1<<63 - 1),
		"2026-01-02T15:04:05Z":      at("2026-01-02T15:04:05Z"),
		"2026-01-02T15:04:05+08:00": at("2026-01-02T15:04:05+08:00"),
		"30m":                       stream.Ago(30 * time.Minute),
		"1h":                        stream.Ago(time.Hour),
		"1h30m":                     stream.Ago(90 * time.Minute),
		"7d":                        stream.Ago(7 * 24 * time.Hour),
		"1d12h":                     stream.Ago(36 * time.Hour),
	} {
		if got, err := parseStart(s); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", s, got, err, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, s := range []string{
		"", "First", "yesterday", "-1", "1.5", "+5", "9223372036854775808", "2026-01-02", "2026-01-02 15:04:05",
		"0s", "-1h", "0d", "d", "-1d", "1d-1h", "1d2d", "65536d", "1w", "h", "9999999h999999999h",
	} {
		_, err := parse([]string{"-start", s}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), `"`+s+`" for flag -start: want stored, first`) {
			t.Errorf("-start %q: error %v", s, err)
		}
	}
	for _, c := range []struct{ line, want string }{
		{"-store never", `"never" for flag -store: want each or auto`},
		{"-max 0", `"0" for flag -max: want a whole number from 1`},
		{"-max x", `"x" for flag -max`},
		{"-hold x", `"x" for flag -hold: want the offset`},
		{"-name=", "-name is empty"},
		{"rabbitmq-stream://u:s3cr3t@h", "-uri"},
	} {
		_, err := parse(strings.Fields(c.line), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: error %v, want one with %q", c.line, err, c.want)
		}
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, errHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestPrintLine(t *testing.T) {
	var w strings.Builder
	if err := printLine(&w, &stream.Delivery{Offset: 5, Body: []byte("a\nb\r\tc")}); err != nil {
		t.Fatal(err)
	}
	if got, want := w.String(), "5\ta\\nb\\r\tc\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
