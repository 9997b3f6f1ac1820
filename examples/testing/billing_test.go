package billing

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

// patience is how long a test waits before it fails; it never sleeps.
const patience = 10 * time.Second

// The service bills the orders one after the other, and its place is stored.
func TestBilling(t *testing.T) {
	t.Parallel()
	b, env := setUp(t)
	var bank bank
	stop := start(t, env, bank.charge)

	publish(t, env, "A", "B", "C")
	awaitBilled(t, b, 2) // the offset of C
	if err := stop(); err != nil {
		t.Errorf("the service, stopped, returned %v", err)
	}
	bank.wantCharged(t, "A", "B", "C")
}

// The connection is cut while an order is being billed. The service connects
// again by itself; no order is lost, and none billed twice.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	b, env := setUp(t)
	var bank bank
	start(t, env, func(ctx context.Context, o Order) error {
		if o.ID == "B" {
			b.DropConnections(streamtest.CutRST)
		}
		return bank.charge(ctx, o)
	})

	publish(t, env, "A", "B", "C", "D")
	awaitBilled(t, b, 3)
	bank.wantCharged(t, "A", "B", "C", "D")
}

// The broker loses the place of the service, which says so when it stops. The
// next run begins with an order that is billed already: charge must expect that.
func TestStoreLost(t *testing.T) {
	t.Parallel()
	b, env := setUp(t)
	var bank bank
	stop := start(t, env, bank.charge)
	publish(t, env, "A")
	awaitBilled(t, b, 0)

	b.LoseStores(streamtest.Forever)
	before := b.Received(streamtest.StoreOffset)
	publish(t, env, "B")
	await(t, b, func() bool { return b.Received(streamtest.StoreOffset) > before }) // B is billed
	if err := stop(); !errors.Is(err, stream.ErrNotStored) {
		t.Errorf("the service, its place lost, returned %v", err)
	}

	b.LoseStores(0)
	start(t, env, bank.charge)
	awaitBilled(t, b, 1)
	bank.wantCharged(t, "A", "B", "B")
}

// An order that cannot be billed ends the run, and the next run begins with it.
func TestChargeFails(t *testing.T) {
	t.Parallel()
	b, env := setUp(t)
	bank := bank{closedFor: "B"}
	service, err := New(env, bank.charge)
	if err != nil {
		t.Fatal(err)
	}

	publish(t, env, "A", "B", "C")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := service.Run(ctx); !errors.Is(err, errClosed) {
		t.Errorf("the service, unable to bill B, returned %v", err)
	}
	awaitBilled(t, b, 0) // A

	bank.closedFor = ""
	start(t, env, bank.charge)
	awaitBilled(t, b, 2)
	bank.wantCharged(t, "A", "B", "C")
}

// bank stands for what the service uses.
type bank struct {
	closedFor string
	mu        sync.Mutex
	charged   []string
}

var errClosed = errors.New("the bank is closed")

func (b *bank) charge(_ context.Context, o Order) error {
	if o.ID == b.closedFor {
		return errClosed
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.charged = append(b.charged, o.ID)
	return nil
}

func (b *bank) wantCharged(t *testing.T, ids ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.charged, ids) {
		t.Errorf("charged %q, want %q", b.charged, ids)
	}
}

// setUp starts a broker with an empty stream; both end with the test.
func setUp(t *testing.T) (*streamtest.Broker, *stream.Env) {
	t.Helper()
	b := streamtest.NewBroker(t)
	if err := b.CreateStream("orders"); err != nil {
		t.Fatal(err)
	}
	env, err := stream.Connect(t.Context(), stream.Config{URIs: []string{b.URI()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, env
}

// start runs the service until the test ends or stop, which returns what Run did.
func start(t *testing.T, env *stream.Env, charge func(context.Context, Order) error) (stop func() error) {
	t.Helper()
	service, err := New(env, charge)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }() // env.Close waits for it
	return func() error {
		cancel()
		return <-ended
	}
}

// publish returns when the orders are in the stream. The producer's name keeps
// it from repeating what it sends again after a lost connection.
func publish(t *testing.T, env *stream.Env, ids ...string) {
	t.Helper()
	producer, err := env.NewProducer(t.Context(), "orders", stream.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close(t.Context())
	for _, id := range ids {
		body, err := json.Marshal(Order{ID: id, Cents: 100})
		if err != nil {
			t.Fatal(err)
		}
		if err := producer.Publish(t.Context(), stream.Message{Body: body}); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitBilled waits until the service has stored an offset: everything up to it
// is billed then.
func awaitBilled(t *testing.T, b *streamtest.Broker, offset uint64) {
	t.Helper()
	await(t, b, func() bool {
		stored, ok := b.Offset("billing", "orders")
		return ok && stored == offset
	})
}

// await waits for a condition, which is tried after whatever the broker does.
func await(t *testing.T, b *streamtest.Broker, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Await(ctx, cond); err != nil {
		t.Fatalf("not in time: %v; the stream holds %q", err, b.Bodies("orders"))
	}
}
