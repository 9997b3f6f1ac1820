package main

import "context"

// The implementations.
const (
	implTidemark = "tidemark"
	implOfficial = "official"
	implSocket   = "socket"
)

var implementations = []string{implTidemark, implOfficial, implSocket}

// content is what a stream is filled with before it is measured.
type content string

const (
	contentPlain content = "plain" // a message per entry
	contentZstd  content = "zstd"  // sub-batches of batchRecords messages
	// The others have a stream of their own for each measurement: what is
	// published, and each store, is in the stream for the one that follows.
	contentOwn  content = "own"  // filled like plain
	contentNone content = "none" // empty
)

// own reports whether each measurement has a stream of its own.
func (c content) own() bool { return c == contentOwn || c == contentNone }

// benchCase is one thing that is measured.
type benchCase struct {
	name, about string
	content     content
	// n is how many messages there are of a size, at most.
	n func(size int) int
	// run measures one implementation.
	run map[string]runner
}

// runner does the work of one case in the child and tells the meter. It
// returns when m has ended and everything is closed.
type runner func(ctx context.Context, j job, m *meter) error

var allCases = []benchCase{
	{"consume", "read without a name, nothing stored", contentPlain, upTo(2_000_000, 400_000_000), map[string]runner{
		implTidemark: consumeTidemark(anonymous), implOfficial: consumeOfficial(anonymous), implSocket: consumeSocket(anonymous)}},
	{"consume-tracked", "read with a name, offsets stored as each library does by default", contentPlain, upTo(2_000_000, 400_000_000), map[string]runner{
		implTidemark: consumeTidemark(tracked), implOfficial: consumeOfficial(tracked), implSocket: consumeSocket(anonymous)}},
	{"consume-store-each", "store the offset of every message, until the broker has the last", contentOwn, upTo(1_000_000, 200_000_000), map[string]runner{
		implTidemark: consumeTidemark(storeEach), implOfficial: consumeOfficial(storeEach), implSocket: consumeSocket(storeEach)}},
	{"consume-workers", "read with 4 workers (the others have none: as consume)", contentPlain, upTo(2_000_000, 400_000_000), map[string]runner{
		implTidemark: consumeTidemark(inParallel), implOfficial: consumeOfficial(anonymous), implSocket: consumeSocket(anonymous)}},
	{"consume-batch", "read 1000 at a time (the official client's collected)", contentPlain, upTo(2_000_000, 400_000_000), map[string]runner{
		implTidemark: consumeTidemark(inBatches), implOfficial: consumeOfficial(inBatches), implSocket: consumeSocket(anonymous)}},
	{"consume-zstd", "read sub-batches of 100 messages, compressed with zstd", contentZstd, upTo(2_000_000, 400_000_000), map[string]runner{
		implTidemark: consumeTidemark(anonymous), implOfficial: consumeOfficial(anonymous), implSocket: consumeSocket(anonymous)}},
	{"consume-many", "four consumers in one process, a quarter of the messages each", contentPlain, upTo(2_000_000, 400_000_000), map[string]runner{
		implTidemark: consumeTidemark(many), implOfficial: consumeOfficial(many), implSocket: consumeSocket(many)}},
	{"publish-async", "publish with callbacks, and wait for the last confirm", contentNone, upTo(300_000, 100_000_000), map[string]runner{
		implTidemark: publishAsyncTidemark, implOfficial: publishAsyncOfficial, implSocket: publishSocket(1000, 10)}},
	{"publish-batch", "publish 1000 at a time, the confirms of ten awaited", contentNone, upTo(300_000, 100_000_000), map[string]runner{
		implTidemark: publishBatchTidemark, implOfficial: publishBatchOfficial, implSocket: publishSocket(1000, 10)}},
	{"publish-one", "publish one, wait for its confirm, publish the next", contentNone, upTo(2_000, 100_000_000), map[string]runner{
		implTidemark: publishOneTidemark, implOfficial: publishOneOfficial, implSocket: publishSocket(1, 1)}},
	{"publish-zstd", "publish in sub-batches of 100 messages, compressed with zstd", contentNone, upTo(300_000, 100_000_000), map[string]runner{
		implTidemark: publishZstdTidemark, implOfficial: publishZstdOfficial, implSocket: publishZstdSocket}},
	{"publish-many", "eight producers in one process, an eighth of the messages each", contentNone, upTo(300_000, 100_000_000), map[string]runner{
		implTidemark: publishManyTidemark, implOfficial: publishManyOfficial, implSocket: publishManySocket}},
	{"publish-latency", "from publishing a message to its confirm, one at a time", contentNone, upTo(2_000, 100_000_000), map[string]runner{
		implTidemark: latencyTidemark(oneByOne), implOfficial: latencyOfficial(oneByOne), implSocket: latencySocket(oneByOne)}},
	{"publish-latency-10k", "the same with 10,000 messages a second, of which each counts from when it was due", contentNone, upTo(20_000, 100_000_000), map[string]runner{
		implTidemark: latencyTidemark(paced), implOfficial: latencyOfficial(paced), implSocket: latencySocket(paced)}},
	{"reconnect", "connection reset, to the next message handled", contentNone, fixed(50), map[string]runner{
		implTidemark: reconnectTidemark, implOfficial: reconnectOfficial, implSocket: reconnectSocket}},
	{"memory", "a handler that takes 1 ms, for 3 seconds: the most memory held", contentPlain, upTo(2_000_000, 400_000_000), map[string]runner{
		implTidemark: consumeTidemark(slow), implOfficial: consumeOfficial(slow), implSocket: consumeSocket(slow)}},
}

// mode is the way in which a case consumes.
type mode int

const (
	anonymous mode = iota
	tracked
	storeEach
	many
	slow
	inParallel
	inBatches
)

// parallelWorkers is the number of workers with inParallel.
const parallelWorkers = 4

// manyConsumers is the number of consumers with many.
const manyConsumers = 4

func (m mode) named() bool { return m == tracked || m == storeEach }

func (m mode) consumers() int {
	if m == many {
		return manyConsumers
	}
	return 1
}

// upTo returns a function that gives n messages, or fewer if they are large.
func upTo(n int, bytes int) func(int) int {
	return func(size int) int { return max(1000, min(n, bytes/size)) }
}

func fixed(n int) func(int) int { return func(int) int { return n } }
