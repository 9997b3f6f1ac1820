// Package officialtest says which tests the official client cannot run on a
// system.
package officialtest

import (
	"reflect"
	"strconv"
	"testing"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

// NeedNumbering skips a test in which the official client numbers messages
// itself: those without a publishing id, and those of sub-batches. Its v1.8.3
// panics at that on 32-bit systems ("unaligned 64-bit atomic operation"), since
// its counter, Producer.sequence, does not lie at a multiple of 8 bytes there.
// No list of systems or tests is kept: this looks where the counter lies.
func NeedNumbering(t testing.TB) {
	t.Helper()
	counter, found := reflect.TypeFor[stream.Producer]().FieldByName("sequence")
	if strconv.IntSize == 32 && found && counter.Type.Kind() == reflect.Int64 && counter.Offset%8 != 0 {
		t.Skipf("the official client cannot number messages on 32-bit systems: the counter that it adds to atomically lies at byte %d", counter.Offset)
	}
}
