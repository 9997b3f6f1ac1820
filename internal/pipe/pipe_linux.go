package pipe

import (
	"errors"
	"syscall"
)

// awaitUnread blocks until nobody reads the pipe fd. It returns false at once
// where the kernel does not watch fd, which may be a file.
func awaitUnread(fd int) bool {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	defer syscall.Close(epoll)
	// No events: the kernel reports the end of the reader unasked.
	if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{}); err != nil {
		return false
	}
	for {
		n, err := syscall.EpollWait(epoll, make([]syscall.EpollEvent, 1), -1)
		if !errors.Is(err, syscall.EINTR) {
			return n > 0 && err == nil
		}
	}
}
