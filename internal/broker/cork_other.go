//go:build !linux

package broker

// setCork does nothing: the system sends what is written at once.
func setCork(uintptr, bool) {}
