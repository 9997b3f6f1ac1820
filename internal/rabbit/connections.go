package rabbit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Connection is a client's stream connection as the broker sees it.
type Connection struct {
	Name             string         `json:"name"` // "CLIENT:PORT -> BROKER:PORT"
	Node             string         `json:"node"` // n1@localhost
	User             string         `json:"user"`
	VHost            string         `json:"vhost"`
	PeerPort         int            `json:"peer_port"` // the client's
	ClientProperties map[string]any `json:"client_properties"`
}

// ClientName is the name the client gave the connection, empty when it gave
// none.
func (c Connection) ClientName() string {
	name, _ := c.ClientProperties["connection_name"].(string)
	return name
}

// The management API knows a connection only some seconds after it was opened;
// the broker itself knows it at once, and one eval takes a third of a second.
const listConnections = `
[begin
   I = rpc:call(N, rabbit_stream_reader, info, [P, [conn_name, user, vhost, peer_port, client_properties]]),
   Get = fun(K) -> proplists:get_value(K, I) end,
   #{name => Get(conn_name), node => N, user => Get(user), vhost => Get(vhost), peer_port => Get(peer_port),
     client_properties => maps:from_list([{K, V} || {K, longstr, V} <- Get(client_properties)])}
 end || N <- rabbit_nodes:list_running(), P <- rpc:call(N, pg_local, get_members, [rabbit_stream_connections]),
        rpc:call(N, erlang, is_process_alive, [P])].`

// dropConnections gets the names of those to drop.
const dropConnections = `
length([P ! {shutdown, <<"dropped by a test">>}
        || N <- rabbit_nodes:list_running(),
           P <- rpc:call(N, pg_local, get_members, [rabbit_stream_connections]),
           [{conn_name, C}] <- [rpc:call(N, rabbit_stream_reader, info, [P, [conn_name]])],
           lists:member(C, [%s])]).`

// Connections lists the stream connections of all nodes that run.
func (i *Instance) Connections(ctx context.Context) ([]Connection, error) {
	var all []Connection
	err := i.eval(ctx, listConnections, &all)
	return all, err
}

// DropConnections closes the stream connections for which match returns true,
// the way the management API does: the broker closes the socket without a Close
// command. It returns how many there were. A nil match means all of them.
func (i *Instance) DropConnections(ctx context.Context, match func(Connection) bool) (int, error) {
	all, err := i.Connections(ctx)
	if err != nil {
		return 0, err
	}
	var names []string
	for _, c := range all {
		if match == nil || match(c) {
			// A name is two addresses; quoting is for a broker that surprises us.
			names = append(names, fmt.Sprintf(`<<"%s">>`, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(c.Name)))
		}
	}
	if len(names) == 0 {
		return 0, nil
	}
	var n int
	err = i.eval(ctx, fmt.Sprintf(dropConnections, strings.Join(names, ",")), &n)
	return n, err
}

// eval evaluates an Erlang expression in a node that runs and decodes its
// value, which has to be one that JSON can express.
func (i *Instance) eval(ctx context.Context, expr string, value any) error {
	if i.external != nil {
		return i.external.refuse("eval")
	}
	for _, n := range i.state.Nodes {
		if n.ready(ctx) != nil {
			continue
		}
		out, err := i.backend.run(ctx, n, "rabbitmqctl", "--silent", "--formatter", "json", "eval", expr)
		if err != nil {
			return err
		}
		result := struct {
			Result string
			Value  any
		}{Value: value}
		if err := json.Unmarshal([]byte(out), &result); err != nil || result.Result != "ok" {
			return fmt.Errorf("eval on %s printed %q: %w", n.Name, strings.TrimSpace(out), errors.Join(err, errBadEval))
		}
		return nil
	}
	return fmt.Errorf("%w: all of %s", ErrNodeDown, i.dir)
}

var errBadEval = errors.New("not the result of an eval")
