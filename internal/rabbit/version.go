package rabbit

import (
	"fmt"
	"strconv"
	"strings"
)

// oldest is the first RabbitMQ that has what the library uses: streams with
// filters and a single active consumer.
var oldest = version{3, 13}

type version struct{ major, minor int }

// parseVersion reads the beginning of a version: "4.0.5", "3.12.1-1ubuntu1",
// "4.1.0-rc.1", and with an epoch "1:4.0.5".
func parseVersion(s string) (version, error) {
	s = strings.TrimSpace(s)
	rest := s
	if _, after, ok := strings.Cut(rest, ":"); ok {
		rest = after
	}
	parts := strings.SplitN(rest, ".", 3)
	if len(parts) < 2 {
		return version{}, fmt.Errorf("%q is not a version of RabbitMQ", s)
	}
	minorDigits, _, _ := strings.Cut(parts[1], "-")
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(minorDigits)
	if err1 != nil || err2 != nil {
		return version{}, fmt.Errorf("%q is not a version of RabbitMQ", s)
	}
	return version{major, minor}, nil
}

func (v version) less(w version) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

// newEnough fails with what is wrong when text names a version that is too old.
func newEnough(text string) error {
	v, err := parseVersion(text)
	if err != nil {
		return err
	}
	if v.less(oldest) {
		return fmt.Errorf("RabbitMQ %s is too old: %v or newer is needed", strings.TrimSpace(text), oldest)
	}
	return nil
}
