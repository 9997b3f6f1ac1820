package streamtest

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestCreateVHost(t *testing.T) {
	b := NewBroker(t)
	if !b.CreateVHost("v") || b.CreateVHost("v") || b.CreateVHost("/") {
		t.Error("want true for a new virtual host alone")
	}
	c := dialRaw(t, b)
	c.login("guest", "guest")
	c.open("v")
}

// TestDeleteVHost expects that a virtual host goes with its streams and its
// connections, which hear of the streams before, and that "/" is only emptied.
func TestDeleteVHost(t *testing.T) {
	for _, name := range []string{"v", "/"} {
		b := NewBroker(t, WithVHost("v"))
		c := dialRaw(t, b)
		c.login("guest", "guest")
		c.open(name)
		c.create("s")
		c.declare(1, "", "s")
		if !b.DeleteVHost(name) {
			t.Errorf("%s: not there", name)
		}
		c.expect(wire.KeyMetadataUpdate)
		c.expectEnd()
		if again := b.DeleteVHost(name); again != (name == "/") {
			t.Errorf("%s: deleted again: %v", name, again)
		}
		if left := b.Streams(); len(left) > 0 {
			t.Errorf("%s: left are %q", name, left)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	b := NewBroker(t, WithUser(User{Name: "u", Password: "p"}))
	for login, want := range map[[2]string]bool{
		{"u", "p"}: true, {"u", "q"}: false, {"u", ""}: false, {"x", "p"}: false, {"", ""}: false, {"guest", "guest"}: false,
	} {
		if got := b.Authenticate(login[0], login[1]); got != want {
			t.Errorf("%q: %v", login, got)
		}
	}
}

// TestDone expects that Close alone closes the channel: not Stop.
func TestDone(t *testing.T) {
	b := NewBroker(t)
	b.Stop()
	select {
	case <-b.Done():
		t.Error("done after Stop")
	default:
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-b.Done():
	default:
		t.Error("not done after Close")
	}
}
