package streamtest

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Forever, as a number of times, lets a fault last until ClearFaults or until it is set to 0.
const Forever = -1

// faults is what goes wrong on request. Guarded by Broker.mu.
type faults struct {
	refuse        bool
	stopReading   bool
	stopAnswering bool
	withhold      bool
	delay         time.Duration
	answers       map[wire.Key]*forcedAnswer
	truncate      map[wire.Key]int
	corrupt       map[*stream]int
	stores        int // to be lost
}

type forcedAnswer struct {
	code wire.Code
	left int
}

// spend uses one of n times up, if there is any.
func spend(n *int) bool {
	if *n > 0 {
		*n--
		return true
	}
	return *n < 0
}

func (f *faults) answer(key wire.Key) (wire.Code, bool) {
	a := f.answers[key.Request()]
	if a == nil || !spend(&a.left) {
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

// ClearFaults ends every fault that lasts: the broker listens, reads, answers and confirms again, and
// confirms withheld until now are sent. Streams made unavailable are available again. A broker that was
// stopped stays so until Restart.
func (b *Broker) ClearFaults() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = faults{}
	for _, vh := range b.vhosts {
		for _, s := range vh.streams {
			s.down = false
		}
	}
	b.nudge()
}

// nudge makes readers and writers look at the faults again.
func (b *Broker) nudge() {
	for c := range b.conns {
		c.room.Broadcast()
		c.signal()
	}
	b.changed()
}

// set changes the faults under the lock and makes the connections notice.
func (b *Broker) set(change func(*faults)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.faults)
	b.nudge()
}

// AnswerWith makes the broker answer a command with code instead of executing it, as often as times says;
// Forever for always, 0 to end it. Publish is answered by a PublishError, Credit by a CreditResponse,
// Metadata by that code for each stream. What is never answered is lost: StoreOffset, Tune, and the
// client's answer to a ConsumerUpdate.
func (b *Broker) AnswerWith(command Command, code Code, times int) {
	b.set(func(f *faults) {
		if f.answers == nil {
			f.answers = make(map[wire.Key]*forcedAnswer)
		}
		f.answers[command.Request()] = &forcedAnswer{code: code, left: times}
	})
}

// LoseStores makes the broker drop the next StoreOffset commands, as many as n says; Forever for all,
// 0 to end it. Clients cannot notice but by QueryOffset.
func (b *Broker) LoseStores(n int) { b.set(func(f *faults) { f.stores = n }) }

// WithholdConfirms keeps all confirms back until ReleaseConfirms. What is published is stored. A
// connection is not read any more while it waits for more than 50,000 confirms, as in RabbitMQ.
func (b *Broker) WithholdConfirms() { b.set(func(f *faults) { f.withhold = true }) }

// ReleaseConfirms sends the confirms that are withheld or delayed, in order, and ends WithholdConfirms and
// DelayConfirms.
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

// LoseConfirms discards the confirms that are withheld or delayed: what they stand for is stored, and no
// client will learn it on this connection.
func (b *Broker) LoseConfirms() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.held, c.nHeld = nil, 0
	}
	b.nudge()
}

// DelayConfirms sends each confirm d after the message is stored, by real time; 0 ends it for those to
// come.
func (b *Broker) DelayConfirms(d time.Duration) { b.set(func(f *faults) { f.delay = d }) }

// CorruptChunks spoils the checksum of the next n chunks delivered from a stream; Forever for all, 0 to
// end it. What is stored stays whole. It reports whether there is such a stream.
func (b *Broker) CorruptChunks(streamName string, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stream(streamName)
	if s == nil {
		return false
	}
	if b.faults.corrupt == nil {
		b.faults.corrupt = make(map[*stream]int)
	}
	b.faults.corrupt[s] = n
	return true
}

// TruncateNext cuts the next frame the broker sends for a command, be it the response or a frame of its
// own like Deliver, in the middle, and closes the connection after it.
func (b *Broker) TruncateNext(command Command) {
	b.set(func(f *faults) {
		if f.truncate == nil {
			f.truncate = make(map[wire.Key]int)
		}
		f.truncate[command.Request()]++
	})
}
