package history

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// script builds a history in milliseconds. The offset of a message is ten times
// its number: the broker's own entries take offsets too.
type script struct {
	records []Record
	faults  []Fault
	polls   []Poll
	now     int64
}

const ms = int64(time.Millisecond)

func (s *script) add(k Kind, member uint16, partition uint8, number uint32) {
	s.now += ms
	s.records = append(s.records, Record{Kind: k, Member: member, Partition: partition, Number: number, Offset: uint64(number) * 10, At: s.now})
}

func (s *script) active(member uint16, number uint32) { s.add(Active, member, 0, number) }
func (s *script) inactive(member uint16)              { s.add(Inactive, member, 0, 0) }

func (s *script) begin(member uint16, number uint32) { s.add(Begun, member, 0, number) }
func (s *script) end(member uint16, number uint32)   { s.add(Ended, member, 0, number) }

// handle begins and ends messages.
func (s *script) handle(member uint16, numbers ...uint32) {
	for _, n := range numbers {
		s.begin(member, n)
		s.end(member, n)
	}
}

// stored sees the offset of a number stored.
func (s *script) stored(number uint32) {
	s.now += ms
	s.polls = append(s.polls, Poll{Offset: uint64(number) * 10, Asked: s.now - ms/2, Answered: s.now})
}

// fault begins now and lasts for so many milliseconds.
func (s *script) fault(k FaultKind, member int, lasts int64) {
	s.faults = append(s.faults, Fault{Kind: k, Member: member, Begin: s.now + 1, End: s.now + lasts*ms})
}

func (s *script) pause(millis int64) { s.now += millis * ms }

// judge judges the history of n messages in one partition, of k keys.
func (s *script) judge(n int, keys uint32) Verdict {
	return Judge(s.records, s.faults, s.polls, Rules{
		Published: []int{n}, KeyOf: func(n uint32) uint32 { return n % keys }, InHand: 1, Notice: 50 * time.Millisecond, Grace: 10 * time.Millisecond,
	})
}

// sound are histories that nothing is wrong with.
var sound = map[string]struct {
	write    func(s *script)
	messages int
	twice    map[Repeat]int
	overlap  map[FaultKind]int
	back     int
}{
	"one member": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1, 2)
		s.stored(1)
		s.stored(2)
		s.inactive(1)
	}, messages: 3},
	"handed over": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.inactive(1)
		s.stored(1)
		s.active(2, 2)
		s.handle(2, 2)
	}, messages: 3},
	"killed with a message in hand": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.begin(1, 1)
		s.fault(Killed, 1, 1)
		s.active(2, 1)
		s.handle(2, 1, 2)
	}, messages: 3, twice: map[Repeat]int{{Killed, InHand}: 1}},
	"killed before it stored": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1, 2)
		s.stored(0)
		s.fault(Killed, 1, 1)
		s.active(2, 1)
		s.handle(2, 1, 2)
	}, messages: 3, twice: map[Repeat]int{{Killed, NotStored}: 2}},
	"cut off, and both go on": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.stored(0)
		s.fault(Cut, 1, 100)
		s.handle(1, 2)
		s.active(2, 1)
		s.begin(2, 1)
		s.begin(1, 3)
		s.end(2, 1)
		s.end(1, 3)
		s.inactive(1)
		s.handle(2, 2, 3, 4)
	}, messages: 5, twice: map[Repeat]int{{Cut, NotStored}: 3}, overlap: map[FaultKind]int{Cut: 1}},
	"stalled at the begin of a message": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.stored(0)
		s.fault(Stalled, 1, 300)
		s.pause(200)
		s.active(2, 1)
		s.handle(2, 1, 2)
		s.pause(100)
		s.handle(1, 1)
		s.inactive(1)
	}, messages: 3, twice: map[Repeat]int{{Stalled, InOverlap}: 1}, overlap: map[FaultKind]int{Stalled: 1}},
	"a loss that it noticed by itself": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.active(2, 1)
		s.handle(2, 1)
		s.begin(1, 2)
		s.add(Lost, 1, 0, 0)
		s.end(1, 2)
		s.inactive(1)
		s.handle(2, 2)
	}, messages: 3, twice: map[Repeat]int{{Noticed, NotStored}: 2}, overlap: map[FaultKind]int{Noticed: 1}},
	"killed before the last store of a term": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.inactive(1)
		s.fault(Killed, 1, 1)
		s.active(2, 1)
		s.handle(2, 1)
	}, messages: 2, twice: map[Repeat]int{{Killed, NotStored}: 1}},
	"the leader moved, and a store is gone": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1, 2)
		s.stored(2)
		s.fault(Moved, 0, 5)
		s.pause(3)
		s.stored(0)
		s.inactive(1)
		s.active(2, 1)
		s.handle(2, 1, 2)
	}, messages: 3, twice: map[Repeat]int{{Moved, NotStored}: 2}, back: 1},
	"seen stored at the moment in which it is handled": {write: func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.polls = append(s.polls, Poll{Offset: 0, Asked: s.now - ms, Answered: s.now})
	}, messages: 1},
	"keys are handled side by side": {write: func(s *script) {
		s.active(1, 0)
		s.begin(1, 0)
		s.begin(1, 1)
		s.end(1, 1)
		s.begin(1, 3)
		s.end(1, 0)
		s.stored(1)
		s.begin(1, 2)
		s.end(1, 2)
		s.end(1, 3)
		s.inactive(1)
	}, messages: 4},
}

func TestSound(t *testing.T) {
	for name, tt := range sound {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			tt.write(s)
			v := s.judge(tt.messages, 2)
			if len(v.Violations) > 0 || v.Handled != tt.messages || v.Back != tt.back {
				t.Errorf("%d handled, back %d, %q", v.Handled, v.Back, v.Violations)
			}
			if fmt.Sprint(v.Twice) != fmt.Sprint(orEmpty(tt.twice)) || fmt.Sprint(v.Overlap) != fmt.Sprint(orEmpty(tt.overlap)) {
				t.Errorf("twice %v, overlap %v", v.Twice, v.Overlap)
			}
		})
	}
}

func orEmpty[K comparable](m map[K]int) map[K]int {
	if m == nil {
		return map[K]int{}
	}
	return m
}

// faulty are histories with one thing wrong, of as many messages as begin with 0.
var faulty = map[string]struct {
	write    func(s *script)
	messages int
	want     []string
}{
	"a message that nobody handled": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
	}, 3, []string{missing}},
	"a message that was begun and not handled": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.begin(1, 1)
	}, 2, []string{missing}},
	"passed over and handled later": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.fault(Killed, 1, 1)
		s.active(2, 2)
		s.handle(2, 2)
		s.fault(Killed, 2, 1)
		s.active(3, 1)
		s.handle(3, 1)
	}, 3, []string{skipped}},
	"the first message passed over and handled later": {func(s *script) {
		s.active(1, 1)
		s.handle(1, 1)
		s.fault(Killed, 1, 1)
		s.active(2, 0)
		s.handle(2, 0)
	}, 2, []string{skipped}},
	"out of order in a term": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 2, 1)
	}, 3, []string{unordered, skipped}},
	"twice in a term": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1, 1)
	}, 2, []string{twiceInTerm}},
	"twice after an orderly end": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.inactive(1)
		s.active(2, 1)
		s.handle(2, 1)
	}, 2, []string{twiceOrderly}},
	"twice, and nothing says that the first is over": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.active(2, 1)
		s.handle(2, 1)
	}, 2, []string{twiceOrderly}},
	"twice, and the fault befell another": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.fault(Killed, 3, 1)
		s.inactive(1)
		s.active(2, 1)
		s.handle(2, 1)
	}, 2, []string{twiceOrderly}},
	"twice, and the fault came after the orderly end": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.inactive(1)
		s.pause(20)
		s.fault(Killed, 1, 1)
		s.active(2, 1)
		s.handle(2, 1)
	}, 2, []string{twiceOrderly}},
	"twice, and the fault was over before the term": {func(s *script) {
		s.fault(Stalled, 1, 1)
		s.pause(20)
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.inactive(1)
		s.active(2, 1)
		s.handle(2, 1)
	}, 2, []string{twiceOrderly}},
	"twice, and another partition's leader moved": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.faults = append(s.faults, Fault{Kind: Moved, Partition: 1, Begin: s.now, End: s.now + ms})
		s.inactive(1)
		s.active(2, 1)
		s.handle(2, 1)
	}, 2, []string{twiceOrderly}},
	"twice though it was seen stored": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.stored(1)
		s.fault(Killed, 1, 1)
		s.active(2, 1)
		s.handle(2, 1)
	}, 2, []string{twiceStored}},
	"before the first term": {func(s *script) {
		s.handle(1, 0)
	}, 1, []string{outside, missing}},
	"after the end of a term": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.inactive(1)
		s.handle(1, 1)
	}, 2, []string{outside, missing}},
	"still in hand at the end of a term": {func(s *script) {
		s.active(1, 0)
		s.begin(1, 0)
		s.inactive(1)
		s.end(1, 0)
	}, 1, []string{outside}},
	"ended and not begun": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.end(1, 0)
	}, 1, []string{outside}},
	"before the place of the term": {func(s *script) {
		s.active(1, 1)
		s.handle(1, 0, 1)
	}, 2, []string{startsWrong}},
	"two go on, and nothing happened": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.active(2, 1)
		s.handle(1, 1)
		s.handle(2, 2)
	}, 3, []string{tooLate}},
	"a member that is cut off goes on for too long": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.fault(Cut, 1, 300)
		s.active(2, 1)
		s.handle(2, 1)
		s.pause(60)
		s.handle(1, 1)
	}, 2, []string{tooLate}},
	"a member that was stalled begins two messages": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.fault(Stalled, 1, 100)
		s.active(2, 1)
		s.handle(2, 1, 2)
		s.pause(100)
		s.handle(1, 1, 2)
	}, 3, []string{tooLate}},
	"a member goes on after it noticed": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.active(2, 1)
		s.handle(2, 1)
		s.add(Lost, 1, 0, 0)
		s.handle(1, 1)
	}, 2, []string{tooLate}},
	"stored before it was handled": {func(s *script) {
		s.active(1, 0)
		s.begin(1, 0)
		s.stored(0)
		s.end(1, 0)
	}, 1, []string{aheadOfMark}},
	"stored over one in hand": {func(s *script) {
		s.active(1, 0)
		s.begin(1, 0)
		s.handle(1, 1)
		s.stored(1)
		s.end(1, 0)
	}, 2, []string{aheadOfMark}},
	"stored above one that was begun and never handled": {func(s *script) {
		s.active(1, 0)
		s.begin(1, 0)
		s.handle(1, 1)
		s.stored(1)
	}, 2, []string{aheadOfMark, missing}},
	"stored, and nobody has begun a message": {func(s *script) {
		s.stored(0)
	}, 1, []string{missing}},
	"the stored offset goes back": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.stored(1)
		s.stored(0)
	}, 2, []string{wentBack}},
	"the stored offset goes back, and a member was killed": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 1)
		s.stored(1)
		s.fault(Killed, 1, 1)
		s.stored(0)
	}, 2, []string{wentBack}},
	"a number that was not published": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0, 7)
	}, 1, []string{notAMessage}},
	"a message with another offset": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.fault(Killed, 1, 1)
		s.active(2, 0)
		s.now += ms
		s.records = append(s.records, Record{Kind: Begun, Member: 2, Number: 0, Offset: 5, At: s.now})
		s.end(2, 0)
	}, 1, []string{offsetDiffers}},
	"a partition that there is not": {func(s *script) {
		s.active(1, 0)
		s.handle(1, 0)
		s.add(Begun, 1, 3, 0)
	}, 1, []string{notAMessage}},
}

func TestFaulty(t *testing.T) {
	for name, tt := range faulty {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			tt.write(s)
			var got []string
			for _, text := range s.judge(tt.messages, 1).Violations {
				kind, _, _ := strings.Cut(text, ":")
				if !slices.Contains(got, kind) {
					got = append(got, kind)
				}
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(tt.want))
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestTooLateSaysHowLate: the text of a violation is what a person has to go by.
func TestTooLateSaysHowLate(t *testing.T) {
	s := &script{}
	s.active(1, 0)
	s.handle(1, 0)
	s.active(2, 1)
	s.pause(6)
	s.handle(1, 1)
	if v := s.judge(2, 1).Violations; len(v) != 1 || !strings.Contains(v[0], "7ms after member 2 began") {
		t.Errorf("%q", v)
	}
}

// TestViolationsAreBounded expects that a history in which everything is wrong can
// be read.
func TestViolationsAreBounded(t *testing.T) {
	if v := (&script{}).judge(1000, 1); len(v.Violations) != maxViolations {
		t.Errorf("%d violations", len(v.Violations))
	}
}

func TestRecord(t *testing.T) {
	want := Record{Kind: Ended, Partition: 200, Member: 60000, Number: 4e9, Offset: 1<<63 + 1, At: -5}
	b := Append(nil, want)
	if got, err := Parse(b); err != nil || got != want || len(b) != Size {
		t.Errorf("%+v, %v, %d bytes", got, err, len(b))
	}
	for _, bad := range [][]byte{nil, b[1:], append([]byte{0}, b[1:]...), append([]byte{byte(Waits) + 1}, b[1:]...)} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("% x is taken for a record", bad)
		}
	}
}
