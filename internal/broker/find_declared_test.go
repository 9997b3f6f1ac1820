package broker

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
)

// TestFindAfterDeclare: who looks for a stream that it has just declared does not
// get the answer of somebody who asked before.
func TestFindAfterDeclare(t *testing.T) {
	_, c := onBroker(t)
	earlier := &askedOnce[Location]{began: time.Now().Add(time.Hour), answered: make(chan struct{}), err: ErrStreamNotFound}
	close(earlier.answered)
	c.finding.open = map[string]*askedOnce[Location]{"s": earlier}
	_, err := c.Find(check.Soon(t), "s")
	check.Nil(t, err)
}
