package streamtest

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestMessageData(t *testing.T) {
	// RabbitMQ writes the sections in this order: header, message
	// annotations, data.
	header, annotations := "005370c00605424040 4143", "005372c11002a307 782d656d707479 a30474657374"
	tests := map[string]struct{ raw, want string }{
		"short data":      {"005375a0026869", "hi"},
		"long data":       {"005375b0000000026869", "hi"},
		"after others":    {header + annotations + "005375a0026869", "hi"},
		"empty data":      {"005375a000", ""},
		"no AMQP":         {"6869", "hi"},
		"no data section": {"005377a1026869", "\x00Sw\xa1\x02hi"},
		"cut short":       {"005375a0096869", "\x00Su\xa0\x09hi"},
		"empty":           {"", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			raw, err := hex.DecodeString(strings.ReplaceAll(tt.raw, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if got := (Message{Raw: raw}).String(); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzMessageData(f *testing.F) {
	f.Add([]byte("\x00Su\xa0\x02hi"))
	f.Add([]byte("\x00Sp\xc0\x01\x00\x00Su\xb0\x00\x00\x00\x02hi"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got := (Message{Raw: raw}).Data(); !bytes.Contains(raw, got) {
			t.Errorf("%x is not part of %x", got, raw)
		}
	})
}
