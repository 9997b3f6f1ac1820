package streamtest

import "net"

// Cut says how DropConnections and DropConnection end a connection. In each
// case the broker forgets the connection at once and loses the answers it has
// not yet written.
type Cut int

const (
	// CutFIN closes the connection: the client reads io.EOF.
	CutFIN Cut = iota
	// CutRST resets the connection: the client's next read or write fails.
	CutRST
	// CutSilent keeps the socket open until Close, but handles and sends
	// nothing any more. The client notices only by missing heartbeats.
	CutSilent
)

// DropConnections ends all connections and returns their number. It does not
// keep clients from connecting again.
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

// DropConnection ends the connections whose Connection.Name or
// Connection.ClientName is name. It returns their number.
func (b *Broker) DropConnection(name string, how Cut) int {
	return b.eachNamed(name, func(c *conn) { c.end(how) })
}

// byName returns the connections that have the name, or whose client gave
// itself the name.
func (b *Broker) byName(name string) []*conn {
	var found []*conn
	for c := range b.conns {
		if own, _ := c.properties.Get("connection_name"); c.name == name || own == name && name != "" {
			found = append(found, c)
		}
	}
	return found
}

// RefuseConnections makes the broker reset every new connection at once, until
// it is called with false. The broker still listens; Stop closes the port.
// Connections that are open stay open.
func (b *Broker) RefuseConnections(refuse bool) { b.setFaults(func(f *faults) { f.refuse = refuse }) }

// StopReading makes the broker hang like a stopped process: it accepts
// connections, but handles no command, until ResumeReading. It may read a frame
// that is on its way, but executes it only then. The broker still sends
// heartbeats and does not count the silence of clients. It still closes a
// connection that does not finish its handshake in time, see AdvanceHeartbeats.
func (b *Broker) StopReading() { b.setFaults(func(f *faults) { f.stopReading = true }) }

// ResumeReading ends StopReading. The broker executes what clients have sent
// meanwhile.
func (b *Broker) ResumeReading() { b.setFaults(func(f *faults) { f.stopReading = false }) }

// StopReadingFrom is StopReading for the connections whose Connection.Name or
// Connection.ClientName is name, as if the broker's flow control had stopped them.
// It returns their number. ResumeReadingFrom or ClearFaults ends it.
func (b *Broker) StopReadingFrom(name string) int {
	return b.eachNamed(name, func(c *conn) { c.stopped = true })
}

// ResumeReadingFrom ends StopReadingFrom. It returns the number of connections
// with that name.
func (b *Broker) ResumeReadingFrom(name string) int {
	return b.eachNamed(name, func(c *conn) { c.stopped = false })
}

// eachNamed changes the connections with a name under the mutex and makes them
// notice. It returns their number.
func (b *Broker) eachNamed(name string, change func(*conn)) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	named := b.byName(name)
	for _, c := range named {
		change(c)
	}
	b.nudge()
	return len(named)
}

// SetDiskAlarm with true makes the broker act as if its disk were full, until
// SetDiskAlarm with false or ClearFaults. As in RabbitMQ, it reads one packet more
// from each connection that has a publisher, and then nothing, not even a Close;
// it answers DeclarePublisher with PreconditionFailed; and it says nothing of it.
// Meanwhile it sends confirms, chunks and heartbeats, and does not count the
// silence of these clients. Connections without a publisher are served as always.
func (b *Broker) SetDiskAlarm(on bool) {
	b.setFaults(func(f *faults) {
		for c := range b.conns {
			c.spared = on && !f.alarm && !c.waiting
		}
		f.alarm = on
	})
}

// StopAnswering makes the broker execute commands but send nothing, until
// ResumeAnswering: no responses, confirms, chunks or heartbeats. Chunks wait
// until then. Everything else is lost.
func (b *Broker) StopAnswering() { b.setFaults(func(f *faults) { f.stopAnswering = true }) }

// ResumeAnswering ends StopAnswering. The broker sends the chunks that have
// waited.
func (b *Broker) ResumeAnswering() { b.setFaults(func(f *faults) { f.stopAnswering = false }) }

// SendGarbage sends data to all connections as it is, between two frames. It
// returns the number of connections.
func (b *Broker) SendGarbage(data []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.out = append(c.out, data...)
		c.signal()
	}
	return len(b.conns)
}

// Stop closes the listener and cuts all connections, like a node that goes
// down. The broker keeps its data, and Restart serves it again. A server of package
// management keeps running.
func (b *Broker) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	b.ln.Close() // fails if the broker was already stopped: nothing to report
	b.cutAll(CutFIN)
	b.changed()
}

// Restart stops the broker if it runs, and starts it again on the same port.
// All streams, messages, offsets and publishing ids are still there, and faults
// that last stay in force. Restart fails if another process has taken the port
// or the broker is closed.
func (b *Broker) Restart() error { return b.restart(b.Addr()) }

// RestartOnNewPort is like Restart, but picks a free port. URI and Addr then
// return the new one. It fails if the broker is closed or the system has no
// free port.
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
