package stream

// budget shares bytes among the members of a group, which are the
// subscriptions of an Env. A member claims bytes and gives them back. budget is
// pure: no I/O, no clock, no lock.
//
// A member may claim half of what the others leave. So n members that want all
// they can get have 1/(n+1) of the budget each, and as much is left for the
// next one. A member that keeps what it has does not grow while the others
// share the rest. A member with more than its allowance, because others came
// later, gives its claim back as it uses it up and claims less.
type budget struct {
	total   int64
	claimed int64
}

// allowance returns how many bytes a member with a claim may claim.
func (b *budget) allowance(claim int64) int64 {
	others := b.claimed - claim
	return max(b.total-others, 0) / 2
}

// change replaces a member's claim. A claim above the allowance is counted
// too: every member may have a chunk.
func (b *budget) change(claim *int64, to int64) {
	b.claimed += to - *claim
	*claim = to
}
