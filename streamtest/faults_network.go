package streamtest

import "net"

// Cut is a way in which a connection ends.
type Cut int

const (
	CutFIN    Cut = iota // closed; the peer reads the end of the stream
	CutRST               // reset; the peer's next read or write fails
	CutSilent            // nothing is read or sent any more, but the socket stays open until the broker is closed: the peer notices by its heartbeats only
)

// DropConnections ends all connections and returns how many there were. New ones are welcome.
func (b *Broker) DropConnections(how Cut) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cutAll(how)
}

func (b *Broker) cutAll(how Cut) int {
	n := len(b.conns)
	for c := range b.conns {
		c.end(how)
	}
	return n
}

// DropConnection ends the connections of that name, which is Connection.Name or the name the client gave
// itself, and returns how many there were.
func (b *Broker) DropConnection(name string, how Cut) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	named := b.byName(name)
	for _, c := range named {
		c.end(how)
	}
	return len(named)
}

// byName returns the connections of a name.
func (b *Broker) byName(name string) []*conn {
	var found []*conn
	for c := range b.conns {
		if own, _ := c.properties.Get("connection_name"); c.name == name || own == name && name != "" {
			found = append(found, c)
		}
	}
	return found
}

// RefuseConnections makes the broker reset every new connection at once, until called with false. The
// port stays its own; to have nobody listen there, use Stop.
func (b *Broker) RefuseConnections(refuse bool) { b.set(func(f *faults) { f.refuse = refuse }) }

// StopReading makes the broker accept connections and read nothing from them, as a process that hangs;
// ResumeReading ends it. Heartbeats are still sent. What is on its way may be read but is not executed
// before then.
func (b *Broker) StopReading() { b.set(func(f *faults) { f.stopReading = true }) }

// ResumeReading ends StopReading.
func (b *Broker) ResumeReading() { b.set(func(f *faults) { f.stopReading = false }) }

// StopAnswering makes the broker read and execute commands but send nothing, neither responses and
// confirms nor chunks and heartbeats; ResumeAnswering ends it. Chunks wait, everything else is lost.
func (b *Broker) StopAnswering() { b.set(func(f *faults) { f.stopAnswering = true }) }

// ResumeAnswering ends StopAnswering.
func (b *Broker) ResumeAnswering() { b.set(func(f *faults) { f.stopAnswering = false }) }

// SendGarbage writes bytes, as they are, to all connections between two frames, and returns how many
// connections that were.
func (b *Broker) SendGarbage(data []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.out = append(c.out, data...)
		c.signal()
	}
	return len(b.conns)
}

// Stop closes the listener and cuts the connections, as a node that goes down. What is stored is kept;
// Restart brings it back.
func (b *Broker) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	b.ln.Close() // again after Stop: nothing to report
	b.cutAll(CutFIN)
	b.changed()
}

// Restart stops the broker, if it runs, and starts it again on the same port with everything that is
// stored. It fails when the port was taken meanwhile or the broker is closed.
func (b *Broker) Restart() error { return b.restart(b.Addr()) }

// RestartOnNewPort is Restart on a free port: URI and Addr change.
func (b *Broker) RestartOnNewPort() error {
	host, _, err := net.SplitHostPort(b.Addr())
	if err != nil {
		return err
	}
	return b.restart(net.JoinHostPort(host, "0"))
}

func (b *Broker) restart(addr string) error {
	b.Stop()
	return b.listen(addr)
}
