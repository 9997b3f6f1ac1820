package script

import (
	"net"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Step is a step of the handshake. Play reads the client's frame, if the step has
// one, and answers.
type Step struct {
	Name string
	Play func(*Peer) bool
}

// Steps are the steps of the handshake, in order.
var Steps = []Step{
	{"peer properties", func(p *Peer) bool {
		var f wire.PeerProperties
		ok := p.Expect(&f)
		p.Send(&wire.PeerPropertiesResponse{Correlation: f.Correlation, Code: wire.CodeOK})
		return ok
	}},
	{"mechanisms", func(p *Peer) bool {
		var f wire.SaslHandshake
		ok := p.Expect(&f)
		p.Send(&wire.Heartbeat{}) // may come at any time
		p.Send(&wire.SaslHandshakeResponse{Correlation: f.Correlation, Code: wire.CodeOK, Mechanisms: []string{"AMQPLAIN", "PLAIN"}})
		return ok
	}},
	{"login", func(p *Peer) bool {
		var f wire.SaslAuthenticate
		ok := p.Expect(&f)
		if want := "\x00" + User + "\x00" + Password; ok && (f.Mechanism != "PLAIN" || string(f.Data) != want) {
			p.t.Errorf("login with %s %q, want PLAIN %q", f.Mechanism, f.Data, want)
		}
		p.Send(&wire.SaslAuthenticateResponse{Correlation: f.Correlation, Code: wire.CodeOK})
		return ok
	}},
	{"tune", func(p *Peer) bool {
		p.Send(&wire.Tune{FrameMax: 1 << 19, Heartbeat: 60})
		f := wire.Tune{Response: true}
		ok := p.Expect(&f)
		if ok && f.FrameMax != 1<<19 {
			p.t.Errorf("the client wants frames of %d bytes", f.FrameMax)
		}
		return ok
	}},
	{"open", func(p *Peer) bool {
		var f wire.Open
		ok := p.Expect(&f)
		host, port, _ := net.SplitHostPort(p.Conn.LocalAddr().String())
		p.Send(&wire.OpenResponse{Correlation: f.Correlation, Code: wire.CodeOK, Properties: wire.Properties{
			{Key: "advertised_host", Value: host}, {Key: "advertised_port", Value: port},
		}})
		return ok
	}},
}

// Shake plays the first n steps of the handshake and reports whether the client
// took part in all of them.
func (p *Peer) Shake(n int) bool {
	for _, step := range Steps[:n] {
		if !step.Play(p) {
			return false
		}
	}
	return true
}

// Welcome plays the whole handshake.
func (p *Peer) Welcome() bool { return p.Shake(len(Steps)) }
