package streamtest

// CreateVHost creates a virtual host, as WithVHost does at Start. It returns false
// if the virtual host exists.
func (b *Broker) CreateVHost(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.vhosts[name] != nil {
		return false
	}
	b.vhosts[name] = newVHost(b, name)
	b.changed()
	return true
}

// DeleteVHost deletes a virtual host with its streams, and cuts its connections
// once the metadata updates are sent on them. It returns false if the virtual
// host does not exist. It only empties the virtual host "/", to which the methods
// of Broker refer.
func (b *Broker) DeleteVHost(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	vh := b.vhosts[name]
	if vh == nil {
		return false
	}
	for _, s := range vh.streams {
		b.deleteStream(s)
	}
	b.addStored(-streamCost*int64(len(vh.supers)), b.full())
	clear(vh.supers)
	for c := range b.conns {
		if c.vhost == vh {
			c.finish() // clients read the metadata updates first
		}
	}
	if name != defaultVHost {
		delete(b.vhosts, name)
	}
	b.changed()
	return true
}
