package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// options are what the command line says.
type options struct {
	uri     string // empty: a broker of the bench's own
	broker  string // which one
	cases   []benchCase
	sizes   []int
	impls   []string
	n       int // 0: the case's own
	runs    int
	json    bool
	profile string
}

// The brokers of -broker.
const (
	brokerReal       = "real"
	brokerStreamtest = "streamtest"
)

// allSizes is -size all.
var allSizes = []int{10, 100, 1 << 10, 10 << 10}

const (
	maxRuns = 100
	maxSize = 900 << 10 // a message has to fit into a frame of 1 MiB
)

// errHelp means that parse has shown the help, for which the user asked.
var errHelp = flag.ErrHelp

// parse reads the command line. Help goes to stdout.
func parse(args []string, stdout io.Writer) (options, error) {
	o := options{cases: allCases, sizes: []int{100}, impls: implementations}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.uri, "uri", "", "measure on the broker at this `URI` (not TLS), which must be otherwise idle")
	fs.StringVar(&o.broker, "broker", brokerReal, "without -uri: real, a RabbitMQ of the bench's own (the first time it is\n"+
		"downloaded), or streamtest, the in-process broker in a process of its own; `KIND`")
	fs.Func("case", "comma-separated `NAMES` of cases, listed below (default all)", o.setCases)
	fs.Func("size", "comma-separated message sizes in `BYTES`, or all: 10,100,1024,10240 (default 100)", o.setSizes)
	fs.Func("impl", "comma-separated `NAMES` of implementations (default tidemark,official,socket)", o.setImpls)
	fs.Func("n", "`NUMBER` of messages in each measurement (default: what the case needs)", positive(&o.n, 1<<30))
	o.runs = 5
	fs.Func("runs", "`NUMBER` of measurements to take the median of (default 5)", positive(&o.runs, maxRuns))
	fs.BoolVar(&o.json, "json", false, "print one JSON object per line")
	fs.StringVar(&o.profile, "profile", "", "write CPU and allocation profiles of each measurement into this `DIRECTORY`")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(fs, stdout)
		return o, errHelp
	case err != nil:
		return o, fmt.Errorf("%w (bench -h lists the flags)", err)
	case fs.NArg() > 0: // not shown: it may be a URI with its password
		return o, errors.New("an argument without a flag: the broker goes with -uri, a case with -case")
	case o.broker != brokerReal && o.broker != brokerStreamtest:
		return o, fmt.Errorf("-broker %q: want %s or %s", o.broker, brokerReal, brokerStreamtest)
	}
	if o.uri != "" {
		if _, err := parseURI(o.uri); err != nil {
			return o, err
		}
	}
	return o, nil
}

func help(fs *flag.FlagSet, w io.Writer) {
	fmt.Fprint(w, "bench compares this library, the official client and a bare socket on one broker.\n\nUsage: bench [flags]\n\n")
	fs.SetOutput(w)
	fs.PrintDefaults()
	fmt.Fprint(w, "\nCases:\n")
	for _, c := range allCases {
		fmt.Fprintf(w, "  %-18s %s\n", c.name, c.about)
	}
}

func (o *options) setCases(list string) error {
	o.cases = nil
	for _, name := range strings.Split(list, ",") {
		i := slices.IndexFunc(allCases, func(c benchCase) bool { return c.name == name })
		if i < 0 {
			return fmt.Errorf("no case %q; there are %s", name, strings.Join(caseNames(), ", "))
		}
		o.cases = append(o.cases, allCases[i])
	}
	return nil
}

func caseNames() (names []string) {
	for _, c := range allCases {
		names = append(names, c.name)
	}
	return names
}

func (o *options) setSizes(list string) error {
	if list == "all" {
		o.sizes = allSizes
		return nil
	}
	o.sizes = nil
	for _, s := range strings.Split(list, ",") {
		var size int
		if err := positive(&size, maxSize)(s); err != nil {
			return err
		}
		o.sizes = append(o.sizes, size)
	}
	return nil
}

func (o *options) setImpls(list string) error {
	o.impls = nil
	for _, name := range strings.Split(list, ",") {
		if !slices.Contains(implementations, name) {
			return fmt.Errorf("no implementation %q; there are %s", name, strings.Join(implementations, ", "))
		}
		o.impls = append(o.impls, name)
	}
	return nil
}

// positive is a flag whose value is a whole number from 1 to limit.
func positive(to *int, limit int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > limit {
			return fmt.Errorf("want a whole number from 1 to %d", limit)
		}
		*to = n
		return nil
	}
}
