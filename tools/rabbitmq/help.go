package main

import (
	"context"
	"fmt"
)

const usage = `rabbitmq gets and runs a real RabbitMQ on this machine, on loopback.

Usage: go run ./tools/rabbitmq [--dir DIR] VERB [ARGS]

  up [--nodes 1|3] [--release trixie|sid]
                       get a broker if there is none yet, start what does not run,
                       return when every node answers; idempotent
  down                 end all nodes and remove their data; what was downloaded stays
  status [--json]      one line for each node; exits 3 when something is down
                       (as a built program; see the end)
  env                  shell exports: RABBITMQ_STREAM_URL (one URI for each node,
                       separated by commas), RABBITMQ_AMQP_URL,
                       RABBITMQ_MANAGEMENT_URL, RABBITMQ_STREAM_TLS_URL,
                       RABBITMQ_CA_FILE; use: eval "$(go run ./tools/rabbitmq env)"
  kill NODE            end a node as a crash does (SIGKILL); its data stays
  stop NODE            shut a node down in order; its data stays
  start NODE           start a node again, return when it answers
  ctl NODE ARGS...     rabbitmqctl in the node, e.g. ctl n1 list_queues
  streams NODE ARGS... rabbitmq-streams in the node
  help                 this text

NODE is n1, n2 or n3. User and password are guest.

  --dir DIR   the instance's directory; default .rabbitmq/default in the
              repository. Instances in different directories run side by side.

  --release   the RabbitMQ of this Debian release: trixie has 4.0, sid the newest
              that Debian has (4.3 in 2026); it comes by way 4 below

Where the broker comes from, in this order:
  1. RABBITMQ_STREAM_URL is set: that broker is used and never controlled
     (RABBITMQ_AMQP_URL and RABBITMQ_MANAGEMENT_URL say the rest)
  2. docker or podman, if its daemon answers
  3. rabbitmq-server 3.13 or newer on PATH
  4. Debian or Ubuntu, as root: a root file system made with debootstrap from
     the machine's own apt mirror, once, in the user's cache directory

Environment:
  TIDEMARK_RABBITMQ_PROVIDER  container, path or rootfs: only that way
  TIDEMARK_RABBITMQ_CACHE     where the root file system is kept
  TIDEMARK_RABBITMQ_SUITE     its release, for a new instance without --release
  TIDEMARK_RABBITMQ_MIRROR    where its packages come from

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 status: something is down. "go run"
makes 1 of each but 0; a script builds the program: go build -o bin/ ./tools/rabbitmq
`

func help(_ context.Context, c command) (int, error) {
	_, err := fmt.Fprint(c.stdout, usage)
	return exitOK, err
}
