// Package streamtest is a RabbitMQ Streams broker inside the process, for tests, demos and development:
// what net/http/httptest is to HTTP. Every client of the stream protocol can use it.
//
//	func TestBilling(t *testing.T) {
//		b := streamtest.NewBroker(t)
//		runBilling(t, b.URI())
//		if got, ok := b.Offset("invoices", "billing"); !ok || got != 41 {
//			t.Errorf("stored offset %d, %v; want 41", got, ok)
//		}
//	}
//
// It behaves like a single RabbitMQ 4.3 node and keeps everything in memory: nothing survives Close.
// Authentication, permissions and TLS are real. It is not meant to hold data that matters; where one
// process is too small, the engine is a RabbitMQ cluster.
//
// Beyond the protocol it offers what a test needs: faults as methods (DropConnections, WithholdConfirms,
// AnswerWith, CorruptChunks, Restart and others), a clock to move (Advance, AdvanceHeartbeats), and
// inspection (Messages, Offset, Sequence, Connections, Received, Await).
//
// # Locking
//
// One mutex, Broker.mu, guards all state. A connection has two goroutines: the reader handles one frame
// at a time under the mutex; the writer takes what is to be sent under the mutex and writes without it.
// Neither waits for its peer while holding it. Chunks never change once they are stored, so the writer
// sends them from where they lie.
package streamtest
