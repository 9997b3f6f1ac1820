package conformance

import (
	"net/http"
	"net/url"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// managementPoll is how often a row asks for a connection. RabbitMQ lists it
// some seconds after it was opened.
const managementPoll = 100 * time.Millisecond

// managementRows say what the management API does to connections.
var managementRows = []row{
	{name: "a connection that is closed there ends without a word", section: "2.7", run: func(r *run) {
		c := r.open()
		name := c.nc.LocalAddr().String() + " -> " + c.nc.RemoteAddr().String()
		poll := time.NewTicker(managementPoll)
		defer poll.Stop()
		r.eventually("closed", func() bool {
			status := r.manage(r, http.MethodDelete, "connections/"+url.PathEscape(name), nil)
			if status == http.StatusNoContent {
				return true
			}
			is(r, status, http.StatusNotFound)
			<-poll.C
			return false
		})
		c.ended()
	}},
	{name: "an unknown connection", section: "17", run: func(r *run) {
		is(r, r.manage(r, http.MethodDelete, "connections/cf-never", nil), http.StatusNotFound)
	}},
	{name: "a virtual host that is deleted takes its connections with it", section: "2.7", run: func(r *run) {
		vhost := "vhosts/" + r.name()
		s := r.name()
		is(r, r.manage(r, http.MethodPut, vhost, struct{}{}), http.StatusCreated)
		is(r, r.manage(r, http.MethodPut, vhost, struct{}{}), http.StatusNoContent)
		c := r.openAs("guest", vhost[len("vhosts/"):])
		is(r, c.create(s), ok)
		is(r, c.declare(1, "", s), ok)
		is(r, r.manage(r, http.MethodDelete, vhost, nil), http.StatusNoContent)
		c.endedAfter(wire.KeyMetadataUpdate) // RabbitMQ sent it 39 times of 40
		is(r, r.manage(r, http.MethodDelete, vhost, nil), http.StatusNotFound)
	}},
}
