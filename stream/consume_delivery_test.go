package stream

import (
	"errors"
	"testing"
	"time"
)

// TestDeliveryOfData: a delivery without sections is a message with data alone.
func TestDeliveryOfData(t *testing.T) {
	d := &Delivery{Body: []byte("body")}
	if raw := d.Raw(); string(raw) != "\x00\x53\x75\xa0\x04body" {
		t.Errorf("raw %q", raw)
	}
	p, e1 := d.Properties()
	a, e2 := d.ApplicationProperties()
	n, e3 := d.Annotations()
	dn, e4 := d.DeliveryAnnotations()
	f, e5 := d.Footer()
	h, e6 := d.Header()
	v, e7 := d.Value()
	l, e8 := d.Sequences()
	must(t, errors.Join(e1, e2, e3, e4, e5, e6, e7, e8))
	if d.Attempt() != 1 || l != nil || p != nil || a != nil || n != nil || dn != nil || f != nil || h != nil || v != nil {
		t.Errorf("sections out of nothing: %v %v %v %v %v %v %v", p, a, n, dn, f, h, v)
	}
}

// TestDeliverySectionsEach: each method returns its own section, and nil for
// those that are not there.
func TestDeliverySectionsEach(t *testing.T) {
	methods := map[string]func(*Delivery) (bool, error){
		"Properties":            func(d *Delivery) (bool, error) { v, err := d.Properties(); return v != nil && v.To == "x", err },
		"ApplicationProperties": func(d *Delivery) (bool, error) { v, err := d.ApplicationProperties(); return v["k"] == "x", err },
		"Annotations":           func(d *Delivery) (bool, error) { v, err := d.Annotations(); return v["k"] == "x", err },
		"DeliveryAnnotations":   func(d *Delivery) (bool, error) { v, err := d.DeliveryAnnotations(); return v["k"] == "x", err },
		"Footer":                func(d *Delivery) (bool, error) { v, err := d.Footer(); return v["k"] == "x", err },
		"Header":                func(d *Delivery) (bool, error) { v, err := d.Header(); return v != nil && v.TTL == time.Second, err },
		"Value":                 func(d *Delivery) (bool, error) { v, err := d.Value(); return v == "x", err },
		"Sequences":             func(d *Delivery) (bool, error) { v, err := d.Sequences(); return len(v) == 1 && v[0][0] == "x", err },
	}
	some := map[string]any{"k": "x"}
	for section, m := range map[string]Message{
		"Properties":            {Properties: &Properties{To: "x"}},
		"ApplicationProperties": {ApplicationProperties: some},
		"Annotations":           {Annotations: some},
		"DeliveryAnnotations":   {DeliveryAnnotations: some},
		"Footer":                {Footer: some},
		"Header":                {Header: &Header{TTL: time.Second}},
		"Value":                 {Value: "x"},
		"Sequences":             {Sequences: [][]any{{"x"}}},
	} {
		raw, err := m.encode()
		must(t, err)
		for name, method := range methods {
			if found, err := method(deliveryOf(raw)); found != (name == section) || err != nil {
				t.Errorf("%s of a message with %s: %v, %v", name, section, found, err)
			}
		}
	}
}
