package wire

// PeerProperties introduces the client; its answer, the server.
type PeerProperties struct {
	Correlation uint32
	Properties  Properties
}

// PeerPropertiesResponse answers PeerProperties.
type PeerPropertiesResponse struct {
	Correlation uint32
	Code        Code
	Properties  Properties
}

// SaslHandshake asks for the mechanisms the server offers.
type SaslHandshake struct{ Correlation uint32 }

// SaslHandshakeResponse lists the mechanisms.
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

// SaslAuthenticateResponse answers SaslAuthenticate; Challenge is there with CodeSaslChallenge only.
type SaslAuthenticateResponse struct {
	Correlation uint32
	Code        Code
	Challenge   string
}

// Tune is sent by the server and answered by the client with the same layout. Some clients answer with
// the key of a request, some with that of a response.
type Tune struct {
	FrameMax  uint32
	Heartbeat uint32 // seconds; 0: none
	Response  bool   // which key it is written with
}

// Open enters a virtual host.
type Open struct {
	Correlation uint32
	VHost       string
}

// OpenResponse answers Open. A refusal carries no properties, not even their count.
type OpenResponse struct {
	Correlation uint32
	Code        Code
	Properties  Properties
}

// CommandVersion says which versions of a command one side knows.
type CommandVersion struct {
	Key      Key
	Min, Max uint16
}

// ExchangeCommandVersions tells the server what the client knows.
type ExchangeCommandVersions struct {
	Correlation uint32
	Commands    []CommandVersion
}

// ExchangeCommandVersionsResponse tells the client what the server knows.
type ExchangeCommandVersionsResponse struct {
	Correlation uint32
	Code        Code
	Commands    []CommandVersion
}

// Close ends the connection; either side sends it. It is answered by a Response.
type Close struct {
	Correlation uint32
	Code        Code
	Reason      string
}

// Heartbeat says that its sender is alive.
type Heartbeat struct{}

// Response is the answer to every command that returns nothing but a code.
type Response struct {
	Key         Key // of the request, or of the response
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
	// The specification says bytes, the server writes a string.
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
