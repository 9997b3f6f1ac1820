# Go commands only: what runs a broker is tools/rabbitmq.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# More flags for go test, e.g. make test TESTFLAGS='-v -run Resume'
TESTFLAGS   ?=
# What make check builds and vets for, besides this machine.
PLATFORMS   ?= linux/386 linux/arm64 windows/amd64 darwin/arm64

# The tests have brokers of their own, some of which they kill: one that the
# shell points to is not for them.
OWN_BROKER := env -u RABBITMQ_STREAM_URL -u RABBITMQ_AMQP_URL -u RABBITMQ_MANAGEMENT_URL -u RABBITMQ_STREAM_TLS_URL -u RABBITMQ_CA_FILE
RABBITMQ   := $(OWN_BROKER) $(GO) run ./tools/rabbitmq

# Tests that start and break three nodes, for a minute each. They have a target of
# their own, so that make test, and CI with it, stays below half an hour.
CLUSTER    := TestRealReplicaHeldBack|TestRealLeaderInDoubt|TestRealGroupSoakCluster|TestRealClusterSuperStream

.PHONY: help demo demo-cold demo-rabbitmq test test-cluster cluster-tests test-sid test-forgetful test-java test-386 soak soak-producers soak-groups scenes check

help:
	@echo 'make demo            publish, consume, stop half-way, go on at the next message: in seconds'
	@echo 'make demo-cold       how long that takes with an empty build cache'
	@echo 'make demo-rabbitmq   the same on a real RabbitMQ, with a consumer process that is killed'
	@echo 'make test            the tests, with the race detector, on a real RabbitMQ'
	@echo 'make test-cluster    four that break three nodes for a minute each, which make test leaves out'
	@echo 'make test-sid        what depends on the version of RabbitMQ, on the newer one of Debian sid'
	@echo 'make test-forgetful  a member that RabbitMQ 4.3.3 forgets, on one made from SOURCES, a clone of rabbitmq-server'
	@echo 'make test-java       RabbitMQ'"'"'s Java client publishes beside ours, and bench measures it: needs Maven and a JDK, 11 or later'
	@echo 'make test-386        the tests that need no RabbitMQ, where int has 32 bits (Linux on x86-64)'
	@echo 'make soak            200 faults in 10 M messages on a cluster of three: an hour'
	@echo 'make scenes          the random scenes of producers, 500 times each, in virtual time: minutes'
	@echo 'make soak-producers  its part of producers, and processes and leaders killed again and again: half an hour'
	@echo 'make soak-groups     200 faults of groups of processes in 2 M messages, on a stream and on a super stream, of one node and of three: 40 minutes'
	@echo 'make check           gofmt, vet, staticcheck, go mod tidy; builds and vets for $(PLATFORMS)'
	@echo
	@echo 'The first demo-rabbitmq or test on a machine downloads a RabbitMQ: a few minutes at most.'
	@echo 'Without one: go test ./... (what needs it is skipped).'

# Where the standard library is to be compiled too, for the first time on a machine,
# that is nearly the whole wait. Without cgo, inlining and tables for a debugger it
# takes little more than half of it. Elsewhere the usual flags find the usual cache.
# crypto/tls tells: the demo compiles it, and so did nearly every other program.
demo:
	@set --; if [ "$$($(GO) list -f '{{.Stale}}' crypto/tls)" = true ]; then \
	export CGO_ENABLED=0; set -- -gcflags='all=-l -dwarf=false' -ldflags='-s -w'; fi; \
	$(GO) run "$$@" ./examples/quickstart

# With the modules downloaded. Of the two lines at the end, the second is the CPU
# time of the compiler and the demo, user and system, which other work on the
# machine changes less.
demo-cold:
	@$(GO) list -deps ./examples/quickstart >/dev/null && cache=$$(mktemp -d) && \
	trap 'rm -rf "$$cache"' EXIT && trap 'exit 130' INT TERM && begin=$$(date +%s) && \
	GOCACHE=$$cache $(MAKE) --no-print-directory demo && echo "make demo took $$(($$(date +%s) - begin)) s with an empty build cache" && times

demo-rabbitmq:
	@$(GO) run ./examples/demo

# Brought up first, so that a download is seen; ended in any case. Package bench,
# which needs no RabbitMQ, runs beside package stream, which takes longest.
test:
	@down() { for d in .rabbitmq/test*/; do [ ! -d "$$d" ] || $(RABBITMQ) --dir "$$d" down >/dev/null; done; }; \
	trap 'down' EXIT; trap 'exit 130' INT TERM; \
	$(RABBITMQ) --dir .rabbitmq/test up && \
	TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -race -count=1 -timeout 25m -skip '^($(CLUSTER))$$' $(TESTFLAGS) $$($(GO) list ./... | grep -v /bench$$) ./bench && \
	(cd examples/sqlite && $(OWN_BROKER) $(GO) test -count=1 $(TESTFLAGS) ./...) # its own shell: the trap runs here

test-cluster:
	TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -race -count=1 -timeout 30m -v -run '^($(CLUSTER))$$' $(TESTFLAGS) ./stream

# For .ci/run.
cluster-tests:
	@echo '$(CLUSTER)'

# The tests say which version they met: sid moves on.
test-sid: export TIDEMARK_RABBITMQ_SUITE = sid
test-sid:
	@down() { for d in .rabbitmq/test*/; do [ ! -d "$$d" ] || $(RABBITMQ) --dir "$$d" down >/dev/null; done; }; \
	trap 'down' EXIT; trap 'exit 130' INT TERM; down; \
	$(RABBITMQ) --dir .rabbitmq/test up && \
	TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -race -count=1 -timeout 10m -v -run ByVersion $(TESTFLAGS) ./stream && \
	TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -race -count=1 -timeout 10m $(TESTFLAGS) ./conformance

# SOURCES is a clone of rabbitmq-server with its tags.
test-forgetful: export TIDEMARK_RABBITMQ_SUITE = sid
test-forgetful: export TIDEMARK_RABBITMQ_CACHE = $(CURDIR)/.rabbitmq/forgetful
test-forgetful:
	@[ -d "$$TIDEMARK_RABBITMQ_CACHE" ] || env -u TIDEMARK_RABBITMQ_CACHE tools/forgetful/make '$(SOURCES)' "$$TIDEMARK_RABBITMQ_CACHE"
	@down() { for d in .rabbitmq/test*/; do [ ! -d "$$d" ] || $(RABBITMQ) --dir "$$d" down >/dev/null; done; }; \
	trap 'down' EXIT; trap 'exit 130' INT TERM; down; \
	$(RABBITMQ) --dir .rabbitmq/test up && \
	TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -race -count=1 -timeout 10m -v -run TestGroupForgottenMemberByVersion $(TESTFLAGS) ./stream

# Maven downloads the Java client at the first time. The build tag keeps the tests
# out of make test and CI, whose machines may have no Java.
test-java:
	@down() { for d in .rabbitmq/test*/; do [ ! -d "$$d" ] || $(RABBITMQ) --dir "$$d" down >/dev/null; done; }; \
	trap 'down' EXIT; trap 'exit 130' INT TERM; \
	$(RABBITMQ) --dir .rabbitmq/test up && \
	TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -tags java -race -count=1 -timeout 20m -v $(TESTFLAGS) ./internal/javatest && \
	TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -tags java -race -count=1 -timeout 10m -v -run TestJava $(TESTFLAGS) ./bench

# Without the race detector, which 386 does not have.
test-386: export GOARCH = 386
test-386: export CGO_ENABLED = 0
test-386:
	env -u TIDEMARK_REAL $(OWN_BROKER) $(GO) test -count=1 -timeout 10m $(TESTFLAGS) ./...
	cd examples/sqlite && env -u TIDEMARK_REAL $(OWN_BROKER) $(GO) test -count=1 $(TESTFLAGS) ./...

# The faults tests at full scale: an hour. The broker goes in any case.
soak:
	TIDEMARK_SOAK_FAULTS=200 TIDEMARK_SOAK_MESSAGES=10000000 TIDEMARK_AWAY_SECONDS=60 TIDEMARK_REAL=1 $(OWN_BROKER) $(GO) test -count=1 -timeout 3h -v -run "RealSoak($$|StoreEach|Workers|Batches)|RealBrokerKilledAndAway" $(TESTFLAGS) ./stream; \
	$(MAKE) soak-producers

# Each process that is killed, each overlap, each leader that is moved or killed.
soak-producers: export TIDEMARK_REAL = 1
soak-producers:
	@down() { for d in .rabbitmq/test*/; do [ ! -d "$$d" ] || $(RABBITMQ) --dir "$$d" down >/dev/null; done; }; \
	trap 'down' EXIT; trap 'exit 130' INT TERM; \
	TIDEMARK_SOAK_FAULTS=100 TIDEMARK_SOAK_MESSAGES=2000000 $(OWN_BROKER) $(GO) test -count=1 -timeout 1h -v -run RealSoakProducers $(TESTFLAGS) ./stream && \
	TIDEMARK_KILLS=50 TIDEMARK_OVERLAPS=100 TIDEMARK_MOVES=20 TIDEMARK_KILLS_TOGETHER=10 $(OWN_BROKER) $(GO) test -count=1 -timeout 1h -v -run 'PublisherSIGKILL|TwoProcesses|RealPublish' $(TESTFLAGS) ./stream

# Groups of one to five processes, judged from outside. The broker goes in any case.
soak-groups: export TIDEMARK_REAL = 1
soak-groups:
	@down() { for d in .rabbitmq/test*/; do [ ! -d "$$d" ] || $(RABBITMQ) --dir "$$d" down >/dev/null; done; }; \
	trap 'down' EXIT; trap 'exit 130' INT TERM; \
	TIDEMARK_GROUP_FAULTS=200 TIDEMARK_GROUP_MESSAGES=2000000 $(OWN_BROKER) $(GO) test -count=1 -timeout 3h -v -run 'TestGroupSoak$$|RealGroupSoakCluster' $(TESTFLAGS) ./stream && \
	TIDEMARK_GROUP_CHANGES=100 $(OWN_BROKER) $(GO) test -count=1 -timeout 10m -v -run 'TestGroupChanges$$' $(TESTFLAGS) ./stream

# The producers' scenes that are random, 500 times each, in virtual time.
scenes:
	TIDEMARK_SCENE_RUNS=500 $(GO) test -count=1 -timeout 30m -run TestScene $(TESTFLAGS) ./stream

check:
	@unformatted=$$(gofmt -l .); \
	[ -z "$$unformatted" ] || { echo "not formatted, run gofmt -w on: $$unformatted"; exit 1; }
	$(GO) vet -tags java ./... # what make test-java runs too
	$(GO) run $(STATICCHECK) -tags java ./...
	$(GO) mod tidy -diff
	cd examples/sqlite && $(GO) vet ./... && $(GO) mod tidy -diff # a module of its own
	@for p in $(PLATFORMS); do for dir in . examples/sqlite; do \
		echo "build and vet for $$p: $$dir"; \
		(cd $$dir && export GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 && $(GO) build -o /dev/null ./... && $(GO) vet ./...) || exit 1; \
	done; done
