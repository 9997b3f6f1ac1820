package stream

import "syscall"

// setCork sets TCP_CORK. Without it what is written is sent at once, so that an
// error changes nothing that anybody relies on.
func setCork(fd uintptr, on bool) {
	value := 0
	if on {
		value = 1
	}
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, value)
}
