//go:build !linux

package pipe

func awaitUnread(int) bool { return false }
