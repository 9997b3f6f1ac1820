//go:build !linux

package stream

// setCork does nothing: what is written is sent at once.
func setCork(uintptr, bool) {}
