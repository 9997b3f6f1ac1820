// Package billing is a little service that reads a stream. Its unit tests need
// no installed broker; copy billing_test.go for those of your own service.
package billing

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidemark-go/tidemark/stream"
)

// Order is a message of the stream orders.
type Order struct {
	ID    string `json:"id"`
	Cents int    `json:"cents"`
}

// Service charges every order of the stream orders.
type Service struct {
	consumer *stream.Consumer
	charge   func(context.Context, Order) error
}

// New returns a service that calls charge for each order. An order counts as
// billed once charge has returned nil. After a crash an order may come again,
// so charge has to remember the ids that it has seen.
func New(env *stream.Env, charge func(context.Context, Order) error) (*Service, error) {
	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Name: "billing"})
	if err != nil {
		return nil, err
	}
	return &Service{consumer, charge}, nil
}

// Run bills until ctx ends or an order cannot be billed. The next run begins
// with that order. The end of ctx is no error; see [stream.Consumer.Run].
func (s *Service) Run(ctx context.Context) error {
	return s.consumer.Run(ctx, func(ctx context.Context, d *stream.Delivery) error {
		var o Order
		if err := json.Unmarshal(d.Body, &o); err != nil {
			return fmt.Errorf("not an order: %w", err)
		}
		return s.charge(ctx, o)
	})
}
