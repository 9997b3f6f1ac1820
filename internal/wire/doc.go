// Package wire is the codec of the RabbitMQ Streams protocol: frames, commands, chunks and entries.
//
// It serves both ends. A client encodes requests and decodes responses; the in-process broker of
// package streamtest does the reverse. So that the two directions cannot disagree, the layout of each
// command is written once (its fields method) and drives encoding and decoding alike.
//
// What is exchanged once per connection or per call (commands) favours clarity: strings are copied,
// slices are allocated. What is exchanged per message (Publish, PublishConfirm, Deliver, chunks and
// entries) is walked in place: an iterator hands out slices of the frame and allocates nothing.
//
// Every length on the wire is taken as hostile: a decoder never reads outside its frame, never
// allocates more than a small multiple of the bytes it was given, and answers ErrMalformed otherwise.
// The package does no I/O of its own beyond FrameReader, has no clock and no state.
package wire
