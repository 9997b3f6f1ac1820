package broker

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// OffsetWriter stores the offsets of one reference on one stream. One goroutine
// uses it at a time.
//
// NewOffsetWriter makes one with a connection that carries nothing but stores.
// When a process is killed while deliveries lie unread in its socket, as they
// usually do, the operating system resets the connection, and the broker drops
// the stores that it has not read yet: hundreds, when messages are handled
// quickly. A connection on which nothing is unread ends in order, and every store
// that was written arrives. All writers of a cluster share such a connection to a
// node.
//
// On that connection each writer has a subscription without credit, which never
// gets a chunk. Without a subscription RabbitMQ 4.0 to 4.3 checks the user's
// permission for each store and reads 40,000 stores a second in place of 400,000
// (handle_frame_post_auth, store_offset in rabbit_stream_reader.erl).
//
// A writer of [Lease.Offsets] uses the connection that delivers, whose
// subscription permits stores, and can store together with others: see
// StoreSoon.
type OffsetWriter struct {
	conn      *Conn
	reference string
	stream    string
	frame     []byte // a StoreOffset frame, which ends with the offset

	batches *batches     // nil: the writer cannot join a batch
	key     batchKey     // of the batch that it can join
	batch   *offsetBatch // that it has joined; nil: none
	source  OffsetSource // what it stores there

	// The batch guards these.
	waiting  bool      // it has an offset for the next batch
	due      time.Time // when the next batch is due, while the writer leads
	sentOver []*Conn   // over which the batch has sent offsets since Settle; the last one's is last

	lease       *Lease // on the shared connection; nil: conn is the caller's
	permittedAt time.Time
	renewal     time.Duration
	lastStore   time.Time
}

const (
	// permitRetry is the pause before a subscription that the broker refused is
	// asked for again.
	permitRetry = time.Second
	// burstGap is how soon a store has to follow the one before to be sent with
	// it.
	burstGap = 50 * time.Microsecond
)

// Offsets returns a writer that stores over the lease's own connection. The
// caller closes the writer before it releases the lease.
func (l *Lease) Offsets(reference, stream string) (*OffsetWriter, error) {
	frame, err := encode(&wire.StoreOffset{Reference: reference, Stream: stream})
	if err != nil {
		return nil, err
	}
	return &OffsetWriter{conn: l.conn.Conn, reference: reference, stream: stream, frame: frame, batches: l.batches, key: batchKey{l.node, stream}}, nil
}

// JoinBatch lets a writer of [Lease.Offsets] store what a source has together
// with other writers of the stream on the node: see StoreSoon.
func (w *OffsetWriter) JoinBatch(source OffsetSource) {
	w.source = source
	w.batches.enter(w)
}

// StoreSoon has the source's offset stored with the next batch, if wanted. A
// batch is what the writers of one stream on one node store together. It leaves
// gap after the one before, and at once if that is longer ago. leads asks the
// caller to call StoreSoon again at a time, wanted or not, to send the batch. If
// the batch is due already, this call sends it; an error says that it could
// not.
//
// JoinBatch comes first.
func (w *OffsetWriter) StoreSoon(ctx context.Context, wanted bool, gap time.Duration) (at time.Time, leads bool, err error) {
	if at, leads = w.batch.join(w, wanted, gap); !leads || time.Now().Before(at) {
		return at, leads, nil
	}
	err = w.batch.send(ctx, w)
	at, leads = w.batch.join(w, false, gap)
	return at, leads, err
}

// StoreNext is StoreSoon for a store that somebody waits for. The gap is a
// millisecond for each other writer of the batch, and longest at most: a writer
// that is alone stores at once.
func (w *OffsetWriter) StoreNext(ctx context.Context, longest time.Duration) (at time.Time, leads bool, err error) {
	return w.StoreSoon(ctx, true, w.batch.shortGap(longest))
}

// Yield says that the source can neither store nor send a batch, because it waits
// for something else. Another writer sends the next batch, if this one had to.
// The source calls StoreSoon again if it has something to store after that.
func (w *OffsetWriter) Yield() { w.batch.yield(w) }

// Retire is Yield of a writer that stores nothing more: batches do not go over
// its connection any more, which may say goodbye.
func (w *OffsetWriter) Retire() {
	if w.batch != nil {
		w.batch.retire(w)
	}
}

// Settle returns once the broker has taken what batches have sent of this writer
// over other connections, so that it does not overtake what the writer stores
// itself from now on, and is there to be read back. It gives up without an error
// when ctx ends, when those connections end, or after a second.
func (w *OffsetWriter) Settle(ctx context.Context) {
	if w.batch == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for _, over := range w.batch.carriedBy(w) {
		_ = over.Ping(ctx)
	}
}

// noteSentOver notes the connection over which a batch has sent an offset. The
// caller holds the batch's lock.
func (w *OffsetWriter) noteSentOver(c *Conn) {
	w.sentOver = append(slices.DeleteFunc(w.sentOver, func(o *Conn) bool { return o == c || !o.Alive() }), c)
}

// lastSentOver returns the connection over which a batch has sent the writer's
// last offset; nil: none has. The caller holds the batch's lock.
func (w *OffsetWriter) lastSentOver() *Conn {
	if len(w.sentOver) == 0 {
		return nil
	}
	return w.sentOver[len(w.sentOver)-1]
}

// appendStore appends a StoreOffset frame.
func (w *OffsetWriter) appendStore(b []byte, offset uint64) []byte {
	b = append(b, w.frame[:len(w.frame)-8]...)
	return binary.BigEndian.AppendUint64(b, offset)
}

// NewOffsetWriter returns a writer with a connection to a node that carries
// nothing but stores. moved gets the name of each stream that was deleted or has
// moved; it must not block. The caller closes the writer.
func (c *Cluster) NewOffsetWriter(ctx context.Context, by Contact, n Node, reference, stream string, moved func(stream string)) (*OffsetWriter, error) {
	frame, err := encode(&wire.StoreOffset{Reference: reference, Stream: stream})
	if err != nil {
		return nil, err
	}
	l := &Lease{node: n, subscriber: movedOnly{moved: moved}}
	err = c.stores.join(ctx, l, func(h hooks) (*Conn, error) {
		return c.dialNode(ctx, by, n, storeLabel, hooks{moved: h.moved})
	})
	if err != nil {
		return nil, err
	}
	w := &OffsetWriter{
		conn: l.conn.Conn, reference: reference, stream: stream, frame: frame,
		lease: l, renewal: c.opts.PermitRenewal,
	}
	if err := w.permit(ctx); err != nil {
		w.CloseWithin(ctx, false)
		return nil, err
	}
	return w, nil
}

// permit makes the subscription without credit. If the broker refuses it, as
// during an election, stores are slow until the next attempt, after permitRetry.
// The error is that of a broker that does not answer.
func (w *OffsetWriter) permit(ctx context.Context) error {
	w.conn.direct.cork(false)
	code, err := w.conn.subscribe(ctx, wire.Subscribe{
		SubscriptionID: w.lease.id, Stream: w.stream,
		Spec: wire.OffsetSpec{Type: wire.OffsetNext}, Properties: wire.Properties{{Key: "name", Value: w.reference}},
	})
	if w.permittedAt = time.Now(); code != wire.CodeOK {
		w.permittedAt = w.permittedAt.Add(permitRetry - w.renewal)
	}
	return err
}

// renewPermit ends the subscription and makes another one.
func (w *OffsetWriter) renewPermit(ctx context.Context) error {
	w.conn.direct.cork(false)
	if err := w.conn.unsubscribe(ctx, w.lease.id); err != nil {
		return err
	}
	return w.permit(ctx)
}

// Store returns when the socket has taken an offset: from then on the offset
// survives the process. more says that another store follows at once. In such a
// burst the kernel sends stores together, because with a packet for each the
// broker is three times as slow. The kernel holds a store back for 200 ms at most.
func (w *OffsetWriter) Store(ctx context.Context, offset uint64, more bool) error {
	binary.BigEndian.PutUint64(w.frame[len(w.frame)-8:], offset)
	if w.lease == nil {
		return w.conn.sendBytes(ctx, w.frame)
	}
	now := time.Now()
	if now.Sub(w.permittedAt) > w.renewal {
		if err := w.renewPermit(ctx); err != nil {
			return err
		}
	}
	burst := more && now.Sub(w.lastStore) < burstGap
	w.lastStore = now
	if burst {
		w.conn.direct.cork(true)
		return w.conn.sendBytes(ctx, w.frame)
	}
	defer w.conn.direct.cork(false)
	return w.conn.sendBytes(ctx, w.frame)
}

// Verify reads back an offset that was stored, for up to a second. If the store
// was lost, it calls resend once, half-way. It gives up with ErrNotStored.
func (w *OffsetWriter) Verify(ctx context.Context, offset uint64, resend func() error) error {
	w.conn.direct.cork(false)
	return w.conn.readBack(ctx, w.reference, w.stream, offset, resend)
}

// Reason returns why the writer's connection ended, and nil while it has not.
func (w *OffsetWriter) Reason() error { return w.conn.Reason() }

// Close ends the use of the writer. inOrder says that what was sent has arrived.
// A connection that carries nothing but stores is released like a lease, with a
// goodbye if it is in order.
func (w *OffsetWriter) Close(inOrder bool) { w.CloseWithin(context.Background(), inOrder) }

// CloseWithin is Close that waits for the peer under ctx.
func (w *OffsetWriter) CloseWithin(ctx context.Context, inOrder bool) {
	if w.batch != nil {
		w.batches.leave(w, inOrder)
	}
	if w.lease != nil {
		w.conn.direct.cork(false)
		w.lease.ReleaseWithin(ctx, inOrder)
	}
}
