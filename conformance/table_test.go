package conformance

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// row is one behaviour of a broker. All rows share a broker, but each uses
// streams of its own.
type row struct {
	name    string
	section string       // where our notes on RabbitMQ, which are not in this repository, state it
	run     func(r *run) // fails r unless the broker behaves like that

	// since is the first version of RabbitMQ that behaves like that; empty
	// means every version. On an older one, before runs instead of run. If
	// before is nil, the row does not run there.
	since  string
	before func(r *run)

	// alone says that no other row may run at the same time.
	alone bool
}

// group is the rows on a command or a subject.
type group struct {
	name string
	rows []row
}

// table holds all rows.
var table = []group{
	{"handshake", handshakeRows}, {"authenticate", authenticateRows}, {"close", closeRows},
	{"malformed", malformedRows}, {"declare", declareRows}, {"publish", publishRows},
	{"dedup", dedupRows}, {"batch", batchRows}, {"backlog", backlogRows}, {"subscribe", subscribeRows}, {"start", startRows},
	{"credit", creditRows}, {"deliver", deliverRows}, {"offset", offsetRows}, {"create", createRows},
	{"delete", deleteRows}, {"metadata", metadataRows}, {"super", superRows}, {"super-changes", superChangeRows}, {"single", singleRows},
	{"single-super", singleSuperRows}, {"single-changes", singleChangeRows}, {"filter", filterRows}, {"together", togetherRows}, {"stats", statsRows},
	{"resolve", resolveRows}, {"permission", permissionRows}, {"user", userRows}, {"retention", retentionRows},
	{"management", managementRows}, {"alarm", alarmRows},
}

const (
	// patience is how long a row waits for what must come.
	patience = 25 * time.Second
	// differencePatience replaces patience in a row that must fail on
	// streamtest: it may wait for a frame that never comes.
	differencePatience = 2 * time.Second
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Rows mostly wait for a broker, so more of them than processors run at
	// a time.
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", "12") // cannot fail
	}
	code := m.Run()
	fmt.Println(summary())
	os.Exit(code)
}

// ran collects the figures of the summary.
var ran struct {
	brokers  []string
	rows     int
	excluded atomic.Int64
}

func summary() string {
	s := fmt.Sprintf("conformance: %d rows on %s, %d listed differences", ran.rows,
		strings.Join(ran.brokers, " and "), len(differences))
	if n := ran.excluded.Load(); n > 0 {
		s += fmt.Sprintf(", %d rows left out for the version", n)
	}
	return s
}

func TestConformance(t *testing.T) {
	checkTable(t)
	t.Run("streamtest", func(t *testing.T) { runTable(t, newStreamtest(t), true) })
	t.Run("rabbitmq", func(t *testing.T) { runTable(t, newRabbitMQ(t), false) })
}

// checkTable fails the test if a row or a listed difference is incomplete, or
// if a name occurs twice.
func checkTable(t *testing.T) {
	t.Helper()
	names := make(map[string]bool)
	for _, g := range table {
		for _, row := range g.rows {
			name := g.name + "/" + row.name
			if names[name] || row.section == "" || row.run == nil || strings.Contains(row.name, "/") {
				t.Errorf("row %q: twice, without section or function, or with a / in its name", name)
			}
			names[name] = true
		}
	}
	ran.rows = len(names)
	for name, d := range differences {
		if !names[name] || d.reason == "" || d.instead == nil {
			t.Errorf("difference %q: no such row, no reason or nothing instead", name)
		}
	}
}

// runTable runs all rows on b. differing says that b is held to the listed
// differences.
func runTable(t *testing.T, b *broker, differing bool) {
	if !slices.Contains(ran.brokers, b.name) { // with -count the table runs more than once
		ran.brokers = append(ran.brokers, b.name)
	}
	for _, g := range table {
		for _, row := range g.rows {
			if !row.appliesTo(b) {
				ran.excluded.Add(1)
				continue
			}
			t.Run(g.name+"/"+row.name, func(t *testing.T) {
				if !row.alone { // the others begin when those alone are through
					t.Parallel()
				}
				if d, listed := differences[g.name+"/"+row.name]; listed && differing {
					d.check(t, b, row)
					return
				}
				row.on(newRun(t, b, patience))
			})
		}
	}
}

// appliesTo reports whether the row says what the broker's version does.
func (row row) appliesTo(b *broker) bool {
	return row.since == "" || row.before != nil || b.since(row.since)
}

// on runs the part of the row that holds for the broker's version.
func (row row) on(r *run) {
	if row.since == "" || r.since(row.since) {
		row.run(r)
	} else {
		row.before(r)
	}
}
