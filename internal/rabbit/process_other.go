//go:build !unix || aix || solaris

package rabbit

import (
	"errors"
	"os"
	"os/exec"
)

// Here only a broker that RABBITMQ_STREAM_URL names, or a container, can be
// used: there are no signals.

func detach(*exec.Cmd) {}

func terminate(int) error { return errors.ErrUnsupported }

func killGroup(int) error { return errors.ErrUnsupported }

func exists(int) bool { return false }

// tryLock does not lock: do not bring the same instance up twice at once.
func tryLock(*os.File) (bool, error) { return true, nil }
