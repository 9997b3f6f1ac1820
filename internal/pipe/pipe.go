// Package pipe notices that nobody reads a program's output any more.
package pipe

import (
	"context"
	"os"
)

// WhileRead returns a context that ends with ctx, and also when f is a pipe
// whose reader, such as head, has closed it. A write would find that out, but a
// program may have nothing to write for long. Only Linux tells; elsewhere the
// context ends with ctx alone.
//
// A goroutine and its thread wait for the reader until the process ends.
func WhileRead(ctx context.Context, f *os.File) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		if awaitUnread(int(f.Fd())) {
			cancel()
		}
	}()
	return ctx
}
