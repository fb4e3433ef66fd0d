package overlaytest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
)

// sample is a state that has some of everything that the backend can.
func (b *bench) sample() overlay.State {
	f := b.f[0].Features(b.ctx)
	s := overlay.State{Networks: []overlay.Network{b.plain("local")}}
	shared := b.tunnelled()
	for i, id := range []string{"blue", "green"} { // with the same addresses
		n := b.network(id, shared, uint32(100+i))
		n.Flooding.NoMulticast = i == 1 && f.Flooding.NoMulticast
		s.Networks = append(s.Networks, n)
	}
	for i, t := range []overlay.SegmentType{overlay.Flat, overlay.VLAN} {
		if f.Segments[t] && b.k.PhysicalNetwork != "" {
			s.Networks = append(s.Networks, b.network(string(t), t, uint32(200+i)))
		}
	}
	for i, n := range s.Networks {
		for j := range 2 {
			p := port(fmt.Sprintf("%s-%d", n.ID, j), n.ID, 1+j)
			p.AdminDown = i == 0 && j == 1
			p.Filtered = j == 0
			s.Ports = append(s.Ports, p)
		}
	}
	far := port("blue-far", "blue", 9)
	far.Host = "elsewhere"
	s.Ports = append(s.Ports, far)
	if !f.Central {
		for i, id := range []string{"blue", "green"} {
			for j := range 3 {
				s.RemotePorts = append(s.RemotePorts, overlay.RemotePort{ID: fmt.Sprintf("%s-r%d", id, j), NetworkID: id, MAC: mac(10 + j), IPs: ips(10 + j), Endpoint: b.elsewhere(i + j)})
			}
		}
	}
	return s
}

// elsewhere is an address of the underlay that no host has.
func (b *bench) elsewhere(i int) netip.Addr {
	if b.hosts[0].Endpoint.Is6() {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%x", 0xf0+i))
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(200 + i)})
}

func contractCases() []Case {
	return []Case{
		{Name: "twice is once", Says: "Ensure makes one object as described; the same call again writes nothing.", run: func(b *bench) {
			s := b.sample()
			b.ensure(b.f[0], s)
			b.silent("ensuring again", func() { b.ensure(b.f[0], s) })
			b.planned(b.f[0], s)
		}},
		{Name: "sync makes it so", Says: "Sync makes the whole state so; a second one finds nothing to do.", run: func(b *bench) {
			s := b.sample()
			b.sync(b.f[0], s)
			b.planned(b.f[0], s)
			b.silent("syncing again", func() { b.sync(b.f[0], s) })
			b.silent("ensuring what Sync made", func() { b.ensure(b.f[0], s) })
		}},
		{Name: "sync is the sum of ensures", Says: "Ensure of every object and Sync of the whole make the same.", run: func(b *bench) {
			s := b.sample()
			b.ensure(b.f[0], s)
			b.silent("syncing what Ensure made", func() { b.sync(b.f[0], s) })
		}},
		{Name: "order does not matter", Says: "Two states that mean the same are the same.", run: func(b *bench) {
			s := b.sample()
			b.sync(b.f[0], s)
			o := s.Clone()
			for i, j := 0, len(o.Ports)-1; i < j; i, j = i+1, j-1 {
				o.Ports[i], o.Ports[j] = o.Ports[j], o.Ports[i]
			}
			o.Networks[0], o.Networks[1] = o.Networks[1], o.Networks[0]
			for i := range o.Ports {
				o.Ports[i].FixedIPs[0], o.Ports[i].FixedIPs[1] = o.Ports[i].FixedIPs[1], o.Ports[i].FixedIPs[0]
			}
			b.planned(b.f[0], o)
		}},
		{Name: "plan does nothing", Says: "Plan says what Sync would do, and writes nothing.", run: func(b *bench) {
			s := b.sample()
			b.silent("planning", func() { require.NotEmpty(b.t, b.brief(b.f[0], s)) })
			require.Contains(b.t, b.brief(b.f[0], s), "create network blue")
			require.Contains(b.t, b.brief(b.f[0], s), "create port blue-0")
			b.sync(b.f[0], s)
			b.silent("planning", func() { require.NotEmpty(b.t, b.brief(b.f[0], overlay.State{})) })
			require.Contains(b.t, b.brief(b.f[0], overlay.State{}), "delete network blue")
			require.Contains(b.t, b.brief(b.f[0], overlay.State{}), "delete port blue-0")
			b.planned(b.f[0], s)
		}},
		{Name: "sync removes", Says: "Sync removes what is ours and not wanted.", run: func(b *bench) {
			s := b.sample()
			b.sync(b.f[0], s)
			less := overlay.State{Networks: s.Networks[:1], Ports: s.Ports[:1]}
			b.ok(b.f[0].Sync(b.ctx, less, vnet.SyncOptions{Force: true}))
			b.planned(b.f[0], less)
			b.ok(b.f[0].Sync(b.ctx, overlay.State{}, vnet.SyncOptions{Force: true}))
			b.planned(b.f[0], overlay.State{})
			b.planned(b.reopen(0), overlay.State{})
		}},
		{Name: "delete is the opposite of ensure", Says: "After Delete of every object nothing is left; Delete of what does not exist is no error.", run: func(b *bench) {
			s := b.sample()
			b.ensure(b.f[0], s)
			drop := func() {
				for _, p := range s.RemotePorts {
					b.ok(b.f[0].DeleteRemotePort(b.ctx, p.ID))
				}
				for _, p := range s.Ports {
					b.ok(b.f[0].DeletePort(b.ctx, p.ID))
				}
				for _, n := range s.Networks {
					b.ok(b.f[0].DeleteNetwork(b.ctx, n.ID))
				}
			}
			drop()
			b.planned(b.f[0], overlay.State{})
			b.silent("deleting what is gone", drop)
			b.planned(b.reopen(0), overlay.State{})
		}},
		{Name: "restart adopts", Says: "After a restart a new backend plans nothing, and a Sync writes nothing.", run: func(b *bench) {
			s := b.sample()
			b.sync(b.f[0], s)
			b.reopen(0)
			b.planned(b.f[0], s)
			b.silent("syncing after a restart", func() { b.sync(b.f[0], s) })
			b.reopen(0)
			b.silent("ensuring after a restart", func() { b.ensure(b.f[0], s) })
			b.planned(b.f[0], s)
		}},
		{Name: "restart finds the difference", Says: "After a restart Sync changes what differs, and only that.", run: func(b *bench) {
			s := b.sample()
			b.sync(b.f[0], s)
			f := b.reopen(0)
			s.Ports = append(s.Ports, port("new", "blue", 50))
			require.Equal(b.t, []string{"create port new"}, b.brief(f, s))
			b.sync(f, s)
			b.planned(f, s)
			s.Ports = s.Ports[:len(s.Ports)-1]
			require.Equal(b.t, []string{"delete port new"}, b.brief(b.reopen(0), s))
		}},
		{Name: "remote ports change", Says: "A remote port that moves, changes or goes changes what is known of it and nothing else.", Remote: true, Needs: []overlay.SegmentType{overlay.VXLAN}, run: func(b *bench) {
			s := b.sample()
			b.sync(b.f[0], s)
			moved := &s.RemotePorts[0]
			moved.Endpoint = b.elsewhere(7)
			require.Contains(b.t, b.brief(b.f[0], s), "update remote_port "+moved.ID)
			b.ok(b.f[0].EnsureRemotePort(b.ctx, *moved))
			b.planned(b.f[0], s)
			moved.IPs = moved.IPs[1:]
			b.ok(b.f[0].EnsureRemotePort(b.ctx, *moved))
			b.planned(b.f[0], s)
			moved.MAC = mac(44)
			b.ok(b.f[0].EnsureRemotePort(b.ctx, *moved))
			b.planned(b.f[0], s)
			moved.NetworkID = "green"
			b.ok(b.f[0].EnsureRemotePort(b.ctx, *moved))
			b.planned(b.f[0], s)
			for len(s.RemotePorts) > 0 {
				b.ok(b.f[0].DeleteRemotePort(b.ctx, s.RemotePorts[0].ID))
				s.RemotePorts = s.RemotePorts[1:]
				b.planned(b.f[0], s)
			}
		}},
		{Name: "remote ports share an address", Says: "Several remote ports may have one address, as failover pairs do; it is known until the last one goes.", Remote: true, Needs: []overlay.SegmentType{overlay.VXLAN}, run: func(b *bench) {
			s := b.sample()
			for j := range 2 {
				s.RemotePorts[j].IPs = append(s.RemotePorts[j].IPs, ip4(99))
			}
			b.ensure(b.f[0], s)
			b.planned(b.f[0], s)
			b.silent("syncing what Ensure made", func() { b.sync(b.f[0], s) })
			b.planned(b.reopen(0), s)
			b.sync(b.f[0], s)
			b.ok(b.f[0].DeleteRemotePort(b.ctx, s.RemotePorts[1].ID))
			s.RemotePorts = append(s.RemotePorts[:1], s.RemotePorts[2:]...)
			b.planned(b.f[0], s)
			b.ok(b.f[0].DeleteRemotePort(b.ctx, s.RemotePorts[0].ID))
			s.RemotePorts = s.RemotePorts[1:]
			b.planned(b.f[0], s)
		}},
		{Name: "remote port waits for its network", Says: "A remote port of a network that has not been ensured is ErrNotFound.", Remote: true, run: func(b *bench) {
			r := overlay.RemotePort{ID: "r", NetworkID: "none", MAC: mac(1), Endpoint: b.elsewhere(1)}
			require.ErrorIs(b.t, b.f[0].EnsureRemotePort(b.ctx, r), vnet.ErrNotFound)
		}},
		{Name: "port waits for its network", Says: "A port of a network that has not been ensured is ErrNotFound.", run: func(b *bench) {
			require.ErrorIs(b.t, b.f[0].EnsurePort(b.ctx, port("p", "none", 1)), vnet.ErrNotFound)
			b.planned(b.f[0], overlay.State{})
		}},
		{Name: "network in use", Says: "Delete of a network that has ports is ErrInUse, and names one.", run: func(b *bench) {
			b.ok(b.f[0].EnsureNetwork(b.ctx, b.plain("n")))
			b.ok(b.f[0].EnsurePort(b.ctx, port("user", "n", 1)))
			err := b.f[0].DeleteNetwork(b.ctx, "n")
			require.ErrorIs(b.t, err, vnet.ErrInUse)
			require.ErrorContains(b.t, err, "user")
			b.ok(b.f[0].DeletePort(b.ctx, "user"))
			b.ok(b.f[0].DeleteNetwork(b.ctx, "n"))
			b.planned(b.f[0], overlay.State{})
		}},
		{Name: "one network a segment", Says: "A second network on one segment of a host is ErrConflict, also after a restart, and leaves nothing.", run: func(b *bench) {
			one, two := b.network("one", b.tunnelled(), 100), b.network("two", b.tunnelled(), 100)
			b.ok(b.f[0].EnsureNetwork(b.ctx, one))
			require.ErrorIs(b.t, b.f[0].EnsureNetwork(b.ctx, two), vnet.ErrConflict)
			require.ErrorIs(b.t, b.reopen(0).EnsureNetwork(b.ctx, two), vnet.ErrConflict)
			b.planned(b.f[0], overlay.State{Networks: []overlay.Network{one}})
		}},
		{Name: "segments change hands", Says: "One Sync may give the segment of one network to another.", run: func(b *bench) {
			t := b.tunnelled()
			s := overlay.State{Networks: []overlay.Network{b.network("a", t, 100), b.network("b", t, 101), b.network("c", t, 102)}, Ports: []overlay.Port{port("p", "a", 1)}}
			b.sync(b.f[0], s)
			s.Networks[0].Segment.ID, s.Networks[1].Segment.ID = 101, 100
			s.Networks[2] = b.network("d", t, 102)
			b.sync(b.f[0], s)
			b.planned(b.f[0], s)
			b.planned(b.reopen(0), s)
		}},
		{Name: "physical network changes hands", Says: "One Sync may give the segment of one network to another.", Needs: []overlay.SegmentType{overlay.Flat}, run: func(b *bench) {
			s := overlay.State{Networks: []overlay.Network{b.network("a", overlay.Flat, 0)}}
			b.sync(b.f[0], s)
			s.Networks[0] = b.network("b", overlay.Flat, 0)
			b.sync(b.f[0], s)
			b.planned(b.f[0], s)
			s.Networks[0] = b.plain("b")
			s.Networks = append(s.Networks, b.network("c", overlay.Flat, 0))
			b.sync(b.f[0], s)
			b.planned(b.reopen(0), s)
		}},
		{Name: "a network changes", Says: "Ensure makes one object as described, also when it was different.", run: func(b *bench) {
			t := b.tunnelled()
			n := b.network("n", t, 100)
			s := overlay.State{Networks: []overlay.Network{n}, Ports: []overlay.Port{port("p", "n", 1)}}
			s.Ports[0].FixedIPs = s.Ports[0].FixedIPs[:1] // the IPv6 subnet goes
			if !b.f[0].Features(b.ctx).Central {
				s.RemotePorts = []overlay.RemotePort{{ID: "r", NetworkID: "n", MAC: mac(2), IPs: ips(2), Endpoint: b.elsewhere(1)}}
			}
			b.ensure(b.f[0], s)
			steps := []func(*overlay.Network){
				func(n *overlay.Network) { n.MTU = 1300 },
				func(n *overlay.Network) { n.MTU = 0 },
				func(n *overlay.Network) { n.Segment.ID = 105 },
				func(n *overlay.Network) { n.Flooding.NoMulticast = true },
				func(n *overlay.Network) { n.Flooding.Broadcast = true },
				func(n *overlay.Network) { n.Flooding = overlay.Flooding{UnknownUnicast: true, NoMulticast: true} },
				func(n *overlay.Network) { n.Flooding = overlay.Flooding{} },
				func(n *overlay.Network) { n.AdminDown = true },
				func(n *overlay.Network) { n.AdminDown = false },
				func(n *overlay.Network) { n.Subnets, n.MTU = n.Subnets[:1], 1000 },
				func(n *overlay.Network) { n.MTU = 1400 },
				func(n *overlay.Network) { n.Segment = overlay.Segment{Type: overlay.Local} },
				func(n *overlay.Network) { n.Segment = overlay.Segment{Type: t, ID: 106} },
			}
			if t.Physical() {
				steps = steps[:12]
			}
			for i, change := range steps {
				old := s.Networks[0].Clone()
				change(&s.Networks[0])
				if !b.supports(s.Networks[0]) {
					require.ErrorIs(b.t, b.f[0].EnsureNetwork(b.ctx, s.Networks[0]), vnet.ErrUnsupported)
					s.Networks[0] = old
					continue
				}
				b.ok(b.f[0].EnsureNetwork(b.ctx, s.Networks[0]))
				for _, r := range s.RemotePorts {
					b.ok(b.f[0].EnsureRemotePort(b.ctx, r))
				}
				b.planned(b.f[0], s)
				b.silent(fmt.Sprintf("ensuring change %d again", i), func() { b.ensure(b.f[0], s) })
			}
			b.planned(b.reopen(0), s)
		}},
		{Name: "ports of other hosts", Says: "A per-host backend ignores ports of other hosts.", run: func(b *bench) {
			if b.f[0].Features(b.ctx).Central {
				return
			}
			n := b.plain("n")
			p := port("p", "n", 1)
			p.Host = "elsewhere"
			b.ok(b.f[0].EnsureNetwork(b.ctx, n))
			b.silent("ensuring a port of another host", func() { b.ok(b.f[0].EnsurePort(b.ctx, p)) })
			p.Host = b.hosts[0].Name
			b.ok(b.f[0].EnsurePort(b.ctx, p))
			p.Host = "elsewhere" // moved away
			b.ok(b.f[0].EnsurePort(b.ctx, p))
			b.planned(b.f[0], overlay.State{Networks: []overlay.Network{n}})
		}},
		{Name: "delete budget", Says: "A Sync that would delete more than allowed returns a BudgetError with the list, having written nothing.", run: func(b *bench) {
			s := overlay.State{Networks: []overlay.Network{b.plain("n")}}
			for i := range 30 {
				s.Ports = append(s.Ports, port(fmt.Sprintf("p%02d", i), "n", i+1))
			}
			b.sync(b.f[0], s)
			less := s.Clone()
			less.Ports = less.Ports[:10]
			var e *vnet.BudgetError
			b.silent("a refused Sync", func() { require.ErrorAs(b.t, b.f[0].Sync(b.ctx, less, vnet.SyncOptions{}), &e) })
			require.Equal(b.t, 20, e.Deletes)
			require.Equal(b.t, 31, e.Existing)
			require.ErrorContains(b.t, e, "port p")
			b.planned(b.f[0], s)
			b.ok(b.f[0].Sync(b.ctx, less, vnet.SyncOptions{DeleteShare: 0.9}))
			b.planned(b.f[0], less)
			b.ok(b.f[0].Sync(b.ctx, overlay.State{}, vnet.SyncOptions{Force: true}))
		}},
		{Name: "foreign marks", Says: "What carries another owner, or none, is never touched.", run: func(b *bench) {
			if b.hosts[0].Foreign == nil {
				return
			}
			check := b.hosts[0].Foreign(b.t)
			s := b.sample()
			b.sync(b.f[0], s)
			check(b.t)
			b.planned(b.f[0], s)
			b.ok(b.f[0].Sync(b.ctx, overlay.State{}, vnet.SyncOptions{Force: true}))
			check(b.t)
		}},
		{Name: "refused by name", Says: "What a backend cannot do it refuses with UnsupportedError, and Features says what would provide it.", run: func(b *bench) {
			f := b.f[0].Features(b.ctx)
			for _, ask := range []overlay.Flooding{{Broadcast: true}, {UnknownUnicast: true}, {NoMulticast: true}} {
				n := b.plain("n")
				if n.Flooding = ask; !b.supports(n) {
					b.silent("a refused network", func() {
						require.ErrorIs(b.t, b.f[0].EnsureNetwork(b.ctx, n), vnet.ErrUnsupported)
						require.ErrorIs(b.t, b.hosts[0].Overlay.EnsureNetwork(b.ctx, n), vnet.ErrUnsupported, "the backend itself must refuse too")
					})
				}
			}
			for _, t := range []overlay.SegmentType{overlay.Local, overlay.Flat, overlay.VLAN, overlay.VXLAN, overlay.Geneve} {
				if !f.Segments[t] {
					b.refuses(t, f)
					b.silent("a refused Sync", func() {
						err := b.f[0].Sync(b.ctx, overlay.State{Networks: []overlay.Network{b.plain("a"), b.network("refused", t, 7)}}, vnet.SyncOptions{})
						require.ErrorIs(b.t, err, vnet.ErrUnsupported)
					})
				}
			}
		}},
		{Name: "bad input", Says: "Bad input is refused with the field's name before the first write.", run: func(b *bench) {
			bad := func(field string, err error) {
				b.t.Helper()
				var op *vnet.OpError
				require.ErrorAs(b.t, err, &op)
				require.True(b.t, isField(err, field), "want an error of field %q, got: %v", field, err)
			}
			b.silent("bad input", func() {
				n := b.plain("n")
				n.Segment.Type = "token-ring"
				bad("segment.type", b.f[0].EnsureNetwork(b.ctx, n))
				n = b.network("n", overlay.VXLAN, 1<<24)
				bad("segment.id", b.f[0].EnsureNetwork(b.ctx, n))
				n = b.network("", overlay.Local, 0)
				n.MTU = 1279
				bad("id", b.f[0].EnsureNetwork(b.ctx, n))
				bad("mtu", b.f[0].EnsureNetwork(b.ctx, n))
				bad("mac", b.f[0].EnsurePort(b.ctx, overlay.Port{ID: "p", NetworkID: "n", MAC: vnet.MAC{1}}))
				bad("ports[1].mac", b.f[0].Sync(b.ctx, overlay.State{Networks: []overlay.Network{b.plain("n")},
					Ports: []overlay.Port{port("p", "n", 1), port("q", "n", 1)}}, vnet.SyncOptions{}))
				_, err := b.f[0].Plan(b.ctx, overlay.State{Ports: []overlay.Port{port("p", "n", 1)}})
				bad("ports[0].network_id", err)
			})
		}},
		{Name: "cancel ends", Says: "A context that has ended ends the call, and nothing is written.", run: func(b *bench) {
			ctx, cancel := context.WithCancel(b.ctx)
			cancel()
			s := b.sample()
			b.silent("a cancelled call", func() {
				require.ErrorIs(b.t, b.f[0].EnsureNetwork(ctx, s.Networks[0]), context.Canceled)
				require.ErrorIs(b.t, b.f[0].Sync(ctx, s, vnet.SyncOptions{}), context.Canceled)
				_, err := b.f[0].Plan(ctx, s)
				require.ErrorIs(b.t, err, context.Canceled)
			})
			b.planned(b.f[0], overlay.State{})
		}},
		{Name: "several callers", Says: "All methods may be called from several goroutines.", run: func(b *bench) {
			b.ok(b.f[0].EnsureNetwork(b.ctx, b.plain("n")))
			s := overlay.State{Networks: []overlay.Network{b.plain("n")}}
			errs := make([]error, 16)
			var wg sync.WaitGroup
			for i := range errs {
				p := port(fmt.Sprintf("p%02d", i), "n", i+1)
				s.Ports = append(s.Ports, p)
				wg.Go(func() {
					errs[i] = errors.Join(b.f[0].EnsurePort(b.ctx, p), b.f[0].DeletePort(b.ctx, p.ID), b.f[0].EnsurePort(b.ctx, p))
					b.f[0].Features(b.ctx)
					b.f[0].Health(b.ctx)
				})
			}
			wg.Wait()
			b.ok(errors.Join(errs...))
			b.planned(b.f[0], s)
		}},
		{Name: "health", Says: "Health says that the view is complete.", run: func(b *bench) {
			h := b.f[0].Health(b.ctx)
			require.True(b.t, h.Complete, h.Detail)
			require.WithinDuration(b.t, time.Now(), h.Since, time.Hour)
		}},
	}
}
