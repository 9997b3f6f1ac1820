package pipe

import (
	"os"
	"path/filepath"
	"testing"
)

// TestWhileRead: the end of the reader ends the context, although nothing is
// written.
func TestWhileRead(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString("kept in the pipe"); err != nil {
		t.Fatal(err)
	}
	ctx := WhileRead(t.Context(), w)
	if err := ctx.Err(); err != nil {
		t.Errorf("while the pipe has a reader: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
}

// TestFile: a file is not watched.
func TestFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if awaitUnread(int(f.Fd())) {
		t.Error("nobody reads a file")
	}
}
