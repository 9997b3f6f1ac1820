package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tidemark-go/tidemark/stream"
)

// options are what the command line says.
type options struct {
	uris   []string
	stream string
	name   string
	start  stream.Start
	store  stream.StorePolicy
	max    uint64 // 0: no limit
	hold   int64  // the offset of the message that sub does not finish, -1 for none
}

// errHelp means that parse has shown the help, for which the user asked.
var errHelp = flag.ErrHelp

const startHelp = "begin `WHERE`:" + `
stored    after the offset stored under -name; like first if there is none (default)
first     at the oldest message
last      at the last chunk, the messages written together most recently
next      at what is published from now on
OFFSET    a number, such as 290
RFC3339   a time, such as 2026-01-02T15:04:05Z
AGE       a time ago, such as 30m, 1h or 7d`

const storeHelp = "store the offset `WHEN`:" + `
each      after each handled message (default)
auto      after each message while traffic is slow, and every 100 ms in a burst`

// parse reads the command line. Help goes to stdout. No default shows the URI,
// which may have a password in it.
func parse(args []string, stdout io.Writer) (options, error) {
	o := options{start: stream.Stored(stream.First()), store: stream.StorePolicy{Every: 1}, hold: -1}
	fs := flag.NewFlagSet("sub", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	uri := fs.String("uri", "", "the broker's `URI`, or those of several nodes separated by commas\n"+
		"(default $RABBITMQ_STREAM_URL, then port 5552 on localhost as guest)")
	fs.StringVar(&o.stream, "stream", "stream_queue", "`NAME` of the stream")
	fs.StringVar(&o.name, "name", "go", "`NAME` under which the broker keeps the offset")
	fs.Func("start", startHelp, set(&o.start, parseStart))
	fs.Func("store", storeHelp, set(&o.store, parseStore))
	fs.Func("max", "end after `N` messages (default no limit)", set(&o.max, parseMax))
	fs.Func("hold", "neither print nor finish the message at `OFFSET`, to try what a kill does meanwhile", set(&o.hold, parseHold))
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "sub prints the messages of a stream and goes on where its last run ended.\n\nUsage: sub [flags]\n\n")
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return o, errHelp
	case err != nil:
		return o, err
	case fs.NArg() > 0: // not shown: it may be a URI with its password
		return o, errors.New("an argument without a flag: the broker goes with -uri, the stream with -stream")
	case o.name == "":
		return o, errors.New("-name is empty: give the name under which the broker is to keep the offset")
	}
	o.uris = strings.Split(cmp.Or(*uri, os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI), ",")
	return o, nil
}

// set makes a flag of a function that parses its value.
func set[T any](to *T, parse func(string) (T, error)) func(string) error {
	return func(s string) (err error) {
		*to, err = parse(s)
		return err
	}
}

func parseStart(s string) (stream.Start, error) {
	switch s {
	case "stored":
		return stream.Stored(stream.First()), nil
	case "first":
		return stream.First(), nil
	case "last":
		return stream.Last(), nil
	case "next":
		return stream.Next(), nil
	}
	if offset, err := strconv.ParseUint(s, 10, 63); err == nil {
		return stream.At(offset), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return stream.Since(t), nil
	}
	if age, err := parseAge(s); err == nil {
		return stream.Ago(age), nil
	}
	return stream.Start{}, errors.New("want stored, first, last, next, an offset (290), a time (2026-01-02T15:04:05Z) or an age (30m, 1h, 7d)")
}

// parseAge reads a positive duration, with d for 24 hours: 90s, 1h30m, 7d.
func parseAge(s string) (time.Duration, error) {
	var age time.Duration
	if days, rest, found := strings.Cut(s, "d"); found {
		n, err := strconv.ParseUint(days, 10, 16) // 65,535 days fit into a Duration
		if err != nil {
			return 0, err
		}
		age, s = time.Duration(n)*24*time.Hour, cmp.Or(rest, "0s")
	}
	rest, err := time.ParseDuration(s)
	if age += rest; err == nil && (age <= 0 || rest < 0) {
		err = errors.New("not a positive duration")
	}
	return age, err
}

func parseStore(s string) (stream.StorePolicy, error) {
	switch s {
	case "each":
		return stream.StorePolicy{Every: 1}, nil
	case "auto":
		return stream.StorePolicy{}, nil
	}
	return stream.StorePolicy{}, errors.New("want each or auto")
}

func parseHold(s string) (int64, error) {
	offset, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return -1, errors.New("want the offset of a message, such as 290")
	}
	return int64(offset), nil
}

func parseMax(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, errors.New("want a whole number from 1; leave it out for no limit")
	}
	return n, nil
}
