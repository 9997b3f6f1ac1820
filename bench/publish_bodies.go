package main

// bodyRing is how many bodies are made before the clock starts. They are
// published in turns.
const bodyRing = 1000

func bodies(size int) [][]byte {
	list := make([][]byte, bodyRing)
	for i := range list {
		list[i] = bodyOf(i, size)
	}
	return list
}

// encodedMessages are the messages with these bodies, as AMQP 1.0.
func encodedMessages(size int) [][]byte {
	list := bodies(size)
	for i, b := range list {
		list[i] = appendMessage(nil, b)
	}
	return list
}
