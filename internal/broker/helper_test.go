package broker

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
)

// testOptions give a dial as long as a test waits for anything.
func testOptions() Options {
	return Options{DialTimeout: check.Patience, Heartbeat: 10 * time.Second}
}

// listen has serve play the broker's part and returns where to dial.
func listen(t testing.TB, serve func(*script.Peer)) Endpoint {
	t.Helper()
	return Endpoint{Host: "127.0.0.1", Port: script.Listen(t, serve), User: script.User, Password: script.Password, VHost: "/"}
}

// dialed returns a connection to the endpoint that ends with the test.
func dialed(t testing.TB, e Endpoint, h hooks) *Conn {
	t.Helper()
	c, err := dial(check.Soon(t), testOptions(), e, "test", h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Abort)
	return c
}
