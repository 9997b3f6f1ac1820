package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	defaultURI = "amqp://guest:guest@localhost:5672/"
	help       = `amqp091 uses a stream like a queue, over AMQP 0.9.1.

Usage: amqp091 publish|consume [flags]

`
	offsetHelp = "consume begins `WHERE`:" + `
first     at the oldest message (default)
last      at the last chunk, the messages written together most recently
next      at what is published from now on
NUMBER    an offset, such as 290
RFC3339   a time, such as 2026-01-02T15:04:05Z
INTERVAL  a time ago in RabbitMQ's units Y, M (month), D, h, m, s, such as 1h`
)

// options are what the command line says.
type options struct {
	verb     func(context.Context, options, io.Writer) error
	uri      string
	stream   string
	from, to int64
	offset   any // the value of x-stream-offset
	max      uint64
}

var verbs = map[string]func(context.Context, options, io.Writer) error{"publish": publish, "consume": consume}

// parse reads the command line. Help goes to stdout. No message shows the URI,
// which may have a password in it.
func parse(args []string, stdout io.Writer) (options, error) {
	o := options{from: 500, to: 600, offset: "first"}
	fs := flag.NewFlagSet("amqp091", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.uri, "uri", "", "the broker's `URI`\n(default $RABBITMQ_AMQP_URL, then port 5672 on localhost as guest)")
	fs.StringVar(&o.stream, "stream", "stream_queue", "`NAME` of the stream")
	fs.Func("from", "publish the numbers from `FIRST` on (default 500)", number(&o.from))
	fs.Func("to", "publish the numbers below `END` (default 600)", number(&o.to))
	fs.Func("offset", offsetHelp, func(s string) (err error) { o.offset, err = parseOffset(s); return err })
	fs.Func("max", "consume ends after `N` messages (default no limit)", func(s string) (err error) { o.max, err = parseMax(s); return err })
	verb := ""
	if len(args) > 0 && verbs[args[0]] != nil {
		verb, args = args[0], args[1:]
	}
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, help)
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return o, err
	}
	if err == nil {
		err = o.check(verb, fs)
	}
	return o, err
}

// check reports what is missing or does not go together, and completes o.
func (o *options) check(verb string, fs *flag.FlagSet) error {
	switch {
	case verb == "":
		return errors.New("the first argument must be publish or consume")
	case fs.NArg() > 0: // not shown: it may be a URI with its password
		return errors.New("an argument without a flag: the broker goes with -uri, the stream with -stream")
	case o.stream == "":
		return errors.New("-stream is empty: give the stream's name")
	case o.from > o.to:
		return fmt.Errorf("-from %d is beyond -to %d: give a -to that is larger", o.from, o.to)
	}
	o.verb = verbs[verb]
	o.uri = cmp.Or(o.uri, os.Getenv("RABBITMQ_AMQP_URL"), defaultURI)
	if _, err := amqp.ParseURI(o.uri); err != nil {
		return errors.New("the URI cannot be read: write amqp://user:password@host:port/vhost and percent-encode special characters (@ as %40, / as %2F)")
	}
	return nil
}

// number is a flag whose value is a whole number from 0.
func number(to *int64) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return errors.New("want a whole number from 0, such as 500")
		}
		*to = int64(n)
		return nil
	}
}

func parseMax(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, errors.New("want a whole number from 1; leave it out for no limit")
	}
	return n, nil
}

var interval = regexp.MustCompile(`^[1-9][0-9]{0,8}[YMDhms]$`)

// parseOffset returns a value of x-stream-offset as a number, a time or a
// string. The broker tells the values apart by these types.
func parseOffset(s string) (any, error) {
	if s == "first" || s == "last" || s == "next" || interval.MatchString(s) {
		return s, nil
	}
	if n, err := strconv.ParseUint(s, 10, 63); err == nil {
		return int64(n), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	return nil, errors.New("want first, last, next, an offset (290), a time (2026-01-02T15:04:05Z) or an interval with one of Y, M, D, h, m, s (1h)")
}
