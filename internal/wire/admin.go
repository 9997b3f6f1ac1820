package wire

// Create creates a stream.
type Create struct {
	Correlation uint32
	Stream      string
	Arguments   Properties
}

// Delete deletes a stream.
type Delete struct {
	Correlation uint32
	Stream      string
}

// CreateSuperStream creates a super stream and its partitions.
type CreateSuperStream struct {
	Correlation uint32
	Name        string
	Partitions  []string
	BindingKeys []string
	Arguments   Properties
}

// DeleteSuperStream deletes a super stream and its partitions.
type DeleteSuperStream struct {
	Correlation uint32
	Name        string
}

// Metadata asks which nodes have the leader and the replicas of streams.
type Metadata struct {
	Correlation uint32
	Streams     []string
}

// NoLeader is the reference that stands for a leader if there is none.
const NoLeader uint16 = 0xffff

// BrokerAddress is a node of MetadataResponse.
type BrokerAddress struct {
	Reference uint16
	Host      string
	Port      uint32
}

// StreamMetadata is a stream of MetadataResponse. Leader and Replicas are
// references to its brokers.
type StreamMetadata struct {
	Stream   string
	Code     Code
	Leader   uint16 // NoLeader if there is none
	Replicas []uint16
}

// MetadataResponse answers Metadata. It is the only response with a correlation
// id and without a code of its own: each stream has a code.
type MetadataResponse struct {
	Correlation uint32
	Brokers     []BrokerAddress
	Streams     []StreamMetadata
}

// MetadataUpdate tells a client that a stream which it uses is gone or has
// moved.
type MetadataUpdate struct {
	Code   Code
	Stream string
}

// Route asks which partitions of a super stream are bound with a routing key.
type Route struct {
	Correlation uint32
	RoutingKey  string
	SuperStream string
}

// Partitions asks for the names of a super stream's partitions.
type Partitions struct {
	Correlation uint32
	SuperStream string
}

// StreamsResponse answers Route and Partitions with the names of streams.
type StreamsResponse struct {
	Key         Key // KeyRoute or KeyPartitions
	Correlation uint32
	Code        Code
	Streams     []string
}

// StreamStats asks for the statistics of a stream.
type StreamStats struct {
	Correlation uint32
	Stream      string
}

// Stat is one number of a StreamStatsResponse. Its Value is -1 if the stream is
// empty.
type Stat struct {
	Key   string
	Value int64
}

// StreamStatsResponse answers StreamStats.
type StreamStatsResponse struct {
	Correlation uint32
	Code        Code
	Stats       []Stat
}

func (*Create) Head() (Key, uint16) { return KeyCreate, 1 }
func (f *Create) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Stream)
	c.props(&f.Arguments)
}

func (*Delete) Head() (Key, uint16) { return KeyDelete, 1 }
func (f *Delete) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Stream)
}

func (*CreateSuperStream) Head() (Key, uint16) { return KeyCreateSuperStream, 1 }
func (f *CreateSuperStream) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Name)
	c.strs(&f.Partitions)
	c.strs(&f.BindingKeys)
	c.props(&f.Arguments)
}

func (*DeleteSuperStream) Head() (Key, uint16) { return KeyDeleteSuperStream, 1 }
func (f *DeleteSuperStream) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Name)
}

func (*Metadata) Head() (Key, uint16) { return KeyMetadata, 1 }
func (f *Metadata) fields(c *codec) {
	c.u32(&f.Correlation)
	c.strs(&f.Streams)
}

func (*MetadataResponse) Head() (Key, uint16) { return KeyMetadata.Response(), 1 }
func (f *MetadataResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	array(c, &f.Brokers, 8, func(c *codec, b *BrokerAddress) {
		c.u16(&b.Reference)
		c.str(&b.Host)
		c.u32(&b.Port)
	})
	array(c, &f.Streams, 10, func(c *codec, s *StreamMetadata) {
		c.str(&s.Stream)
		c.code(&s.Code)
		c.u16(&s.Leader)
		array(c, &s.Replicas, 2, (*codec).u16)
	})
}

func (*MetadataUpdate) Head() (Key, uint16) { return KeyMetadataUpdate, 1 }
func (f *MetadataUpdate) fields(c *codec) {
	c.code(&f.Code)
	c.str(&f.Stream)
}

func (*Route) Head() (Key, uint16) { return KeyRoute, 1 }
func (f *Route) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.RoutingKey)
	c.str(&f.SuperStream)
}

func (*Partitions) Head() (Key, uint16) { return KeyPartitions, 1 }
func (f *Partitions) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.SuperStream)
}

func (f *StreamsResponse) Head() (Key, uint16) { return f.Key.Response(), 1 }
func (f *StreamsResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	c.strs(&f.Streams)
}

func (*StreamStats) Head() (Key, uint16) { return KeyStreamStats, 1 }
func (f *StreamStats) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Stream)
}

func (*StreamStatsResponse) Head() (Key, uint16) { return KeyStreamStats.Response(), 1 }
func (f *StreamStatsResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	array(c, &f.Stats, 10, func(c *codec, s *Stat) {
		c.str(&s.Key)
		c.i64(&s.Value)
	})
}
