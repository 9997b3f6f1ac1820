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

	"github.com/tidemark-go/tidemark/stream"
)

// options are what the command line says.
type options struct {
	uris     []string
	stream   string
	from, to int64
}

// errHelp means that parse has shown the help, for which the user asked.
var errHelp = flag.ErrHelp

// parse reads the command line. Help goes to stdout. No default shows the URI,
// which may have a password in it.
func parse(args []string, stdout io.Writer) (options, error) {
	o := options{from: 100, to: 300}
	fs := flag.NewFlagSet("pub", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	uri := fs.String("uri", "", "the broker's `URI`, or those of several nodes separated by commas\n"+
		"(default $RABBITMQ_STREAM_URL, then port 5552 on localhost as guest)")
	fs.StringVar(&o.stream, "stream", "stream_queue", "`NAME` of the stream; it is created if it does not exist")
	fs.Func("from", "publish the numbers from `FIRST` on (default 100)", number(&o.from))
	fs.Func("to", "publish the numbers below `END` (default 300)", number(&o.to))
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "pub publishes the numbers from -from up to, not including, -to.\n\nUsage: pub [flags]\n\n")
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return o, errHelp
	case err != nil:
		return o, err
	case fs.NArg() > 0: // not shown: it may be a URI with its password
		return o, errors.New("an argument without a flag: the broker goes with -uri, the stream with -stream")
	case o.from > o.to:
		return o, fmt.Errorf("-from %d is beyond -to %d: give a -to that is larger", o.from, o.to)
	}
	o.uris = strings.Split(cmp.Or(*uri, os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI), ",")
	return o, nil
}

// number is a flag whose value is a whole number from 0.
func number(to *int64) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return errors.New("want a whole number from 0, such as 100")
		}
		*to = int64(n)
		return nil
	}
}
