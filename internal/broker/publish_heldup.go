package broker

// heldUpFor reports whether a stream other than that of a lease confirms nothing on
// the connection. Whoever came would be asked to leave a second later, and from two
// such connections it would go to and fro.
func (c *sharedConn) heldUpFor(l *Lease) bool {
	select {
	case <-c.dialed:
		return c.sender != nil && c.sender.othersAreStill(l.stream)
	default:
		return false // somebody is dialing it
	}
}

// othersAreStill reports whether a stream other than the given one has confirmed
// nothing for a while.
func (s *sender) othersAreStill(stream string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, other := range s.load.streams {
		if name != stream && other.isStill() {
			return true
		}
	}
	return false
}
