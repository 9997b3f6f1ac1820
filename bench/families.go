package main

import (
	"fmt"
	"time"
)

// maxLiveRate is how many messages a second are published in all where there
// are many streams: a broker that shares two cores keeps up with it.
const maxLiveRate = 2000

// liveTime is how long messages are published to streams that are read live.
const liveTime = 10 // seconds

// Runners of cases that measure from a message to its confirm.
var (
	oneRunners   = map[string]runner{implTidemark: publishOneTidemark, implOfficial: publishOneOfficial, implSocket: publishOneSocket, implJava: measureJava(javaOne)}
	pacedRunners = map[string]runner{implTidemark: publishPacedTidemark, implOfficial: publishPacedOfficial, implSocket: publishPacedSocket, implJava: measureJava(javaLatency)}
)

// publishCases are the families of cases that publish.
func publishCases() (list []benchCase) {
	const compressed = "publish-compressed"
	for _, c := range []struct {
		name  string
		codec codec
	}{{"publish-gzip", gzipCodec}, {"publish-snappy", snappyCodec}, {"publish-lz4", lz4Codec}} {
		list = append(list, benchCase{family: compressed, name: c.name, about: "as publish-zstd, with another compression or with a name",
			content: contentNone, n: upTo(1_000_000, 200_000_000), compressed: true, windows: subBatches, run: compressedRunners(c.codec)})
	}
	list = append(list, benchCase{family: compressed, name: "publish-zstd-named", base: "publish-zstd", named: true,
		content: contentNone, n: upTo(1_000_000, 200_000_000), compressed: true, windows: subBatches, run: compressedRunners(zstdCodec)})
	for _, ms := range []int{1, 5} {
		delay := time.Duration(ms) * time.Millisecond
		list = append(list,
			benchCase{family: "publish-rtt", name: fmt.Sprintf("publish-one-rtt-%d", ms), about: "publish-one and publish-latency with so many milliseconds of delay each way",
				delay: delay, content: contentNone, n: upTo(1_000, 100_000_000), run: oneRunners},
			benchCase{family: "publish-rtt", name: fmt.Sprintf("publish-latency-rtt-%d", ms), delay: delay, rate: 1_000,
				content: contentNone, n: upTo(5_000, 100_000_000), run: pacedRunners})
	}
	for _, n := range []int{10, 1000} {
		list = append(list, producersCase("producers-stream", "producers of one stream, in one process", n, 0))
	}
	for _, n := range []int{10, 1000} {
		list = append(list, producersCase("producers-streams", "producers in one process, each of a stream of its own", n, n))
	}
	return append(list, waitersCases()...)
}

// producersCase has so many producers, and compares 1,000 with 10.
func producersCase(family, about string, producers, streams int) benchCase {
	c := benchCase{family: family, name: fmt.Sprintf("%s-%d", family, producers), about: about, producers: producers, streams: streams,
		content: contentNone, n: upTo(2_000_000, 400_000_000), windows: manyConnections, run: manyRunners()}
	if producers > 10 {
		c.base = family + "-10"
	}
	return c
}

// crowdCases are the cases with many consumers, small chunks, and delay. Those
// of a family differ in a number.
func crowdCases() (list []benchCase) {
	for _, n := range []int{1, 10, 100, 1000} {
		list = append(list, benchCase{family: "fan-out", consumers: n, content: contentOwn, n: upTo(2_000_000, 400_000_000), schedules: allSchedules,
			name: fmt.Sprintf("fan-out-%d", n), about: "named consumers of one stream from its beginning; deliveries in all; all end together", run: crowdRunners(fanOut)})
	}
	for _, n := range []int{100, 1000} {
		list = append(list, benchCase{family: "fan-out-held", consumers: n, content: contentOwn, n: fixed(20_000),
			name: fmt.Sprintf("fan-out-held-%d", n), about: "the same with handlers that do not return: the heap that is alive", run: crowdRunners(held)})
	}
	for _, n := range []int{10, 100, 1000} {
		list = append(list, liveCase("fan-in", fmt.Sprintf("fan-in-%d", n),
			"streams with a live named consumer each, 20 messages a second in each, 2,000 in all at most", n, n, min(20, maxLiveRate/n)))
	}
	for _, n := range []int{1, 10, 100} {
		list = append(list, liveCase("tail-latency", fmt.Sprintf("tail-latency-%d", n),
			"live named consumers of one stream with 100 messages a second", n, 0, 100))
	}
	for _, n := range []int{1, 10, 100} {
		list = append(list, liveCase("tail-latency-each", fmt.Sprintf("tail-latency-each-%d", n),
			"streams with a live named consumer each, 100 messages a second in each, 2,000 in all at most", n, n, min(100, maxLiveRate/n)))
	}
	return append(list, slowCases()...)
}

func liveCase(family, name, about string, consumers, streams, rate int) benchCase {
	return benchCase{family: family, name: name, about: about, consumers: consumers, streams: streams, rate: rate,
		content: contentLive, n: fixed(rate * max(1, streams) * liveTime), run: crowdRunners(live)}
}

// readLimit ends the reading of what may take minutes with little credit. The
// rate is that of what was read until then.
const readLimit = 10 * time.Second

// slowCases read with one consumer what credit makes slow.
func slowCases() (list []benchCase) {
	add := func(family, name, about string, content content, n func(int) int, delay int) {
		list = append(list, benchCase{family: family, name: name, about: about, content: content, n: n, schedules: allSchedules,
			delay: time.Duration(delay) * time.Millisecond, limit: readLimit, run: map[string]runner{
				implTidemark: consumeTidemark(anonymous), implOfficial: consumeOfficial(anonymous), implSocket: consumeSocket(anonymous)}})
	}
	small := map[int]content{1: contentChunks1, 15: contentChunks15}
	const smallChunks = 50_000
	for _, n := range []int{1, 15} {
		add("small-chunks", fmt.Sprintf("small-chunks-%d", n), "read chunks of so many messages, for 10 s at most", small[n], fixed(n*smallChunks), 0)
	}
	for _, ms := range []int{1, 5} {
		add("rtt", fmt.Sprintf("rtt-%d", ms), "read with so many milliseconds of delay each way, for 10 s at most", contentPlain, upTo(2_000_000, 400_000_000), ms)
	}
	for _, n := range []int{1, 15} {
		for _, ms := range []int{1, 5} {
			add("small-chunks-rtt", fmt.Sprintf("small-chunks-%d-rtt-%d", n, ms), "both together", small[n], fixed(n*smallChunks), ms)
		}
	}
	return list
}

// crowdRunners are the runners of a case with many consumers.
func crowdRunners(how func(crowdReader) runner) map[string]runner {
	return map[string]runner{implTidemark: how(crowdTidemark), implOfficial: how(crowdOfficial), implSocket: how(crowdSocket)}
}
