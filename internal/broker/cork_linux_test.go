package broker

import (
	"net"
	"syscall"
	"testing"

	"github.com/tidemark-go/tidemark/internal/check"
)

func TestCorkSetsTheOption(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.Nil(t, err)
	defer ln.Close()
	socket, err := net.Dial("tcp", ln.Addr().String())
	check.Nil(t, err)
	defer socket.Close()
	var d directWriter
	d.init(socket)
	for _, on := range []bool{true, false} {
		d.cork(on)
		var value int
		var optErr error
		check.Nil(t, d.socket.Control(func(fd uintptr) {
			value, optErr = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK)
		}))
		if optErr != nil || (value != 0) != on {
			t.Errorf("the option is %d, %v; want %v", value, optErr, on)
		}
	}
}
