package streamtest

import "github.com/tidemark-go/tidemark/internal/wire"

// Command is a command of the protocol, to be named in AnswerWith, TruncateNext and Received. Its String
// method is its name.
type Command = wire.Key

// The commands.
const (
	DeclarePublisher        = wire.KeyDeclarePublisher
	Publish                 = wire.KeyPublish
	PublishConfirm          = wire.KeyPublishConfirm
	PublishError            = wire.KeyPublishError
	QueryPublisherSequence  = wire.KeyQueryPublisherSequence
	DeletePublisher         = wire.KeyDeletePublisher
	Subscribe               = wire.KeySubscribe
	Deliver                 = wire.KeyDeliver
	Credit                  = wire.KeyCredit
	StoreOffset             = wire.KeyStoreOffset
	QueryOffset             = wire.KeyQueryOffset
	Unsubscribe             = wire.KeyUnsubscribe
	Create                  = wire.KeyCreate
	Delete                  = wire.KeyDelete
	Metadata                = wire.KeyMetadata
	MetadataUpdate          = wire.KeyMetadataUpdate
	PeerProperties          = wire.KeyPeerProperties
	SaslHandshake           = wire.KeySaslHandshake
	SaslAuthenticate        = wire.KeySaslAuthenticate
	Tune                    = wire.KeyTune
	Open                    = wire.KeyOpen
	Close                   = wire.KeyClose
	Heartbeat               = wire.KeyHeartbeat
	Route                   = wire.KeyRoute
	Partitions              = wire.KeyPartitions
	ConsumerUpdate          = wire.KeyConsumerUpdate
	ExchangeCommandVersions = wire.KeyExchangeCommandVersions
	StreamStats             = wire.KeyStreamStats
	CreateSuperStream       = wire.KeyCreateSuperStream
	DeleteSuperStream       = wire.KeyDeleteSuperStream
	ResolveOffsetSpec       = wire.KeyResolveOffsetSpec
)

// Code is a response code. Its String method says what it means.
type Code = wire.Code

// The response codes.
const (
	OK                         = wire.CodeOK
	StreamDoesNotExist         = wire.CodeStreamDoesNotExist
	SubscriptionIDExists       = wire.CodeSubscriptionIDExists
	SubscriptionIDDoesNotExist = wire.CodeSubscriptionIDDoesNotExist
	StreamAlreadyExists        = wire.CodeStreamAlreadyExists
	StreamNotAvailable         = wire.CodeStreamNotAvailable
	SaslMechanismNotSupported  = wire.CodeSaslMechanismNotSupported
	AuthenticationFailure      = wire.CodeAuthenticationFailure
	SaslError                  = wire.CodeSaslError
	SaslChallenge              = wire.CodeSaslChallenge
	AuthenticationLoopback     = wire.CodeAuthenticationLoopback
	VHostAccessFailure         = wire.CodeVHostAccessFailure
	UnknownFrame               = wire.CodeUnknownFrame
	FrameTooLarge              = wire.CodeFrameTooLarge
	InternalError              = wire.CodeInternalError
	AccessRefused              = wire.CodeAccessRefused
	PreconditionFailed         = wire.CodePreconditionFailed
	PublisherDoesNotExist      = wire.CodePublisherDoesNotExist
	NoOffset                   = wire.CodeNoOffset
	SaslCannotChangeMechanism  = wire.CodeSaslCannotChangeMechanism
	SaslCannotChangeUsername   = wire.CodeSaslCannotChangeUsername
)
