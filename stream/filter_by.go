package stream

import "slices"

// FilterKey is a function of a message's content that gives its filter value,
// for both ends of a stream: producers set it with Tag, and consumers read by it
// with Filter. Make one with [FilterBy].
type FilterKey struct {
	value func(Content) string
}

// FilterBy returns the FilterKey of a function. The function gets the content
// of a message that is published or read, and returns its filter value, "" for
// none. It must return the same for both, and must not block or change what it
// gets.
//
//	var byRegion = stream.FilterBy(func(c stream.Content) string {
//		region, _ := c.ApplicationProperties()["region"].(string)
//		return region
//	})
//
//	err := producer.Publish(ctx, byRegion.Tag(message))
//	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Name: "emea", Filter: byRegion.Filter("eu", "africa")})
func FilterBy(value func(Content) string) FilterKey { return FilterKey{value} }

// Value returns the filter value of a message that was read.
func (k FilterKey) Value(d *Delivery) string { return k.valueOf(Content{delivery: d}) }

// Tag returns the message with its FilterValue.
func (k FilterKey) Tag(m Message) Message {
	m.FilterValue = k.valueOf(contentOf(&m))
	return m
}

// Filter returns the Filter for the messages with one of some values. The value
// "" stands for messages that have none, beside others. Without values it is the
// zero Filter.
func (k FilterKey) Filter(values ...string) Filter {
	if len(values) == 0 {
		return Filter{}
	}
	values = slices.Clone(values)
	wanted := func(d *Delivery) bool { return slices.Contains(values, k.Value(d)) }
	named := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
	return Filter{Values: named, Unfiltered: len(named) < len(values), Match: wanted}
}

func (k FilterKey) valueOf(c Content) string {
	if k.value == nil {
		return ""
	}
	return k.value(c)
}

// Content is what a message that is published and one that is read have in
// common, for [FilterBy]. Each method decodes its part anew where the message
// was read, or is published as Raw bytes.
type Content struct {
	message  *Message  // that is published; nil: one is read
	delivery *Delivery // that is read, or Raw of message; nil: there are no bytes. The zero Content is empty.
}

// contentOf returns the content of a message that is published.
func contentOf(m *Message) Content {
	c := Content{message: m}
	if m.Raw != nil {
		body, _ := bodyOf(m.Raw)
		c.delivery = &Delivery{Body: body, sections: &sections{raw: m.Raw}}
	}
	return c
}

// Body returns the message's data, as Message.Body and Delivery.Body have it.
func (c Content) Body() []byte {
	switch {
	case c.message != nil && (c.message.Body != nil || c.delivery == nil):
		return c.message.Body
	case c.delivery != nil:
		return c.delivery.Body
	}
	return nil
}

// Properties returns the standard properties, or nil if the message has none or
// they cannot be decoded.
func (c Content) Properties() *Properties {
	switch {
	case c.message != nil && (c.message.Properties != nil || c.delivery == nil):
		return c.message.Properties
	case c.delivery != nil:
		if p, err := c.delivery.Properties(); err == nil {
			return p
		}
	}
	return nil
}

// ApplicationProperties returns the application's properties, or nil if the
// message has none or they cannot be decoded. An int that is published comes as
// an int64 where it is read, so strings are the safer values.
func (c Content) ApplicationProperties() map[string]any {
	switch {
	case c.message != nil && (c.message.ApplicationProperties != nil || c.delivery == nil):
		return c.message.ApplicationProperties
	case c.delivery != nil:
		if p, err := c.delivery.ApplicationProperties(); err == nil {
			return p
		}
	}
	return nil
}
