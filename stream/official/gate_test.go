package official

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/stream"
)

type valueKey struct{}

func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := enter(&client.Environment{})
		defer g.leave()
		value, err := ask(t.Context(), g, g.calls, func() (int, error) { time.Sleep(time.Hour); return 7, nil }, nil)
		if value != 7 || err != nil {
			t.Errorf("%d, %v", value, err)
		}
		_, err = ask(t.Context(), g, g.calls, func() (int, error) { return 0, errTest }, nil)
		wantErr(t, err, errTest)
		_, err = ask(t.Context(), g, g.calls, func() (int, error) { panic("oh") }, nil)
		if err == nil || !strings.Contains(err.Error(), "oh") {
			t.Errorf("a panic became %v", err)
		}
	})
}

// TestAskLeavesBehind: what a call returns too late is cleaned up, and no other
// call of its kind begins before it has ended.
func TestAskLeavesBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := enter(&client.Environment{})
		defer g.leave()
		begun := time.Now()
		ctx, cancel := within(t.Context(), time.Second)
		defer cancel()
		var cleaned time.Duration
		_, err := ask(ctx, g, g.calls, func() (int, error) { time.Sleep(time.Hour); return 7, nil }, func(int) { cleaned = time.Since(begun) })
		wantErr(t, err, stream.ErrUnreachable)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("waited for %v", took)
		}
		ctx, cancel = context.WithTimeoutCause(t.Context(), time.Second, errTest)
		defer cancel()
		_, err = ask(ctx, g, g.calls, func() (int, error) { t.Error("called beside another"); return 0, nil }, nil)
		wantErr(t, err, errTest, context.DeadlineExceeded)
		if _, err := ask(t.Context(), g, g.opens, func() (int, error) { return 0, nil }, nil); err != nil {
			t.Errorf("another kind of call: %v", err)
		}
		if _, err := ask(t.Context(), g, g.calls, func() (int, error) { return 0, nil }, nil); err != nil || cleaned != time.Hour || time.Since(begun) != time.Hour {
			t.Errorf("%v, after %v; cleaned up after %v", err, time.Since(begun), cleaned)
		}
	})
}

// TestShutClosesInAnyCase: nobody else is closed or opened meanwhile.
func TestShutClosesInAnyCase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := enter(&client.Environment{})
		defer g.leave()
		must(t, g.opens.lock(t.Context()))
		ctx, cancel := within(t.Context(), time.Second)
		defer cancel()
		closed := false
		wantErr(t, g.shut(ctx, func() error { closed = true; return nil }), stream.ErrUnreachable)
		synctest.Wait()
		if closed {
			t.Error("closed out of turn")
		}
		g.opens.unlock()
		synctest.Wait()
		if !closed {
			t.Error("not closed")
		}
		wantErr(t, g.shut(t.Context(), func() error { return errTest }), errTest)
	})
}

func TestGateIsForgotten(t *testing.T) {
	env := &client.Environment{}
	g := enter(env)
	if enter(env) != g {
		t.Error("an Environment has two gates")
	}
	g.leave()
	must(t, g.useName(consumerKey{"s", "c"}))
	wantErr(t, g.useName(consumerKey{"s", "c"}), stream.ErrNameInUse)
	must(t, errors.Join(g.useName(consumerKey{"s", ""}), g.useName(consumerKey{"s", ""})))
	g.giveBackName(consumerKey{"s", "c"})
	must(t, g.useName(consumerKey{"s", "c"}))
	g.leave()
	gates.mu.Lock()
	defer gates.mu.Unlock()
	if gates.of[env] != nil {
		t.Error("the gate is kept")
	}
}

// TestDrain: the handlers' context has the values of Run's, and ends after it.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop, cancel := context.WithCancelCause(context.WithValue(t.Context(), valueKey{}, "value"))
		ctx, end := drainContext(stop)
		defer end()
		time.Sleep(time.Hour)
		if ctx.Err() != nil || ctx.Value(valueKey{}) != "value" {
			t.Errorf("%v, %v", ctx.Err(), ctx.Value(valueKey{}))
		}
		cancel(errTest)
		begun := time.Now()
		<-ctx.Done()
		if took := time.Since(begun); took != drainTime || context.Cause(ctx) != errTest {
			t.Errorf("ended after %v with %v", took, context.Cause(ctx))
		}
	})
}

// TestInterruptedHandler: an error after the handler's context has ended is no
// failure.
func TestInterruptedHandler(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{stream: "s", handler: func(context.Context, *Delivery) error { return check.ErrTest }}
	var failed *stream.HandlerError
	if err := r.handle(ctx, delivery{offset: 7}); !errors.As(err, &failed) || failed.Offset != 7 || failed.Attempts != 1 {
		t.Errorf("%v", err)
	}
	cancel()
	wantErr(t, r.handle(ctx, delivery{offset: 7}), errInterrupted)
}
