package stream

import (
	"testing"
	"time"
)

// flowPipe plays a subscription, its broker and the network between them in
// virtual time. The broker sends a chunk per gap while it has credit, and the
// consumer handles one per pace. The stream has no end.
type flowPipe struct {
	flow      flow
	cost      int64         // memory of a chunk
	delay     time.Duration // of the network, each way
	gap, pace time.Duration

	now     time.Time
	credit  int         // of the broker
	sendAt  time.Time   // when the broker may send its next chunk
	credits []sentFrame // on their way to the broker
	chunks  []time.Time // when the chunks arrive that are on their way
	queue   int         // chunks that the consumer has not taken
	taken   int         // chunks that it has taken and not begun
	busy    bool        // it has a chunk in hand
	doneAt  time.Time   // when it has handled that
	handled int

	returned             int // chunks that flow was not told of
	returnAfter          int
	returnAfterCost, top int64 // top: most bytes that were held or granted
}

// sentFrame is a Credit frame.
type sentFrame struct {
	arrives time.Time
	credit  int
}

// until plays what happens before a time.
func (p *flowPipe) until(end time.Time) {
	for {
		next := end
		sooner := func(pending bool, at time.Time) {
			if pending && at.Before(next) {
				next = at
			}
		}
		sooner(len(p.credits) > 0, first(p.credits, sentFrame.at))
		sooner(len(p.chunks) > 0, first(p.chunks, func(t time.Time) time.Time { return t }))
		sooner(p.credit > 0, p.sendAt)
		sooner(p.busy, p.doneAt)
		if next.After(p.now) {
			p.now = next
		}
		if next == end {
			return
		}
		p.playBroker()
		p.playConsumer()
	}
}

func (f sentFrame) at() time.Time { return f.arrives }

func first[T any](list []T, at func(T) time.Time) (t time.Time) {
	if len(list) > 0 {
		t = at(list[0])
	}
	return t
}

func (p *flowPipe) playBroker() {
	for len(p.credits) > 0 && !p.credits[0].arrives.After(p.now) {
		p.credit += p.credits[0].credit
		p.credits = p.credits[1:]
	}
	if p.credit > 0 && !p.sendAt.After(p.now) {
		p.credit--
		p.sendAt = p.now.Add(p.gap)
		p.chunks = append(p.chunks, p.now.Add(p.delay))
	}
}

// playConsumer is what subscription does: Flush, receive, giveBack.
func (p *flowPipe) playConsumer() {
	for len(p.chunks) > 0 && !p.chunks[0].After(p.now) {
		p.chunks = p.chunks[1:]
		p.flow.arrived(p.cost)
		p.queue++
	}
	if p.busy && !p.doneAt.After(p.now) {
		p.busy = false
		p.handled++
		if p.returned++; p.returned >= p.returnAfter || int64(p.returned)*p.cost >= p.returnAfterCost {
			p.settle()
		}
	}
	if p.busy {
		return
	}
	if p.taken == 0 {
		if p.taken, p.queue = p.queue, 0; p.taken == 0 {
			p.flow.waits(p.now)
		} else {
			p.flow.resumes(p.now)
		}
		p.settle()
	}
	if p.taken > 0 {
		p.taken--
		p.busy, p.doneAt = true, p.now.Add(p.pace)
	}
}

func (p *flowPipe) settle() {
	p.flow.returned(p.returned, int64(p.returned)*p.cost)
	p.returned = 0
	credit := p.flow.grant(defaultMaxBuffered, p.now)
	p.returnAfter, p.returnAfterCost = p.flow.returnAfter()
	if p.top = max(p.top, p.flow.claim()); credit > 0 {
		p.credits = append(p.credits, sentFrame{p.now.Add(p.delay), credit})
	}
}

// TestFlowFillsTheNetwork: a subscription with credit for two round trips' worth
// of chunks neither lets the broker wait for credit nor the consumer for chunks.
// It comes to that within ten round trips, and what it loses until then is less
// than six. Where MaxBuffered is too little for that, it is used.
func TestFlowFillsTheNetwork(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	for name, test := range map[string]struct {
		delay, gap, pace time.Duration
		cost             int64
		want             float64 // of the rate that the slower of the two allows
	}{
		"1 message a chunk, near":          {50 * us, 5 * us, 8 * us, 200, 0.99},
		"1 message a chunk, 1 ms":          {ms, 5 * us, 8 * us, 200, 0.99},
		"1 message a chunk, 5 ms":          {5 * ms, 5 * us, 8 * us, 200, 0.99},
		"1 message, slow broker, 5 ms":     {5 * ms, 8 * us, 5 * us, 200, 0.99},
		"15 messages a chunk, near":        {50 * us, 15 * us, 10 * us, 1700, 0.99},
		"15 messages a chunk, 1 ms":        {ms, 15 * us, 10 * us, 1700, 0.99},
		"15 messages a chunk, 5 ms":        {5 * ms, 15 * us, 10 * us, 1700, 0.99},
		"large chunks, 1 ms":               {ms, 100 * us, 250 * us, 230 << 10, 0.99},
		"large chunks, 5 ms":               {5 * ms, 100 * us, 250 * us, 230 << 10, 0.99},
		"large chunks, slow broker, 5 ms":  {5 * ms, 250 * us, 100 * us, 230 << 10, 0.99},
		"large chunks, quite slow, 5 ms":   {5 * ms, 500 * us, 100 * us, 230 << 10, 0.99},
		"900 KiB a chunk, 5 ms":            {5 * ms, 500 * us, 500 * us, 900 << 10, 0.9},
		"larger than MaxBuffered, 20 ms":   {20 * ms, 250 * us, 250 * us, 230 << 10, 0.55},
		"a broker that sends 10 a second":  {ms, 100 * ms, us, 1700, 0.9},
		"a consumer that takes 10 in 1 s":  {5 * ms, us, 100 * ms, 1700, 0.9},
		"as slow as the network, 15 a one": {5 * ms, 10 * ms, 10 * ms, 1700, 0.9},
	} {
		p := &flowPipe{flow: newFlow(defaultMaxBuffered), delay: test.delay, gap: test.gap, pace: test.pace, cost: test.cost,
			now: noon, sendAt: noon, credit: 1}
		slower, trip := max(test.gap, test.pace), 2*test.delay
		p.playConsumer() // it asks for chunks
		rate := func(d time.Duration) float64 {
			before := p.handled
			p.until(p.now.Add(d))
			return float64(p.handled-before) * float64(slower) / float64(d)
		}
		begin := 10 * max(trip, 4*slower)
		lost := (1 - rate(begin)) * float64(begin)
		if most := 6 * (trip + slower); lost > float64(most) && test.want == 0.99 {
			t.Errorf("%s: the beginning loses %v, want %v at most", name, time.Duration(lost), most)
		}
		if got := rate(3 * time.Second); got < test.want {
			t.Errorf("%s: %.3f of the possible rate, want %.2f", name, got, test.want)
		}
		if p.top > defaultMaxBuffered+p.cost {
			t.Errorf("%s: claims %d bytes", name, p.top)
		}
	}
}
