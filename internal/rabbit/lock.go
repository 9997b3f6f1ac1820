package rabbit

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const (
	lockFile     = "lock"
	lockInterval = 100 * time.Millisecond
)

// lockDir makes dir and takes the lock in it. It waits for another process that
// has it, and says so. The lock ends with the process, however it ends.
func lockDir(ctx context.Context, dir string, progress io.Writer) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		ok, err := tryLock(f)
		if ok {
			return func() { f.Close() }, nil
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !said {
			say(progress, "waiting for another process that works in %s", dir)
		}
		if err := sleep(ctx, lockInterval); err != nil {
			f.Close()
			return nil, fmt.Errorf("wait for the lock %s: %w", path, err)
		}
	}
}
