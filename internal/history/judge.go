package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Rules says what a group had to do.
type Rules struct {
	// Published is the number of messages in each partition.
	Published []int
	// KeyOf returns the key of a message, within its partition. Messages of
	// one key are handled in order.
	KeyOf func(number uint32) uint32
	// Notice is how long a member that is cut off may go on to begin messages.
	Notice time.Duration
	// InHand is how many messages a member may be about to begin when it is
	// stalled, one for each of its handlers: it begins them when it goes on.
	InHand int
	// Grace is how long the consequences of a fault may take to come.
	Grace time.Duration
}

// Verdict is what Judge found.
type Verdict struct {
	Handled int // messages, each counted once
	Begun   int // calls of a handler
	Terms   int
	Polls   int
	// Twice counts the messages that were begun once more.
	Twice map[Repeat]int
	// Overlap counts the messages that a term began after the next term of
	// the partition had begun, by the fault that allows it.
	Overlap map[FaultKind]int
	// Longest is the longest time from the begin of a term to the last begin
	// of a message in an earlier one.
	Longest time.Duration
	// Back counts how often the stored offset went back when a leader moved.
	Back int
	// Violations says what no fault explains; at most 100 of each kind.
	Violations []string

	kinds map[string]int
}

// Repeat says why a message was begun once more: what the fault found the earlier
// term's handling at.
type Repeat struct {
	Fault FaultKind
	How   How
}

// String returns a text such as "killed, not stored".
func (r Repeat) String() string { return string(r.Fault) + ", " + string(r.How) }

// How says how a message came to be handled twice.
type How string

const (
	// InHand: the earlier term had begun it and not ended it.
	InHand How = "in hand"
	// NotStored: the earlier term had handled it and not stored it.
	NotStored How = "not stored"
	// InOverlap: the earlier term began it after the later term had.
	InOverlap How = "in the overlap"
)

// how tells the three apart.
func how(older, newer handling) How {
	switch {
	case older.begun > newer.begun:
		return InOverlap
	case older.end == 0 || older.end > newer.begun:
		return InHand
	}
	return NotStored
}

const maxViolations = 100

func (v *Verdict) violation(kind, format string, args ...any) {
	if v.kinds[kind]++; v.kinds[kind] <= maxViolations {
		v.Violations = append(v.Violations, kind+": "+fmt.Sprintf(format, args...))
	}
}

// The kinds of violations.
const (
	missing       = "never handled"
	outside       = "outside of a term"
	unordered     = "not in the order of its key"
	skipped       = "passed over"
	twiceInTerm   = "twice in a term"
	twiceOrderly  = "twice after an orderly end"
	twiceStored   = "twice though stored"
	tooLate       = "begun after the next term"
	aheadOfMark   = "stored and not handled"
	wentBack      = "stored offset went back"
	startsWrong   = "a term begins at the wrong place"
	notAMessage   = "never published"
	offsetDiffers = "offset differs"
)

// term is the time in which a member is the active one of a partition.
type term struct {
	member     uint16
	partition  uint8
	next       uint64 // the offset to begin with
	start, end int64  // end is that of its last record
	successor  *term  // the next one of the partition to begin, whoever's
}

// handling is one call of a handler.
type handling struct {
	term       *term
	begun, end int64 // end is 0 if it never ended
}

// judge holds what Judge collects.
type judge struct {
	Rules
	*Verdict
	faults   []Fault
	terms    [][]*term      // by partition, in the order in which they began
	handled  [][][]handling // by partition and number
	offsets  [][]uint64     // by partition and number
	lastKey  map[*term]map[uint32]uint32
	polls    [][]Poll      // by partition
	late     map[Fault]int // messages begun after a stall
	previous [][]int64     // the number before of the same key, or -1
}

// Judge judges a history. records are those of each member in the order in which
// it wrote them; members may be mixed. polls are in the order of Asked for each
// partition.
func Judge(records []Record, faults []Fault, polls []Poll, rules Rules) Verdict {
	j := &judge{
		Rules: rules, Verdict: &Verdict{Twice: map[Repeat]int{}, Overlap: map[FaultKind]int{}, kinds: map[string]int{}},
		faults: slices.Clone(faults), lastKey: map[*term]map[uint32]uint32{}, late: map[Fault]int{},
		polls: make([][]Poll, len(rules.Published)),
	}
	for _, q := range polls {
		j.polls[q.Partition] = append(j.polls[q.Partition], q)
	}
	for _, n := range rules.Published {
		j.terms = append(j.terms, nil)
		j.handled, j.offsets = append(j.handled, make([][]handling, n)), append(j.offsets, make([]uint64, n))
		j.previous = append(j.previous, previousOfKey(n, rules.KeyOf))
	}
	j.collect(records)
	for p := range j.handled {
		slices.SortStableFunc(j.terms[p], func(a, b *term) int { return cmp.Compare(a.start, b.start) })
		for i := 1; i < len(j.terms[p]); i++ {
			j.terms[p][i-1].successor = j.terms[p][i]
		}
		j.polled(uint8(p))
		for n := range j.handled[p] {
			slices.SortStableFunc(j.handled[p][n], func(a, b handling) int { return cmp.Compare(a.begun, b.begun) })
			j.message(uint8(p), uint32(n))
			j.repeats(uint8(p), uint32(n))
		}
	}
	return *j.Verdict
}

// previousOfKey returns for each number the one before it of the same key, or -1.
func previousOfKey(n int, keyOf func(uint32) uint32) []int64 {
	previous, last := make([]int64, n), map[uint32]int64{}
	for i := range previous {
		k := keyOf(uint32(i))
		if at, ok := last[k]; ok {
			previous[i] = at
		} else {
			previous[i] = -1
		}
		last[k] = int64(i)
	}
	return previous
}

// collect reads all records into terms and handlings.
func (j *judge) collect(records []Record) {
	type place struct {
		member    uint16
		partition uint8
	}
	open, latest := map[place]*term{}, map[place]*term{}
	for i := range records {
		r := &records[i]
		at := place{r.Member, r.Partition}
		if r.Kind != Lost && r.Kind != Done && int(r.Partition) >= len(j.Published) {
			j.violation(notAMessage, "partition %d", r.Partition)
			continue
		}
		switch r.Kind {
		case Active:
			t := &term{member: r.Member, partition: r.Partition, next: r.Offset, start: r.At, end: r.At}
			open[at], latest[at] = t, t
			j.terms[r.Partition] = append(j.terms[r.Partition], t)
			j.Terms++
		case Inactive:
			if t := open[at]; t != nil {
				t.end = r.At
				delete(open, at)
			}
		case Begun:
			j.begun(r, open[at])
		case Ended:
			j.ended(r, latest[at], open[at] != nil)
		case Lost:
			j.faults = append(j.faults, Fault{Kind: Noticed, Member: int(r.Member), Begin: r.At - int64(j.Notice), End: r.At})
		}
	}
}

// begun notes that a handler has a message. t is the open term, or nil.
func (j *judge) begun(r *Record, t *term) {
	j.Begun++
	if int(r.Number) >= j.Published[r.Partition] {
		j.violation(notAMessage, "%s", describe(r))
		return
	}
	if t == nil {
		j.violation(outside, "%s begun", describe(r))
		return
	}
	t.end = r.At
	if r.Offset < t.next {
		j.violation(startsWrong, "%s in a term that begins at %d", describe(r), t.next)
	}
	if known := j.handled[r.Partition][r.Number]; len(known) > 0 && j.offsets[r.Partition][r.Number] != r.Offset {
		j.violation(offsetDiffers, "%s was %d before", describe(r), j.offsets[r.Partition][r.Number])
	}
	j.offsets[r.Partition][r.Number] = r.Offset
	keys := j.lastKey[t]
	if keys == nil {
		keys = map[uint32]uint32{}
		j.lastKey[t] = keys
	}
	k := j.KeyOf(r.Number)
	switch last, ok := keys[k]; {
	case ok && last == r.Number:
		j.violation(twiceInTerm, "%s", describe(r))
	case ok && last > r.Number:
		j.violation(unordered, "%s after number %d of key %d", describe(r), last, k)
	}
	keys[k] = r.Number
	j.handled[r.Partition][r.Number] = append(j.handled[r.Partition][r.Number], handling{term: t, begun: r.At})
}

// ended notes that a handler has handled a message. t is the member's latest term,
// and open says that it goes on.
func (j *judge) ended(r *Record, t *term, open bool) {
	if int(r.Number) >= j.Published[r.Partition] {
		return // begun has said so
	}
	all := j.handled[r.Partition][r.Number]
	for i := len(all) - 1; i >= 0; i-- {
		if h := &all[i]; h.term == t && t != nil && h.end == 0 {
			h.end = r.At
			if !open {
				j.violation(outside, "%s ended", describe(r))
				return
			}
			t.end = max(t.end, r.At)
			return
		}
	}
	j.violation(outside, "%s ended and not begun", describe(r))
}

func describe(r *Record) string {
	return fmt.Sprintf("number %d of partition %d, offset %d, by member %d at %d", r.Number, r.Partition, r.Offset, r.Member, r.At)
}

// message judges all handlings of a message: whether it was handled at all, after
// those before it of its key, and by whom that had the right to.
func (j *judge) message(p uint8, n uint32) {
	all := j.handled[p][n]
	if !slices.ContainsFunc(all, func(h handling) bool { return h.end != 0 }) {
		j.violation(missing, "number %d of partition %d", n, p)
	} else {
		j.Handled++
	}
	for _, h := range all {
		j.passedOver(p, n, h)
		j.overlap(p, n, h)
	}
}

// passedOver complains if the message before it of the same key had not been begun
// by anybody.
func (j *judge) passedOver(p uint8, n uint32, h handling) {
	before := j.previous[p][n]
	if before < 0 {
		return
	}
	all := j.handled[p][before]
	if len(all) == 0 || slices.MinFunc(all, func(a, b handling) int { return cmp.Compare(a.begun, b.begun) }).begun > h.begun {
		j.violation(skipped, "number %d of partition %d, begun by member %d after number %d", before, p, h.term.member, n)
	}
}

// overlap looks for a later term of the partition that had begun before h did.
func (j *judge) overlap(p uint8, n uint32, h handling) {
	next := h.term.successor
	if next == nil || next.start >= h.begun {
		return
	}
	for _, f := range j.faults {
		if j.excuses(f, h) {
			j.Overlap[f.Kind]++
			j.Longest = max(j.Longest, time.Duration(h.begun-next.start))
			return
		}
	}
	j.violation(tooLate, "number %d of partition %d, by member %d at %d, %v after member %d began", n, p, h.term.member, h.begun,
		time.Duration(h.begun-next.start), next.member)
}

// excuses says whether a fault explains that h began although the next term had
// begun: the member could not know yet. A member that was stalled may find itself
// at the begin of a message when it goes on.
func (j *judge) excuses(f Fault, h handling) bool {
	if !f.concerns(h.term) || h.begun < f.Begin {
		return false
	}
	notice := f.Begin + int64(j.Notice)
	switch f.Kind {
	case Cut, Dropped:
		return h.begun <= notice
	case Stalled:
		if h.begun > notice {
			j.late[f]++
		}
		return j.late[f] <= j.InHand && h.begun <= max(notice, f.End+int64(j.Grace))
	case Moved:
		return h.begun <= f.End+int64(j.Notice)
	case Noticed:
		return h.begun <= f.End
	}
	return false
}

// concerns says whether a fault befell the member of a term, or the term's
// partition.
func (f Fault) concerns(t *term) bool {
	if f.Kind == Moved {
		return f.Partition == int(t.partition)
	}
	return f.Member == int(t.member)
}

// broken returns the fault that ended a term before its member could store what it
// had handled. The last store follows the end of a term, so that a fault just
// behind the end counts.
func (j *judge) broken(t *term) (Fault, bool) {
	for _, f := range j.faults {
		end := f.End
		if f.Kind == Moved {
			end += int64(j.Grace)
		}
		if f.concerns(t) && f.Begin-int64(j.Grace) <= t.end && end >= t.start {
			return f, true
		}
	}
	return Fault{}, false
}

// repeats judges whether a message may have been handled more than once.
func (j *judge) repeats(p uint8, n uint32) {
	all := j.handled[p][n]
	for i := 1; i < len(all); i++ {
		older, newer := all[i-1], all[i]
		if older.term.start > newer.term.start {
			older, newer = newer, older
		}
		if older.term == newer.term {
			continue // collect has complained
		}
		f, broken := j.broken(older.term)
		switch {
		case !broken:
			j.violation(twiceOrderly, "number %d of partition %d, by members %d and %d", n, p, older.term.member, newer.term.member)
		case f.Kind != Moved && j.storedBefore(p, j.offsets[p][n], newer.term.start):
			j.violation(twiceStored, "number %d of partition %d, by members %d and %d", n, p, older.term.member, newer.term.member)
		default:
			j.Twice[Repeat{f.Kind, how(older, newer)}]++
		}
	}
}

// storedBefore says whether an offset of at least this one was seen stored last
// before a time, and the leader has not moved since.
func (j *judge) storedBefore(p uint8, offset uint64, before int64) bool {
	i, _ := slices.BinarySearchFunc(j.polls[p], before, func(q Poll, at int64) int { return cmp.Compare(q.Answered, at) })
	if i == 0 {
		return false
	}
	q := j.polls[p][i-1]
	return q.Offset >= offset && !j.moved(p, q.Asked, before)
}

// moved says whether the leader of a partition moved between two times.
func (j *judge) moved(p uint8, from, to int64) bool {
	return slices.ContainsFunc(j.faults, func(f Fault) bool {
		return f.Kind == Moved && f.Partition == int(p) && f.Begin <= to && f.End+int64(j.Grace) >= from
	})
}

// polled judges the stored offsets of a partition: never ahead of what is handled,
// and never lower than before.
func (j *judge) polled(p uint8) {
	handledBy := j.handledBy(p)
	for i, q := range j.polls[p] {
		j.Polls++
		if i > 0 {
			j.notBack(p, j.polls[p][i-1], q)
		}
		upTo, _ := slices.BinarySearchFunc(handledBy, q.Offset+1, func(h handledUpTo, offset uint64) int { return cmp.Compare(h.offset, offset) })
		if upTo > 0 && handledBy[upTo-1].at > q.Answered {
			j.violation(aheadOfMark, "partition %d, offset %d at %d", p, q.Offset, q.Answered)
		}
	}
}

// notBack complains if the stored offset fell, unless the leader moved: a store
// that was not committed goes with the old one.
func (j *judge) notBack(p uint8, last, now Poll) {
	switch {
	case now.Offset >= last.Offset:
	case j.moved(p, last.Asked, now.Answered):
		j.Back++
	default:
		j.violation(wentBack, "partition %d, from %d to %d at %d", p, last.Offset, now.Offset, now.Answered)
	}
}

// handledUpTo says when the message at an offset and all before it were handled.
type handledUpTo struct {
	offset uint64
	at     int64
}

// never is later than every time.
const never = math.MaxInt64

// handledBy returns for the messages of a partition, in order, when each and all
// before it were handled. Messages that nobody began have no offset and are left
// out: they are missing.
func (j *judge) handledBy(p uint8) []handledUpTo {
	var list []handledUpTo
	at := int64(0)
	for n, all := range j.handled[p] {
		if len(all) == 0 {
			continue
		}
		first := int64(never)
		for _, h := range all {
			if h.end != 0 {
				first = min(first, h.end)
			}
		}
		at = max(at, first)
		list = append(list, handledUpTo{j.offsets[p][n], at})
	}
	return list
}
