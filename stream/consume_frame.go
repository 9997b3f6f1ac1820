package stream

import (
	"errors"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// frameGuard notices a chunk that the broker does not send, closing the connection
// with code 14 in its place. The broker does not say whose chunk it was, and
// others may share the connection. So after the first time the run reads from
// there on a connection of its own, and the second time at the same place is
// proof.
type frameGuard struct {
	suspects bool
	place    uint64
}

// alone reports whether the run has to read from a place on a connection of its
// own.
func (g *frameGuard) alone(next mark.Position) bool {
	return g.suspects && g.place == offsetOf(next)
}

// explain returns the error with which the run ends if err is the second refusal
// at a place, and else err.
func (g *frameGuard) explain(err error, next mark.Position) error {
	if !errors.Is(err, broker.ErrFrameRefused) {
		return err
	}
	if g.alone(next) {
		return fmt.Errorf("%w: twice the broker closed the connection in place of sending the chunk at offset %d (%v): raise stream.frame_max in the broker's configuration above the size of that chunk", ErrMessageTooLarge, g.place, err)
	}
	g.suspects, g.place = true, offsetOf(next)
	return err
}

// offsetOf returns the offset at which a position begins, and 0 for one that is
// not an offset.
func offsetOf(next mark.Position) uint64 {
	if next.Spec.Type != wire.OffsetAt {
		return next.From
	}
	return max(next.From, next.Spec.Value)
}
