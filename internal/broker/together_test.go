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

// TestTogetherError: all who wait for a question get its error, and its answer even
// if the one who asks is told to end meanwhile. They ask themselves if it panics.
func TestTogetherError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := errors.New("wrong")
		ending, end := context.WithCancel(t.Context())
		outcomes := []func() (int, error){
			func() (int, error) { return 1, wrong },
			func() (int, error) { end(); return 2, nil },
			func() (int, error) { panic(wrong) },
			func() (int, error) { return 4, nil },
		}
		asked := 0
		var all together[string, int]
		question := func(context.Context) (int, error) {
			asked++
			outcome := outcomes[asked-1]
			time.Sleep(time.Second)
			return outcome()
		}
		for i, want := range []int{1, 2, 4} {
			var wg sync.WaitGroup
			wg.Go(func() {
				defer func() {
					if r := recover(); (r != nil) != (want == 4) {
						t.Errorf("question %d: panic %v", i, r)
					}
				}()
				_, _ = all.ask(ending, "a", question)
			})
			synctest.Wait()
			wg.Go(func() {
				n, err := all.ask(t.Context(), "a", question)
				if n != want || (err == wrong) != (want == 1) {
					t.Errorf("question %d: %d, %v", i, n, err)
				}
			})
			wg.Wait()
		}
		if asked != 4 || len(all.open) > 0 {
			t.Errorf("asked %d times, %d are left", asked, len(all.open))
		}
	})
}
