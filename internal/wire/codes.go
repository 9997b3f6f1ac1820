package wire

import "strconv"

// Version1 and Version2 are the command versions in use. Only Publish and
// Deliver have the second.
const (
	Version1 uint16 = 1
	Version2 uint16 = 2
)

// Key identifies a command, or the response to it if its top bit is set.
type Key uint16

// ResponseBit is the bit that is set in the keys of responses.
const ResponseBit Key = 0x8000

// The commands up to RabbitMQ 4.3.
const (
	KeyDeclarePublisher        Key = 0x0001
	KeyPublish                 Key = 0x0002
	KeyPublishConfirm          Key = 0x0003
	KeyPublishError            Key = 0x0004
	KeyQueryPublisherSequence  Key = 0x0005
	KeyDeletePublisher         Key = 0x0006
	KeySubscribe               Key = 0x0007
	KeyDeliver                 Key = 0x0008
	KeyCredit                  Key = 0x0009
	KeyStoreOffset             Key = 0x000a
	KeyQueryOffset             Key = 0x000b
	KeyUnsubscribe             Key = 0x000c
	KeyCreate                  Key = 0x000d
	KeyDelete                  Key = 0x000e
	KeyMetadata                Key = 0x000f
	KeyMetadataUpdate          Key = 0x0010
	KeyPeerProperties          Key = 0x0011
	KeySaslHandshake           Key = 0x0012
	KeySaslAuthenticate        Key = 0x0013
	KeyTune                    Key = 0x0014
	KeyOpen                    Key = 0x0015
	KeyClose                   Key = 0x0016
	KeyHeartbeat               Key = 0x0017
	KeyRoute                   Key = 0x0018
	KeyPartitions              Key = 0x0019
	KeyConsumerUpdate          Key = 0x001a
	KeyExchangeCommandVersions Key = 0x001b
	KeyStreamStats             Key = 0x001c
	KeyCreateSuperStream       Key = 0x001d
	KeyDeleteSuperStream       Key = 0x001e
	KeyResolveOffsetSpec       Key = 0x001f
)

var keyNames = [...]string{
	KeyDeclarePublisher:        "DeclarePublisher",
	KeyPublish:                 "Publish",
	KeyPublishConfirm:          "PublishConfirm",
	KeyPublishError:            "PublishError",
	KeyQueryPublisherSequence:  "QueryPublisherSequence",
	KeyDeletePublisher:         "DeletePublisher",
	KeySubscribe:               "Subscribe",
	KeyDeliver:                 "Deliver",
	KeyCredit:                  "Credit",
	KeyStoreOffset:             "StoreOffset",
	KeyQueryOffset:             "QueryOffset",
	KeyUnsubscribe:             "Unsubscribe",
	KeyCreate:                  "Create",
	KeyDelete:                  "Delete",
	KeyMetadata:                "Metadata",
	KeyMetadataUpdate:          "MetadataUpdate",
	KeyPeerProperties:          "PeerProperties",
	KeySaslHandshake:           "SaslHandshake",
	KeySaslAuthenticate:        "SaslAuthenticate",
	KeyTune:                    "Tune",
	KeyOpen:                    "Open",
	KeyClose:                   "Close",
	KeyHeartbeat:               "Heartbeat",
	KeyRoute:                   "Route",
	KeyPartitions:              "Partitions",
	KeyConsumerUpdate:          "ConsumerUpdate",
	KeyExchangeCommandVersions: "ExchangeCommandVersions",
	KeyStreamStats:             "StreamStats",
	KeyCreateSuperStream:       "CreateSuperStream",
	KeyDeleteSuperStream:       "DeleteSuperStream",
	KeyResolveOffsetSpec:       "ResolveOffsetSpec",
}

// String returns the name of the command, with "Response" appended to it if k
// is the key of a response.
func (k Key) String() string {
	suffix := ""
	if k.IsResponse() {
		suffix = "Response"
	}
	if id := k.Request(); int(id) < len(keyNames) && keyNames[id] != "" {
		return keyNames[id] + suffix
	}
	return "Key(0x" + strconv.FormatUint(uint64(k), 16) + ")"
}

// Response returns the key of the response to k.
func (k Key) Response() Key { return k | ResponseBit }

// Request returns k without the response bit.
func (k Key) Request() Key { return k &^ ResponseBit }

// IsResponse reports whether k is the key of a response.
func (k Key) IsResponse() bool { return k&ResponseBit != 0 }

// Code is the outcome that a response carries.
type Code uint16

// The response codes.
const (
	CodeOK                         Code = 1
	CodeStreamDoesNotExist         Code = 2
	CodeSubscriptionIDExists       Code = 3
	CodeSubscriptionIDDoesNotExist Code = 4
	CodeStreamAlreadyExists        Code = 5
	CodeStreamNotAvailable         Code = 6
	CodeSaslMechanismNotSupported  Code = 7
	CodeAuthenticationFailure      Code = 8
	CodeSaslError                  Code = 9
	CodeSaslChallenge              Code = 10
	CodeAuthenticationLoopback     Code = 11
	CodeVHostAccessFailure         Code = 12
	CodeUnknownFrame               Code = 13
	CodeFrameTooLarge              Code = 14
	CodeInternalError              Code = 15
	CodeAccessRefused              Code = 16
	CodePreconditionFailed         Code = 17
	CodePublisherDoesNotExist      Code = 18
	CodeNoOffset                   Code = 19
	CodeSaslCannotChangeMechanism  Code = 20
	CodeSaslCannotChangeUsername   Code = 21
)

var codeTexts = [...]string{
	CodeOK:                         "ok",
	CodeStreamDoesNotExist:         "stream does not exist",
	CodeSubscriptionIDExists:       "subscription id already exists",
	CodeSubscriptionIDDoesNotExist: "subscription id does not exist",
	CodeStreamAlreadyExists:        "stream already exists",
	CodeStreamNotAvailable:         "stream not available",
	CodeSaslMechanismNotSupported:  "SASL mechanism not supported",
	CodeAuthenticationFailure:      "authentication failure",
	CodeSaslError:                  "SASL error",
	CodeSaslChallenge:              "SASL challenge",
	CodeAuthenticationLoopback:     "authentication failure loopback",
	CodeVHostAccessFailure:         "virtual host access failure",
	CodeUnknownFrame:               "unknown frame",
	CodeFrameTooLarge:              "frame too large",
	CodeInternalError:              "internal error",
	CodeAccessRefused:              "access refused",
	CodePreconditionFailed:         "precondition failed",
	CodePublisherDoesNotExist:      "publisher does not exist",
	CodeNoOffset:                   "no offset",
	CodeSaslCannotChangeMechanism:  "SASL cannot change mechanism",
	CodeSaslCannotChangeUsername:   "SASL cannot change username",
}

// String returns what the code means, in words.
func (c Code) String() string {
	if int(c) < len(codeTexts) && codeTexts[c] != "" {
		return codeTexts[c]
	}
	return "code " + strconv.Itoa(int(c))
}
