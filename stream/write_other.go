//go:build !unix

package stream

// writeSome writes nothing: every frame goes the way over the writer.
func writeSome(uintptr, []byte) int { return 0 }
