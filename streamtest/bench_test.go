package streamtest

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// The benchmarks measure messages of 100 bytes. A bare socket client in this
// process sends and reads them:
//
//	go test -run '^$' -bench . ./streamtest

const (
	benchBody  = 100
	benchFrame = 2000 // messages per Publish frame
)

// benchPublishFrame returns a Publish frame of n messages for publisher 1.
func benchPublishFrame(n int) []byte {
	b := wire.BeginPublish(nil, wire.Version1, 1)
	body := make([]byte, benchBody)
	for i := range n {
		b = wire.AppendPublishEntry(b, uint64(i), body)
	}
	return wire.FinishPublish(b, 0, n)
}

// benchStream starts a broker and returns a client that has declared publisher
// 1 on the stream "bench". The stream retains about 200 MB.
func benchStream(b *testing.B) (*Broker, *rawClient) {
	b.Helper()
	broker := NewBroker(b)
	c := openRaw(b, broker)
	if err := c.nc.SetDeadline(time.Time{}); err != nil { // -benchtime may be long
		b.Fatal(err)
	}
	c.create("bench", "max-length-bytes", "200000000", "stream-max-segment-size-bytes", "20000000")
	c.declare(1, "", "bench")
	return broker, c
}

func perSecond(b *testing.B) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkPublish measures the rate of published and confirmed messages, with
// up to 20 frames in flight.
func BenchmarkPublish(b *testing.B) {
	_, c := benchStream(b)
	full := benchPublishFrame(benchFrame)
	last := benchPublishFrame(b.N % benchFrame)
	window := make(chan struct{}, 20)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N / benchFrame {
			window <- struct{}{}
			if _, err := c.nc.Write(full); err != nil {
				return // the loop below reports it
			}
		}
		window <- struct{}{}
		_, _ = c.nc.Write(last) // the loop below reports an error
	}()
	for confirmed := 0; confirmed < b.N; {
		frame, err := c.frames.Next()
		if err != nil {
			b.Fatal(err)
		}
		o, err := wire.DecodePublishConfirm(frame[wire.HeadLen:])
		if err != nil {
			b.Fatal(err)
		}
		confirmed += o.Len()
		<-window
	}
	perSecond(b)
}

// BenchmarkDeliver measures the rate of read messages. The client checks the
// checksum of each chunk and walks over all entries.
func BenchmarkDeliver(b *testing.B) {
	_, c := benchStream(b)
	const stored = 500_000
	frame := benchPublishFrame(8192)
	for n := 0; n < stored; n += 8192 {
		c.write(frame)
		c.confirmed()
	}
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= stored {
		benchRead(b, c, min(left, stored))
	}
	perSecond(b)
}

// benchRead subscribes from the first message, reads at least n messages and
// unsubscribes.
func benchRead(b *testing.B, c *rawClient, n int) {
	c.subscribe(1, "bench", fromFirst, 20)
	credit, _ := wire.Append(nil, &wire.Credit{SubscriptionID: 1, Credit: 1})
	for n > 0 {
		n -= benchChunk(b, c)
		c.write(credit)
	}
	c.send(&wire.Unsubscribe{Correlation: c.next(), SubscriptionID: 1})
	c.readPast(wire.KeyDeliver, wire.KeyUnsubscribe.Response())
}

// benchChunk reads one chunk and returns how many messages it holds.
func benchChunk(b *testing.B, c *rawClient) int {
	frame, err := c.frames.Next()
	if err != nil {
		b.Fatal(err)
	}
	d, err := wire.DecodeDeliver(wire.Version1, frame[wire.HeadLen:])
	if err != nil {
		b.Fatal(err)
	}
	chunk, err := wire.ParseChunk(d.Chunk)
	if err != nil {
		b.Fatal(err)
	}
	if err := chunk.Check(); err != nil {
		b.Fatal(err)
	}
	walk, n := chunk.Walk(), 0
	for e := (wire.Entry{}); ; n += int(e.Records) {
		if _, ok := walk.Next(&e); !ok {
			break
		}
	}
	if walk.Err() != nil {
		b.Fatal(walk.Err())
	}
	return n
}

// BenchmarkStartClose measures the start and close of a broker.
func BenchmarkStartClose(b *testing.B) {
	for b.Loop() {
		broker, err := Start()
		if err != nil {
			b.Fatal(err)
		}
		if err := broker.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
