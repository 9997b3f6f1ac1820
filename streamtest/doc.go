// Package streamtest runs a RabbitMQ Streams broker inside the process, for
// tests, demos and development. It is to the stream protocol what
// net/http/httptest is to HTTP. Every client of the protocol can use it.
//
//	func TestBilling(t *testing.T) {
//		b := streamtest.NewBroker(t)
//		runBilling(t, b.URI())
//		if got, ok := b.Offset("billing", "invoices"); !ok || got != 41 {
//			t.Errorf("stored offset %d, %v; want 41", got, ok)
//		}
//	}
//
// The broker behaves like a single node of RabbitMQ 4.3. It really
// authenticates clients, checks their permissions and speaks TLS. It keeps
// everything in memory: the data survives Stop and Restart, but not Close. Do
// not entrust it with data that matters. Where one process is too small, use a
// RabbitMQ cluster.
//
// A test gets four things beyond the protocol:
//
//   - streams and messages without a client: CreateStream, Publish;
//   - faults as methods: DropConnections, WithholdConfirms, AnswerWith,
//     CorruptChunks, Restart and others;
//   - clocks that it can move: Advance for the age of data, AdvanceHeartbeats
//     for heartbeats and time-outs;
//   - inspection: Messages, Offset, Sequence, Connections, Received, Await.
//
// Package management, in a folder below, adds a part of RabbitMQ's HTTP API.
//
// # Locking
//
// This section is for those who change the package. One mutex, Broker.mu,
// guards all state. Each connection has two goroutines. The reader handles one
// frame at a time under the mutex. It keeps what Publish frames contain until
// no more frames are at hand, and then writes it to the streams. The writer
// collects under the mutex what it has to send, and writes it without the
// mutex. Neither waits for its client while it holds the mutex. A chunk never
// changes once it is stored, so the writer sends it from where it is stored; it
// copies only chunks of less than 4 KiB.
package streamtest
