package broker

import (
	"slices"
	"strconv"
	"strings"
)

// spreadConns is how many connections to a node leases spread over where
// subscriptions slow down their neighbours; see SleepsPerSubscription and
// subscriptionsOfStream.
const spreadConns = 256

// subscriptionsOfStream is how many subscriptions of one stream share a
// connection, whatever the broker's version, while there are fewer than
// spreadConns to the node. Whenever the stream grows, the broker tries to send to
// each of them for each of them: with 250 on a connection RabbitMQ 4.3.6 had no
// time for the stores of 1,000 consumers.
const subscriptionsOfStream = 16

// leasesOfConn is how many leases share a connection for reading, while there are
// fewer than crowdConns to the node. One process of the broker does everything for
// a connection in turn, the stores included. With 1,000 streams of a consumer
// each and 2 messages a second in each, a message came after 27 to 107 ms (99th
// percentile, RabbitMQ 4.3.6) over 5 connections, 11 to 13 over 17, 6 to 20 over
// 64, and 13 to 18 over 128.
const (
	leasesOfConn = 16
	crowdConns   = 64
)

// SleepsPerSubscription reports whether a broker of a version holds up a
// connection for 1 ms per subscription whenever the subscription's stream grows,
// or gets credit at its end. RabbitMQ does below 4.2.2 (server PR #14766). A
// connection with 100 readers of a stream then takes 10 writes a second, and its
// calls wait. A version that cannot be read counts as a new one.
func SleepsPerSubscription(version string) bool { return olderThan(version, release{4, 2, 2}) }

// olderThan reports whether a version comes before another one. A version that
// cannot be read counts as a new one.
func olderThan(version string, than release) bool {
	v, ok := parseVersion(version)
	return ok && v.before(than)
}

// ForgetsMembers reports whether a broker of a version may choose a member of a
// group again while it steps down, and never tell it: the group then has no active
// member until one joins or leaves. RabbitMQ 4.1.2 to 4.1.8, all of 4.2, and 4.3.0
// to 4.3.3 do (PROTOCOL-FACTS, section 20). A version that cannot be read counts
// as one that does not.
func ForgetsMembers(version string) bool {
	v, ok := parseVersion(version)
	within := func(first, fixed release) bool { return !v.before(first) && v.before(fixed) }
	return ok && (within(release{4, 1, 2}, release{4, 1, 9}) || within(release{4, 2, 0}, release{4, 3, 4}))
}

// release is a version of RabbitMQ: major, minor and patch.
type release [3]int

func (r release) before(other release) bool { return slices.Compare(r[:], other[:]) < 0 }

// parseVersion reads a version such as 4.0.5 or 4.3.0-rc.1+build. What is missing
// behind the minor version is 0. ok is false for what is no version.
func parseVersion(version string) (r release, ok bool) {
	text, _, _ := strings.Cut(version, "-")
	text, _, _ = strings.Cut(text, "+")
	parts := strings.Split(text, ".")
	if len(parts) < 2 {
		return r, false
	}
	for i := range min(len(parts), len(r)) {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return r, false
		}
		r[i] = n
	}
	return r, true
}

// Version returns the version of the node that the administrative connection
// leads to, such as 4.0.5, or "" while there is no such connection.
func (c *Cluster) Version() string {
	if admin := c.admin.Load(); admin != nil {
		return admin.version
	}
	return ""
}
