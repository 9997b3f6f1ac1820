package faults

import (
	"io"
	"sync"
	"time"
)

const (
	// delayBuffer bounds what is on its way in one direction of a connection.
	// It allows 3 GB/s at a delay of 5 ms, so that it limits no bandwidth.
	delayBuffer = 16 << 20
	// delayGrain is how far apart two writes may come and still leave together.
	delayGrain = 20 * time.Microsecond
	// parcelSize bounds what leaves together.
	parcelSize = 256 << 10
)

// delayLine passes on what is written to it, in order, a constant time later.
type delayLine struct {
	to    io.Writer
	delay time.Duration
	done  chan struct{} // closed once the goroutine has ended

	mu      sync.Mutex
	changed sync.Cond
	queue   []parcel
	held    int   // bytes in queue, and being written
	err     error // of a write to to
	closed  bool
}

// parcel is bytes that leave together.
type parcel struct {
	due   time.Time
	bytes []byte
}

// newDelayLine starts a goroutine that ends with Close.
func newDelayLine(to io.Writer, delay time.Duration) *delayLine {
	d := &delayLine{to: to, delay: delay, done: make(chan struct{})}
	d.changed.L = &d.mu
	go d.run()
	return d
}

// Write takes a copy of b. It blocks while delayBuffer bytes are on their way,
// and returns the error of an earlier write to the other side.
func (d *delayLine) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.held >= delayBuffer && d.err == nil {
		d.changed.Wait()
	}
	if d.err != nil {
		return 0, d.err
	}
	due := time.Now().Add(d.delay)
	if last := len(d.queue) - 1; last >= 0 && due.Sub(d.queue[last].due) < delayGrain && len(d.queue[last].bytes) < parcelSize {
		d.queue[last].bytes = append(d.queue[last].bytes, b...)
	} else {
		d.queue = append(d.queue, parcel{due, append([]byte(nil), b...)})
	}
	d.held += len(b)
	d.changed.Broadcast()
	return len(b), nil
}

// Close passes on what is on its way, and waits for that.
func (d *delayLine) Close() error {
	d.mu.Lock()
	d.closed = true
	d.changed.Broadcast()
	d.mu.Unlock()
	<-d.done
	return nil
}

func (d *delayLine) run() {
	defer close(d.done)
	for {
		p, ok := d.next()
		if !ok {
			return
		}
		time.Sleep(time.Until(p.due))
		_, err := d.to.Write(p.bytes)
		d.wrote(len(p.bytes), err)
	}
}

// next waits for a parcel and takes it. It returns false once there is none to
// come.
func (d *delayLine) next() (parcel, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 && !d.closed {
		d.changed.Wait()
	}
	if len(d.queue) == 0 || d.err != nil {
		return parcel{}, false
	}
	p := d.queue[0]
	d.queue = d.queue[1:]
	return p, true
}

func (d *delayLine) wrote(n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held -= n
	if err != nil {
		d.err, d.closed, d.queue = err, true, nil
	}
	d.changed.Broadcast()
}
