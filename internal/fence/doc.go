// Package fence keeps two processes from publishing under one producer's name.
// It is pure: it does no I/O, starts no goroutine, takes no lock and reads no
// clock. Its callers drive it by method calls, and it returns decisions.
//
//	Lease     who may publish under a name, and until when
//	Sequence  which ids a producer uses, and what the broker's answers mean
//	Timing    how long the waits are
//
// DESIGN.md tells the protocol ("Two producers of one name"). What follows is
// what it relies on, of RabbitMQ 4.0 to 4.3 (osiris 1.8 to 1.10).
//
// # What the broker does with a repeat
//
// A stream's writer keeps, for each producer's name, the highest publishing id
// that it has accepted, and the chunk in which that is. An entry is a repeat if
// its id is not above that one, whoever sent it. The writer does not write a
// repeat. It confirms a repeat when the chunk of the name's *highest* id, at
// the time the repeat came, is committed (handle_duplicates in
// osiris_writer.erl). So the confirm of a repeat says: everything up to the
// name's highest id at that time is committed, the original included. It never
// comes before the original's. It does not say that the original has the same
// content.
//
// If the leader is lost first, the repeat is never confirmed.
//
// There is one exception. When the log begins a new segment, the writer puts
// the sequences in front of the chunk that they belong to. If the leader is
// lost after the first of the two was replicated and before the second was, the
// new leader takes the messages of that chunk for repeats and confirms them,
// and they are in no log. No client can see that.
//
// # What the broker answers
//
// QueryOffset and QueryPublisherSequence answer from the writer's memory, so
// they count what is not committed. DeclarePublisher ties a publisher to the
// leader of that moment: what is published later goes to that leader or
// nowhere. Frames of one connection are handled in their order. Between those
// of two connections there is no order, and a frame may be handled long after
// its process has died.
//
// # How to drive it
//
// A Lease is needed from the first message on whose id is counted. Its owner
//
//   - calls Link when DeclarePublisher was answered, and Unlink when the
//     publisher or its connection is lost;
//   - calls Next when something has changed or the time of a Wait has come,
//     with need while there are messages to send, without an outcome, or with a
//     confirm that does not count yet;
//   - for an Ask, notes the time, writes store and queries in one go, and
//     passes the three answers to Answer, and their sequence to Sequence.Look.
//     Answers of a publisher before are dropped;
//   - with the first answer after Link that makes Sure true, passes its
//     sequence to Sequence.Answer, ends the messages that this names, and sends
//     all others that have an id and no outcome again, in order;
//   - gives a new message the id Sequence.Next(Lease.Floor()) only while
//     Lease.Began, and counts it as open (Given.Open) from then on: so it is never
//     written under another attempt than the one that its id is of;
//   - reads the clock in front of each write, and after each confirm, and
//     writes, or settles and calls Sequence.Confirm, only if Sure then. Other
//     confirms are kept until an answer makes it sure, and dropped at Unlink.
//
// Ids of the caller's need Sequence alone: Accept for each, Answer after each
// DeclarePublisher, Last for what the caller is told.
package fence
