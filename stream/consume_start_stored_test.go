package stream

import "testing"

func TestBeforeFirst(t *testing.T) { onBrokers(t, testBeforeFirst) }

// testBeforeFirst: the offset that means "nothing handled yet" is stored on an
// empty stream and on one that was read, and Stored begins at the first message.
func testBeforeFirst(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	name := newStream(t, env)
	cfg := ConsumerConfig{Name: "billing", Start: Stored(Next())}
	must(t, env.StoreOffset(inTime(t), "billing", name, BeforeFirst))
	for run := range 2 {
		if got, err := env.QueryOffset(inTime(t), "billing", name); err != nil || got != BeforeFirst {
			t.Errorf("stored %d, %v", got, err)
		}
		if run == 0 {
			publish(t, env, name, 0, 10)
		}
		bodies, _ := readN(t, env, name, cfg, 10)
		wantNumbers(t, bodies, 0, 10)
		must(t, env.StoreOffset(inTime(t), "billing", name, BeforeFirst))
	}
}
