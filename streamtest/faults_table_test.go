package streamtest

import (
	"io"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// session is what a client sends to use every command once. A step may move the
// broker instead, where the broker speaks first.
var session = []struct {
	command Command
	send    []byte          // a frame of the client; nil: the step is do
	do      func(b *Broker) // provokes a frame of the broker
}{
	{PeerProperties, encode(&wire.PeerProperties{}), nil},
	{SaslHandshake, encode(&wire.SaslHandshake{}), nil},
	{SaslAuthenticate, encode(&wire.SaslAuthenticate{Mechanism: "PLAIN", Data: []byte("\x00guest\x00guest")}), nil},
	{Tune, encode(&wire.Tune{Heartbeat: 60}), nil},
	{Open, encode(&wire.Open{VHost: "/"}), nil},
	{ExchangeCommandVersions, encode(&wire.ExchangeCommandVersions{}), nil},
	{SaslAuthenticate, encode(&wire.SaslAuthenticate{Mechanism: "PLAIN", Data: []byte("\x00guest\x00guest")}), nil},
	{Create, encode(&wire.Create{Stream: "new"}), nil},
	{CreateSuperStream, encode(&wire.CreateSuperStream{Name: "super", Partitions: []string{"p"}, BindingKeys: []string{"k"}}), nil},
	{Route, encode(&wire.Route{RoutingKey: "k", SuperStream: "super"}), nil},
	{Partitions, encode(&wire.Partitions{SuperStream: "super"}), nil},
	{DeclarePublisher, encode(&wire.DeclarePublisher{PublisherID: 1, Reference: "ref", Stream: "s"}), nil},
	{QueryPublisherSequence, encode(&wire.QueryPublisherSequence{Reference: "ref", Stream: "s"}), nil},
	{Publish, publishOne(1, 0), nil},
	{PublishConfirm, publishOne(1, 1), nil},
	{PublishError, publishOne(99, 0), nil},
	{Subscribe, encode(&wire.Subscribe{SubscriptionID: 1, Stream: "s", Spec: fromFirst, Credit: 10}), nil},
	{ConsumerUpdate, encode(&wire.Subscribe{SubscriptionID: 2, Stream: "s", Spec: fromFirst, Credit: 10, Properties: wire.Properties{
		{Key: "single-active-consumer", Value: "true"}, {Key: "name", Value: "group"},
	}}), nil},
	{ConsumerUpdate, encode(&wire.ConsumerUpdateResponse{Code: wire.CodeOK, Spec: fromFirst}), nil},
	{Credit, encode(&wire.Credit{SubscriptionID: 1, Credit: 1}), nil},
	{Credit, encode(&wire.Credit{SubscriptionID: 99, Credit: 1}), nil},
	{Deliver, publishOne(1, 2), nil},
	{ResolveOffsetSpec, encode(&wire.ResolveOffsetSpec{Stream: "s", Spec: fromFirst}), nil},
	{StoreOffset, encode(&wire.StoreOffset{Reference: "c", Stream: "s", Offset: 1}), nil},
	{QueryOffset, encode(&wire.QueryOffset{Reference: "c", Stream: "s"}), nil},
	{Metadata, encode(&wire.Metadata{Streams: []string{"s"}}), nil},
	{StreamStats, encode(&wire.StreamStats{Stream: "s"}), nil},
	{Heartbeat, encode(&wire.Heartbeat{}), nil},
	{Heartbeat, nil, func(b *Broker) { b.AdvanceHeartbeats(31 * time.Second) }},
	{Unsubscribe, encode(&wire.Unsubscribe{SubscriptionID: 1}), nil},
	{DeletePublisher, encode(&wire.DeletePublisher{PublisherID: 1}), nil},
	{MetadataUpdate, nil, func(b *Broker) { _ = b.MoveLeader("s") }},
	{DeleteSuperStream, encode(&wire.DeleteSuperStream{Name: "super"}), nil},
	{Delete, encode(&wire.Delete{Stream: "s"}), nil},
	{Close, encode(&wire.Close{Code: wire.CodeOK}), nil},
}

// encode returns a frame as the client sends it.
func encode(f wire.Frame) []byte {
	b, err := wire.Append(nil, f)
	if err != nil {
		panic(err)
	}
	return b
}

// publishOne returns a Publish of one message.
func publishOne(publisher uint8, id uint64) []byte {
	frame := wire.AppendPublishEntry(wire.BeginPublish(nil, wire.Version1, publisher), id, []byte("m"))
	return wire.FinishPublish(frame, 0, 1)
}

// struck are the faults, by the method that asks for each. command is the one
// at which the fault strikes.
var struck = map[string]func(b *Broker, command Command){
	"AnswerWith":             func(b *Broker, command Command) { b.AnswerWith(command, InternalError, 1) },
	"AnswerWith OK":          func(b *Broker, command Command) { b.AnswerWith(command, OK, Forever) },
	"TruncateNext":           func(b *Broker, command Command) { b.TruncateNext(command) },
	"LoseUpdates":            func(b *Broker, _ Command) { b.LoseUpdates(Forever) },
	"LoseUpdateAnswers":      func(b *Broker, _ Command) { b.LoseUpdateAnswers("", Forever) },
	"SetLeader":              func(b *Broker, _ Command) { _ = b.SetLeader("s", false) },
	"HangGroup":              func(b *Broker, _ Command) { b.HangGroup("s", "group") },
	"BindPartition":          func(b *Broker, _ Command) { _ = b.BindPartition("super", "s", "k") },
	"UnbindPartition":        func(b *Broker, _ Command) { _ = b.UnbindPartition("super", "p") },
	"LoseStores":             func(b *Broker, _ Command) { b.LoseStores(Forever) },
	"WithholdConfirms":       func(b *Broker, _ Command) { b.WithholdConfirms() },
	"DelayConfirms":          func(b *Broker, _ Command) { b.DelayConfirms(time.Millisecond) },
	"Lose, ReleaseConfirms":  func(b *Broker, _ Command) { b.LoseConfirms(); b.ReleaseConfirms() },
	"CorruptChunks":          func(b *Broker, _ Command) { _ = b.CorruptChunks("s", Forever) },
	"DropConnections FIN":    func(b *Broker, _ Command) { b.DropConnections(CutFIN) },
	"DropConnections RST":    func(b *Broker, _ Command) { b.DropConnections(CutRST) },
	"DropConnections silent": func(b *Broker, _ Command) { b.DropConnections(CutSilent) },
	"DropConnection":         func(b *Broker, _ Command) { b.DropConnection("", CutFIN) },
	"RefuseConnections":      func(b *Broker, _ Command) { b.RefuseConnections(true) },
	"StopReading":            func(b *Broker, _ Command) { b.StopReading() },
	"StopReading, resumed":   func(b *Broker, _ Command) { b.StopReading(); b.ResumeReading() },
	"StopAnswering":          func(b *Broker, _ Command) { b.StopAnswering() },
	"StopAnswering, resumed": func(b *Broker, _ Command) { b.StopAnswering(); b.ResumeAnswering() },
	"SendGarbage":            func(b *Broker, _ Command) { b.SendGarbage([]byte{0, 0, 0, 2, 0xde, 0xad}) },
	"Stop":                   func(b *Broker, _ Command) { b.Stop() },
	"Restart":                func(b *Broker, _ Command) { _ = b.Restart() },
	"RestartOnNewPort":       func(b *Broker, _ Command) { _ = b.RestartOnNewPort() },
	"DeleteStream":           func(b *Broker, _ Command) { _ = b.DeleteStream("s") },
	"SetAvailable":           func(b *Broker, _ Command) { _ = b.SetAvailable("s", false) },
	"MoveLeader":             func(b *Broker, _ Command) { _ = b.MoveLeader("s") },
	"SetQuorum":              func(b *Broker, _ Command) { _ = b.SetQuorum("s", false) },
	"LoseLeader":             func(b *Broker, _ Command) { _ = b.SetQuorum("s", false); _ = b.LoseLeader("s") },
	"SetDiskAlarm":           func(b *Broker, _ Command) { b.SetDiskAlarm(true) },
	"SetDiskAlarm, ended":    func(b *Broker, _ Command) { b.SetDiskAlarm(true); b.SetDiskAlarm(false) },
	"SkipOffsets":            func(b *Broker, _ Command) { _ = b.SkipOffsets("s", 3) },
	"Advance":                func(b *Broker, _ Command) { b.Advance(time.Hour) },
	"AdvanceHeartbeats":      func(b *Broker, _ Command) { b.AdvanceHeartbeats(time.Hour) },
	"ClearFaults":            func(b *Broker, _ Command) { b.ClearFaults() },
}

// TestEveryFaultAtEveryCommand strikes with each fault at each step of a session
// that uses every command. The broker must not panic, and Close must find no
// goroutine and no connection left.
func TestEveryFaultAtEveryCommand(t *testing.T) {
	for name, strike := range struck {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range session {
				strikeAt(t, i, strike)
				strikeAt(t, i, strike, WithSubscriptionDelay(time.Microsecond))
				if t.Failed() {
					t.Fatalf("at step %d, %v", i, session[i].command)
				}
			}
		})
	}
}

// strikeAt runs the session on a broker of its own, with a fault at step n.
func strikeAt(t *testing.T, n int, strike func(*Broker, Command), opts ...Option) {
	b, err := Start(opts...)
	if err != nil {
		t.Fatal(err)
	}
	b.CreateStream("s")
	c := dialRaw(t, b)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, c.nc) // ends with the connection, however it ends
	}()
	sent := 0
	handled := func() bool { return b.handled() == sent || len(b.Connections()) == 0 }
	for i, step := range session {
		if i == n || step.do != nil && i < n {
			awaitCond(t, b, "frames handled before the fault", handled)
		}
		if i == n {
			strike(b, step.command)
		}
		if step.do != nil {
			step.do(b)
			continue
		}
		sent++
		_, _ = c.nc.Write(step.send) // fails if the fault has cut the connection
	}
	awaitCond(t, b, "frames handled after the fault", func() bool { return handled() || b.stoppedReading() })
	b.ClearFaults()
	awaitCond(t, b, "frames handled after the fault has ended", handled)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	<-drained
}

// handled returns how many frames of clients the broker has handled.
func (b *Broker) handled() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, count := range b.journal.counts {
		n += count
	}
	return n
}

func (b *Broker) stoppedReading() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.faults.stopReading || b.faults.alarm
}
