package matrix

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/router"
)

// Limit is one number that holds somewhere: Kbps or PPS.
type Limit struct {
	Kind      string        `json:"kind"` // "port", "gateway" or "floatingip"
	ID        string        `json:"id"`
	Direction qos.Direction `json:"direction"`
	Kbps      uint32        `json:"kbps,omitempty"`
	PPS       uint32        `json:"pps,omitempty"`
}

func (l Limit) key() Limit { l.Kbps, l.PPS = 0, 0; return l }

// Taken is a limit beside what was measured there.
type Taken struct {
	Limit Limit `json:"limit"`
	// From and Probe are what measured it; empty when the model lets nothing
	// through that passes it.
	From  string   `json:"from,omitempty"`
	Probe vm.Probe `json:"probe,omitzero"`
	// Least is the smallest limit on the way, which is what can be seen.
	Least   Limit           `json:"least"`
	Seen    vm.Measured     `json:"seen"`
	Counted *qos.Statistics `json:"counted,omitempty"` // what the backend has counted since the limit stands
}

// Exceeded reports whether more came through than may. Less proves nothing on
// a busy machine.
func (x Taken) Exceeded() bool {
	return x.Seen.Kbps > 1.25*float64(x.Least.Kbps) && x.Least.Kbps > 0 || x.Seen.PPS > 1.25*float64(x.Least.PPS) && x.Least.PPS > 0
}

// Limits lists all limits of a cloud.
func Limits(t *topology.Cloud) []Limit {
	var out []Limit
	add := func(kind, id string, s qos.Shape) {
		for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
			if l := s.Way(d); l.Kbps > 0 {
				out = append(out, Limit{Kind: kind, ID: id, Direction: d, Kbps: l.Kbps})
			}
			if l := s.Way(d); l.PPS > 0 {
				out = append(out, Limit{Kind: kind, ID: id, Direction: d, PPS: l.PPS})
			}
		}
	}
	for _, p := range t.All.QoS.Ports {
		add("port", p.ID, p.Shape)
	}
	for _, g := range t.All.QoS.Gateways {
		add("gateway", g.RouterID, g.Shape)
	}
	for _, f := range t.All.QoS.FloatingIPs {
		add("floatingip", f.ID, f.Shape)
	}
	return out
}

// on are the limits that what a probe sends has to pass; ok is false when the
// way is not one to measure on.
func (m *Model) on(from string, p vm.Probe, all []Limit) (out []Limit, ok bool) {
	k, err := m.packet(from, p)
	if err != nil {
		return nil, false
	}
	there, _, answered := m.m.Connect(k)
	if !answered || len(there.Arrivals) != 1 {
		return nil, false
	}
	a := there.Arrivals[0]
	pass := func(kind, id string, d qos.Direction) {
		for _, l := range all {
			if l.key() == (Limit{Kind: kind, ID: id, Direction: d}) {
				out = append(out, l)
			}
		}
	}
	sender, receiver := m.t.VM(from) != nil, m.t.VM(m.machine(a.ID)) != nil
	routed := slices.ContainsFunc(there.Walk, func(s reach.Step) bool { return s.Stage == "router" })
	if sender {
		pass("port", k.From, qos.Egress)
	}
	switch {
	case !routed:
	case sender && receiver:
		if a.Packet.Dst != p.Dst {
			return nil, false // by a floating IP from inside
		}
	case sender:
		m.gatewayLimits(k.From, a.Packet.Src, qos.Egress, pass)
	case receiver:
		m.gatewayLimits(a.ID, p.Dst, qos.Ingress, pass)
	default:
		return nil, false
	}
	if receiver {
		pass("port", a.ID, qos.Ingress)
	}
	return out, sender || receiver
}

// gatewayLimits passes what limits packets of a port that outside have an address.
func (m *Model) gatewayLimits(port string, outside netip.Addr, d qos.Direction, pass func(kind, id string, d qos.Direction)) {
	for _, f := range m.t.All.Router.FloatingIPs {
		if f.FloatingIP == outside && slices.ContainsFunc(m.t.All.QoS.FloatingIPs, func(x qos.FloatingIP) bool { return x.ID == f.ID }) {
			pass("floatingip", f.ID, d)
			return
		}
	}
	for _, r := range m.t.All.Router.Routers {
		if r.Gateway != nil && slices.ContainsFunc(r.Interfaces, func(i router.Interface) bool { return i.NetworkID == m.networkOf(port) }) {
			pass("gateway", r.ID, d)
		}
	}
}

func (m *Model) networkOf(port string) string {
	for _, p := range m.t.All.Overlay.Ports {
		if p.ID == port {
			return p.NetworkID
		}
	}
	return ""
}

// least is the smallest limit of the same unit.
func least(like Limit, on []Limit) Limit {
	for _, l := range on {
		if like.Kbps > 0 && l.Kbps > 0 && l.Kbps < like.Kbps || like.PPS > 0 && l.PPS > 0 && l.PPS < like.PPS {
			like = l
		}
	}
	return like
}

// MeasureLimits measures all limits of a cloud that the model lets something pass by,
// those at the same time that have no machine in common. dir is where a machine
// has its files.
func MeasureLimits(ctx context.Context, t *topology.Cloud, dir func(string) string) ([]Taken, error) {
	model, err := NewModel(t)
	if err != nil {
		return nil, err
	}
	r, err := Expected(t)
	if err != nil {
		return nil, err
	}
	all := Limits(t)
	var out []Taken
	var ends [][2]string
	for _, l := range all {
		best, with := Taken{Limit: l, Least: l}, [2]string{}
		for _, c := range r.Cells {
			proto := "tcp"
			if l.PPS > 0 {
				proto = "icmp"
			}
			if !c.Model.OK || c.Probe.Proto != proto || strings.HasPrefix(c.To, "shared") {
				continue
			}
			on, ok := model.on(c.From, c.Probe, all)
			if !ok || !slices.Contains(on, l) {
				continue
			}
			x := least(l, on)
			if best.From == "" || x == l && best.Least != l {
				best.From, best.Probe, best.Least, with = c.From, c.Probe, x, [2]string{c.From, c.Model.Who}
			}
		}
		out, ends = append(out, best), append(ends, with)
	}
	for _, round := range rounding(ends) {
		var wg sync.WaitGroup
		errs := make([]error, len(out))
		for _, i := range round {
			wg.Go(func() {
				x := &out[i]
				m := vm.Measure{Probe: x.Probe, Offer: 2 * int(x.Limit.PPS), Warm: 2 * time.Second, For: 2 * time.Second}
				if x.Seen, errs[i] = vm.Take(ctx, dir(x.From), m); errs[i] != nil {
					errs[i] = fmt.Errorf("measuring from %s: %w", x.From, errs[i])
				}
			})
		}
		wg.Wait()
		if err := cmp.Or(errs...); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// rounding puts measurements into rounds, in each of which no machine sends or
// is sent twice.
func rounding(ends [][2]string) [][]int {
	var rounds [][]int
	var busy []map[string]bool
next:
	for i, e := range ends {
		if e[0] == "" {
			continue
		}
		for k := range rounds {
			if !busy[k][e[0]+" out"] && !busy[k][e[1]+" in"] {
				rounds[k] = append(rounds[k], i)
				busy[k][e[0]+" out"], busy[k][e[1]+" in"] = true, true
				continue next
			}
		}
		rounds = append(rounds, []int{i})
		busy = append(busy, map[string]bool{e[0] + " out": true, e[1] + " in": true})
	}
	return rounds
}
