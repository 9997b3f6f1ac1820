package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidemark-go/tidemark/internal/javaclient"
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
	before  string        // another program that measures this library; empty: none
	rate    int           // 0: the case's own
	credit  []schedule    // nil: the case's own
	windows []window      // nil: the case's own
	flight  int           // MaxInFlight of this library's producers; 0: its default
	reuse   bool          // ReuseDelivery of this library's consumers
	timeout time.Duration // of a measurement
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
	maxRate = 100_000

	defaultTimeout = 5 * time.Minute
	maxTimeout     = time.Hour
)

// errHelp means that parse has shown the help, for which the user asked.
var errHelp = flag.ErrHelp

// parse reads the command line. Help goes to stdout.
func parse(args []string, stdout io.Writer) (options, error) {
	o := options{cases: soloCases, sizes: []int{100}, impls: implementations}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.uri, "uri", "", "measure on the broker at this `URI` (not TLS), which must be otherwise idle")
	fs.StringVar(&o.broker, "broker", brokerReal, "without -uri: real, a RabbitMQ of the bench's own (the first time it is\n"+
		"downloaded), or streamtest, the in-process broker in a process of its own; `KIND`")
	fs.Func("case", "comma-separated `NAMES` of cases and families, listed below, or all\n(default all but the families)", o.setCases)
	fs.Func("size", "comma-separated message sizes in `BYTES`, or all: 10,100,1024,10240 (default 100)", o.setSizes)
	fs.Func("impl", "comma-separated `NAMES` of implementations (default tidemark,official,socket). There is\njava too, RabbitMQ's Java client, for cases that are listed below. It needs a JDK of version\n11 or later, and Maven", o.setImpls)
	fs.Func("n", "`NUMBER` of messages in each measurement (default: what the case needs)", positive(&o.n, 1<<30))
	o.runs = 5
	fs.Func("runs", "`NUMBER` of measurements to take the median of (default 5)", positive(&o.runs, maxRuns))
	fs.Func("rate", "`NUMBER` of messages a second in each stream of fan-in, tail-latency and publish-latency\n(default: listed below)", positive(&o.rate, maxRate))
	fs.Func("credit", "comma-separated `SCHEDULES` by which a bare socket gives credit, of which the best is\nshown: FIRST+BACK, where BACK is given back at a time (default 10+1,1000+500,30000+1)", o.setCredit)
	fs.Func("window", "comma-separated `WINDOWS` in which a bare socket publishes, of which the best is shown:\nFRAME/INFLIGHT in messages, or FRAME/INFLIGHT/CONNECTIONS\n(default 100/2000,1000/10000,1000/40000; smaller frames from 4 KiB a message on)", o.setWindows)
	fs.Func("in-flight", "`NUMBER` of messages that a producer of this library may have without an\noutcome, its MaxInFlight (default: its own)", positive(&o.flight, 900_000))
	fs.BoolVar(&o.reuse, "reuse", false, "this library's consumers set ReuseDelivery, where nothing is read in batches or by\nworkers")
	fs.DurationVar(&o.timeout, "timeout", defaultTimeout, "fail if one measurement takes longer than this `DURATION`")
	fs.StringVar(&o.before, "before", "", "also measure this library as it is in another `PROGRAM`, a bench built from another commit")
	fs.BoolVar(&o.json, "json", false, "print one JSON object per line")
	fs.StringVar(&o.profile, "profile", "", "write CPU and allocation profiles of each measurement into this `DIRECTORY`\n(not of java)")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(fs, stdout)
		return o, errHelp
	case err != nil:
		return o, fmt.Errorf("%w (bench -h lists the flags)", err)
	case fs.NArg() > 0: // not shown: it may be a URI with its password
		return o, errors.New("an argument without a flag: the broker goes with -uri, a case with -case")
	case o.timeout < time.Second || o.timeout > maxTimeout:
		return o, fmt.Errorf("-timeout %v: want from 1s to %v", o.timeout, maxTimeout)
	case o.broker != brokerReal && o.broker != brokerStreamtest:
		return o, fmt.Errorf("-broker %q: want %s or %s", o.broker, brokerReal, brokerStreamtest)
	}
	if o.before != "" {
		path, err := exec.LookPath(o.before)
		if err != nil {
			return o, fmt.Errorf("-before: %w", err)
		}
		o.before, o.impls = path, append(slices.Clone(o.impls), implBefore)
	}
	if o.uri != "" {
		if _, err := parseURI(o.uri); err != nil {
			return o, err
		}
	}
	return o, o.checkJava()
}

// java reports whether the Java client is to be measured.
func (o *options) java() bool { return slices.Contains(o.impls, implJava) }

// checkJava refuses the Java client at once where it cannot be measured.
func (o *options) checkJava() error {
	if !o.java() {
		return nil
	}
	if !slices.ContainsFunc(o.cases, benchCase.hasJava) {
		return fmt.Errorf("-impl java: no case of -case has it; it is in %s", strings.Join(javaCases(), ", "))
	}
	if err := javaclient.Installed(); err != nil {
		return fmt.Errorf("-impl java: %w; or leave java out", err)
	}
	return nil
}

func (c benchCase) hasJava() bool { return c.run[implJava] != nil }

func javaCases() (names []string) {
	for _, c := range allCases {
		if c.hasJava() {
			names = append(names, c.name)
		}
	}
	return names
}

func help(fs *flag.FlagSet, w io.Writer) {
	fmt.Fprint(w, "bench compares this library, the official client and a bare socket on one broker.\n\nUsage: bench [flags]\n\n")
	fs.SetOutput(w)
	fs.PrintDefaults()
	fmt.Fprint(w, "\nCases:\n")
	for _, c := range soloCases {
		fmt.Fprintf(w, "  %-19s  %s\n", c.name, c.about)
	}
	fmt.Fprint(w, "\nFamilies of cases:\n")
	for i, c := range allCases {
		if c.family == "" || allCases[i-1].family == c.family {
			continue
		}
		fmt.Fprintf(w, "  %-19s  %s:\n  %-19s  %s\n", c.family, c.about, "", strings.Join(membersOf(c.family), ", "))
	}
	fmt.Fprintf(w, javaHelp, strings.Join(javaCases(), ", "))
	fmt.Fprint(w, familiesHelp)
}

// javaHelp says how the Java client is measured. It formats the cases' names.
const javaHelp = `
The Java client takes part, if -impl names it, in
%s.
Its producers and consumers have its defaults: 10,000 unconfirmed messages, batches of
a size that it adapts. Each measurement is a Java process, which first does the same
work in three rounds with connections of their own, so that its virtual machine has
compiled what is busy. A round has as many messages as are measured (publishing:
150,000 at least), and 400 MB at most. Then the process collects garbage and begins.
CPU time is that of the whole process, in steps of 10 ms on Linux. Messages are made
before. Allocations, heap and connections are unknown. -timeout is for all of it. The
client may keep what is less than a batch for 100 ms: with few messages that is what
is measured.
`

// familiesHelp says what the figures of the families are.
const familiesHelp = `
Producers of this library share an Env, those of the official client an
environment, with 100 to a connection where there are 1,000. A socket has up to
250 publishers. KiB/producer is heap that is alive after a garbage collection,
and stacks: of producers that have published nothing yet, and of the same once
all that they published is confirmed. Below the tables the bench says at which
part of the rate of 10 producers 1,000 are, and of that without a name a producer
with one. In sub-batches the official client has a tenth of the messages. A socket
that waits for one confirm at a time reads it on the goroutine that writes.

In the other families this library uses one Env, the official client and the
socket a connection for each consumer. Consumers with a name store offsets by default
(the socket stores none). The end is that of all consumers together: how long it
took, how many ended with ErrNotStored, how many stored offsets are not of the
last message, as read back on another connection, and how many chunks the stores
made in the streams, all runs added up where something is wrong. First s is from
the start to the first message. -n is the number of deliveries of fan-out, and of
published messages of fan-in and tail-latency. A delay is in milliseconds each
way; it is added by a proxy on loopback that limits no bandwidth.

1,000 consumers hold 1,000 segment files of the broker, and the peers as many
connections: the broker needs some 2,500 file descriptors. tools/rabbitmq gives it
what the system allows; elsewhere raise its limit first (ulimit -n 65536). This
program raises its own to the hard limit.
`

func membersOf(family string) (names []string) {
	for _, c := range allCases {
		if c.family == family {
			names = append(names, c.name)
		}
	}
	return names
}

func (o *options) setCases(list string) error {
	o.cases = nil
	for _, name := range strings.Split(list, ",") {
		before := len(o.cases)
		for _, c := range allCases {
			if c.name == name || c.family == name || name == "all" {
				o.cases = append(o.cases, c)
			}
		}
		if len(o.cases) == before {
			return fmt.Errorf("no case %q; there are %s", name, strings.Join(caseNames(), ", "))
		}
	}
	return nil
}

func (o *options) setCredit(list string) error {
	o.credit = nil
	for _, text := range strings.Split(list, ",") {
		s, err := parseSchedule(text)
		if err != nil {
			return err
		}
		o.credit = append(o.credit, s)
	}
	return nil
}

func (o *options) setWindows(list string) error {
	o.windows = nil
	for _, text := range strings.Split(list, ",") {
		w, err := parseWindow(text)
		if err != nil {
			return err
		}
		o.windows = append(o.windows, w)
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
		if !slices.Contains(allImplementations, name) {
			return fmt.Errorf("no implementation %q; there are %s", name, strings.Join(allImplementations, ", "))
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
