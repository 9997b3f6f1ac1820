package stream

import (
	"errors"
	"testing"
	"time"
)

func TestPolicyValidate(t *testing.T) {
	for _, test := range []struct {
		policy StorePolicy
		ok     bool
	}{
		{StorePolicy{}, true},
		{StorePolicy{Every: 1}, true},
		{StorePolicy{Interval: time.Second}, true},
		{StorePolicy{Every: 100, Interval: time.Second}, true},
		{StorePolicy{Manual: true}, true},
		{StorePolicy{Every: -1}, false},
		{StorePolicy{Interval: -1}, false},
		{StorePolicy{Manual: true, Every: 1}, false},
		{StorePolicy{Manual: true, Interval: 1}, false},
		{StorePolicy{Every: -1, Interval: 1}, false},
		{StorePolicy{Every: 1, Interval: -1}, false},
		{StorePolicy{Manual: true, Every: 1, Interval: 1}, false},
		{StorePolicy{Manual: true, Every: -1}, false},
		{StorePolicy{Interval: 1}, true},
	} {
		err := test.policy.validate()
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%+v: %v, want ok %v", test.policy, err, test.ok)
		}
	}
}
