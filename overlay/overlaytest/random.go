package overlaytest

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/reach"
	"github.com/vnet-go/vnet/overlay"
)

func randomCases() []Case {
	return []Case{{Name: "topologies", Says: "The same desired state means the same packets: what arrives is what the model says, whatever stood before.", Hosts: 3, run: func(b *bench) {
		r := &roulette{world: b.world()}
		n, rounds, failed := 0, cmp.Or(b.k.Worlds, 25), false
		rapid.Check(b.t, func(t *rapid.T) {
			// What fails is drawn again, smaller, as often as rapid likes.
			if n++; n > rounds && !failed {
				return
			}
			failed = true
			r.round(t)
			failed = false
		})
	}}}
}

// roulette keeps the machines over the rounds, so that every state is come to
// from another one.
type roulette struct {
	*world
	standing map[string]*station
}

var names = []string{"a", "b", "c", "d", "e", "f"}

func (r *roulette) round(t *rapid.T) {
	r.draw(t)
	if rapid.Bool().Draw(t, "restart") {
		for i := range r.hosts {
			r.reopen(i)
		}
	}
	for i, f := range r.f {
		s := r.state(i)
		if err := f.Sync(r.ctx, s, vnet.SyncOptions{Force: true}); err != nil {
			t.Fatalf("host %s: %v\n%s", r.hosts[i].Name, err, r.text())
		}
	}
	for _, s := range r.stations {
		old := r.standing[s.name]
		s.NS = r.vm(s.name)
		silence(s.NS)
		var err error
		if s.dev, err = r.f[s.host].Plug(r.ctx, r.veth(s.name)); err != nil {
			t.Fatalf("%v\n%s", err, r.text())
		}
		s.Up("eth0")
		if old != nil && old.host == s.host {
			s.cap = old.cap
		} else {
			s.cap = s.Capture("eth0")
		}
	}
	r.standing = map[string]*station{}
	for _, s := range r.stations {
		r.standing[s.name] = s
	}
	for i, f := range r.f {
		p, err := f.Plan(r.ctx, r.state(i))
		if err != nil || !p.Empty() {
			t.Fatalf("after Sync and Plug on %s: %v\n%s\n%s", r.hosts[i].Name, err, p, r.text())
		}
	}
	if len(r.stations) > 0 {
		r.compare(t)
	}
}

// draw makes up networks and stations.
func (r *roulette) draw(t *rapid.T) {
	f := r.f[0].Features(r.ctx)
	r.networks, r.stations = nil, nil
	var types []overlay.SegmentType
	for _, s := range []overlay.SegmentType{overlay.Local, overlay.VXLAN, overlay.Geneve, overlay.VLAN, overlay.Flat} {
		if f.Segments[s] && (!s.Physical() || r.k.PhysicalNetwork != "") {
			types = append(types, s)
		}
	}
	flat := false
	ids := rapid.Permutation([]uint32{50, 51, 52}).Draw(t, "segment ids")
	for i := range rapid.IntRange(1, 3).Draw(t, "networks") {
		s := rapid.SampledFrom(types).Draw(t, "type")
		if s == overlay.Flat && flat {
			s = types[0]
		}
		flat = flat || s == overlay.Flat
		n := r.network(fmt.Sprintf("n%d", i), s, ids[i])
		n.Flooding = overlay.Flooding{Broadcast: rapid.Bool().Draw(t, "broadcast"), NoMulticast: rapid.Bool().Draw(t, "no multicast")}
		n.Flooding.Broadcast = n.Flooding.Broadcast && f.Flooding.Broadcast || f.Floods.Broadcast
		n.Flooding.NoMulticast = n.Flooding.NoMulticast && f.Flooding.NoMulticast
		n.AdminDown = rapid.IntRange(0, 7).Draw(t, "network down") == 7
		n.MTU = rapid.SampledFrom([]int{0, 1400, 1280}).Draw(t, "mtu")
		r.networks = append(r.networks, n)
	}
	used := map[string]bool{}
	for i, name := range names {
		if rapid.IntRange(0, 3).Draw(t, "left out") == 3 {
			continue
		}
		network := rapid.SampledFrom(r.networks).Draw(t, "network").ID
		// The same addresses on several networks, but not twice on one.
		number := rapid.IntRange(1, 3).Draw(t, "number")
		if key := fmt.Sprint(network, number); used[key] {
			number = 10 + i
		} else {
			used[key] = true
		}
		s := r.add(name, rapid.IntRange(0, len(r.hosts)-1).Draw(t, "host"), network, number)
		s.port.AdminDown = rapid.IntRange(0, 5).Draw(t, "down") == 5
		s.port.Filtered = rapid.IntRange(0, 5).Draw(t, "filtered") == 5
	}
}

// compare sends packets and asks the model what becomes of them.
func (r *roulette) compare(t *rapid.T) {
	all := overlay.State{Networks: r.networks}
	for _, s := range r.stations {
		all.Ports = append(all.Ports, s.port)
	}
	m, err := reach.New(reach.World{Overlay: all})
	require.NoError(t, err)
	var probes []probe
	var verdicts []reach.Verdict
	for range rapid.IntRange(1, 8).Draw(t, "packets") {
		from := rapid.SampledFrom(r.stations).Draw(t, "from")
		to := rapid.SampledFrom(r.stations).Draw(t, "to")
		v6 := rapid.Bool().Draw(t, "v6")
		f := udp(from, to, v6)
		k := reach.Packet{From: from.name, Src: f.Src, Dst: f.Dst, Proto: f.Proto, SrcPort: f.SrcPort, DstPort: f.DstPort}
		broadcast, _, multicast4, multicast6, _, _ := spread(from)
		switch kind := rapid.SampledFrom([]string{"unicast", "broadcast", "multicast", "arp"}).Draw(t, "kind"); {
		case kind == "multicast" && v6:
			f = multicast6
		case kind == "multicast":
			f = multicast4
		case kind == "arp":
			f = lab.ARPRequest(from.port.MAC, from.port.FixedIPs[0], to.port.FixedIPs[0])
			f.ARP.TPA = ip4(300 + int(tags.Add(1)%1000)) // unlike any other question, and nobody's
			k = reach.Packet{From: from.name, ARP: &reach.ARP{SenderMAC: f.ARP.SHA, SenderIP: f.ARP.SPA}}
		case kind == "broadcast" || !r.knows(from, to):
			f = broadcast
		}
		if f.ARP == nil {
			k.Src, k.Dst, k.DstMAC = f.Src, f.Dst, f.DstMAC
		}
		v := m.Send(k)
		p := probe{from: from.name, frame: f}
		for _, a := range v.Arrivals {
			p.to = append(p.to, a.ID)
		}
		slices.Sort(p.to)
		probes, verdicts = append(probes, p), append(verdicts, v)
	}
	for i, got := range r.send(probes) {
		if p := probes[i]; !slices.Equal(got.to, p.to) {
			t.Fatalf("from %s: %s\narrived at %v, and the model says %v:\n%s\n%s", p.from, p.frame, got.to, p.to, verdicts[i].Explain(), r.text())
		}
	}
}

// knows reports whether the switches know where the MAC of to is, so that
// frames to it go nowhere else: on tunnels and on one host they are told.
func (r *roulette) knows(from, to *station) bool {
	if from == to || from.port.NetworkID != to.port.NetworkID {
		return false
	}
	i := slices.IndexFunc(r.networks, func(n overlay.Network) bool { return n.ID == from.port.NetworkID })
	return from.host == to.host || r.networks[i].Segment.Type.Tunnel()
}
