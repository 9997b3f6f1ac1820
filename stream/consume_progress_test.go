package stream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// woken reports whether the storer was woken, and takes note of that.
func woken(p *progress) bool {
	select {
	case <-p.wake:
		return true
	default:
		return false
	}
}

// wantMark fails the test unless the mark is at offset, with so many messages
// unstored. However often it is asked, that does not change.
func wantMark(t *testing.T, p *progress, offset uint64, unstored int64) {
	t.Helper()
	for range 2 {
		if s, ok := p.snapshot(); !ok || s.Mark != offset || p.tracker.Unstored() != unstored {
			t.Errorf("the mark is at %d, %v, with %d unstored, want %d with %d", s.Mark, ok, p.tracker.Unstored(), offset, unstored)
		}
	}
}

// TestMarkFast wakes the storer with the first message only, until the storer
// sleeps again.
func TestMarkFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProgress(StorePolicy{})
		if _, ok := p.snapshot(); ok || woken(p) {
			t.Error("there is a mark before the first message")
		}
		if due, at := p.due(false); due || !at.IsZero() || !p.idle.Load() {
			t.Errorf("due %v, at %v before the first message", due, at)
		}
		if p.markOne(0) || !woken(p) || p.idle.Load() {
			t.Error("the first message waits, or does not wake the storer")
		}
		wantMark(t, p, 0, 1)
		if p.markOne(4) || woken(p) {
			t.Error("the second message waits, or wakes the storer")
		}
		wantMark(t, p, 4, 2)
		if due, _ := p.due(false); !due || p.idle.Load() {
			t.Error("the mark is not due")
		}
		s, _ := p.snapshot()
		p.storedAt(s)
		wantMark(t, p, 4, 0)
		p.markOne(5)
		if due, at := p.due(false); due || !at.Equal(time.Now().Add(mark.AutoInterval)) || p.idle.Load() {
			t.Errorf("due %v, at %v after a store", due, at)
		}
		time.Sleep(mark.AutoInterval)
		if due, _ := p.due(false); !due {
			t.Error("the mark is not due after the interval")
		}
		s, _ = p.snapshot()
		p.storedAt(s)
		if due, at := p.due(false); due || !at.IsZero() || !p.idle.Load() {
			t.Errorf("due %v, at %v when all is stored", due, at)
		}
		if woken(p) {
			t.Error("somebody else has woken the storer")
		}
		if p.markOne(6); !woken(p) {
			t.Error("a message does not wake the storer that sleeps")
		}
	})
}

// TestProgressInterval begins with the first unstored message, whenever the
// storer gets to look.
func TestProgressInterval(t *testing.T) {
	for _, policy := range []StorePolicy{{Interval: time.Minute}, {Interval: time.Minute, Every: 100}} {
		synctest.Test(t, func(t *testing.T) {
			p := newProgress(policy)
			first := time.Now()
			p.markOne(0)
			time.Sleep(10 * time.Second)
			p.markOne(1)
			if due, at := p.due(false); due || !at.Equal(first.Add(time.Minute)) {
				t.Errorf("%+v: due %v, at %v, want a minute after %v", policy, due, at, first)
			}
			time.Sleep(50*time.Second - 1)
			if due, _ := p.due(false); due {
				t.Errorf("%+v: due a moment early", policy)
			}
			time.Sleep(time.Nanosecond)
			if due, _ := p.due(false); !due {
				t.Errorf("%+v: not due after a minute", policy)
			}
			s, _ := p.snapshot()
			p.storedAt(s)
			p.markOne(2)
			if due, at := p.due(false); due || !at.Equal(time.Now().Add(time.Minute)) {
				t.Errorf("%+v: due %v, at %v after a store", policy, due, at)
			}
		})
	}
}

// TestMarkMany: who waits for a store, and who wakes the storer.
func TestMarkMany(t *testing.T) {
	type step struct {
		n            int
		waits, wakes bool
	}
	for name, test := range map[string]struct {
		policy StorePolicy
		steps  []step
	}{
		"default":    {StorePolicy{}, []step{{2, false, true}, {1, false, false}, {1000, false, false}}},
		"counted":    {StorePolicy{Every: 3}, []step{{2, false, false}, {1, true, false}, {1, true, false}}},
		"at once":    {StorePolicy{Every: 3}, []step{{3, true, false}}},
		"both":       {StorePolicy{Every: 3, Interval: time.Hour}, []step{{1, false, true}, {1, false, false}, {1, true, false}}},
		"by request": {StorePolicy{Manual: true}, []step{{1, false, false}, {1000, false, false}}},
	} {
		p := newProgress(test.policy)
		offset, n := uint64(10), int64(0)
		for i, s := range test.steps {
			offset += uint64(s.n)
			n += int64(s.n)
			if waits, wakes := p.markMany(offset, s.n), woken(p); waits != s.waits || wakes != s.wakes {
				t.Errorf("%s, step %d: waits %v, wakes %v", name, i, waits, wakes)
			}
			wantMark(t, p, offset, n)
		}
		s, _ := p.snapshot()
		if p.storedAt(s); p.tracker.Unstored() != 0 {
			t.Errorf("%s: %d are unstored", name, p.tracker.Unstored())
		}
	}
	p := newProgress(StorePolicy{Every: 2})
	if p.markOne(7) || !p.markOne(9) {
		t.Error("the second message of two has to wait for a store, and no other")
	}
	wantMark(t, p, 9, 2)
}

// TestProgressHold: nothing is due while it is held, and the release wakes the
// storer once, whatever the policy.
func TestProgressHold(t *testing.T) {
	for _, policy := range []StorePolicy{{}, {Manual: true}} {
		p := newProgress(policy)
		p.resumeStores()
		if woken(p) || p.storesPaused() {
			t.Error("a release without hold wakes the storer")
		}
		p.pauseStores()
		p.markOne(3)
		woken(p)
		if due, at := p.due(false); due || !at.IsZero() || !p.storesPaused() {
			t.Errorf("due %v, at %v while held", due, at)
		}
		if p.resumeStores(); !woken(p) || p.storesPaused() {
			t.Error("the release does not wake the storer")
		}
		if p.resumeStores(); woken(p) {
			t.Error("a second release wakes the storer")
		}
		if due, _ := p.due(false); due == policy.Manual {
			t.Errorf("%+v: due %v", policy, due)
		}
	}
}

// TestDoubtStore: what was stored is due again at once, and so is what was not
// looked at yet. Without a mark there is nothing.
func TestDoubtStore(t *testing.T) {
	p := newProgress(StorePolicy{Interval: time.Hour})
	p.doubtStore()
	if due, at := p.due(false); due || !at.IsZero() {
		t.Errorf("due %v, at %v without a mark", due, at)
	}
	p.idle.Store(false) // so that nobody folds the message
	p.markOne(3)
	p.doubtStore()
	if due, _ := p.due(false); !due {
		t.Error("the first message is not due")
	}
	s, _ := p.snapshot()
	p.storedAt(s)
	if due, _ := p.due(false); due {
		t.Error("due after a store")
	}
	p.doubtStore()
	if due, _ := p.due(false); !due {
		t.Error("not due after a store that is in doubt")
	}
	wantMark(t, p, 3, 1)
}

// take takes messages of one chunk in hand and returns them with their tickets.
func take(p *progress, chunk mark.ChunkID, size int, offsets ...uint64) []job {
	list := make([]Delivery, len(offsets))
	for i, offset := range offsets {
		list[i].Offset = offset
	}
	return p.takeInHand(chunk, size, 0, list, nil)
}

// TestInHand: the mark moves over what is handled without a gap.
func TestInHand(t *testing.T) {
	p := newProgress(StorePolicy{Every: 1})
	a, b := mark.ChunkID{First: 10}, mark.ChunkID{First: 20}
	want := func(when string, messages, bytes int) {
		t.Helper()
		if m, n := p.inHand(); m != messages || n != bytes {
			t.Errorf("%s: %d messages in %d bytes are in hand, want %d in %d", when, m, n, messages, bytes)
		}
	}
	want("at first", 0, 0)
	jobs := append(take(p, a, 100, 10, 11, 12), take(p, b, 50, 20)...)
	if len(jobs) != 4 || jobs[1].d.Offset != 11 || jobs[3].d.Offset != 20 {
		t.Fatalf("%v are to be handled", jobs)
	}
	want("taken", 4, 150)
	if p.markFinished(jobs[1].ticket) {
		t.Error("a message behind an unfinished one has to wait for a store")
	}
	if _, ok := p.snapshot(); ok {
		t.Error("the mark is behind an unfinished message")
	}
	if !p.markFinished(jobs[0].ticket) {
		t.Error("the message that moves the mark does not have to wait for a store")
	}
	wantMark(t, p, 11, 2)
	want("two handled", 2, 150)
	p.markFinished(jobs[3].ticket)
	if n := p.finishedAhead(); n != 1 {
		t.Errorf("%d messages are handled above the mark, want 1", n)
	}
	p.markFinished(jobs[2].ticket)
	wantMark(t, p, 20, 4)
	want("all handled", 0, 0)
	take(p, b, 50, 21) // of a chunk that comes again, after a reconnect
	want("one more of the last chunk", 1, 50)
}
