package stream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// gate is an encoder whose work a test holds up, by the first message of a
// sub-batch.
type gate struct {
	mu     sync.Mutex
	held   map[string]chan struct{}
	broken map[string]bool // makes the library panic
	begun  []string
}

// gateOf puts a gate in front of a compression for the time of a test, which must
// not run beside others. Its encoders are as many as are asked for.
func gateOf(s *scene, c Compression) *gate {
	g := &gate{held: map[string]chan struct{}{}, broken: map[string]bool{}}
	was := subEncoders[c]
	subEncoders[c] = newEncoderPool(func() subEncoder { return &gated{was.idle.New().(subEncoder), g} })
	subEncoders[c].permits = make(chan struct{}, 1000)
	s.Cleanup(func() {
		g.letAll() // Env.Close would wait
		subEncoders[c] = was
	})
	return g
}

// gated is an encoder behind a gate.
type gated struct {
	subEncoder
	*gate
}

// compress waits until the sub-batch is let through.
func (e *gated) compress(b, records []byte) ([]byte, error) {
	name := records[9:]
	if records[7] == 0xb0 { // the length of a body of more than 255 bytes
		name = records[12:]
	}
	first := string(name[:3])
	e.mu.Lock()
	e.begun = append(e.begun, first)
	held, broken := e.held[first], e.broken[first]
	e.mu.Unlock()
	if held != nil {
		<-held
	}
	if broken {
		panic("broken")
	}
	return e.subEncoder.compress(b, records)
}

// hold keeps the sub-batches that begin with these messages from being compressed.
func (g *gate) hold(first ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range first {
		g.held[f] = make(chan struct{})
	}
}

// letAll lets all sub-batches through.
func (g *gate) letAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, held := range g.held {
		close(held)
	}
	clear(g.held)
}

// atWork waits until a sub-batch is being compressed.
func (g *gate) atWork(s *scene, first string) {
	s.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !strings.Contains(fmt.Sprint(g.begun), first) {
		s.Fatalf("%s is not begun, but %v", first, g.begun)
	}
}

// playGated is play with a gate of gzip, and as on a machine with two cores.
func playGated(t *testing.T, act func(*scene, *gate), opts ...streamtest.Option) {
	t.Helper()
	playGatedOf(t, CompressionGzip, act, opts...)
}

func playGatedOf(t *testing.T, c Compression, act func(*scene, *gate), opts ...streamtest.Option) {
	t.Helper()
	cores := runtime.GOMAXPROCS(2)
	t.Cleanup(func() { runtime.GOMAXPROCS(cores) })
	play(t, Config{}, func(s *scene) { act(s, gateOf(s, c)) }, opts...)
}

// threes publishes messages named 100, 101 and so on: three make a sub-batch. The
// connection takes nothing before all of them are accepted.
func threes(o *sceneLog, from, to int) { threesOf(o, from, to, "") }

// threesOf is threes with something behind each name.
func threesOf(o *sceneLog, from, to int, rest string) {
	over := func(is bool) {
		o.p.mu.Lock()
		defer o.p.mu.Unlock()
		o.p.link.over = is
	}
	over(true)
	for i := from; i < to; i++ {
		o.publish(text("%d%s", i, rest))
	}
	over(false)
	o.p.offer(false)
}

// gzipped is a producer whose sub-batches have three messages.
func (s *scene) gzipped(name string) *sceneLog { return s.compressed(name, CompressionGzip) }

func (s *scene) compressed(name string, c Compression) *sceneLog {
	return s.logOf(s.producer("s", ProducerConfig{Name: name, SubEntries: 3, Compression: c}))
}

// TestSceneSlowCompression: the sub-batches behind a slow one are compressed
// meanwhile, and go out behind it. Whichever is the slow one, all others wait for
// it in their order.
func TestSceneSlowCompression(t *testing.T) {
	for _, slow := range []string{"100", "103", "106", "109"} {
		playGated(t, func(s *scene, g *gate) {
			g.hold(slow)
			o := s.gzipped("n")
			threes(o, 100, 112)
			g.atWork(s, slow)
			g.atWork(s, "106")
			if n, want := len(s.bodies("s")), int(slow[1]-'0')*10+int(slow[2]-'0'); n != want {
				s.Errorf("%d messages are in the stream while %s is compressed, want %d", n, slow, want)
			}
			flushing, cancel := context.WithTimeout(s.ctx, time.Second)
			defer cancel()
			wantErr(s, o.p.Flush(flushing), context.DeadlineExceeded)
			g.endAll(s, o, "100", "103", "106", "109")
		})
	}
}

// TestSceneCompressionAfterWriting: what the connection has in hand is written
// before the sub-batch behind it is compressed, which was not complete.
func TestSceneCompressionAfterWriting(t *testing.T) {
	playGated(t, func(s *scene, g *gate) {
		g.hold("106")
		o := s.gzipped("")
		threes(o, 100, 107)
		g.atWork(s, "106")
		if got := s.bodies("s"); len(got) != 6 {
			s.Errorf("%v are in the stream", got)
		}
		g.endAll(s, o, "100", "103", "106")
	})
}

// endAll lets all sub-batches through and fails the test unless each message is in
// the stream, and each of these sub-batches was begun once.
func (g *gate) endAll(s *scene, o *sceneLog, subBatches ...string) {
	s.Helper()
	g.letAll()
	must(s, o.p.Flush(s.ctx))
	o.checkAll()
	g.wantOnce(s, subBatches...)
}

// wantOnce fails the test unless the sub-batches that begin with these messages
// were compressed, each once, and no others.
func (g *gate) wantOnce(s *scene, want ...string) {
	s.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if slices.Sort(g.begun); !slices.Equal(g.begun, want) {
		s.Errorf("compressed were %v, want %v", g.begun, want)
	}
}

// TestSceneCompressionPerCore: no more sub-batches are begun than there are cores,
// beside the one that the connection comes to, and when all is done no goroutine is
// left.
func TestSceneCompressionPerCore(t *testing.T) {
	playGated(t, func(s *scene, g *gate) {
		var names []string
		for i := 100; i < 190; i += 3 {
			names = append(names, fmt.Sprint(i))
		}
		g.hold(names...)
		o := s.gzipped("")
		threes(o, 100, 190)
		g.atWork(s, "100")
		if cores := runtime.GOMAXPROCS(0); len(g.begun) < cores || len(g.begun) > cores+1 {
			s.Errorf("%v are begun, with %d cores", g.begun, cores)
		}
		g.letAll()
		must(s, o.p.Flush(s.ctx))
		o.checkAll()
		synctest.Wait()
		if c := &s.env.compressors; c.working > 0 || c.queue != nil {
			s.Errorf("%d goroutines are left, and %d sub-batches", c.working, len(c.queue))
		}
	})
}

// TestSceneCompressionLost: the connection is lost while sub-batches are
// compressed, by its sender and beside it. They go out on the next one, each once.
func TestSceneCompressionLost(t *testing.T) {
	for _, slow := range [][]string{{"100"}, {"103"}, {"100", "103"}} {
		playGated(t, func(s *scene, g *gate) {
			g.hold(slow...)
			o := s.gzipped("n")
			threes(o, 100, 112)
			g.atWork(s, slow[len(slow)-1])
			s.b.DropConnections(streamtest.CutRST)
			s.until("connected again", func() bool { return len(s.reported(StateConnected)) == 2 })
			g.endAll(s, o, "100", "103", "106", "109")
		})
	}
}

// TestSceneCompressionClosed: Close ends in its time while sub-batches are
// compressed, their messages get their outcome once, and what the compressing
// yields in the end is nobody's. Env.Close waits for it.
func TestSceneCompressionClosed(t *testing.T) {
	playGated(t, func(s *scene, g *gate) {
		g.hold("103", "106")
		o := s.gzipped("n")
		threes(o, 100, 112)
		g.atWork(s, "106")
		closing, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		begin := time.Now()
		wantErr(s, o.p.Close(closing), ErrUnconfirmed)
		if took := time.Since(begin); took > 2*time.Second {
			s.Errorf("Close took %v", took)
		}
		if failed := o.checkConfirmed(); fmt.Sprint(failed) != "[103 104 105 106 107 108 109 110 111]" {
			s.Errorf("%v failed", failed)
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			must(s, s.env.Close())
		}()
		synctest.Wait()
		select {
		case <-closed:
			s.Error("the Env is closed while its goroutines compress")
		default:
		}
		g.letAll()
		<-closed
		if o.checkConfirmed(); len(s.bodies("s")) != 3 {
			s.Errorf("%v are in the stream", s.bodies("s"))
		}
		if slices.Contains(g.begun, "109") {
			s.Error("a sub-batch was begun whose messages had their outcomes")
		}
	})
}

// TestSceneCompressionFails: a library that panics costs the messages of that
// sub-batch, whoever compresses it, and no others.
func TestSceneCompressionFails(t *testing.T) {
	for _, bad := range []string{"100", "103", "106", "109"} {
		playGated(t, func(s *scene, g *gate) {
			g.broken[bad] = true
			g.hold(bad)
			o := s.gzipped("n")
			threes(o, 100, 112)
			g.atWork(s, bad)
			g.letAll()
			must(s, o.p.Flush(s.ctx))
			failed := o.checkConfirmed()
			if len(failed) != 3 || failed[0] != bad || !strings.Contains(o.of[bad].Error(), "the encoder failed: broken") {
				s.Errorf("%v failed: %v", failed, o.of[bad])
			}
			threes(o, 112, 115)
			must(s, o.p.Close(s.ctx))
			if failed := o.checkConfirmed(); len(failed) != 3 {
				s.Errorf("%v failed", failed)
			}
		})
	}
}

// ended returns the messages that failed, and how many are confirmed. The broker
// does not take sub-batches of snappy apart.
func (o *sceneLog) ended() (failed []string, confirmed int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, body := range o.accepted {
		if err, has := o.of[body]; has && err == nil {
			confirmed++
		} else if has {
			failed = append(failed, body)
		}
	}
	return failed, confirmed
}

// TestSceneQuickCompressionFails: a library that panics costs the messages of that
// sub-batch, and not those of the others that are compressed with it.
func TestSceneQuickCompressionFails(t *testing.T) {
	for _, bad := range []string{"100", "103", "106", "109"} {
		playGatedOf(t, CompressionSnappy, func(s *scene, g *gate) {
			g.broken[bad] = true
			o := s.compressed("n", CompressionSnappy)
			threes(o, 100, 112)
			must(s, o.p.Flush(s.ctx))
			if failed, n := o.ended(); len(failed) != 3 || failed[0] != bad || n != 9 {
				s.Errorf("%v failed and %d are confirmed", failed, n)
			}
			threes(o, 112, 115)
			must(s, o.p.Close(s.ctx))
			if _, n := o.ended(); n != 12 {
				s.Errorf("%d are confirmed", n)
			}
		})
	}
}

// TestSceneQuickCompressionLost: the connection is lost while it compresses several
// sub-batches at a time. They go out on the next one, and each is compressed once.
func TestSceneQuickCompressionLost(t *testing.T) {
	for _, slow := range []string{"100", "103", "109"} {
		playGatedOf(t, CompressionSnappy, func(s *scene, g *gate) {
			g.hold(slow)
			o := s.compressed("n", CompressionSnappy)
			threes(o, 100, 112)
			g.atWork(s, slow)
			s.b.DropConnections(streamtest.CutRST)
			s.until("connected again", func() bool { return len(s.reported(StateConnected)) == 2 })
			g.letAll()
			must(s, o.p.Flush(s.ctx))
			if failed, n := o.ended(); len(failed) > 0 || n != 12 {
				s.Errorf("%v failed and %d are confirmed", failed, n)
			}
			g.wantOnce(s, "100", "103", "106", "109")
		})
	}
}

// TestSceneQuickCompressionIsBounded: who compresses several sub-batches at a time
// takes no more of them than fit into a frame. Large ones are in the stream while
// those behind them are compressed.
func TestSceneQuickCompressionIsBounded(t *testing.T) {
	playGatedOf(t, CompressionSnappy, func(s *scene, g *gate) {
		o := s.compressed("n", CompressionSnappy)
		noise := make([]byte, batchBytes)
		rand.NewChaCha8([32]byte{}).Read(noise)
		g.hold("112") // four turns later
		threesOf(o, 100, 115, string(noise))
		g.atWork(s, "112")
		if _, n := o.ended(); n != 12 {
			s.Errorf("%d messages are confirmed while the fifth sub-batch is compressed, want 12", n)
		}
		g.letAll()
		must(s, o.p.Close(s.ctx))
	})
}

// TestSceneCompressionBesideOthers: a producer whose sub-batch is compressed
// beside the connection does not hold up another one there.
func TestSceneCompressionBesideOthers(t *testing.T) {
	playGated(t, func(s *scene, g *gate) {
		g.hold("103")
		o := s.gzipped("n")
		threes(o, 100, 112)
		g.atWork(s, "103")
		s.create("other")
		plain := s.producer("other", ProducerConfig{})
		must(s, plain.Publish(s.ctx, text("a"), text("b")))
		g.letAll()
		must(s, o.p.Close(s.ctx))
		o.checkAll()
	})
}
