package broker

import (
	"sync/atomic"
	"time"
)

// hearing knows when a peer was last heard of, for those who may go on only while
// that is not long ago. It costs nothing until somebody asks: see watch.
//
// The keeper counts ticks, so a process that was stopped gives the peer time to
// show itself. Here the clocks count, because the peer may have given the process
// up meanwhile: the monotonic one or that of the wall, whichever says longer. The
// monotonic clock may stand still while a machine sleeps.
type hearing struct {
	limit   time.Duration // what is longer ago is too long
	began   time.Time     // of mono
	watched atomic.Bool
	mono    atomic.Int64 // ns after began
	wall    atomic.Int64 // ns since 1970
	missed  atomic.Bool  // it once was too long, whatever came later
}

func (h *hearing) init(limit time.Duration) { h.limit, h.began = limit, time.Now() }

// watch makes hearing take note from now on. The peer counts as heard of now.
func (h *hearing) watch() {
	if !h.watched.Load() {
		h.set(time.Now()) // first, because the reader looks at it from then on
		h.watched.Store(true)
	}
}

// heard takes note that bytes have come from the peer. What waited in the socket
// while the process was stopped does not make up for a pause that was too long.
func (h *hearing) heard() {
	if h.watched.Load() {
		now := time.Now()
		h.silentAt(now)
		h.set(now)
	}
}

func (h *hearing) set(now time.Time) {
	h.mono.Store(int64(now.Sub(h.began)))
	h.wall.Store(now.UnixNano())
}

// silentAt reports whether the peer was, at some time until now, not heard of for
// too long.
func (h *hearing) silentAt(now time.Time) bool {
	age := max(int64(now.Sub(h.began))-h.mono.Load(), now.UnixNano()-h.wall.Load())
	if age > int64(h.limit) {
		h.missed.Store(true)
	}
	return h.missed.Load()
}

// silentHeartbeats is after how many heartbeats a peer has been silent for too
// long to go on.
const silentHeartbeats = 2

// WatchPeer makes SilentPeer answer from now on.
func (l *Lease) WatchPeer() { l.conn.hearing.watch() }

// SilentPeer reports whether the peer was not heard of for two heartbeats, by the
// clock that says longer, at some time since the connection's first WatchPeer. The
// connection may live: its keeper counts a process's own pause as nobody's fault. No
// further lease joins it then, because SilentPeer stays true.
func (l *Lease) SilentPeer() bool { return l.conn.hearing.silentAt(time.Now()) }
