package stream

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDirectory is how many characters the broker's directory of a stream may
// have: vhost, "_", name, "_" and the time in 19 digits. With more, RabbitMQ
// 4.0.5 creates the stream and never finds a leader for it.
const (
	maxDirectory    = 255
	directoryExtras = len("_") + len("_") + 19
)

// checkNewStream rejects a name under which RabbitMQ would create a stream that
// nobody can use.
func checkNewStream(name, vhost string) error {
	const room = maxDirectory - directoryExtras
	n, inVHost := characters(name), characters(vhost)
	switch {
	case name == "":
		return fmt.Errorf("%w: the stream's name is empty", ErrInvalidConfig)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: the stream's name %.40q is not valid UTF-8: the broker closes the connection", ErrInvalidConfig, name)
	case strings.ContainsAny(name, "\r\n"):
		return fmt.Errorf("%w: the stream's name %.40q has a line break: the broker drops it and creates a stream of another name", ErrInvalidConfig, name)
	case n+inVHost > room:
		return fmt.Errorf("%w: the stream's name %.20q... has %d characters; in the vhost %.20q at most %d work, because the broker makes a directory of both names", ErrInvalidConfig, name, n, vhost, max(room-inVHost, 0))
	}
	return nil
}

// characters counts as RabbitMQ does, for which a letter with its combining
// marks is one character (osiris_util:to_base64uri). It counts more than RabbitMQ
// for other sequences that are shown as one character, as flags are.
func characters(s string) (n int) {
	for _, r := range s {
		if n == 0 || !unicode.Is(unicode.M, r) {
			n++
		}
	}
	return n
}
