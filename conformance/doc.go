// Package conformance holds no code but one table of behaviours, in its tests: what a RabbitMQ Streams
// broker answers to what. Each row runs against streamtest, and against a real RabbitMQ when TIDEMARK_REAL
// is 1, as it is in make test:
//
//	TIDEMARK_REAL=1 go test ./conformance                                the RabbitMQ of make test
//	TIDEMARK_REAL=1 TIDEMARK_RABBITMQ_SUITE=sid go test ./conformance    the newest one Debian has
//
// A row says what RabbitMQ does and must pass on both. Where streamtest differs on purpose,
// differences_test.go says so and why, and what streamtest does instead; a difference that is no longer one
// fails the test.
package conformance
