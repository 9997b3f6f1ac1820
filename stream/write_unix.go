//go:build unix

package stream

import "syscall"

// writeSome writes what the socket takes at once, and returns how much that was.
// An error is 0: the next ordinary write meets it again.
func writeSome(fd uintptr, b []byte) int {
	n, err := syscall.Write(int(fd), b)
	if err != nil {
		return 0
	}
	return n
}
