package main

import (
	"context"
	"slices"
	"time"
)

// The implementations.
const (
	implTidemark = "tidemark"
	implOfficial = "official"
	implSocket   = "socket"
)

// implBefore is this library as another program measures it: -before.
const implBefore = "before"

// implJava is RabbitMQ's Java client. It is not among the defaults: it needs a JDK
// and Maven.
const implJava = "java"

var implementations = []string{implTidemark, implOfficial, implSocket}

// allImplementations are those of -impl.
var allImplementations = append(slices.Clone(implementations), implJava)

// content is what a stream is filled with before it is measured.
type content string

const (
	contentPlain content = "plain" // a message per entry
	contentZstd  content = "zstd"  // sub-batches of batchRecords messages
	// Chunks of 1 and of 15 messages.
	contentChunks1  content = "chunks-1"
	contentChunks15 content = "chunks-15"
	// The partitions of a super stream, filled like plain: what all read are the
	// same chunks. What a measurement stores in them is not delivered.
	contentSuper content = "super"
	// The others have a stream of their own for each measurement: what is
	// published, and each store, is in the stream for the one that follows.
	contentOwn  content = "own"  // filled like plain
	contentNone content = "none" // empty
	contentLive content = "live" // one message in each stream
)

// own reports whether each measurement has a stream of its own.
func (c content) own() bool { return c == contentOwn || c == contentNone || c == contentLive }

// benchCase is one thing that is measured.
type benchCase struct {
	name, about string
	content     content
	// n is how many messages there are of a size, at most.
	n func(size int) int
	// run measures one implementation. One that is missing takes no part.
	run map[string]runner
	// schedules are how a bare socket gives credit; the bench shows the best.
	// None: the default one alone.
	schedules []schedule
	// windows are how a bare socket publishes; the bench shows the best. None:
	// publishing is not what is measured, or not by its rate.
	windows []window

	family     string        // the case is measured with others that differ in a number; empty: alone
	base       string        // another case, of whose rate the notes say a part; empty: none
	consumers  int           // 0: not a crowd
	producers  int           // 0: one at most
	named      bool          // the producer has a name
	compressed bool          // the messages are published in sub-batches
	resets     bool          // n is how often connections are reset
	streams    int           // 0: one
	super      bool          // the streams are the partitions of a super stream
	rate       int           // messages a second in each stream
	delay      time.Duration // added, each way
	limit      time.Duration // ends reading before n messages
}

// inStream is how many messages a stream of the case is filled with.
func (c benchCase) inStream(n int) int {
	switch {
	case c.content == contentLive:
		return 1
	case c.family == "fan-out", c.super:
		return max(1, n/c.consumers)
	}
	return n
}

// runner does the work of one case in the child and tells the meter. It
// returns when m has ended and everything is closed.
type runner func(ctx context.Context, j job, m *meter) error

var allCases = slices.Concat(soloCases, []benchCase{filterCase}, publishCases(), superCases(), crowdCases())

// officialN is n for the official client, which takes seconds to connect again,
// and makes a new encoder for each sub-batch.
func (c benchCase) officialN(n int) int {
	switch {
	case c.resets:
		return min(n, officialResets)
	case c.compressed:
		return min(n, max(1000, n/10))
	}
	return n
}

// publishes reports whether a case publishes n messages to a stream of its own.
func (c benchCase) publishes() bool { return c.content == contentNone && !c.resets }

// soloCases have at most a few consumers or producers.
var soloCases = []benchCase{
	{name: "consume", about: "read without a name, nothing stored", content: contentPlain, n: upTo(2_000_000, 400_000_000), schedules: allSchedules, run: map[string]runner{
		implTidemark: consumeTidemark(anonymous), implOfficial: consumeOfficial(anonymous), implSocket: consumeSocket(anonymous), implJava: measureJava(javaConsume)}},
	{name: "consume-tracked", about: "read with a name, offsets stored as each library does by default", content: contentPlain, n: upTo(2_000_000, 400_000_000), schedules: allSchedules, run: map[string]runner{
		implTidemark: consumeTidemark(tracked), implOfficial: consumeOfficial(tracked), implSocket: consumeSocket(anonymous)}},
	{name: "consume-store-each", about: "store the offset of every message, until the broker has the last", content: contentOwn, n: upTo(1_000_000, 200_000_000), run: map[string]runner{
		implTidemark: consumeTidemark(storeEach), implOfficial: consumeOfficial(storeEach), implSocket: consumeSocket(storeEach)}},
	{name: "consume-workers", about: "read with 4 workers (the others have none: as consume)", content: contentPlain, n: upTo(2_000_000, 400_000_000), schedules: allSchedules, run: map[string]runner{
		implTidemark: consumeTidemark(inParallel), implOfficial: consumeOfficial(anonymous), implSocket: consumeSocket(anonymous)}},
	{name: "consume-batch", about: "read 1000 at a time (the official client's collected)", content: contentPlain, n: upTo(2_000_000, 400_000_000), schedules: allSchedules, run: map[string]runner{
		implTidemark: consumeTidemark(inBatches), implOfficial: consumeOfficial(inBatches), implSocket: consumeSocket(anonymous)}},
	{name: "consume-zstd", about: "read sub-batches of 100 messages, compressed with zstd", content: contentZstd, n: upTo(2_000_000, 400_000_000), schedules: allSchedules, run: map[string]runner{
		implTidemark: consumeTidemark(anonymous), implOfficial: consumeOfficial(anonymous), implSocket: consumeSocket(anonymous)}},
	{name: "consume-many", about: "four consumers in one process, a quarter of the messages each", content: contentPlain, n: upTo(2_000_000, 400_000_000), schedules: allSchedules, run: map[string]runner{
		implTidemark: consumeTidemark(many), implOfficial: consumeOfficial(many), implSocket: consumeSocket(many)}},
	{name: "publish-async", about: "publish with callbacks, and wait for the last confirm", content: contentNone, n: upTo(1_000_000, 400_000_000), windows: oneConnection, run: map[string]runner{
		implTidemark: publishAsyncTidemark, implOfficial: publishAsyncOfficial, implSocket: publishSocket, implJava: measureJava(javaPublish)}},
	{name: "publish-batch", about: "publish 1000 at a time, the confirms of ten awaited (the official client's BatchSend)", content: contentNone, n: upTo(1_000_000, 400_000_000), windows: oneConnection, run: map[string]runner{
		implTidemark: publishBatchTidemark, implOfficial: publishBatchOfficial, implSocket: publishSocket}},
	{name: "publish-many", about: "eight producers in one process, an eighth of the messages each", content: contentNone, n: upTo(1_000_000, 400_000_000), windows: manyConnections, producers: 8, run: withJava(manyRunners(), javaPublish)},
	{name: "publish-one", about: "publish one, wait for its confirm, publish the next: the latency", content: contentNone, n: upTo(3_000, 100_000_000), run: oneRunners},
	{name: "publish-latency", about: "1,000 messages a second, from each call to its confirm", content: contentNone, n: upTo(5_000, 100_000_000), rate: 1_000, run: pacedRunners},
	{name: "publish-latency-10k", about: "the same with 10,000 messages a second", content: contentNone, n: upTo(30_000, 200_000_000), rate: 10_000, run: pacedRunners},
	{name: "publish-zstd", about: "publish in sub-batches of 100 messages, compressed with zstd (the socket: a bare encoder)", content: contentNone, n: upTo(1_000_000, 200_000_000), compressed: true, windows: subBatches, run: compressedRunners(zstdCodec)},
	{name: "publish-reconnect", about: "connections reset, to the next confirm; 20 messages between two resets", content: contentNone, n: fixed(100), resets: true, run: map[string]runner{
		implTidemark: republishTidemark, implOfficial: republishOfficial, implSocket: republishSocket}},
	{name: "reconnect", about: "connection reset, to the next message handled", content: contentNone, n: fixed(50), resets: true, run: map[string]runner{
		implTidemark: reconnectTidemark, implOfficial: reconnectOfficial, implSocket: reconnectSocket}},
	{name: "memory", about: "a handler that takes 1 ms, for 3 seconds: the most memory held", content: contentPlain, n: upTo(2_000_000, 400_000_000), run: map[string]runner{
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

// withJava adds the Java client to runners.
func withJava(run map[string]runner, what string) map[string]runner {
	run[implJava] = measureJava(what)
	return run
}

func fixed(n int) func(int) int { return func(int) int { return n } }
