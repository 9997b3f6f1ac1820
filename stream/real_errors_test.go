package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// secret is a password that no error may show.
const secret = "s3cret@/%:é"

// within5s runs an operation that has to fail in that time without the secret.
func within5s(t *testing.T, want error, do func(ctx context.Context) error) error {
	t.Helper()
	begin := time.Now()
	err := do(t.Context())
	took := time.Since(begin)
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	if took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	for _, s := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), "s3cret"} {
		if strings.Contains(err.Error(), s) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	t.Logf("%.1fs: %v", took.Seconds(), err)
	return err
}

// at is the broker's address without a login.
func at(t *testing.T, uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func TestRealConnectErrors(t *testing.T) {
	b := realBroker(t)
	host := at(t, b.StreamURL())
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() }) // after the parallel subtests
	pass := url.QueryEscape(secret)
	for name, test := range map[string]struct {
		uri  string
		want error
		says string
	}{
		"wrong password": {"rabbitmq-stream://guest:" + pass + "@" + host, ErrAuthentication, "check user and password"},
		"unknown user":   {"rabbitmq-stream://nobody:" + pass + "@" + host, ErrAuthentication, `"nobody"`},
		"unknown vhost":  {"rabbitmq-stream://guest:guest@" + host + "/nope", ErrVirtualHost, `"nope"`},
		"unknown host":   {"rabbitmq-stream://guest:" + pass + "@no.such.host.invalid:5552", ErrUnreachable, "no.such.host.invalid"},
		"closed port":    {"rabbitmq-stream://guest:" + pass + "@" + closed.Addr().String(), ErrUnreachable, "is RabbitMQ running"},
		"silent port":    {"rabbitmq-stream://guest:" + pass + "@" + silent.Addr().String(), ErrUnreachable, "did not answer"},
		"AMQP port":      {"rabbitmq-stream://guest:" + pass + "@" + at(t, b.AMQPURL()), ErrProtocol, "AMQP"},
		"TLS to plain":   {"rabbitmq-stream+tls://guest:" + pass + "@" + host, ErrTLS, "TLS port"},
		"garbage":        {"rabbitmq-stream://guest:" + secret + "@" + host, ErrInvalidConfig, "percent-encode"},
		"other scheme":   {"amqp://guest:" + pass + "@" + host, ErrInvalidConfig, "scheme"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := within5s(t, test.want, func(ctx context.Context) error {
				env, err := Connect(ctx, Config{URIs: []string{test.uri}})
				if env != nil {
					t.Error("an Env came with the error")
				}
				return err
			})
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
			var op *OpError
			if !errors.As(err, &op) || op.Op != "connect" {
				t.Errorf("%v is no OpError of connect", err)
			}
		})
	}
}

func TestRealConnectIsCancelled(t *testing.T) {
	needReal(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err = Connect(ctx, Config{URIs: []string{"rabbitmq-stream://" + silent.Addr().String()}})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Second {
		t.Fatalf("after %v: %v", time.Since(begin), err)
	}
}

func TestRealTLS(t *testing.T) {
	b := realBroker(t)
	if b.StreamTLSURL() == "" {
		t.Fatal("this broker has no TLS listener; let tools/rabbitmq bring up its own")
	}
	_, err := Connect(t.Context(), Config{URIs: []string{b.StreamTLSURL()}})
	if !errors.Is(err, ErrTLS) || !strings.Contains(err.Error(), "certificate") {
		t.Fatalf("without the CA: %v", err)
	}
	env, err := Connect(t.Context(), Config{URIs: []string{b.StreamTLSURL()}, TLS: &tls.Config{RootCAs: caPool(t, b.CAFile())}})
	if err != nil {
		t.Fatal(err)
	}
	defer env.Close()
	stream := newStream(t, env)
	publish(t, env, stream, 0, 10)
	bodies, _ := readN(t, env, stream, ConsumerConfig{Name: "c"}, 10)
	wantNumbers(t, bodies, 0, 10)
}

// A password with every kind of special character works everywhere, also
// where the official client builds URIs of its own.
func TestRealAnyPassword(t *testing.T) {
	b := realBroker(t)
	if b.Provider().Kind == rabbit.External {
		t.Fatal("needs rabbitmqctl; let tools/rabbitmq bring up its own broker")
	}
	const password = "p@s/s:w%o rd+?#&é=" + "\"'<>[]{}|\\^`~!$*(),;"
	const vhost = "v/h%o+st é"
	for _, args := range [][]string{
		{"add_user", "odd@user/:%", password}, {"add_vhost", vhost},
		{"set_permissions", "-p", vhost, "odd@user/:%", ".*", ".*", ".*"},
	} {
		if out, err := b.Ctl(t.Context(), "n1", args...); err != nil && !strings.Contains(out+err.Error(), "already exists") {
			t.Fatalf("%s: %v %s", args[0], err, out)
		}
	}
	u := url.URL{Scheme: "rabbitmq-stream", Host: at(t, b.StreamURL()), User: url.UserPassword("odd@user/:%", password)}
	env := connect(t, u.String()+"/"+url.PathEscape(vhost))
	stream := newStream(t, env)
	publish(t, env, stream, 0, 10)
	bodies, _ := readN(t, env, stream, ConsumerConfig{Name: "c"}, 10)
	wantNumbers(t, bodies, 0, 10)
}

func TestStreamMissing(t *testing.T) { onBrokers(t, testStreamMissing) }

func testStreamMissing(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	const missing = "no such stream"
	c, err := env.NewConsumer(missing, ConsumerConfig{Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(context.Context) error{
		"run": func(ctx context.Context) error {
			return c.Run(ctx, func(context.Context, *Delivery) error { return nil })
		},
		"new":    func(ctx context.Context) error { _, err := env.NewProducer(ctx, missing, ProducerConfig{}); return err },
		"delete": func(ctx context.Context) error { return env.DeleteStream(ctx, missing) },
		"stats":  func(ctx context.Context) error { _, err := env.Stats(ctx, missing); return err },
		"query":  func(ctx context.Context) error { _, err := env.QueryOffset(ctx, "c", missing); return err },
		"store":  func(ctx context.Context) error { return env.StoreOffset(ctx, "c", missing, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			err := within5s(t, ErrStreamNotFound, do)
			if !strings.Contains(err.Error(), "DeclareStream") {
				t.Errorf("%v does not say what to do", err)
			}
		})
	}
}

func TestDeclare(t *testing.T) { onBrokers(t, testDeclare) }

func testDeclare(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	if err := env.DeclareStream(inTime(t), stream, StreamConfig{}); err != nil {
		t.Errorf("the same again: %v", err)
	}
	err := env.DeclareStream(inTime(t), stream, StreamConfig{MaxAge: time.Hour})
	if !errors.Is(err, ErrStreamMismatch) || !strings.Contains(err.Error(), "exists with other arguments") {
		t.Errorf("with other arguments: %v", err)
	}
	full := StreamConfig{MaxBytes: 1 << 30, MaxAge: time.Hour, SegmentBytes: 1 << 20, InitialClusterSize: 1, LeaderLocator: "balanced"}
	for range 2 {
		if err := env.DeclareStream(inTime(t), stream+"-full", full); err != nil {
			t.Error(err)
		}
	}
	if stats, err := env.Stats(t.Context(), stream); err != nil || !stats.Empty {
		t.Errorf("stats of an empty stream: %+v, %v", stats, err)
	}
}

// A stream deleted while it is in use ends consumer and producer.
func TestStreamDeletedInUse(t *testing.T) {
	beside(t)
	onBrokers(t, testStreamDeletedInUse)
}

func testStreamDeletedInUse(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 10)
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := env.NewConsumer(stream, ConsumerConfig{Name: "c"})
	deleted := time.Time{}
	err = within5s(t, ErrStreamDeleted, func(ctx context.Context) error {
		return c.Run(ctx, func(ctx context.Context, d *Delivery) error {
			if d.Offset == 9 {
				deleted = time.Now()
				return env.DeleteStream(ctx, stream)
			}
			return nil
		})
	})
	t.Logf("consumer: %v after the deletion", time.Since(deleted))
	if !strings.Contains(err.Error(), "DeclareStream") {
		t.Errorf("%v does not say what to do", err)
	}
	eventually(t, "the producer refuses", patience, func() bool {
		return errors.Is(p.Publish(inTime(t), Message{}), ErrStreamDeleted)
	})
	if err := p.Close(inTime(t)); err != nil {
		t.Errorf("everything was reported, and Close says %v", err)
	}
}

// TestStreamRecreatedForNext: whoever waits for what comes next gets all of a
// stream that was created under it, what showed that it is another one included.
func TestStreamRecreatedForNext(t *testing.T) {
	beside(t)
	onBrokers(t, testStreamRecreatedForNext)
}

func testStreamRecreatedForNext(t *testing.T, b testBroker) {
	direct := connect(t, b.StreamURL())
	states := make(chan StateChange, 100)
	env, err := Connect(t.Context(), Config{URIs: []string{b.StreamURL()}, OnState: func(c StateChange) { states <- c }})
	must(t, err)
	defer func() { must(t, env.Close()) }()
	stream := newStream(t, direct)
	publish(t, direct, stream, 0, 1) // one chunk, at the offset where the new stream's first is
	await := func(want State) {
		t.Helper()
		for recv(t, states, want.String()).State != want {
		}
	}
	got := make(chan string, 100)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Start: Next()}, func(d *Delivery) { got <- string(d.Body) })
	await(StateConnected)
	publish(t, direct, stream, 1, 2)
	if body := recv(t, got, "the next message"); body != "1" {
		t.Errorf("got %q, want what is published from then on", body)
	}
	must(t, direct.DeleteStream(t.Context(), stream))
	must(t, direct.DeclareStream(inTime(t), stream, StreamConfig{}))
	await(StateConnected) // in the new stream, which has nothing to show that
	publish(t, direct, stream, 2, 3)
	await(StateStreamRecreated)
	await(StateConnected)
	publish(t, direct, stream, 3, 4)
	for _, want := range []string{"2", "3"} {
		if body := recv(t, got, "the new stream's message"); body != want {
			t.Errorf("got %q, want %q", body, want)
		}
	}
	_ = stop()
}

// TestStreamRecreatedWithoutDeadLetters: that the dead-letter stream is gone too
// shows with the first message that is for it, and is not said of another one.
func TestStreamRecreatedWithoutDeadLetters(t *testing.T) {
	_, env, stream := faulty(t, 3)
	letters := newStream(t, env)
	got := make(chan string, 100)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{OnError: ErrorPolicy{DeadLetter: letters}}, func(d *Delivery) { got <- string(d.Body) })
	for range 3 {
		recv(t, got, "the messages")
	}
	must(t, env.DeleteStream(t.Context(), letters))
	must(t, env.DeleteStream(t.Context(), stream))
	must(t, env.DeclareStream(inTime(t), stream, StreamConfig{}))
	publish(t, env, stream, 7, 8)
	if body := recv(t, got, "the new stream's message"); body != "7" {
		t.Errorf("got %q", body)
	}
	_ = stop()
}

// A stream deleted and created again under a consumer, whether the new one is
// shorter than the position or has grown beyond it: the run starts over in it, and
// says so. Nothing of the old stream's place is left.
func TestStreamRecreated(t *testing.T) {
	beside(t)
	onBrokers(t, testStreamRecreated)
}

func testStreamRecreated(t *testing.T, b testBroker) {
	named := ConsumerConfig{Name: "billing"}
	parallel, elsewhere := named, named
	parallel.Workers = 4
	elsewhere.OffsetStore = &memoryStore{}
	for name, test := range map[string]struct {
		cfg    ConsumerConfig
		batch  bool
		refill int // of the new stream, before the old one's end is noticed
	}{
		"empty":        {cfg: named},
		"shorter":      {cfg: named, refill: 20},
		"longer":       {cfg: named, refill: 300},
		"workers":      {cfg: parallel, refill: 300},
		"batches":      {cfg: named, batch: true, refill: 300},
		"offset store": {cfg: elsewhere, refill: 300},
		"no name":      {refill: 20},
	} {
		t.Run(name, func(t *testing.T) {
			direct := connect(t, b.StreamURL())
			proxy, uri := throughProxy(t, b)
			recreated, replaced := make(chan error, 10), make(chan struct{})
			env, err := Connect(t.Context(), Config{URIs: []string{uri}, OnState: func(c StateChange) {
				if c.State == StateStreamRecreated {
					recreated <- c.Err
				}
			}})
			must(t, err)
			defer func() { must(t, env.Close()) }()
			stream := newStream(t, direct)
			publish(t, direct, stream, 0, 100)
			c, err := env.NewConsumer(stream, test.cfg)
			must(t, err)
			replace := func(ctx context.Context) error {
				if test.cfg.Name != "" {
					// A store on its way while the stream is deleted and created
					// again arrives in the new one: nobody can tell. Not here.
					must(t, c.Commit(ctx))
				}
				must(t, direct.DeleteStream(ctx, stream))
				must(t, direct.DeclareStream(ctx, stream, StreamConfig{}))
				publish(t, direct, stream, 500, 500+test.refill)
				// Neither is there an answer to a store that was sent
				// before the broker has told of the deletion.
				eventually(t, "the broker tells", patience, func() bool { return proxy.Seen(wire.KeyMetadataUpdate) > 0 })
				_, err := direct.Stats(ctx, stream)
				close(replaced)
				return err
			}
			end := 600 + test.refill
			var mu sync.Mutex
			var bodies []string
			var last uint64
			ctx, enough := context.WithTimeout(t.Context(), 30*time.Second)
			defer enough()
			handle := func(ctx context.Context, d *Delivery) error {
				if len(d.Body) < 3 {
					if d.Offset == 99 {
						return replace(ctx)
					}
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				bodies, last = append(bodies, string(d.Body)), max(last, d.Offset)
				if len(bodies) == end-500 {
					enough()
				}
				return nil
			}
			done := make(chan error, 1)
			go func() {
				if test.batch {
					done <- c.RunBatch(ctx, func(ctx context.Context, batch []Delivery) error {
						for i := range batch {
							if err := handle(ctx, &batch[i]); err != nil {
								return err
							}
						}
						return nil
					})
					return
				}
				done <- c.Run(ctx, handle)
			}()
			recv(t, replaced, "the new stream")
			if test.refill > 0 { // else there is nothing yet to tell them apart
				wantErr(t, recv(t, recreated, "the change of state"), ErrStreamRecreated)
			}
			publish(t, direct, stream, 500+test.refill, end)
			err = recv(t, done, "the end of the run")
			if err != nil {
				t.Errorf("the run ended with %v", err)
			}
			slices.Sort(bodies) // workers have no order
			wantNumbers(t, bodies, 500, end)
			if store, ok := test.cfg.OffsetStore.(*memoryStore); ok {
				if !store.at(last) {
					t.Errorf("offset %d is saved, want %d", store.offset, last)
				}
			} else if test.cfg.Name != "" {
				if got, err := direct.QueryOffset(t.Context(), "billing", stream); err != nil || got != last {
					t.Errorf("offset %d is stored (%v), want %d", got, err, last)
				}
			}
			if test.refill == 0 {
				wantErr(t, recv(t, recreated, "the change of state"), ErrStreamRecreated)
			}
			if len(recreated) > 0 {
				t.Errorf("it was recreated once more: %v", <-recreated)
			}
		})
	}
}
