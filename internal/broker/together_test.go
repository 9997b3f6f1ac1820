package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTogether: one asks for those who come within togetherFor, and whoever comes
// later asks again, as do all if the one who asks is told to end.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all together[string, int]
		var asked atomic.Int64
		question := func(ctx context.Context) (int, error) {
			n := int(asked.Add(1))
			select {
			case <-time.After(time.Second):
				return n, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		got := func(ctx context.Context, key string, want int) func() {
			return func() {
				if n, err := all.ask(ctx, key, question); n != want || err != nil {
					t.Errorf("%d, %v; want %d", n, err, want)
				}
			}
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(got(t.Context(), "a", 1))
		}
		time.Sleep(togetherFor - 1)
		wg.Go(got(t.Context(), "a", 1))
		time.Sleep(time.Nanosecond)
		wg.Go(got(t.Context(), "a", 2))
		synctest.Wait()
		wg.Go(got(t.Context(), "b", 3))
		wg.Wait()
		got(t.Context(), "a", 4)()

		ending, end := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := all.ask(ending, "a", question); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(got(t.Context(), "a", 6))
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := all.ask(impatient, "a", question); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		end()
		wg.Wait()
		if len(all.open) > 0 {
			t.Error("questions are left")
		}
	})
}
