package broker

import (
	"fmt"
	"testing"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestLeaseBeside: another subscription shares the connection until it has left.
func TestLeaseBeside(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		_, l := onlyConn(t, b)
		beside, err := l.Beside(&recorder{})
		check.Nil(t, err)
		if beside.conn != l.conn || beside.id == l.id || len(l.conn.leases) != 2 {
			t.Errorf("id %d beside %d, %d leases", beside.id, l.id, len(l.conn.leases))
		}
		check.Nil(t, beside.Subscribe(t.Context(), "s", wire.OffsetSpec{Type: wire.OffsetLast}, SubscribeOptions{}))
		check.Nil(t, beside.Unsubscribe(t.Context()))
		beside.Release(false)
		b.took(t, "subscribe 2 s {2 0} credit 1 []", "unsubscribe 2")
		if l.Reason() != nil || len(l.conn.leases) != 1 {
			t.Errorf("the connection ended with the subscription beside: %v, %d leases", l.Reason(), len(l.conn.leases))
		}
		l.Release(false)
		_, err = l.Beside(&recorder{})
		check.Err(t, err, ErrUnreachable)
	})
}

// TestSubscribeOptions: what the broker is told of a filter.
func TestFilterOptions(t *testing.T) {
	for _, test := range []struct {
		o    SubscribeOptions
		want string
	}{
		{SubscribeOptions{FilterValues: []string{"a", "b"}}, "[{filter.0 a} {filter.1 b} {match-unfiltered false}]"},
		{SubscribeOptions{Name: "n", FilterValues: []string{"a"}, Unfiltered: true}, "[{name n} {filter.0 a} {match-unfiltered true}]"},
		{SubscribeOptions{Unfiltered: true}, "[]"},
	} {
		if got := fmt.Sprint(test.o.properties()); got != test.want {
			t.Errorf("%+v becomes %s, want %s", test.o, got, test.want)
		}
	}
}

// TestOlderThan: a version that cannot be read is a new one.
func TestOlderThan(t *testing.T) {
	for version, want := range map[string]bool{
		"3.12.14": true, "3.12": true, "3.13": false, "3.13.0": false, "3.13.0-rc.1": false, "4.0.5": false,
		"2.99": true, "": false, "3": false, "x.y": false,
	} {
		if got := olderThan(version, release{3, 13, 0}); got != want {
			t.Errorf("%q is older than 3.13: %v", version, got)
		}
	}
}
