package streamtest

import "github.com/tidemark-go/tidemark/internal/wire"

// Command names a command of the protocol for AnswerWith, TruncateNext,
// Received and Commands. It stands for the request and the response alike. Its
// String method returns the name in the specification, such as
// "DeclarePublisher".
type Command = wire.Key

// These are the commands of the protocol up to RabbitMQ 4.3. The broker alone
// sends PublishConfirm, PublishError, Deliver and MetadataUpdate.
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

// Code is a response code of the protocol. StreamError holds one and AnswerWith
// takes one. Its String method returns the meaning as text, such as
// "stream does not exist".
type Code = wire.Code

// These are the response codes of the protocol up to RabbitMQ 4.3.
const (
	// OK says that the command succeeded.
	OK = wire.CodeOK
	// StreamDoesNotExist says that the stream or super stream does not
	// exist.
	StreamDoesNotExist = wire.CodeStreamDoesNotExist
	// SubscriptionIDExists refuses Subscribe if the connection already uses
	// the id.
	SubscriptionIDExists = wire.CodeSubscriptionIDExists
	// SubscriptionIDDoesNotExist refuses Credit and Unsubscribe with an id
	// that the connection does not use.
	SubscriptionIDDoesNotExist = wire.CodeSubscriptionIDDoesNotExist
	// StreamAlreadyExists refuses Create if the stream exists with the same
	// arguments, and CreateSuperStream if the name or a partition exists.
	StreamAlreadyExists = wire.CodeStreamAlreadyExists
	// StreamNotAvailable refuses a command for a stream without a leader,
	// see SetAvailable. It is also the code of every MetadataUpdate.
	StreamNotAvailable = wire.CodeStreamNotAvailable
	// SaslMechanismNotSupported refuses a SASL mechanism that the broker
	// does not offer.
	SaslMechanismNotSupported = wire.CodeSaslMechanismNotSupported
	// AuthenticationFailure refuses a wrong user, password or certificate.
	AuthenticationFailure = wire.CodeAuthenticationFailure
	// SaslError refuses malformed data of SASL PLAIN.
	SaslError = wire.CodeSaslError
	// SaslChallenge asks for more data in RabbitMQ. The broker sends it
	// only on behalf of AnswerWith.
	SaslChallenge = wire.CodeSaslChallenge
	// AuthenticationLoopback refuses the user guest on a connection from
	// another host.
	AuthenticationLoopback = wire.CodeAuthenticationLoopback
	// VHostAccessFailure refuses Open if the virtual host does not exist or
	// the user has no permission in it.
	VHostAccessFailure = wire.CodeVHostAccessFailure
	// UnknownFrame is the code of the Close that the broker sends after a
	// malformed frame or an unknown command.
	UnknownFrame = wire.CodeUnknownFrame
	// FrameTooLarge is the code of the Close that the broker sends after a
	// frame longer than agreed, see WithFrameMax.
	FrameTooLarge = wire.CodeFrameTooLarge
	// InternalError refuses Create if the memory is full, and
	// CreateSuperStream with an invalid argument.
	InternalError = wire.CodeInternalError
	// AccessRefused says that the user lacks the permission.
	AccessRefused = wire.CodeAccessRefused
	// PreconditionFailed refuses an invalid argument, an invalid name, an
	// id in use, and DeclarePublisher if the memory is full.
	PreconditionFailed = wire.CodePreconditionFailed
	// PublisherDoesNotExist refuses DeletePublisher and Publish with an id
	// that the connection does not use.
	PublisherDoesNotExist = wire.CodePublisherDoesNotExist
	// NoOffset answers QueryOffset if no offset is stored under the name.
	NoOffset = wire.CodeNoOffset
	// SaslCannotChangeMechanism refuses another mechanism when a client
	// authenticates again.
	SaslCannotChangeMechanism = wire.CodeSaslCannotChangeMechanism
	// SaslCannotChangeUsername refuses another user when a client
	// authenticates again.
	SaslCannotChangeUsername = wire.CodeSaslCannotChangeUsername
)
