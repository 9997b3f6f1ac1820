module github.com/tidemark-go/tidemark

go 1.25.0

require (
	github.com/rabbitmq/amqp091-go v1.16.0 // indirect
	github.com/rabbitmq/rabbitmq-stream-go-client v1.8.3 // indirect
)
