package member

import "time"

const (
	// LookEvery is the time between two looks of a Vigil.
	LookEvery = 10 * time.Second
	// firstPatience is how long the stored offset has to stand still until a
	// member joins anew for the first time, and maxPatience bounds that for the
	// later ones, but for the jitter, which adds up to half of it.
	firstPatience = 30 * time.Second
	maxPatience   = 10 * time.Minute
)

// Vigil decides whether a member that waits leaves its group and joins anew,
// because the broker may have forgotten to tell it that it is active (see
// broker.ForgetsMembers). A waiting member of a healthy group hears nothing
// either, and whoever joins anew moves others' partitions. So a Vigil looks only
// after a step-down that the member has answered, until somebody is seen to store;
// and each time it waits longer. The zero value does not look.
//
// It outlives a member: the one that joins anew goes on with it.
type Vigil struct {
	stepped  bool          // a step-down was answered, and nobody is known to be active
	patience time.Duration // how long the offset has to stand still
	looked   bool          // stored is of a look
	stored   uint64        // what the look before has seen
	since    time.Time     // since when that is so
}

// SteppedDown says that the member has answered a step-down.
func (v *Vigil) SteppedDown() {
	*v = Vigil{stepped: true, patience: max(v.patience, firstPatience)}
}

// Promoted says that the broker has told the member that it is active.
func (v *Vigil) Promoted() { *v = Vigil{} }

// Looks reports whether the caller has to look every LookEvery.
func (v *Vigil) Looks() bool { return v.stepped }

// Look takes the name's stored offset, and whether messages wait behind it. It
// reports whether the member has to leave and join anew. jitter is from 0 to 1.
func (v *Vigil) Look(stored uint64, messagesWait bool, now time.Time, jitter float64) (joinAnew bool) {
	switch {
	case !v.stepped:
		return false
	case v.looked && stored != v.stored:
		*v = Vigil{} // somebody is active, and its step-down is its own
		return false
	case !v.looked || !messagesWait:
		v.looked, v.stored, v.since = true, stored, now
		return false
	case now.Sub(v.since) < v.patience:
		return false
	}
	v.looked = false
	next := min(2*v.patience, maxPatience)
	v.patience = next + time.Duration(jitter*float64(next)/2)
	return true
}
