package broker

import (
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// silentTicks is how many half heartbeats in a row without a read end the
// connection: the keeper notices a silent peer after 1.5 to 2 heartbeats.
const silentTicks = 3

// keepAlive is the keeper. It counts ticks in place of comparing time stamps, so
// that a process that was suspended does not take its own pause for the peer's.
func (c *Conn) keepAlive() {
	defer c.wg.Done()
	tick := time.NewTicker(c.heartbeat / 2)
	defer tick.Stop()
	beat := mustEncode(&wire.Heartbeat{})
	var seen uint64
	for silent := 0; ; {
		select {
		case <-c.ended:
			return
		case <-tick.C:
		}
		if c.hooks.tick != nil {
			c.hooks.tick()
		}
		c.offer(beat) // a full queue shows that the writer is stuck, which its deadline ends
		if n := c.reads.Load(); n != seen {
			seen, silent = n, 0
		} else if silent++; silent >= silentTicks {
			c.fail(fmt.Errorf("%w: %s has been silent for %v", ErrUnreachable, c.endpoint.Address(), silentTicks*c.heartbeat/2))
			return
		}
	}
}

// mustEncode encodes a frame that has no strings and so cannot fail.
func mustEncode(f wire.Frame) []byte {
	b, err := wire.Append(nil, f)
	if err != nil {
		panic("tidemark: " + err.Error())
	}
	return b
}
