package streamtest

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Forever is the number of times for a fault without end. The fault lasts until
// ClearFaults, or until a call sets its number to 0.
const Forever = -1

// faults holds the faults that a test has asked for. Broker.mu guards it.
type faults struct {
	refuse        bool // reset new connections
	stopReading   bool
	stopAnswering bool
	alarm         bool // see SetDiskAlarm
	withhold      bool
	delay         time.Duration
	answers       map[wire.Key]*forcedAnswer
	truncate      map[wire.Key]int // frames to truncate
	corrupt       map[*stream]int  // chunks to corrupt
	stores        int              // StoreOffset commands to lose
	updates       int              // ConsumerUpdate commands to lose
}

// forcedAnswer is the answer to the next commands of a kind.
type forcedAnswer struct {
	code      wire.Code
	remaining int
}

// spend reports whether a fault strikes now. It counts n down, unless n is
// Forever or 0.
func spend(n *int) bool {
	if *n > 0 {
		*n--
		return true
	}
	return *n < 0
}

func (f *faults) answer(key wire.Key) (wire.Code, bool) {
	a := f.answers[key.Request()]
	if a == nil || !spend(&a.remaining) {
		return 0, false
	}
	return a.code, true
}

func (f *faults) truncateNext(key wire.Key) bool {
	n, asked := f.truncate[key.Request()]
	if !asked || !spend(&n) {
		return false
	}
	f.truncate[key.Request()] = n
	return true
}

func (f *faults) corruptNext(s *stream) bool {
	n, asked := f.corrupt[s]
	if !asked || !spend(&n) {
		return false
	}
	f.corrupt[s] = n
	return true
}

func (f *faults) loseStore() bool { return spend(&f.stores) }

// producerEntries begins the names under which producers of package stream store
// whose their name is, in the offset tracking. LoseStores is about offsets.
const producerEntries = "tidemark-producer:"

// ClearFaults ends every fault that lasts. The broker accepts connections,
// reads, answers and confirms again, and sends the confirms that
// WithholdConfirms held back. Streams that SetAvailable made unavailable are
// available, those that SetLeader took the leader from have one, and those that
// SetQuorum took the majority from commit. ClearFaults does not bind what
// UnbindPartition unbound, and does not start a stopped broker; Restart does.
func (b *Broker) ClearFaults() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = faults{}
	for _, vh := range b.vhosts {
		for _, s := range vh.streams {
			s.down, s.leaderless = false, false
			b.commitTail(s, true)
		}
	}
	for c := range b.conns {
		c.stopped, c.lostAnswers = false, 0
	}
	b.nudge()
}

// nudge makes all readers and writers check the faults.
func (b *Broker) nudge() {
	for c := range b.conns {
		c.room.Broadcast()
		c.signal()
	}
	b.changed()
}

// setFaults changes the faults under the mutex and makes the connections
// notice.
func (b *Broker) setFaults(change func(*faults)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.faults)
	b.nudge()
}

// AnswerWith makes the broker answer the next times commands of a kind with
// code instead of executing them. It counts the commands of all connections.
// times may be Forever; 0 ends the fault, and each call replaces the one before
// for the same command.
//
// The broker answers Publish with a PublishError for all messages of the frame,
// and takes the frames behind it: that is harsher than RabbitMQ, which answers
// PublisherDoesNotExist until the publisher is declared again. It answers
// Credit with a CreditResponse, and Metadata with code for each stream.
// StoreOffset, Tune and the client's answer to a ConsumerUpdate have no answer:
// the broker ignores the command. After it refuses Open or SaslAuthenticate,
// the broker closes the connection.
func (b *Broker) AnswerWith(command Command, code Code, times int) {
	b.setFaults(func(f *faults) {
		if f.answers == nil {
			f.answers = make(map[wire.Key]*forcedAnswer)
		}
		f.answers[command.Request()] = &forcedAnswer{code: code, remaining: times}
	})
}

// LoseStores makes the broker drop the next n StoreOffset commands. n may be
// Forever; 0 ends the fault. A command that the broker would not store in any
// case does not count, nor does one by which a producer of package stream keeps its
// name. A client notices the loss only by QueryOffset.
func (b *Broker) LoseStores(n int) { b.setFaults(func(f *faults) { f.stores = n }) }

// WithholdConfirms makes the broker store messages without confirming them,
// until ReleaseConfirms or ClearFaults. Readers get the messages; SetQuorum
// withholds them as well, for one stream. As in RabbitMQ, the broker stops reading
// a connection at 50,000 unconfirmed entries, a sub-batch being one, and goes on
// below 37,500.
// Confirms that DelayConfirms already holds are still sent when they are due.
func (b *Broker) WithholdConfirms() { b.setFaults(func(f *faults) { f.withhold = true }) }

// ReleaseConfirms sends all confirms that are withheld or delayed, in order. It
// ends WithholdConfirms and DelayConfirms.
func (b *Broker) ReleaseConfirms() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults.withhold, b.faults.delay = false, 0
	for c := range b.conns {
		for i := range c.held {
			c.held[i].due = time.Time{}
		}
	}
	b.nudge()
}

// LoseConfirms discards the confirms that are withheld or delayed now. Their
// messages are stored, but the broker never confirms them on these connections, nor takes
// as many others instead: in RabbitMQ the cause is a leader that died, and the
// connection has less room from then on. LoseConfirms does not end WithholdConfirms or DelayConfirms.
func (b *Broker) LoseConfirms() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.held = nil
	}
	b.nudge()
}

// DelayConfirms makes the broker send each confirm d after it stored the
// message. It measures real time, which Advance does not move. A d of 0 ends
// the delay for messages stored from then on.
func (b *Broker) DelayConfirms(d time.Duration) { b.setFaults(func(f *faults) { f.delay = d }) }

// CorruptChunks makes the broker send the next n chunks of a stream with a
// wrong checksum. The stored chunks stay intact. n may be Forever; 0 ends the
// fault. CorruptChunks returns a *StreamError if the stream does not exist.
func (b *Broker) CorruptChunks(streamName string, n int) error {
	return b.withStream("corrupt chunks of", streamName, func(s *stream) {
		if b.faults.corrupt == nil {
			b.faults.corrupt = make(map[*stream]int)
		}
		b.faults.corrupt[s] = n
	})
}

// TruncateNext makes the broker send only about the first half of its next
// frame of a kind and then close the connection. The frame is the response to
// the command, or the command itself if the broker sends it, like Deliver.
// Publish has no response: name PublishConfirm instead. Each call truncates one
// more frame, on whatever connection.
func (b *Broker) TruncateNext(command Command) {
	b.setFaults(func(f *faults) {
		if f.truncate == nil {
			f.truncate = make(map[wire.Key]int)
		}
		f.truncate[command.Request()]++
	})
}
