package broker

import "syscall"

// setCork sets TCP_CORK. It ignores errors, because without the option the
// kernel sends everything at once, and nobody relies on more.
func setCork(fd uintptr, on bool) {
	value := 0
	if on {
		value = 1
	}
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, value)
}
