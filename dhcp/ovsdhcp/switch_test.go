package ovsdhcp_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
)

// site is a host with Open vSwitch.
type site struct {
	l  *lab.Lab
	hv *lab.Switch
	n  atomic.Uint32
}

func newSite(t testing.TB, physical ...string) *site {
	l := lab.New(t)
	return &site{l: l, hv: l.Switches(lab.SwitchOptions{Name: "h1", Physical: physical})[0]}
}

func (s *site) connect(t testing.TB, owner vnet.Owner) *ovs.Switch {
	sw, err := ovs.Open(context.Background(), owner, &ovs.Options{Name: "h1", Database: s.hv.Endpoint, DatapathType: "netdev", Netns: s.hv.Path, Control: s.hv.Vswitchd.Ctl, PhysicalNetworks: s.hv.Mappings, Timeout: 20 * time.Second})
	require.NoError(t, err)
	return sw
}

// open opens the switch for an owner.
func (s *site) open(t testing.TB, owner vnet.Owner) *ovs.Switch {
	sw := s.connect(t, owner)
	t.Cleanup(func() { sw.Close() })
	return sw
}

// place is a switch with networks made by hand, as overlay makes them.
type place struct {
	*site
	sw    *ovs.Switch
	owner vnet.Owner
	ports map[string]string // to networks
}

func (s *site) place(t testing.TB) *place {
	owner := vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1))))
	p := &place{site: s, owner: owner, ports: map[string]string{}}
	clean := s.connect(t, owner)
	t.Cleanup(func() {
		if err := clean.Cleanup(context.Background()); err != nil {
			t.Error(err)
		}
		clean.Close()
	})
	p.sw = s.open(t, owner)
	return p
}

func (p *place) overlay(t testing.TB, f func(tx *ovs.Tx)) {
	t.Helper()
	require.NoError(t, p.sw.Submit(context.Background(), vnet.PartOverlay, func(tx *ovs.Tx) error { f(tx); return nil }))
}

func (p *place) network(t testing.TB, id string) {
	p.overlay(t, func(tx *ovs.Tx) { tx.NetworkNumber(id); tx.Keep("network", id, []byte("{}")) })
}

func (p *place) removeNetwork(t testing.TB, id string) {
	var gone []string
	p.overlay(t, func(tx *ovs.Tx) {
		gone = nil
		for _, o := range tx.List("port") {
			if string(o.Record) == id {
				gone = append(gone, o.ID)
			}
		}
	})
	for _, port := range gone {
		require.NoError(t, p.sw.Unplug(context.Background(), vnet.PartOverlay, port))
	}
	p.overlay(t, func(tx *ovs.Tx) {
		for _, port := range gone {
			tx.Drop("port", port)
		}
		tx.Drop("network", id)
	})
}

func (p *place) plug(t testing.TB, network, netns, device string, mac vnet.MAC) string {
	id := fmt.Sprint("vm", p.n.Add(1))
	p.ports[id] = network
	p.overlay(t, func(tx *ovs.Tx) { p.port(tx, network, id); p.flood(tx, network) })
	_, err := p.sw.Plug(context.Background(), ovs.Plug{Part: vnet.PartOverlay, PortID: id, Kind: "veth", Name: device, Netns: netns, MAC: mac})
	require.NoError(t, err)
	return id
}

// again makes what stood before the switch was restarted.
func (p *place) again(t testing.TB) {
	p.overlay(t, func(tx *ovs.Tx) {
		for id, network := range p.ports {
			p.port(tx, network, id)
		}
		for _, network := range p.ports {
			p.flood(tx, network)
		}
	})
}

// flood sends what is for nobody in particular to all ports of the network.
func (p *place) flood(tx *ovs.Tx, network string) {
	var out []openflow.Action
	for _, o := range tx.List("port") {
		if string(o.Record) == network {
			out = append(out, openflow.Output{Port: openflow.Port(tx.PortNumber(o.ID))})
		}
	}
	tx.Keep("network", network, []byte("{}"), openflow.Flow{Table: pipeline.L2, Priority: 100,
		Match: openflow.Any(openflow.Reg(pipeline.RegNetwork).Is(uint64(tx.NetworkNumber(network)))), Actions: out})
}

func (p *place) port(tx *ovs.Tx, network, id string) {
	n := tx.PortNumber(id)
	tx.Keep("port", id, []byte(network), openflow.Flow{Table: pipeline.Classify, Priority: 100, Match: openflow.Any(openflow.InPort.Is(uint64(n))), Actions: []openflow.Action{
		openflow.Set(openflow.Reg(pipeline.RegNetwork).Is(uint64(tx.NetworkNumber(network)))),
		openflow.Set(openflow.Reg(pipeline.RegIn).Is(uint64(n))), openflow.Goto(pipeline.PortSecurity)}})
}
