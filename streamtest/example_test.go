//go:build !386 && !arm && !mips && !mipsle

// An example cannot be skipped: see officialtest.NeedNumbering.

package streamtest_test

import (
	"fmt"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/streamtest"
)

// Example runs a service against the broker. This service uses the official Go
// client; every client of the stream protocol works. A test calls NewBroker(t)
// instead of Start and Close.
func Example() {
	b, err := streamtest.Start()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	if err := publishInvoice(b.URI()); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Bodies("invoices"))
	// Output: [invoice 1]
}

// publishInvoice represents the service under test. It publishes one message to
// the stream "invoices" and waits for the confirm.
func publishInvoice(uri string) error {
	env, err := stream.NewEnvironment(stream.NewEnvironmentOptions().SetUri(uri))
	if err != nil {
		return err
	}
	defer env.Close()
	if err := env.DeclareStream("invoices", stream.NewStreamOptions()); err != nil {
		return err
	}
	p, err := env.NewProducer("invoices", nil)
	if err != nil {
		return err
	}
	defer p.Close()
	confirmed := p.NotifyPublishConfirmation()
	if err := p.Send(amqp.NewMessage([]byte("invoice 1"))); err != nil {
		return err
	}
	<-confirmed // Close would not wait for the confirm
	return nil
}
