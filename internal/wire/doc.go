// Package wire is the codec of the RabbitMQ Streams protocol: frames,
// commands, chunks and entries.
//
// It serves both ends. A client encodes requests and decodes responses; the
// in-process broker of package streamtest does the reverse. The layout of each
// command is written once, in its fields method, which drives both encoding
// and decoding. So the two directions cannot disagree.
//
// Commands, which are sent once per connection or per call, favour clarity:
// decoding copies strings and allocates slices. What is sent per message
// (Publish, PublishConfirm, Deliver, chunks and entries) is read in place: an
// iterator returns slices of the frame and allocates nothing.
//
// The package treats every length on the wire as hostile. A decoder never reads
// outside its frame, and never allocates more than a small multiple of the
// bytes it was given. It returns an error that wraps ErrMalformed instead. No
// length overflows an int, also where an int has 32 bits.
//
// FrameReader is the only part that does I/O. Nothing here has a clock, starts
// a goroutine or keeps state of its own.
package wire
