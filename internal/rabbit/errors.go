package rabbit

import (
	"errors"
	"fmt"
)

var (
	// ErrNoInstance is returned by Open when nothing was brought up in the
	// directory.
	ErrNoInstance = errors.New("no RabbitMQ instance")
	// ErrExternal is returned by what would control a broker that this package
	// did not start: the one RABBITMQ_STREAM_URL names.
	ErrExternal = errors.New("not a broker this tool started")
	// ErrUnknownNode is returned when a node's name is not one of the
	// instance's.
	ErrUnknownNode = errors.New("unknown node")
	// ErrNodeDown is returned by what needs a running node.
	ErrNodeDown = errors.New("node is down")
)

// commandError is a program of others that failed, with what it said.
type commandError struct {
	Command string
	Output  string
	Err     error
}

func (e *commandError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("%s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("%s: %v\n%s", e.Command, e.Err, e.Output)
}

func (e *commandError) Unwrap() error { return e.Err }
