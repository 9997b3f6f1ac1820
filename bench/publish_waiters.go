package main

import (
	"context"
	"fmt"

	"github.com/tidemark-go/tidemark/stream"
)

// waitingCallers is how many goroutines publish at the same time in cases of
// publish-waiters.
const waitingCallers = 10_000

// waitersCases have room for all callers, and for a few. The second one is to take
// at most twice the time of the first, so that its rate is to be half of that at least.
func waitersCases() (list []benchCase) {
	for _, room := range []int{20_000, 200} {
		c := benchCase{family: "publish-waiters", name: fmt.Sprintf("publish-waiters-%d", room), content: contentNone, n: fixed(10 * waitingCallers),
			about: "10,000 callers in Publish at once with room for so many messages (goal: at 0.50 of the first at least)",
			run:   map[string]runner{implTidemark: publishWaiters(room)}}
		if len(list) > 0 {
			c.base = list[0].name
		}
		list = append(list, c)
	}
	return list
}

// publishWaiters measures many callers that publish a message each, at the same
// time. The next ones come when all have returned.
func publishWaiters(room int) runner {
	return func(ctx context.Context, j job, m *meter) error {
		messages := messagesOf(j.Size)
		j.InFlight = room
		return producerTidemark(ctx, j, stream.ProducerConfig{}, func(p *stream.Producer) (err error) {
			m.begin()
			for sent := 0; sent < j.N && err == nil; sent += waitingCallers {
				err = allOf(min(waitingCallers, j.N-sent), func(k int) error {
					return p.Publish(ctx, messages[k%len(messages)])
				})
			}
			m.end(j.N)
			return err
		})
	}
}
