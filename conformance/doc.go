// Package conformance tests that streamtest behaves like RabbitMQ. It contains
// only tests: one table of behaviours, whose rows say what a RabbitMQ Streams
// broker answers to what.
//
// Each row runs against streamtest. If the environment variable TIDEMARK_REAL
// is 1, as in make test, it also runs against a real RabbitMQ:
//
//	# the RabbitMQ of make test
//	TIDEMARK_REAL=1 go test ./conformance
//	# the newest RabbitMQ in Debian
//	TIDEMARK_REAL=1 TIDEMARK_RABBITMQ_SUITE=sid go test ./conformance
//
// A row states what RabbitMQ does, and must pass on both brokers. The file
// differences_test.go lists the rows from which streamtest differs on purpose,
// with the reason and with what streamtest does instead. The test fails if a
// listed difference no longer exists.
package conformance
