package streamtest

import (
	"fmt"
	"time"

	"github.com/Azure/go-amqp"
)

// Properties is the properties section of an AMQP 1.0 message. A field that the
// message does not have is zero.
type Properties struct {
	// MessageID and CorrelationID are a uint64, a [16]byte (a UUID), a
	// []byte, a string or nil.
	MessageID, CorrelationID any
	UserID                   []byte
	To                       string
	Subject                  string
	ReplyTo                  string
	ContentType              string
	ContentEncoding          string
	AbsoluteExpiryTime       time.Time
	CreationTime             time.Time
	GroupID                  string
	GroupSequence            uint32
	ReplyToGroupID           string
}

// The codes of sections (OASIS AMQP 1.0, part 3, section 3.2).
const (
	sectionProperties            = 0x73
	sectionApplicationProperties = 0x74
	sectionData                  = 0x75
)

// maxDecoded is the length of the longest section that is decoded. The codec
// recurses, so that a hostile section could overflow the stack.
const maxDecoded = 64 << 10

// decodeProperties sets the decoded fields of the message. The codec decodes
// each section alone, so that one that it cannot read does not hide the other.
func (m *Message) decodeProperties() {
	sections(m.Raw, func(code byte, section, _ []byte) bool {
		if code != sectionProperties && code != sectionApplicationProperties {
			return code < sectionData // these two come before the body
		}
		decoded, err := decodeSection(section)
		switch {
		case err != nil:
			m.Err = fmt.Errorf("message at offset %d: %w", m.Offset, err)
		case decoded.Properties != nil:
			m.Properties = plainProperties(decoded.Properties)
		case len(decoded.ApplicationProperties) > 0:
			m.ApplicationProperties = make(map[string]any)
			for key, v := range decoded.ApplicationProperties {
				m.ApplicationProperties[key] = plainValue(v)
			}
		}
		return true
	})
}

// decodeSection decodes a message of one section.
func decodeSection(section []byte) (m *amqp.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decode section: %v", r)
		}
	}()
	if len(section) > maxDecoded {
		return nil, fmt.Errorf("decode section: %d bytes, only sections of up to %d are decoded", len(section), maxDecoded)
	}
	m = new(amqp.Message)
	return m, m.UnmarshalBinary(section)
}

func plainProperties(p *amqp.MessageProperties) Properties {
	return Properties{
		MessageID: plainValue(p.MessageID), CorrelationID: plainValue(p.CorrelationID), UserID: p.UserID,
		To: orZero(p.To), Subject: orZero(p.Subject), ReplyTo: orZero(p.ReplyTo), ContentType: orZero(p.ContentType),
		ContentEncoding: orZero(p.ContentEncoding), AbsoluteExpiryTime: orZero(p.AbsoluteExpiryTime),
		CreationTime: orZero(p.CreationTime), GroupID: orZero(p.GroupID), GroupSequence: orZero(p.GroupSequence),
		ReplyToGroupID: orZero(p.ReplyToGroupID),
	}
}

func orZero[T any](v *T) T {
	if v == nil {
		return *new(T)
	}
	return *v
}

// plainValue replaces the types of the codec by those of the language.
func plainValue(v any) any {
	switch v := v.(type) {
	case amqp.UUID:
		return [16]byte(v)
	case amqp.Symbol:
		return string(v)
	}
	return v
}
