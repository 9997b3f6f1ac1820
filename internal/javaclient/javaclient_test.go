package javaclient

import (
	"strings"
	"testing"
)

// TestInstalled: a machine without Java gets an error that names what is missing
// and the remedy.
func TestInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := ClassPath(t.Context())
	for _, err := range []error{Installed(), err} {
		if err == nil || !strings.Contains(err.Error(), `"java"`) || !strings.Contains(err.Error(), "install") {
			t.Errorf("%v", err)
		}
	}
}
