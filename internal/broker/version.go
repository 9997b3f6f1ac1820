package broker

import (
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

// SleepsPerSubscription reports whether a broker of a version holds up a
// connection for 1 ms per subscription whenever the subscription's stream grows,
// or gets credit at its end. RabbitMQ does below 4.2.2 (server PR #14766). A
// connection with 100 readers of a stream then takes 10 writes a second, and its
// calls wait. A version that cannot be read counts as a new one.
func SleepsPerSubscription(version string) bool { return olderThan(version, 4, 2, 2) }

// olderThan reports whether a version comes before another one. A version that
// cannot be read counts as a new one.
func olderThan(version string, than ...int) bool {
	release, _, _ := strings.Cut(version, "-")
	release, _, _ = strings.Cut(release, "+")
	parts := strings.Split(release, ".")
	if len(parts) < 2 {
		return false
	}
	for i, want := range than {
		if i == len(parts) {
			return true // 4.2 stands for 4.2.0
		}
		n, err := strconv.Atoi(parts[i])
		switch {
		case err != nil || n > want:
			return false
		case n < want:
			return true
		}
	}
	return false
}

// Version returns the version of the node that the administrative connection
// leads to, such as 4.0.5, or "" while there is no such connection.
func (c *Cluster) Version() string {
	if admin := c.admin.Load(); admin != nil {
		return admin.version
	}
	return ""
}
