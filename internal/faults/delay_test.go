package faults

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// arrivals notes what comes, and when.
type arrivals struct {
	bytes.Buffer
	at []time.Time
}

func (a *arrivals) Write(b []byte) (int, error) {
	a.at = append(a.at, time.Now())
	return a.Buffer.Write(b)
}

// TestDelayLine: everything comes in order and exactly the delay later, and what
// is sent meanwhile does not wait for what is on its way.
func TestDelayLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var got arrivals
		line := newDelayLine(&got, 5*time.Millisecond)
		for i := range 10 {
			if _, err := line.Write([]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if err := line.Close(); err != nil {
			t.Fatal(err)
		}
		if want := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !bytes.Equal(got.Bytes(), want) {
			t.Errorf("got %v, want %v", got.Bytes(), want)
		}
		for i, at := range got.at {
			if after := at.Sub(begin); after != time.Duration(5+i)*time.Millisecond {
				t.Errorf("write %d came after %v, want %d ms", i, after, 5+i)
			}
		}
	})
}

// TestDelayLineBandwidth: many large writes at once all arrive after one delay.
func TestDelayLineBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var got arrivals
		line := newDelayLine(&got, 5*time.Millisecond)
		for range 100 {
			if _, err := line.Write(make([]byte, 100<<10)); err != nil {
				t.Fatal(err)
			}
		}
		_ = line.Close()
		if got.Len() != 100*100<<10 || time.Since(begin) != 5*time.Millisecond {
			t.Errorf("%d bytes after %v", got.Len(), time.Since(begin))
		}
	})
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

// TestDelayLineBroken: the writer hears of it, even one that waits for room.
func TestDelayLineBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newDelayLine(broken{}, time.Millisecond)
		if _, err := line.Write(make([]byte, delayBuffer)); err != nil {
			t.Fatal(err)
		}
		if _, err := line.Write([]byte{1}); err == nil {
			t.Error("no error")
		}
		_ = line.Close()
	})
}
