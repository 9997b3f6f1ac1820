package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// schedule is how a bare socket gives credit: so many chunks with Subscribe,
// and so many at a time after that, once as many have come. RabbitMQ sends
// while it holds more than half of what Subscribe gave.
type schedule struct{ first, back uint16 }

// defaultSchedule is what the official client does.
var defaultSchedule = schedule{10, 1}

// allSchedules are those of which the bench shows the best, where chunks are
// what is measured.
var allSchedules = []schedule{defaultSchedule, {1000, 500}, {30_000, 1}}

func (s schedule) String() string { return fmt.Sprintf("%d+%d", s.first, s.back) }

// parseSchedule reads what String writes.
func parseSchedule(text string) (schedule, error) {
	const maxCredit = 1<<15 - 1 // RabbitMQ refuses more at a time
	first, back, _ := strings.Cut(text, "+")
	f, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(back)
	if err1 != nil || err2 != nil || b < 1 || f > maxCredit || b > f {
		return schedule{}, fmt.Errorf("credit %q: want FIRST+BACK, such as 10+1, with BACK from 1 to FIRST and FIRST at most %d", text, maxCredit)
	}
	return schedule{uint16(f), uint16(b)}, nil
}

// creditor gives the credit of one subscription back.
type creditor struct {
	schedule
	frame []byte
	taken uint16
}

func newCreditor(s schedule) (creditor, error) {
	frame, err := wire.Append(nil, &wire.Credit{SubscriptionID: 1, Credit: int16(s.back)})
	return creditor{schedule: s, frame: frame}, err
}

// chunk counts a chunk that came, and gives credit back if it is time.
func (c *creditor) chunk(conn *raw) error {
	if c.taken++; c.taken < c.back {
		return nil
	}
	c.taken = 0
	_, err := conn.nc.Write(c.frame)
	return err
}
