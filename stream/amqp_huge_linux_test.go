//go:build amd64 || arm64

package stream

import (
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// TestFieldsTooLong: a length beyond 32 bits is refused, and nothing is copied
// before. The memory is address space only: nobody reads it.
func TestFieldsTooLong(t *testing.T) {
	const size = 1<<32 + 1
	huge, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err != nil {
		t.Skipf("this machine has not 4 GiB of address space: %v", err)
	}
	defer func() { must(t, syscall.Munmap(huge)) }()
	text := unsafe.String(&huge[0], len(huge))
	for name, m := range map[string]Message{
		"Properties.UserID":          {Properties: &Properties{UserID: huge}},
		"Properties.MessageID":       {Properties: &Properties{MessageID: huge}},
		"Properties.Subject":         {Properties: &Properties{Subject: text}},
		"Properties.ContentType":     {Properties: &Properties{ContentType: text}},
		"Value":                      {Value: text},
		`ApplicationProperties["k"]`: {ApplicationProperties: map[string]any{"k": huge}},
		`Annotations["k"]`:           {Annotations: map[string]any{"k": Symbol(text)}},
		`Footer["k"]`:                {Footer: map[string]any{"k": []any{BinaryKey(text)}}},
	} {
		refused(t, m, name, "4294967297")
	}
	for _, m := range []Message{{Body: huge}, {Body: huge[:maxEncoded]}, messageOver(huge[:maxEncoded:maxEncoded])} {
		b, err := appendMessage(nil, &m, time.Time{})
		if wantErr(t, err, ErrMessageTooLarge); len(b) > 0 {
			t.Errorf("%d bytes", len(b))
		}
	}
}
