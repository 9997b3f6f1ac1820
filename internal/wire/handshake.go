package wire

// PeerProperties introduces the client to the broker.
type PeerProperties struct {
	Correlation uint32
	Properties  Properties
}

// PeerPropertiesResponse answers PeerProperties. It introduces the broker.
type PeerPropertiesResponse struct {
	Correlation uint32
	Code        Code
	Properties  Properties
}

// SaslHandshake asks for the mechanisms that the broker offers.
type SaslHandshake struct{ Correlation uint32 }

// SaslHandshakeResponse answers SaslHandshake.
type SaslHandshakeResponse struct {
	Correlation uint32
	Code        Code
	Mechanisms  []string
}

// SaslAuthenticate logs in. Data aliases the frame it was decoded from.
type SaslAuthenticate struct {
	Correlation uint32
	Mechanism   string
	Data        []byte
}

// SaslAuthenticateResponse answers SaslAuthenticate. Only with
// CodeSaslChallenge is there a Challenge on the wire.
type SaslAuthenticateResponse struct {
	Correlation uint32
	Code        Code
	Challenge   string
}

// Tune proposes limits. The broker sends it and the client answers with a Tune
// of its own. Some clients write that with the key of a request, some with the
// key of a response.
type Tune struct {
	FrameMax  uint32 // bytes; 0: no limit
	Heartbeat uint32 // seconds; 0: no heartbeats
	Response  bool   // whether it is written with the key of a response
}

// Open enters a virtual host.
type Open struct {
	Correlation uint32
	VHost       string
}

// OpenResponse answers Open. With any code but CodeOK there are no Properties
// on the wire, and no count of them either.
type OpenResponse struct {
	Correlation uint32
	Code        Code
	Properties  Properties
}

// CommandVersion says which versions of a command a peer knows.
type CommandVersion struct {
	Key      Key
	Min, Max uint16
}

// ExchangeCommandVersions tells the broker which commands the client knows.
type ExchangeCommandVersions struct {
	Correlation uint32
	Commands    []CommandVersion
}

// ExchangeCommandVersionsResponse tells the client which commands the broker
// knows.
type ExchangeCommandVersionsResponse struct {
	Correlation uint32
	Code        Code
	Commands    []CommandVersion
}

// Close ends the connection. Either side may send it; the other answers with a
// Response.
type Close struct {
	Correlation uint32
	Code        Code
	Reason      string
}

// Heartbeat says that its sender is alive. It has no fields and no answer.
type Heartbeat struct{}

// Response answers every command that returns nothing but a code.
type Response struct {
	Key         Key // of the request or of the response; both are written the same
	Correlation uint32
	Code        Code
}

func (*PeerProperties) Head() (Key, uint16) { return KeyPeerProperties, 1 }
func (f *PeerProperties) fields(c *codec) {
	c.u32(&f.Correlation)
	c.props(&f.Properties)
}

func (*PeerPropertiesResponse) Head() (Key, uint16) { return KeyPeerProperties.Response(), 1 }
func (f *PeerPropertiesResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	c.props(&f.Properties)
}

func (*SaslHandshake) Head() (Key, uint16) { return KeySaslHandshake, 1 }
func (f *SaslHandshake) fields(c *codec)   { c.u32(&f.Correlation) }

func (*SaslHandshakeResponse) Head() (Key, uint16) { return KeySaslHandshake.Response(), 1 }
func (f *SaslHandshakeResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	c.strs(&f.Mechanisms)
}

func (*SaslAuthenticate) Head() (Key, uint16) { return KeySaslAuthenticate, 1 }
func (f *SaslAuthenticate) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Mechanism)
	c.bytes(&f.Data)
}

func (*SaslAuthenticateResponse) Head() (Key, uint16) { return KeySaslAuthenticate.Response(), 1 }
func (f *SaslAuthenticateResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	// The specification says bytes, but RabbitMQ writes a string.
	if f.Code == CodeSaslChallenge {
		c.str(&f.Challenge)
	}
}

func (f *Tune) Head() (Key, uint16) {
	if f.Response {
		return KeyTune.Response(), 1
	}
	return KeyTune, 1
}

func (f *Tune) fields(c *codec) {
	c.u32(&f.FrameMax)
	c.u32(&f.Heartbeat)
}

func (*Open) Head() (Key, uint16) { return KeyOpen, 1 }
func (f *Open) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.VHost)
}

func (*OpenResponse) Head() (Key, uint16) { return KeyOpen.Response(), 1 }
func (f *OpenResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	if f.Code == CodeOK {
		c.props(&f.Properties)
	}
}

func (*ExchangeCommandVersions) Head() (Key, uint16) { return KeyExchangeCommandVersions, 1 }
func (f *ExchangeCommandVersions) fields(c *codec) {
	c.u32(&f.Correlation)
	array(c, &f.Commands, 6, (*codec).commandVersion)
}

func (*ExchangeCommandVersionsResponse) Head() (Key, uint16) {
	return KeyExchangeCommandVersions.Response(), 1
}

func (f *ExchangeCommandVersionsResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	array(c, &f.Commands, 6, (*codec).commandVersion)
}

func (c *codec) commandVersion(v *CommandVersion) {
	c.u16((*uint16)(&v.Key))
	c.u16(&v.Min)
	c.u16(&v.Max)
}

func (*Close) Head() (Key, uint16) { return KeyClose, 1 }
func (f *Close) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	c.str(&f.Reason)
}

func (*Heartbeat) Head() (Key, uint16) { return KeyHeartbeat, 1 }
func (*Heartbeat) fields(*codec)       {}

func (f *Response) Head() (Key, uint16) { return f.Key.Response(), 1 }
func (f *Response) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
}
