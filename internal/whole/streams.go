package whole

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/reach/reachtest"
	"github.com/vnet-go/vnet/secgroup"
)

// streams makes a world, another one of the same ports, and the first one
// again, twice, under traffic. Each Sync of a host's subsystem is atomic, and
// they come one after the other: on its way a packet may meet its sender's
// rules, its receiver's, the routers, and the networks of either world. What
// is forbidden whichever it meets must never arrive, and of what is allowed
// and looks the same whichever it meets, nothing may be lost, unless Plan says
// that a network on its way stops for a moment ([vnet.ImpactObject]).
func streams(t *testing.T, h Harness) {
	c := clouds(t, h, 1)[0]
	limit(t, 1+h.Worlds/4, func(t *rapid.T, made func(int)) {
		a := draw(t, c.want())
		b := graft(a.w, fit(reachtest.World(t, c.want())))
		made(1)
		c.ear.forget()
		err := c.become(reach.World{})
		if err == nil {
			err = c.become(a.w)
		}
		if err == nil {
			err = c.under(a.packets, b, func() error {
				for _, w := range []reach.World{b, a.w, b, a.w} {
					if err := c.become(w); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err != nil {
			t.Fatalf("%v%s", err, story([]turn{{w: a.w}, {w: b}}))
		}
	})
}

// graft is a with what may change of a port, router or network while it stays
// where it is, as in b.
func graft(a, b reach.World) reach.World {
	w := a
	w.Overlay, w.Router = a.Overlay.Clone(), a.Router.Clone()
	for i := range w.Overlay.Networks {
		n := &w.Overlay.Networks[i]
		if x := byID(b.Overlay.Networks, n.ID, netID); x != nil {
			n.AdminDown = x.AdminDown
			if x.Segment.Type.Tunnel() && n.Segment.Type.Tunnel() {
				n.Flooding = x.Flooding
			}
		}
	}
	w.SecGroup = secgroup.State{Groups: b.SecGroup.Groups, AddressGroups: b.SecGroup.AddressGroups}
	for i := range w.Overlay.Ports {
		p := &w.Overlay.Ports[i]
		if x := byID(b.Overlay.Ports, p.ID, portID); x != nil {
			p.AdminDown = x.AdminDown
		}
		if x := byID(b.SecGroup.Ports, p.ID, securedID); x != nil && p.Filtered {
			s := x.Clone()
			s.NetworkID, s.MAC, s.FixedIPs, s.Host = p.NetworkID, p.MAC, p.FixedIPs, p.Host
			w.SecGroup.Ports = append(w.SecGroup.Ports, s)
		}
	}
	w.Router.FloatingIPs, w.Router.PortForwards = nil, nil
	for i := range w.Router.Routers {
		r := &w.Router.Routers[i]
		x := byID(b.Router.Routers, r.ID, routerID)
		if x == nil {
			continue
		}
		r.AdminDown = x.AdminDown
		if r.Gateway != nil && x.Gateway != nil {
			r.Gateway.DisableSNAT, r.Gateway.NextHops = x.Gateway.DisableSNAT, x.Gateway.NextHops
		}
	}
	for _, f := range b.Router.FloatingIPs {
		if r := byID(w.Router.Routers, f.RouterID, routerID); r != nil && r.CheckFloatingIP(f) == nil {
			w.Router.FloatingIPs = append(w.Router.FloatingIPs, f)
		}
	}
	for _, f := range b.Router.PortForwards {
		if r := byID(w.Router.Routers, f.RouterID, routerID); r != nil && r.CheckPortForward(f) == nil {
			w.Router.PortForwards = append(w.Router.PortForwards, f)
		}
	}
	return w
}

// flow is packets that are all alike, each with a tag of its own.
type flow struct {
	*probe
	anew bool // each opens a connection; else they are all of one
	stop bool // a network on its way stops for a moment
	sent []uint32
}

// flows picks, from packets, those whose fate is the same whatever part of a
// and b they meet.
func (c *cloud) flows(packets []reach.Packet, a, b reach.World) (out []*flow, err error) {
	const most = 10
	count := map[bool]int{}
	models := map[string][]*reach.Model{}
	stops, err := c.stops(b)
	if err != nil {
		return nil, err
	}
	for _, id := range reachtest.Senders(a) {
		if models[id], err = mixes(a, b, id); err != nil {
			return nil, err
		}
	}
	for i, k := range packets {
		p := c.probe(k)
		// A router's answer that is not let in is about a connection, or none; these
		// end just after the rules have changed.
		if k.Proto == 47 || p.want == nil && p.v.OK() || c.about(p) != "" {
			continue
		}
		if p.hop.IsValid() && count[p.want != nil] < most && !slices.ContainsFunc(models[k.From], func(m *reach.Model) bool { return !sameFate(m, p) }) {
			count[p.want != nil]++
			f := &flow{probe: p, anew: i%2 == 0, stop: slices.ContainsFunc(p.v.Walk, func(s reach.Step) bool { return stops[s.Object] })}
			if f.anew && p.want != nil {
				p.want.AnySrcPort = true
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// stops are the networks, as "network n0", whose traffic stops for a moment
// while w is made of what stands, as Plan says.
func (c *cloud) stops(w reach.World) (map[string]bool, error) {
	out := map[string]bool{}
	return out, each(c.writers, func(x writer) error {
		p, err := x.overlay.Plan(c.ctx, c.share(x, w))
		for _, ch := range p.Changes {
			if ch.Kind == "network" && ch.Impact == vnet.ImpactObject {
				out["network "+ch.ID] = true
			}
		}
		return err
	})
}

func sameFate(m *reach.Model, p *probe) bool {
	v := m.Send(p.k)
	got := heard(v)
	if v.OK() != p.v.OK() {
		return false
	}
	if hop, _, err := m.Route(p.k.From, p.k.Dst); err != nil || hop != p.hop {
		return false
	}
	if got == nil || p.want == nil {
		return got == nil && p.want == nil
	}
	return got.ID == p.want.ID && got.AnySrcPort == p.want.AnySrcPort && fmt.Sprint(got.Packet) == fmt.Sprint(p.want.Packet) &&
		got.Packet.SrcMAC == p.want.Packet.SrcMAC && got.Packet.DstMAC == p.want.Packet.DstMAC && got.Packet.TTL == p.want.Packet.TTL
}

// mixes are the worlds that a packet may meet on its way while b is made of a:
// of each, the rules of its sender, those of the others, the routers, and the
// networks and ports.
func mixes(a, b reach.World, sender string) (out []*reach.Model, err error) {
	of := [2]reach.World{a, b}
	rules := [2]secgroup.State{frozen(a.SecGroup, "a."), frozen(b.SecGroup, "b.")}
	for i := range 16 {
		w := of[i&1]
		w.Router = of[i>>1&1].Router
		mine, others := rules[i>>2&1], rules[i>>3&1]
		w.SecGroup = secgroup.State{Groups: slices.Concat(rules[0].Groups, rules[1].Groups), AddressGroups: slices.Concat(rules[0].AddressGroups, rules[1].AddressGroups)}
		for _, p := range mine.Ports {
			if p.ID == sender {
				w.SecGroup.Ports = append(w.SecGroup.Ports, p)
			}
		}
		for _, p := range others.Ports {
			if p.ID != sender {
				w.SecGroup.Ports = append(w.SecGroup.Ports, p)
			}
		}
		m, err := reach.New(w)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// frozen is s with other ids, and with groups whose members are listed: they
// stay the same whatever else is in the world.
func frozen(s secgroup.State, prefix string) secgroup.State {
	s = s.Clone()
	for i := range s.AddressGroups {
		s.AddressGroups[i].ID = prefix + s.AddressGroups[i].ID
	}
	for i := range s.Groups {
		g := &s.Groups[i]
		members := secgroup.AddressGroup{ID: prefix + "members." + g.ID}
		for _, p := range s.Ports {
			if !slices.Contains(p.Groups, g.ID) {
				continue
			}
			for _, ip := range p.FixedIPs {
				members.Prefixes = append(members.Prefixes, netip.PrefixFrom(ip, ip.BitLen()))
			}
			for _, q := range p.AllowedPairs {
				members.Prefixes = append(members.Prefixes, q.Prefix)
			}
		}
		slices.SortFunc(members.Prefixes, netip.Prefix.Compare)
		members.Prefixes = slices.Compact(members.Prefixes)
		s.AddressGroups = append(s.AddressGroups, members)
		for j := range g.Rules {
			r := &g.Rules[j]
			switch {
			case r.RemoteGroup != "":
				r.RemoteGroup, r.RemoteAddressGroup = "", prefix+"members."+r.RemoteGroup
			case r.RemoteAddressGroup != "":
				r.RemoteAddressGroup = prefix + r.RemoteAddressGroup
			}
		}
		g.ID = prefix + g.ID
	}
	for i := range s.Ports {
		for j := range s.Ports[i].Groups {
			s.Ports[i].Groups[j] = prefix + s.Ports[i].Groups[j]
		}
	}
	return s
}

// under calls during, which makes other of what stands and back, while flows
// flow, and says what was lost of those that arrive, and what came of those
// that do not.
func (c *cloud) under(packets []reach.Packet, other reach.World, during func() error) error {
	flows, err := c.flows(packets, c.was, other)
	if err != nil {
		return err
	}
	for _, m := range c.machines {
		m.announce()
	}
	// Everybody knows everybody when it begins.
	var first []*probe
	for _, f := range flows {
		first = append(first, f.probe)
	}
	if err := c.send(first); err != nil {
		return err
	}
	stop := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			for _, f := range flows {
				f.next()
			}
		}
	})
	err = during()
	close(stop)
	sending.Wait()
	if err != nil {
		return err
	}
	for _, f := range flows {
		if f.stop {
			continue
		}
		lost := func() (n int) {
			for _, tag := range f.sent {
				if p := (&probe{tag: tag, at: f.at}); f.want != nil && c.arrived(p) == nil {
					n++
				}
			}
			return n
		}
		for end := time.Now().Add(time.Second); lost() > 0 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		if n := lost(); n > 0 && c.Limits.Blinks && n <= len(f.sent)/8 && c.far(f.probe) {
			c.left["blinks"]++
		} else if n > 0 {
			return fmt.Errorf("%s, allowed all the time (anew %t): %d of %d packets are lost: %s", f.k, f.anew, n, len(f.sent), f.v.Explain())
		}
	}
	time.Sleep(settled)
	for _, f := range flows {
		for i, tag := range f.sent {
			if why := c.judge(&probe{tag: tag, want: f.want, at: f.at, v: f.v, from: f.from, seen: &lab.Frame{}}); why != "" {
				return fmt.Errorf("%s, the same all the time (anew %t): packet %d of %d: %s: %s", f.k, f.anew, i, len(f.sent), why, f.v.Explain())
			}
		}
	}
	return nil
}

// far reports whether p is on several hosts on its way.
func (c *cloud) far(p *probe) bool {
	on := map[string]bool{}
	for _, id := range []string{p.k.From, p.want.ID} {
		if x := byID(c.was.Overlay.Ports, id, portID); x != nil {
			on[x.Host] = true
		}
	}
	for _, r := range c.was.Router.Routers {
		if p.passes("router " + r.ID) {
			on[r.Host] = true
		}
	}
	return len(on) > 1
}

// next sends the next packet.
func (f *flow) next() {
	tag := tags.Add(1)
	f.sent = append(f.sent, tag)
	g := f.frame
	g.Payload = payload(tag)
	if f.anew && g.SrcPort != 0 {
		g.SrcPort = uint16(20000 + tag%40000)
	}
	if f.anew {
		g.ICMPID = uint16(tag)
	}
	if !g.DstMAC.IsZero() {
		f.from.send(g)
	}
}
