package stream

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestConsumerConfigDefaults(t *testing.T) {
	got, err := ConsumerConfig{}.withDefaults("s")
	must(t, err)
	if got.BatchSize != defaultBatchSize || got.BatchWait != defaultBatchWait || got.MaxBuffered != defaultMaxBuffered || got.OnError.Attempts != 1 || got.Workers != 0 {
		t.Errorf("the zero value became %+v", got)
	}
	got, err = ConsumerConfig{BatchSize: 1, BatchWait: 1, MaxBuffered: 1, Workers: 2, OnError: ErrorPolicy{Attempts: 3}}.withDefaults("s")
	must(t, err)
	if got.BatchSize != 1 || got.BatchWait != 1 || got.MaxBuffered != 1 || got.Workers != 2 || got.OnError.Attempts != 3 {
		t.Errorf("what was set became %+v", got)
	}
}

// TestConsumerConfigBounds goes by the last value that is allowed and the first
// that is not.
func TestConsumerConfigBounds(t *testing.T) {
	key := func(*Delivery) string { return "" }
	name := strings.Repeat("n", 255)
	for what, test := range map[string]struct {
		cfg ConsumerConfig
		ok  bool
	}{
		"no workers":               {ConsumerConfig{Workers: 0}, true},
		"-1 workers":               {ConsumerConfig{Workers: -1}, false},
		"1 worker":                 {ConsumerConfig{Workers: 1}, true},
		"10,000 workers":           {ConsumerConfig{Workers: 10_000}, true},
		"10,001 workers":           {ConsumerConfig{Workers: 10_001}, false},
		"keys and no workers":      {ConsumerConfig{KeyOf: key}, false},
		"keys and 1 worker":        {ConsumerConfig{KeyOf: key, Workers: 1}, false},
		"keys and 2 workers":       {ConsumerConfig{KeyOf: key, Workers: 2}, true},
		"1 byte":                   {ConsumerConfig{MaxBuffered: 1}, true},
		"-1 bytes":                 {ConsumerConfig{MaxBuffered: -1}, false},
		"batches of 1":             {ConsumerConfig{BatchSize: 1}, true},
		"batches of -1":            {ConsumerConfig{BatchSize: -1}, false},
		"batches of 1,000,000":     {ConsumerConfig{BatchSize: 1_000_000}, true},
		"batches of 1,000,001":     {ConsumerConfig{BatchSize: 1_000_001}, false},
		"a negative wait":          {ConsumerConfig{BatchWait: -1}, false},
		"a wait":                   {ConsumerConfig{BatchWait: time.Hour}, true},
		"the longest name":         {ConsumerConfig{Name: name}, true},
		"a longer name":            {ConsumerConfig{Name: name + "n"}, false},
		"a name like a marker's":   {ConsumerConfig{Name: "tidemark-started:n"}, false},
		"a name like a lease's":    {ConsumerConfig{Name: "tidemark-producer:h:n"}, false},
		"a policy without a name":  {ConsumerConfig{Store: StorePolicy{Every: 1}}, false},
		"a policy with a name":     {ConsumerConfig{Name: "n", Store: StorePolicy{Every: 1}}, true},
		"a bad policy":             {ConsumerConfig{Name: "n", Store: StorePolicy{Every: -1}}, false},
		"a store without a name":   {ConsumerConfig{OffsetStore: &memoryStore{}}, false},
		"a store, and committed":   {ConsumerConfig{Name: "n", OffsetStore: &memoryStore{}, Store: StorePolicy{Committed: true}}, false},
		"committed":                {ConsumerConfig{Name: "n", Store: StorePolicy{Every: 1, Committed: true}}, true},
		"committed by hand":        {ConsumerConfig{Name: "n", Store: StorePolicy{Manual: true, Committed: true}}, true},
		"committed, no name":       {ConsumerConfig{Store: StorePolicy{Committed: true}}, false},
		"a store with a name":      {ConsumerConfig{Name: "n", OffsetStore: &memoryStore{}}, true},
		"a start beyond all":       {ConsumerConfig{Start: At(math.MaxUint64)}, false},
		"an error policy":          {ConsumerConfig{OnError: ErrorPolicy{Attempts: -2}}, false},
		"dead letters that return": {ConsumerConfig{OnError: ErrorPolicy{DeadLetter: "s"}}, false},
	} {
		_, err := test.cfg.withDefaults("s")
		if (err == nil) != test.ok {
			t.Errorf("%s: %v, want ok %v", what, err, test.ok)
		}
		if err != nil {
			wantErr(t, err, ErrInvalidConfig)
		}
	}
}

// TestConsumerFitsTheEnv: a consumer may not have more memory than the Env, and
// has no more by default.
func TestConsumerFitsTheEnv(t *testing.T) {
	for _, test := range []struct{ total, set, want int }{
		{64 << 20, 0, 32 << 20}, {32 << 20, 0, 32 << 20}, {8 << 20, 0, 8 << 20}, {1000, 0, 1000}, {1000, 1000, 1000}, {1000, 1, 1}, {1 << 30, 1 << 30, 1 << 30},
	} {
		c, err := (&Env{cfg: Config{MaxBuffered: test.total}}).NewConsumer("s", ConsumerConfig{MaxBuffered: test.set})
		if must(t, err); c.cfg.MaxBuffered != test.want {
			t.Errorf("%d of %d set: %d, want %d", test.set, test.total, c.cfg.MaxBuffered, test.want)
		}
	}
	_, err := (&Env{cfg: Config{MaxBuffered: 1000}}).NewConsumer("s", ConsumerConfig{MaxBuffered: 1001})
	if wantErr(t, err, ErrInvalidConfig); err == nil || !strings.Contains(err.Error(), "1001") || !strings.Contains(err.Error(), "Config.MaxBuffered") {
		t.Error(err)
	}
}

// TestNewConsumerChecks: the error names what was to be made.
func TestNewConsumerChecks(t *testing.T) {
	env := &Env{cfg: testConfig()}
	for what, test := range map[string]struct {
		stream string
		cfg    ConsumerConfig
	}{
		"no stream":       {"", ConsumerConfig{Name: "n"}},
		"a configuration": {"s", ConsumerConfig{Name: "n", Workers: -1}},
		"both":            {"", ConsumerConfig{Name: "n", Workers: -1}},
	} {
		c, err := env.NewConsumer(test.stream, test.cfg)
		if wantErr(t, err, ErrInvalidConfig); c != nil || err == nil {
			t.Errorf("%s: %v, %v", what, c, err)
		}
	}
	c, err := env.NewConsumer("s", ConsumerConfig{Name: "n"})
	must(t, err)
	if c.env != env || c.stream != "s" || c.cfg.Name != "n" || c.cfg.MaxBuffered != defaultMaxBuffered {
		t.Errorf("made %+v", c)
	}
}
