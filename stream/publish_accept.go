package stream

import (
	"context"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/fence"
)

// accept gives a message its slot; s has who is told of its outcome. With offer it
// returns the link that is to be told, as toOffer does.
func (p *Producer) accept(ctx context.Context, m *Message, s *slot, offer bool) (*link, error) {
	var out outgoing
	if err := p.prepare(ctx, m, &out); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.placeOf(ctx, m, out.size()); err != nil {
		return nil, err
	}
	if err := p.add(m, s, &out); err != nil || !offer {
		return nil, err
	}
	return p.toOffer(), nil
}

// acceptAtOnce is how many messages are accepted under one lock.
const acceptAtOnce = 16

// acceptAll accepts messages for w, from the first on. It returns how many those
// are, and why they are not all.
func (p *Producer) acceptAll(ctx context.Context, msgs []Message, w *waiter) (accepted int, err error) {
	var prepared [acceptAtOnce]outgoing
	for err == nil && accepted < len(msgs) {
		list := msgs[accepted:min(accepted+acceptAtOnce, len(msgs))]
		n := 0
		for n < len(list) && err == nil {
			if err = p.prepare(ctx, &list[n], &prepared[n]); err == nil {
				n++
			}
		}
		taken, refusal := p.acceptList(ctx, list[:n], prepared[:n], w, accepted)
		if accepted += taken; refusal != nil {
			err = refusal
		}
	}
	return accepted, err
}

// acceptList accepts messages that are prepared; the first one is the nth of w.
func (p *Producer) acceptList(ctx context.Context, list []Message, prepared []outgoing, w *waiter, nth int) (accepted int, err error) {
	bytes := 0
	for i := range prepared {
		bytes += prepared[i].size()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	placed := p.placeAtOnce(len(list), bytes)
	for i := range list {
		m, out := &list[i], &prepared[i]
		if !placed {
			err = p.placeOf(ctx, m, out.size())
		}
		if err == nil {
			err = p.add(m, &slot{waits: w, nth: int32(nth + i)}, out)
			bytes -= out.size()
		}
		if err != nil {
			if placed {
				p.quota.free(len(list)-i-1, bytes)
			}
			return i, err
		}
	}
	return len(list), nil
}

// prepare makes out of a message, and refuses one that cannot be published.
func (p *Producer) prepare(ctx context.Context, m *Message, out *outgoing) error {
	if ctx.Err() != nil {
		return broker.ContextError(ctx)
	}
	if m.FilterValue != "" {
		if err := p.checkFilter(m.FilterValue); err != nil {
			return err
		}
	}
	if err := p.encode(m, out); err != nil {
		return err
	}
	return p.checkSize(out.size(), len(m.FilterValue))
}

// placeOf returns when there is a place for a message, and the name is the
// producer's if its id is to be counted. The caller holds the lock, which placeOf
// gives up while it waits.
func (p *Producer) placeOf(ctx context.Context, m *Message, size int) error {
	if p.countsUnderName(m.PublishingID) {
		if err := p.takeName(ctx); err != nil {
			return err
		}
	}
	return p.place(ctx, 1, size)
}

// countsUnderName reports whether the producer counts the id of a message under its
// name: the caller has set none.
func (p *Producer) countsUnderName(id uint64) bool { return p.cfg.Name != "" && id == 0 }

// add gives a message that has a place its slot, or the place back; s has who is
// told of its outcome. It copies the message. The caller holds the lock.
func (p *Producer) add(m *Message, s *slot, out *outgoing) error {
	size := out.size()
	s.size = int32(size)
	err := p.checkSize(size, len(m.FilterValue)) // the connection may be another one now
	if err == nil {
		s.id, err = p.nextID(m.PublishingID)
	}
	if err != nil {
		p.quota.free(1, size)
		return err
	}
	p.compressBeside(p.box.add(s, m.FilterValue, out))
	return nil
}

// nextID returns the id for a message: own, its caller's, or a counted one for 0.
func (p *Producer) nextID(own uint64) (uint64, error) {
	switch {
	case own == 0:
		id, err := p.sequence.Next(p.naming.floor())
		if err != nil {
			err = sequenceError(err)
		}
		return id, err
	case own <= p.box.lastID:
		return 0, fmt.Errorf("%w: publishing id %d is not above the last one, %d", ErrInvalidMessage, own, p.box.lastID)
	}
	return own, sequenceError(p.sequence.Accept(own))
}

// acceptBatch accepts the messages as a sub-batch of their own, or none of them.
func (p *Producer) acceptBatch(ctx context.Context, msgs []Message, w *waiter) error {
	if len(msgs) > p.cfg.SubEntries || p.cfg.SubEntries < 2 {
		return fmt.Errorf("%w: a sub-batch of %d messages, and ProducerConfig.SubEntries is %d: set it to at least as many, and to 2 or more", ErrInvalidConfig, len(msgs), p.cfg.SubEntries)
	}
	if ctx.Err() != nil {
		return broker.ContextError(ctx)
	}
	list, bytes, err := p.outgoingBatch(msgs)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.countsUnderName(msgs[0].PublishingID) {
		if err := p.takeName(ctx); err != nil {
			return err
		}
	}
	if err := p.place(ctx, len(msgs), bytes); err != nil {
		return err
	}
	if err := p.checkSize(bytes, 0); err != nil { // the connection may be another one now
		p.quota.free(len(msgs), bytes)
		return err
	}
	return p.addBatch(msgs, list, w, bytes)
}

// outgoingBatch encodes the messages of a sub-batch. It returns how many bytes its
// records have.
func (p *Producer) outgoingBatch(msgs []Message) (list []outgoing, bytes int, err error) {
	list = make([]outgoing, len(msgs))
	for i := range msgs {
		m := &msgs[i]
		if m.FilterValue != "" {
			return nil, 0, p.checkFilter(m.FilterValue)
		}
		if err := p.encode(m, &list[i]); err != nil {
			return nil, 0, err
		}
		bytes += list[i].size() + recordOverhead
		if err := p.checkSize(bytes, 0); err != nil {
			return nil, 0, err
		}
	}
	return list, bytes, checkBatchIDs(msgs)
}

// checkBatchIDs refuses ids of the caller's that would end a sub-batch in the
// middle.
func checkBatchIDs(msgs []Message) error {
	counted, last := msgs[0].PublishingID == 0, uint64(0)
	for i := range msgs {
		switch id := msgs[i].PublishingID; {
		case (id == 0) != counted:
			return fmt.Errorf("%w: some messages of a sub-batch have a PublishingID and others have none: set it for all or for none", ErrInvalidMessage)
		case counted:
		case id > fence.MaxID:
			return fmt.Errorf("%w: publishing id %d is not one from 1 to %d", ErrInvalidMessage, id, uint64(fence.MaxID))
		case id <= last:
			return fmt.Errorf("%w: publishing id %d is not above the last one, %d", ErrInvalidMessage, id, last)
		default:
			last = id
		}
	}
	return nil
}

// addBatch adds the messages of a sub-batch: one, whatever a frame takes, which is
// not known before the first connection. The caller holds the lock and has places
// for them.
func (p *Producer) addBatch(msgs []Message, list []outgoing, w *waiter, bytes int) error {
	var b *publishFrame
	for i := range list {
		id, err := p.nextID(msgs[i].PublishingID)
		if err != nil {
			p.quota.free(len(msgs)-i, bytes)
			if i == 0 {
				return err
			}
			w.refuse(i, err) // the ids have come to their end
			break
		}
		s := &slot{id: id, waits: w, nth: int32(i), size: int32(list[i].size() + recordOverhead)}
		bytes -= int(s.size)
		if b == nil {
			var complete *publishFrame
			b, complete = p.box.newSubBatch()
			p.compressBeside(complete)
		}
		p.box.addRecord(b, s, &list[i])
	}
	p.compressBeside(p.box.seal())
	return nil
}

// place returns when there are places for n messages. The caller holds the lock,
// which place gives up while it waits.
func (p *Producer) place(ctx context.Context, n, bytes int) error {
	if p.refusal != nil {
		return p.refusal
	}
	if n > p.cfg.MaxInFlight {
		return fmt.Errorf("%w: %d messages at once, and ProducerConfig.MaxInFlight is %d: set it to at least as many", ErrInvalidConfig, n, p.cfg.MaxInFlight)
	}
	switch {
	case p.quota.take(n, bytes):
		return nil
	case p.stalled.on:
		return p.stallError()
	case p.calls.mine():
		return p.placeForCallback(ctx, n, bytes)
	}
	return p.placeInLine(ctx, n, bytes)
}

// placeInLine is place where the caller has to wait for his turn.
func (p *Producer) placeInLine(ctx context.Context, n, bytes int) error {
	p.inLine.Add(1) // before collect: from now on, who returns a place looks
	defer p.inLine.Add(-1)
	t, stalled := p.quota.wait(n, bytes), p.stalled.begun
	p.collect()
	p.unlocked(func() {
		p.offer(false)
		select {
		case <-t.granted:
		case <-stalled:
		case <-ctx.Done():
		}
	})
	switch had := p.quota.leave(t); {
	case p.refusal != nil:
		if had {
			p.quota.free(n, bytes)
		}
		return p.refusal
	case had:
		return nil
	case ctx.Err() != nil:
		return broker.ContextError(ctx)
	}
	return p.stallError()
}

// placeAtOnce takes places for n messages if that needs no wait. The caller holds the
// lock.
func (p *Producer) placeAtOnce(n, bytes int) bool {
	return p.cfg.Name == "" && p.refusal == nil && !p.stalled.on && p.quota.takeTogether(n, bytes)
}

// placeForCallback is place within a callback. The messages whose callbacks wait
// for this one to return have places, for which it must not wait.
func (p *Producer) placeForCallback(ctx context.Context, n, bytes int) error {
	for p.refusal == nil && !p.quota.fitsWithoutCallbacks(n, bytes) {
		slack := make(chan struct{})
		p.slack = slack
		p.unlocked(func() {
			p.offer(false)
			select {
			case <-slack:
			case <-ctx.Done():
			}
		})
		switch {
		case ctx.Err() != nil:
			return broker.ContextError(ctx)
		case p.stalled.on:
			return p.stallError()
		}
	}
	if p.refusal != nil {
		return p.refusal
	}
	p.quota.force(amountOf(n, bytes))
	return nil
}

// offer tells the connection that there is something to send. now writes it on
// the caller's goroutine if possible: for who waits for the outcome.
func (p *Producer) offer(now bool) {
	p.mu.Lock()
	l := p.toOffer()
	p.mu.Unlock()
	switch {
	case l == nil:
	case now:
		l.pub.SendNow()
	default:
		l.pub.Ready()
	}
}

// toOffer returns the link that is to be told that there is something to send, or
// nil if there is none, or if it knows, or if what comes next is being compressed:
// who does that tells it. The caller holds the lock.
func (p *Producer) toOffer() *link {
	l := p.link
	if l == nil || l.offered || p.box.held() {
		return nil
	}
	l.offered = true
	return l
}

// tell notes the outcome of messages; told passes it on. The caller holds the
// lock.
func (p *Producer) tell(b *publishFrame, slots []slot, err error) {
	for len(slots) > 0 {
		run := sameListener(slots)
		slots = slots[len(run):]
		if run[0].done != nil {
			b.calls++
			p.telling = append(p.telling, outcome{frame: b, slots: run, err: p.failed(err), to: &p.quota.back})
			continue
		}
		if w := run[0].waits; w != nil {
			w.settle(run, err)
		}
		p.freed += len(run)
		for i := range run {
			p.freedOf += int(run[i].size)
		}
	}
}

// told passes on the outcomes that tell has noted: to callbacks, and as free
// places. The caller holds the lock.
func (p *Producer) told() {
	if len(p.telling) > 0 {
		p.calls.add(p.telling...)
		clear(p.telling)
		p.telling = p.telling[:0]
	}
	if p.freed > 0 {
		p.quota.free(p.freed, p.freedOf)
		p.freed, p.freedOf = 0, 0
	}
	p.wakeCallback()
	p.reached()
}

func (p *Producer) checkFilter(value string) error {
	if p.cfg.SubEntries > 1 {
		return fmt.Errorf("%w: a FilterValue does not go with SubEntries: the broker filters chunks by single messages", ErrInvalidMessage)
	}
	if len(value) > maxName {
		return fmt.Errorf("%w: the FilterValue has %d bytes; at most %d are kept", ErrInvalidMessage, len(value), maxName)
	}
	if p.noFilters.Load() {
		return errNoFilters
	}
	return nil
}

// errNoFilters refuses a filter value where the broker has none.
var errNoFilters = fmt.Errorf("%w: the FilterValue needs RabbitMQ 3.13 or newer: leave it out", ErrUnsupported)

// checkSize returns an error for a message, with a filter value, that does not fit
// into a frame of the current connection.
func (p *Producer) checkSize(size, filter int) error {
	overhead := messageOverhead
	if filter > 0 {
		overhead += 2 + filter
	}
	if room := int(p.room.Load()); room > 0 && size > room-overhead {
		return fmt.Errorf("%w: %d bytes encoded; at most %d fit into a frame of this broker (stream.frame_max)", ErrMessageTooLarge, size, room-overhead)
	}
	return nil
}

// largestMessage is what an encoded message may have, 0 for any size.
func (p *Producer) largestMessage() int {
	return max(int(p.room.Load())-messageOverhead, 0)
}
