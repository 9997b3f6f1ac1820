//go:build unix

package broker

import "syscall"

// writeSome writes what the socket takes at once and returns how many bytes
// those were. It returns 0 for an error: the writer meets the error again.
func writeSome(fd uintptr, b []byte) int {
	n, err := syscall.Write(int(fd), b)
	if err != nil {
		return 0
	}
	return n
}
