package overlay_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/memoverlay"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

func TestNetworkValidate(t *testing.T) {
	good := overlay.Network{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 1}, MTU: 1280,
		Subnets: []overlay.Subnet{{ID: "a", CIDR: pfx("10.0.0.0/24")}, {ID: "b", CIDR: pfx("2001:db8::/64"), Gateway: ip("2001:db8::1")}}}
	require.NoError(t, good.Validate())
	for want, change := range map[string]func(n *overlay.Network){
		"id is empty":                         func(n *overlay.Network) { n.ID = "" },
		"segment.type is empty":               func(n *overlay.Network) { n.Segment = overlay.Segment{} },
		`segment.type "x" is no`:              func(n *overlay.Network) { n.Segment.Type = "x" },
		`segment.id "0" is not 1 to 16777215`: func(n *overlay.Network) { n.Segment.ID = 0 },
		`segment.id "16777216" is not`:        func(n *overlay.Network) { n.Segment.ID = 1 << 24 },
		`segment.id "4095" is not 1 to 4094`: func(n *overlay.Network) {
			n.Segment = overlay.Segment{Type: overlay.VLAN, PhysicalNetwork: "p", ID: 4095}
		},
		`segment.id "5" is given, and flat`: func(n *overlay.Network) {
			n.Segment = overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "p", ID: 5}
		},
		"segment.physical_network is missing":              func(n *overlay.Network) { n.Segment = overlay.Segment{Type: overlay.Flat} },
		`segment.physical_network "p" is given, and vxlan`: func(n *overlay.Network) { n.Segment.PhysicalNetwork = "p" },
		`segment.physical_network "p" is given, and local`: func(n *overlay.Network) {
			n.Segment = overlay.Segment{Type: overlay.Local, PhysicalNetwork: "p"}
		},
		`mtu "1279" is not 1280 to 65535`:                   func(n *overlay.Network) { n.MTU = 1279 },
		`mtu "67" is not 68 to 65535`:                       func(n *overlay.Network) { n.MTU, n.Subnets = 67, n.Subnets[:1] },
		`mtu "65536" is not`:                                func(n *overlay.Network) { n.MTU = 65536 },
		`subnets[1].id "a" is there twice`:                  func(n *overlay.Network) { n.Subnets[1].ID = "a" },
		`subnets[0].cidr is missing`:                        func(n *overlay.Network) { n.Subnets[0].CIDR = netip.Prefix{} },
		`subnets[0].cidr "10.0.0.1/24" has host bits`:       func(n *overlay.Network) { n.Subnets[0].CIDR = pfx("10.0.0.1/24") },
		`subnets[0].cidr "224.0.0.0/24" is multicast`:       func(n *overlay.Network) { n.Subnets[0].CIDR = pfx("224.0.0.0/24") },
		`subnets[0].cidr "::ffff:10.0.0.0/120" is an IPv4-`: func(n *overlay.Network) { n.Subnets[0].CIDR = pfx("::ffff:10.0.0.0/120") },
		`subnets[1].cidr "10.0.0.0/25" overlaps subnets[0]`: func(n *overlay.Network) { n.Subnets[1] = overlay.Subnet{CIDR: pfx("10.0.0.0/25")} },
		`subnets[1].gateway "10.0.0.1" is of another`:       func(n *overlay.Network) { n.Subnets[1].Gateway = ip("10.0.0.1") },
	} {
		n := good.Clone()
		change(&n)
		err := n.Validate()
		require.ErrorContains(t, err, want)
		var f *vnet.FieldError
		require.ErrorAs(t, err, &f)
	}
}

func TestPortValidate(t *testing.T) {
	good := overlay.Port{ID: "p", NetworkID: "n", MAC: vnet.MAC{2, 5: 1}, FixedIPs: []netip.Addr{ip("10.0.0.1"), ip("2001:db8::1")}}
	require.NoError(t, good.Validate())
	for want, change := range map[string]func(p *overlay.Port){
		"id is empty":                              func(p *overlay.Port) { p.ID = "" },
		"network_id is empty":                      func(p *overlay.Port) { p.NetworkID = "" },
		"mac is missing":                           func(p *overlay.Port) { p.MAC = vnet.MAC{} },
		`mac "01:00:00:00:00:00" is a group`:       func(p *overlay.Port) { p.MAC = vnet.MAC{1} },
		"fixed_ips[0] is missing":                  func(p *overlay.Port) { p.FixedIPs[0] = netip.Addr{} },
		`fixed_ips[1] "10.0.0.1" is there twice`:   func(p *overlay.Port) { p.FixedIPs[1] = p.FixedIPs[0] },
		`fixed_ips[0] "0.0.0.0" is not a unicast`:  func(p *overlay.Port) { p.FixedIPs[0] = ip("0.0.0.0") },
		`fixed_ips[0] "ff02::1" is not a unicast`:  func(p *overlay.Port) { p.FixedIPs[0] = ip("ff02::1") },
		`fixed_ips[0] "fe80::1%eth0" has a zone`:   func(p *overlay.Port) { p.FixedIPs[0] = ip("fe80::1%eth0") },
		`fixed_ips[0] "::ffff:10.0.0.1" is an IPv`: func(p *overlay.Port) { p.FixedIPs[0] = ip("::ffff:10.0.0.1") },
	} {
		p := good.Clone()
		change(&p)
		require.ErrorContains(t, p.Validate(), want)
	}
	r := overlay.RemotePort{ID: "r", NetworkID: "n", MAC: vnet.MAC{2, 5: 1}, IPs: good.FixedIPs, Endpoint: ip("192.0.2.1")}
	require.NoError(t, r.Validate())
	r.Endpoint = netip.Addr{}
	require.ErrorContains(t, r.Validate(), "endpoint is missing")
	r.Endpoint = ip("224.0.0.1")
	require.ErrorContains(t, r.Validate(), `endpoint "224.0.0.1" is not a unicast`)
}

func TestStateValidate(t *testing.T) {
	port := func(id, net string, n byte) overlay.Port {
		return overlay.Port{ID: id, NetworkID: net, MAC: vnet.MAC{2, 5: n}, FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, n})}}
	}
	good := overlay.State{
		Networks: []overlay.Network{
			{ID: "a", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 1}, Subnets: []overlay.Subnet{{ID: "s", CIDR: pfx("10.0.0.0/24")}}},
			{ID: "b", Segment: overlay.Segment{Type: overlay.Geneve, ID: 1}}, {ID: "c", Segment: overlay.Segment{Type: overlay.Local}}, {ID: "d", Segment: overlay.Segment{Type: overlay.Local}}},
		Ports:       []overlay.Port{port("p", "a", 1), port("q", "a", 2), port("r", "b", 1)},
		RemotePorts: []overlay.RemotePort{{ID: "x", NetworkID: "a", MAC: vnet.MAC{2, 5: 9}, IPs: []netip.Addr{ip("10.0.0.1")}, Endpoint: ip("192.0.2.1")}},
	}
	require.NoError(t, good.Validate(), "the same addresses on two networks, a remote port that shares an address")
	for want, change := range map[string]func(s *overlay.State){
		`networks[1].id "a" is there twice`:                       func(s *overlay.State) { s.Networks[1].ID = "a" },
		`networks[1].segment "vxlan 1" is that of network a`:      func(s *overlay.State) { s.Networks[1].Segment.Type = overlay.VXLAN },
		`ports[1].id "p" is there twice`:                          func(s *overlay.State) { s.Ports[1].ID = "p" },
		`remote_ports[0].id "p" is there twice`:                   func(s *overlay.State) { s.RemotePorts[0].ID = "p" },
		`ports[0].network_id "z" is no network`:                   func(s *overlay.State) { s.Ports[0].NetworkID = "z" },
		`ports[1].mac "02:00:00:00:00:01" is that of port p`:      func(s *overlay.State) { s.Ports[1].MAC = s.Ports[0].MAC },
		`ports[1].fixed_ips[0] "10.0.0.1" is that of port p`:      func(s *overlay.State) { s.Ports[1].FixedIPs = s.Ports[0].FixedIPs },
		`ports[0].fixed_ips[0] "10.0.1.1" is in no subnet`:        func(s *overlay.State) { s.Ports[0].FixedIPs = []netip.Addr{ip("10.0.1.1")} },
		`remote_ports[0].mac "02:00:00:00:00:01" is that of port`: func(s *overlay.State) { s.RemotePorts[0].MAC = s.Ports[0].MAC },
		`networks[0].mtu "1" is not`:                              func(s *overlay.State) { s.Networks[0].MTU = 1 },
	} {
		s := good.Clone()
		change(&s)
		require.ErrorContains(t, s.Validate(), want)
	}
}

func TestCloneAndEqual(t *testing.T) {
	n := overlay.Network{ID: "n", Segment: overlay.Segment{Type: overlay.Local}, Subnets: []overlay.Subnet{{ID: "a", CIDR: pfx("10.1.0.0/24")}, {ID: "b", CIDR: pfx("10.0.0.0/24")}}}
	c := n.Clone()
	require.True(t, n.Equal(c))
	slices.Reverse(c.Subnets)
	require.True(t, n.Equal(c), "order does not matter")
	require.Equal(t, "a", n.Subnets[0].ID, "a clone shares nothing")
	c.Subnets[0].Gateway = ip("10.0.0.1")
	require.False(t, n.Equal(c))
	p := overlay.Port{ID: "p", FixedIPs: []netip.Addr{ip("10.0.0.2"), ip("10.0.0.1")}}
	q := p.Clone()
	slices.Reverse(q.FixedIPs)
	require.True(t, p.Equal(q))
	q.Host = "h"
	require.False(t, p.Equal(q))
}

func TestMTU(t *testing.T) {
	v4, v6 := ip("192.0.2.1"), ip("2001:db8::1")
	// RFC 7348, section 5: 50 bytes over IPv4, and 20 more over IPv6.
	require.Equal(t, 50, overlay.Overhead(overlay.VXLAN, v4))
	require.Equal(t, 70, overlay.Overhead(overlay.VXLAN, v6))
	for _, s := range []overlay.SegmentType{overlay.Local, overlay.Flat, overlay.VLAN} {
		require.Zero(t, overlay.Overhead(s, v6))
	}
	n := overlay.Network{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 1}, Subnets: []overlay.Subnet{{CIDR: pfx("2001:db8::/64")}}}
	got, err := n.EffectiveMTU(9000, v6)
	require.NoError(t, err)
	require.Equal(t, 8930, got)
	n.MTU = 1400
	got, err = n.EffectiveMTU(1500, v4)
	require.NoError(t, err)
	require.Equal(t, 1400, got)
	n.MTU = 1451
	_, err = n.EffectiveMTU(1500, v4)
	require.ErrorContains(t, err, `mtu "1451" is more than the 1450`)
	n.MTU = 0
	_, err = n.EffectiveMTU(1329, v4)
	require.ErrorContains(t, err, "1279")
	n.Subnets = nil
	got, err = n.EffectiveMTU(1329, v4)
	require.NoError(t, err)
	require.Equal(t, 1279, got)
}

func TestAllocatorRanges(t *testing.T) {
	for want, f := range map[string]func() (*overlay.Allocator, error){
		"has no segment ids": func() (*overlay.Allocator, error) { return overlay.NewAllocator(overlay.Flat) },
		`ranges[0] "0-5" is not`: func() (*overlay.Allocator, error) {
			return overlay.NewAllocator(overlay.VLAN, overlay.IDRange{First: 0, Last: 5})
		},
		`ranges[0] "6-5" is not`: func() (*overlay.Allocator, error) {
			return overlay.NewAllocator(overlay.VLAN, overlay.IDRange{First: 6, Last: 5})
		},
		`ranges[0] "1-4095" is not a ra`: func() (*overlay.Allocator, error) {
			return overlay.NewAllocator(overlay.VLAN, overlay.IDRange{First: 1, Last: 4095})
		},
		`ranges[1] "5-9" overlaps`: func() (*overlay.Allocator, error) {
			return overlay.NewAllocator(overlay.VLAN, overlay.IDRange{First: 1, Last: 5}, overlay.IDRange{First: 5, Last: 9})
		},
	} {
		_, err := f()
		require.ErrorContains(t, err, want)
	}
	a, err := overlay.NewAllocator(overlay.VXLAN)
	require.NoError(t, err)
	id, err := a.Allocate()
	require.NoError(t, err)
	require.EqualValues(t, 1, id)
}

// An allocator against a set: never an id twice, always the lowest of the
// first range that has one, and none left only when none is.
func TestAllocator(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ranges := []overlay.IDRange{{First: 10, Last: 14}, {First: 1, Last: 3}, {First: 20, Last: 20}}
		a, err := overlay.NewAllocator(overlay.VLAN, ranges...)
		require.NoError(t, err)
		used := map[uint32]bool{}
		free := func() (uint32, bool) {
			for _, r := range ranges {
				for id := r.First; id <= r.Last; id++ {
					if !used[id] {
						return id, true
					}
				}
			}
			return 0, false
		}
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				want, ok := free()
				got, err := a.Allocate()
				if !ok {
					require.ErrorIs(t, err, vnet.ErrConflict)
					return
				}
				require.NoError(t, err)
				require.Equal(t, want, got)
				used[got] = true
			},
			"reserve": func(t *rapid.T) {
				id := uint32(rapid.IntRange(1, 25).Draw(t, "id"))
				if err := a.Reserve(id); used[id] {
					require.ErrorIs(t, err, vnet.ErrConflict)
				} else {
					require.NoError(t, err)
				}
				used[id] = true
			},
			"release": func(t *rapid.T) {
				id := uint32(rapid.IntRange(1, 25).Draw(t, "id"))
				a.Release(id)
				delete(used, id)
			},
		})
	})
}

func TestAllocatorFromManyGoroutines(t *testing.T) {
	a, err := overlay.NewAllocator(overlay.VXLAN, overlay.IDRange{First: 1, Last: 1000})
	require.NoError(t, err)
	ids := make(chan uint32, 1000)
	for range 10 {
		go func() {
			for range 100 {
				id, _ := a.Allocate()
				ids <- id
			}
		}()
	}
	seen := map[uint32]bool{}
	for range 1000 {
		id := <-ids
		require.False(t, seen[id] || id == 0, id)
		seen[id] = true
	}
	_, err = a.Allocate()
	require.ErrorIs(t, err, vnet.ErrConflict)
}

// Diff carried out makes the state, and then finds nothing.
func TestDiff(t *testing.T) {
	a := overlay.State{Networks: []overlay.Network{{ID: "a", Segment: overlay.Segment{Type: overlay.Local}}, {ID: "b", Segment: overlay.Segment{Type: overlay.Local}}},
		Ports: []overlay.Port{{ID: "p", NetworkID: "a", MAC: vnet.MAC{2}}, {ID: "q", NetworkID: "b", MAC: vnet.MAC{2}}}}
	b := a.Clone()
	b.Networks[0].MTU = 1400
	b.Networks[1].ID = "c"
	b.Ports[1].NetworkID = "c"
	var got []string
	for _, c := range overlay.Diff(a, b) {
		got = append(got, c.String())
	}
	require.Equal(t, []string{
		"~ overlay network a  (impact: some)\n      mtu: 0 -> 1400",
		"+ overlay network c\n      segment: local",
		"~ overlay port q  (impact: object)\n      network: b -> c",
		"- overlay network b  (impact: object)",
	}, got)
	require.Empty(t, overlay.Diff(b, b.Clone()))
}

// bare is a backend with nothing that is optional.
type bare struct{ overlay.Backend }

func TestWhatABackendLacks(t *testing.T) {
	f, err := overlay.New(bare{memoverlay.New(nil)}, nil)
	require.NoError(t, err)
	ctx := context.Background()
	_, err = f.Plug(ctx, overlay.Attachment{PortID: "p", Kind: overlay.Tap})
	require.ErrorIs(t, err, vnet.ErrUnsupported)
	require.ErrorContains(t, err, `plug port "p": plugging not supported`)
	require.ErrorIs(t, f.Unplug(ctx, "p"), vnet.ErrUnsupported)
	_, err = f.Explain(ctx, "port", "p")
	require.ErrorIs(t, err, vnet.ErrUnsupported)
	require.ErrorIs(t, f.EnsureRemotePort(ctx, overlay.RemotePort{ID: "r", NetworkID: "n", MAC: vnet.MAC{2}, Endpoint: ip("192.0.2.1")}), vnet.ErrUnsupported)
	for range f.Watch(ctx) {
		t.Fatal("an event")
	}
	_, err = overlay.New(nil, nil)
	require.ErrorContains(t, err, "backend is nil")
	_, err = overlay.New(memoverlay.New(nil), &overlay.Options{Sync: vnet.SyncOptions{DeleteShare: 2}})
	require.ErrorContains(t, err, "sync.delete_share")
}

func TestDefaultDeleteBudget(t *testing.T) {
	f, err := overlay.New(memoverlay.New(nil), &overlay.Options{Sync: vnet.SyncOptions{DeleteShare: 0.9}})
	require.NoError(t, err)
	s := overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.Local}}}}
	for i := range 40 {
		s.Ports = append(s.Ports, overlay.Port{ID: fmt.Sprint("p", i), NetworkID: "n", MAC: vnet.MAC{2, 5: byte(i)}})
	}
	ctx := context.Background()
	require.NoError(t, f.Sync(ctx, s, vnet.SyncOptions{}))
	require.ErrorIs(t, f.Sync(ctx, overlay.State{}, vnet.SyncOptions{}), vnet.ErrBudget)
	s.Ports = s.Ports[:5]
	require.ErrorIs(t, f.Sync(ctx, s, vnet.SyncOptions{DeleteShare: 0.1}), vnet.ErrBudget, "bounds of the call win")
	require.NoError(t, f.Sync(ctx, s, vnet.SyncOptions{}))
}

func TestAttachmentValidate(t *testing.T) {
	for want, a := range map[string]overlay.Attachment{
		"port_id is empty":               {Kind: overlay.Tap},
		`kind "x" is none of`:            {PortID: "p", Kind: "x"},
		"name is missing":                {PortID: "p", Kind: overlay.Existing},
		`name "a-name-too-long1" is not`: {PortID: "p", Kind: overlay.Existing, Name: "a-name-too-long1"},
		`name "a/b" is not`:              {PortID: "p", Kind: overlay.Veth, Name: "a/b", Netns: "/x"},
		"netns is missing":               {PortID: "p", Kind: overlay.Veth},
		`name "t" is chosen`:             {PortID: "p", Kind: overlay.Tap, Name: "t"},
		`netns "/x" is for veth`:         {PortID: "p", Kind: overlay.Tap, Netns: "/x"},
	} {
		require.ErrorContains(t, a.Validate(), want)
	}
}
