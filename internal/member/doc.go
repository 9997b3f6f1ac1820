// Package member decides for one member of a group, of which the broker lets one
// at a time be active. It is pure: it does no I/O, starts no goroutine, takes no
// lock and reads no clock. Its callers drive it by method calls, and it returns
// decisions.
//
//	Member  may a message be handed out, may an offset be stored, which answer goes out?
//	Vigil   has the broker forgotten the member, so that it has to join anew?
//
// A member is a subscription. A term is what a member does between the broker's
// word that it is active, the promotion, and the answer to the word that it is no
// longer, the step-down.
package member
