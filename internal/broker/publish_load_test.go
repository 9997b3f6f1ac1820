package broker

import "testing"

// A stream has a part of a connection's credit, and the connection less than the
// broker gives it.
func TestLoadRoom(t *testing.T) {
	l := newLoad()
	a, b := l.join("a"), l.join("b")
	if again := l.join("a"); again != a || a.publishers != 2 {
		t.Error("a stream has two parts")
	}
	want := func(ofA, ofB int) {
		t.Helper()
		if gotA, gotB := l.room(a), l.room(b); gotA != ofA || gotB != ofB {
			t.Errorf("room for %d and %d, want %d and %d", gotA, gotB, ofA, ofB)
		}
	}
	want(30_000, 30_000)
	l.sent(a, 30_000)
	want(0, 10_000)
	l.sent(b, 12_000) // a sub-batch more than there is room for
	want(0, 0)
	l.settled(a, 5_000)
	want(3_000, 3_000)
	l.settled(b, 12_000)
	want(5_000, 15_000)
	l.settled(a, 25_000)
	want(30_000, 30_000)
	if l.unconfirmed != 0 || l.lost != 0 {
		t.Errorf("%+v", l)
	}
}

// What a publisher left unconfirmed counts on the connection for good, and not
// for its stream.
func TestLoadLeave(t *testing.T) {
	l := newLoad()
	a := l.join("a")
	l.join("a")
	l.sent(a, 1_000)
	l.leave("a", 700)
	if l.lost != 700 || l.unconfirmed != 1_000 || a.unconfirmed != 300 || l.streams["a"] != a {
		t.Errorf("%+v, the stream %+v", l, a)
	}
	l.settled(a, 300)
	l.leave("a", 0)
	if l.lost != 700 || l.unconfirmed != 700 || len(l.streams) != 0 {
		t.Errorf("%+v", l)
	}
	if l.join("a") == a {
		t.Error("the part of a stream that left is used again")
	}
	l.sentForNobody(5)
	if l.lost != 705 || l.unconfirmed != 705 {
		t.Errorf("%+v", l)
	}
}

// TestLoadLook: who should leave is asked once a second.
func TestLoadLook(t *testing.T) {
	const no, yes = false, true
	for _, test := range []struct {
		name string
		step func(l *load, a, b *streamLoad)
		want []bool // of the looks in a row
	}{
		{"nothing is sent", func(*load, *streamLoad, *streamLoad) {}, []bool{no, no, no, no, no, no}},
		{"one confirms nothing, beside one that goes on", func(l *load, a, b *streamLoad) {
			l.sent(a, 1)
			l.sent(b, 1)
			l.settled(b, 1)
		}, []bool{no, no, no, no, yes, yes}},
		{"one confirms nothing, beside one that does nothing", func(l *load, a, b *streamLoad) {
			l.sent(a, 1)
		}, []bool{no, no, no, no, no, no}},
		{"one confirms nothing, beside one that finds no room", func(l *load, a, b *streamLoad) {
			l.sent(a, 1)
			b.starved = true
		}, []bool{no, no, no, no, yes, yes}},
		{"both confirm nothing, as with a disk alarm", func(l *load, a, b *streamLoad) {
			l.sent(a, 1)
			l.sent(b, 1)
			b.starved = true
		}, []bool{no, no, no, no, no, no}},
		{"both go on", func(l *load, a, b *streamLoad) {
			l.sent(a, 2)
			l.settled(a, 1)
			l.sent(b, 2)
			l.settled(b, 1)
		}, []bool{no, no, no, no, no, no}},
		{"credit is lost", func(l *load, a, b *streamLoad) { l.sentForNobody(1) }, []bool{yes, yes}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLoad()
			a, b := l.join("a"), l.join("b")
			for i, want := range test.want {
				test.step(l, a, b)
				if got := l.look(); got != want {
					t.Errorf("look %d: %v, want %v", i+1, got, want)
				}
			}
		})
	}
}

// A stream that goes on is not taken for one that confirms nothing, however long
// it did.
func TestLoadGoesOn(t *testing.T) {
	l := newLoad()
	a, b := l.join("a"), l.join("b")
	l.sent(a, 10)
	look := func(outcomes int) bool {
		l.sent(b, 1)
		l.settled(b, 1)
		if outcomes > 0 {
			l.settled(a, outcomes)
		}
		return l.look()
	}
	for range stillLooks {
		look(0)
	}
	if !a.isStill() || b.isStill() {
		t.Fatal("it is not still")
	}
	if look(1) || a.isStill() {
		t.Error("it goes on, and is still")
	}
	for range stillLooks - 1 {
		if look(0) {
			t.Error("it waits for its fifth look")
		}
	}
	l.settled(a, 9)
	if look(0) || a.still != 0 {
		t.Error("nothing of it waits, and it is still")
	}
	// What starved is looked at once.
	b.starved = true
	l.look()
	if b.starved {
		t.Error("it starves for good")
	}
}
