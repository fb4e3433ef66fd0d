package ovn_test

import (
	"fmt"
	"testing"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
)

func benchPorts(tx *ovn.Tx, n int) {
	sw := ovn.Ensure(tx, "network", "n", &nbrow.LogicalSwitch{Name: tx.Conn().Name("network", "n")})
	row := ovn.At[nbrow.LogicalSwitch](tx, sw.UUID)
	ids := make([]string, 0, n)
	for i := range n {
		p := fmt.Sprint("p", i)
		r := ovn.Ensure(tx, "port", p, &nbrow.LogicalSwitchPort{Name: tx.Conn().PortName(p), Addresses: []string{fmt.Sprintf("02:00:00:00:%02x:%02x 10.0.%d.%d", i>>8, i&255, i>>8, i&255)},
			Enabled: new(true)})
		ids = append(ids, r.UUID)
		tx.Record("port", p, vnet.ImpactNone, r)
	}
	tx.Members(row, "ports", ids, nil)
}

// BenchmarkUnchanged is a Sync of 10,000 ports of which none differs.
func BenchmarkUnchanged(b *testing.B) {
	s := ovsdbtest.New(b, ovsdbtest.NB)
	c, err := ovn.Dial(b.Context(), "red", []string{s.Endpoint()}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	const n = 10000
	sync := func(tx *ovn.Tx) error { benchPorts(tx, n); return nil }
	if err := c.Submit(b.Context(), vnet.PartOverlay, sync); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Submit(b.Context(), vnet.PartOverlay, sync); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n, "ports")
}

// BenchmarkMemberJoins is one port more in a switch of 10,000.
func BenchmarkMemberJoins(b *testing.B) {
	s := ovsdbtest.New(b, ovsdbtest.NB)
	c, err := ovn.Dial(b.Context(), "red", []string{s.Endpoint()}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if err := c.Submit(b.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error { benchPorts(tx, 10000); return nil }); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		err := c.Submit(b.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
			id := fmt.Sprint("more", i)
			sw := ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "n")
			tx.Hold(sw, "ports", ovn.Ensure(tx, "port", id, &nbrow.LogicalSwitchPort{Name: tx.Conn().PortName(id)}).UUID)
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBatch is 1,000 ports of four submissions each in one transaction.
func BenchmarkBatch(b *testing.B) {
	s := ovsdbtest.New(b, ovsdbtest.NB)
	c, err := ovn.Dial(b.Context(), "red", []string{s.Endpoint()}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	round := 0
	for b.Loop() {
		round++
		batch := c.Batch()
		for i := range 1000 {
			p := fmt.Sprintf("p%d-%d", round, i)
			for _, err := range []error{
				batch.Submit(b.Context(), vnet.PartOverlay, ensureNetwork(fmt.Sprint("n", round), p)),
				batch.Submit(b.Context(), vnet.PartDHCP, ensureOptions(p, "10.0.0.0/24")),
			} {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := batch.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDial reads 10,000 ports.
func BenchmarkDial(b *testing.B) {
	s := ovsdbtest.New(b, ovsdbtest.NB)
	c, err := ovn.Dial(b.Context(), "red", []string{s.Endpoint()}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if err := c.Submit(b.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error { benchPorts(tx, 10000); return nil }); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		d, err := ovn.Dial(b.Context(), "red", []string{s.Endpoint()}, nil)
		if err != nil {
			b.Fatal(err)
		}
		d.Close()
	}
}
