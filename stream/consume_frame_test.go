package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// refusing is a scripted broker that takes the answer to a Close.
func refusing(t *testing.T) *scripted {
	b := startScripted(t)
	b.onCommand = func(_ *script.Peer, key wire.Key, _ []byte) bool { return key == wire.KeyClose.Response() }
	return b
}

var frameTooLarge = &wire.Close{Correlation: 9, Code: wire.CodeFrameTooLarge, Reason: "frame too large"}

// TestChunkAboveTheFrameLimit: the broker closes the connection in place of
// sending a chunk. The second time, the run ends and says where and why.
func TestChunkAboveTheFrameLimit(t *testing.T) {
	beside(t)
	b := refusing(t)
	b.committed = 2
	var refusals atomic.Int64
	b.onSubscribe = func(p *script.Peer, _ int, _ wire.OffsetSpec) {
		b.deliver(p, script.Chunk(0, "a", "b"))
		if _, ok := <-b.creditOf(p); ok {
			refusals.Add(1)
			p.Send(frameTooLarge)
		}
	}
	r := b.run(t, ConsumerConfig{Name: "me"}, nil)
	r.want(t, 0, 1)
	err := recv(t, r.ended, "the end of Run")
	wantErr(t, err, ErrMessageTooLarge)
	if errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "offset 2 ") || !strings.Contains(err.Error(), "stream.frame_max") {
		t.Errorf("%v: would be tried again, or does not say what is wrong", err)
	}
	if n := refusals.Load(); n != 2 || len(r.handled) > 0 {
		t.Errorf("%d refusals, %d messages came again", n, len(r.handled))
	}
	if got, _ := b.storedOffset("me"); got != 1 {
		t.Errorf("stored %d", got)
	}
}

// TestNeighbourAboveTheFrameLimit: a consumer goes on whose connection was closed,
// and closed again, because of another's chunk.
func TestNeighbourAboveTheFrameLimit(t *testing.T) {
	beside(t)
	b := refusing(t)
	b.committed = 100
	neighbour, ended := make(chan struct{}), make(chan struct{})
	b.onSubscribe = func(p *script.Peer, nth int, spec wire.OffsetSpec) {
		switch {
		case spec.Type == wire.OffsetAt && spec.Value == 100:
			p.Send(frameTooLarge)
		case nth == 0:
			b.deliver(p, script.Chunk(0, "a"))
			close(neighbour)
		default:
			b.deliver(p, script.Chunk(0, "a"))
			<-ended
			<-b.creditOf(p)
			p.Write(script.Chunk(1, "b"))
		}
	}
	env := b.env(t)
	reach(t, env, readersPerNode(1))
	innocent, err := env.NewConsumer(testStream, ConsumerConfig{})
	must(t, err)
	handled := make(chan uint64, 10)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- innocent.Run(ctx, func(_ context.Context, d *Delivery) error { handled <- d.Offset; return nil })
	}()
	recv(t, handled, "the first message")
	recv(t, neighbour, "the subscription")
	other, err := env.NewConsumer(testStream, ConsumerConfig{Start: At(100)})
	must(t, err)
	wantErr(t, other.Run(soon(t), func(context.Context, *Delivery) error { return nil }), ErrMessageTooLarge)
	close(ended)
	if got := recv(t, handled, "the message behind"); got != 1 {
		t.Errorf("handled %d", got)
	}
	stop()
	recv(t, done, "the end of Run")
}

// TestFrameGuard: two refusals in a row at one place, and nothing else.
func TestFrameGuard(t *testing.T) {
	refused := fmt.Errorf("%w: %w", ErrUnreachable, broker.ErrFrameRefused)
	var g frameGuard
	for i, step := range []struct {
		err  error
		at   mark.Position
		ends bool
	}{
		{refused, mark.AtOffset(5), false},
		{refused, mark.AtOffset(6), false}, // it got on
		{ErrUnreachable, mark.AtOffset(6), false},
		{refused, mark.AtOffset(6), true},
		{refused, mark.AtFirst(), false},
		{refused, mark.AtFirst(), true},
		{refused, mark.AfterChunk(7), false},
		{refused, mark.AfterChunk(7), true},
	} {
		got := g.explain(step.err, step.at)
		if errors.Is(got, ErrMessageTooLarge) != step.ends || !step.ends && got != step.err {
			t.Errorf("step %d: %v", i, got)
		}
		if errors.Is(step.err, broker.ErrFrameRefused) && !g.alone(step.at) {
			t.Errorf("step %d: the next one shares its connection", i)
		}
	}
	if (&frameGuard{}).alone(mark.AtFirst()) {
		t.Error("alone before anything has happened")
	}
}
