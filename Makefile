# Go commands only: what runs a broker is tools/rabbitmq.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# More flags for go test, e.g. make test TESTFLAGS='-v -run Resume'
TESTFLAGS   ?=

# The tests have brokers of their own, some of which they kill: one that the
# shell points to is not for them.
OWN_BROKER := env -u RABBITMQ_STREAM_URL -u RABBITMQ_AMQP_URL -u RABBITMQ_MANAGEMENT_URL -u RABBITMQ_STREAM_TLS_URL -u RABBITMQ_CA_FILE
RABBITMQ   := $(OWN_BROKER) $(GO) run ./tools/rabbitmq

.PHONY: help demo demo-rabbitmq test soak check

help:
	@echo 'make demo            publish, consume, stop half-way, go on at the next message: in seconds'
	@echo 'make demo-rabbitmq   the same on a real RabbitMQ, with a consumer process that is killed'
	@echo 'make test            all tests, with the race detector, on a real RabbitMQ'
	@echo 'make soak            200 faults in 10 M messages on a cluster of three: an hour'
	@echo 'make check           gofmt, vet, staticcheck, go mod tidy'
	@echo
	@echo 'The first demo-rabbitmq or test on a machine downloads a RabbitMQ: a few minutes at most.'
	@echo 'Without one: go test ./... (what needs it is skipped).'

demo:
	@$(GO) run ./examples/quickstart

demo-rabbitmq:
	@$(GO) run ./examples/demo

# Brought up first, so that a download is seen; ended in any case.
test:
	@down() { for d in .rabbitmq/test*/; do [ ! -d "$$d" ] || $(RABBITMQ) --dir "$$d" down >/dev/null; done; }; \
	trap 'down' EXIT; trap 'exit 130' INT TERM; \
	$(RABBITMQ) --dir .rabbitmq/test up && \
	TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -race -count=1 -timeout 20m $(TESTFLAGS) ./... && \
	(cd examples/sqlite && $(OWN_BROKER) $(GO) test -count=1 $(TESTFLAGS) ./...) # its own shell: the trap runs here

# The faults tests at full scale: an hour.
soak:
	TIDEMARK_SOAK_FAULTS=200 TIDEMARK_SOAK_MESSAGES=10000000 TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -count=1 -timeout 3h -v -run "RealSoak($$|StoreEach|Workers|Batches)" $(TESTFLAGS) ./stream; \
	TIDEMARK_SOAK_FAULTS=100 TIDEMARK_SOAK_MESSAGES=2000000 TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -count=1 -timeout 1h -v -run RealSoakProducers $(TESTFLAGS) ./stream; \
	$(RABBITMQ) --dir .rabbitmq/test-cluster down

check:
	@unformatted=$$(gofmt -l .); \
	[ -z "$$unformatted" ] || { echo "not formatted, run gofmt -w on: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod tidy -diff
	cd examples/sqlite && $(GO) vet ./... && $(GO) mod tidy -diff # a module of its own
