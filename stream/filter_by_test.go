package stream

import (
	"slices"
	"testing"
)

// TestFilterBy: both ends get the same value, whichever part it comes from, and
// for a relayed message too.
func TestFilterBy(t *testing.T) {
	body := FilterBy(func(c Content) string { return string(c.Body()) })
	subject := FilterBy(func(c Content) string {
		if p := c.Properties(); p != nil {
			return p.Subject
		}
		return ""
	})
	region := FilterBy(func(c Content) string {
		v, _ := c.ApplicationProperties()["region"].(string)
		return v
	})
	for name, test := range map[string]struct {
		key  FilterKey
		m    Message
		want string
	}{
		"body":              {body, Message{Body: []byte("eu")}, "eu"},
		"no body":           {body, Message{}, ""},
		"value":             {body, Message{Value: "eu"}, ""},
		"subject":           {subject, Message{Properties: &Properties{Subject: "eu"}}, "eu"},
		"no properties":     {subject, Message{Body: []byte("x")}, ""},
		"region":            {region, Message{ApplicationProperties: map[string]any{"region": "eu"}}, "eu"},
		"another property":  {region, Message{ApplicationProperties: map[string]any{"zone": "eu"}}, ""},
		"the zero key":      {FilterKey{}, Message{Body: []byte("eu")}, ""},
		"not AMQP, region":  {region, Message{Raw: []byte("eu")}, ""},
		"not AMQP, subject": {subject, Message{Raw: []byte("eu")}, ""},
		"not AMQP, body":    {body, Message{Raw: []byte("eu")}, "eu"},
	} {
		if got := test.key.Tag(test.m).FilterValue; got != test.want {
			t.Errorf("%s: the value of the message is %q, want %q", name, got, test.want)
		}
		if test.m.Value != nil {
			continue // a delivery has its text as body
		}
		d := readBack(t, test.m)
		if got := test.key.Value(d); got != test.want {
			t.Errorf("%s: the value of the delivery is %q, want %q", name, got, test.want)
		}
		if got := test.key.Tag(d.Message()).FilterValue; got != test.want {
			t.Errorf("%s: the value of the relayed message is %q, want %q", name, got, test.want)
		}
	}
}

// readBack returns a message as a consumer gets it.
func readBack(t *testing.T, m Message) *Delivery {
	t.Helper()
	raw := m.Raw
	if raw == nil {
		var err error
		raw, err = m.encode()
		must(t, err)
	}
	d := decoder{}
	return &d.add(nil, 0, raw)[0]
}

// TestFilterOf: the empty value stands for messages without one.
func TestFilterOf(t *testing.T) {
	key := FilterBy(func(c Content) string { return string(c.Body()) })
	values := []string{"a", "", "b"}
	f := key.Filter(values...)
	values[0] = "x"
	if !slices.Equal(f.Values, []string{"a", "b"}) || !f.Unfiltered {
		t.Errorf("%q, unfiltered %v", f.Values, f.Unfiltered)
	}
	for body, want := range map[string]bool{"a": true, "b": true, "": true, "c": false, "x": false} {
		if f.Match(&Delivery{Body: []byte(body)}) != want {
			t.Errorf("%q matches: %v", body, !want)
		}
	}
	if f := key.Filter("a"); f.Unfiltered || f.Match(&Delivery{}) {
		t.Error("messages without a value come, although nobody has asked for them")
	}
	if key.Filter().isSet() {
		t.Error("a filter without values leaves something out")
	}
}

// TestFilterByNothing: what has no message is empty.
func TestFilterByNothing(t *testing.T) {
	k := FilterBy(func(c Content) string {
		if c.Body() != nil || c.Properties() != nil || c.ApplicationProperties() != nil {
			t.Error("there is content")
		}
		return "none"
	})
	if v := k.Value(nil); v != "none" {
		t.Errorf("the value is %q", v)
	}
}
