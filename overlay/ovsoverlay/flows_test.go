package ovsoverlay

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
)

var update = flag.Bool("update", false, "write testdata anew")

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// TestFlows compares what is written for some objects with testdata.
func TestFlows(t *testing.T) {
	on := func(s overlay.Segment, change func(*overlay.Network)) place {
		p := place{n: overlay.Network{ID: "n", Segment: s}, number: 7, advertises: true}
		if s.Type.Tunnel() {
			p.tunnel = 40000
		}
		if s.Type.Physical() {
			p.patch = 41001
		}
		if change != nil {
			change(&p.n)
		}
		return p
	}
	vxlan := overlay.Segment{Type: overlay.VXLAN, ID: 100}
	vlan := overlay.Segment{Type: overlay.VLAN, PhysicalNetwork: "ex", ID: 5}
	flat := overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex"}
	down := func(n *overlay.Network) { n.AdminDown = true }
	port := overlay.Port{ID: "p", NetworkID: "n", MAC: vnet.MAC{2, 5: 1}, FixedIPs: addrs("10.0.0.1", "2001:db8::1"), Filtered: true}
	bare := overlay.Port{ID: "q", NetworkID: "n", MAC: vnet.MAC{2, 5: 2}}
	off := port
	off.AdminDown = true
	s := spread{Chunks: []int{0, 3}, Endpoints: map[netip.Addr]int{addrs("192.0.2.1")[0]: 3, addrs("192.0.2.2")[0]: 1}}
	six := spread{Endpoints: map[netip.Addr]int{addrs("2001:db8:f::1")[0]: 1}}
	flood := func(f overlay.Flooding) place {
		return on(vxlan, func(n *overlay.Network) { n.Flooding = f })
	}
	cases := map[string][]struct {
		name  string
		flows []flow
	}{
		"network": {
			{"local", networkFlows(on(overlay.Segment{Type: overlay.Local}, nil))},
			{"flat", networkFlows(on(flat, nil))},
			{"VLAN", networkFlows(on(vlan, nil))},
			{"VXLAN", networkFlows(on(vxlan, nil))},
			{"VXLAN, down", networkFlows(on(vxlan, down))},
		},
		"port": {
			{"filtered, with addresses", portFlows(on(vxlan, nil), port, 200)},
			{"bare", portFlows(on(vlan, nil), bare, 201)},
			{"down", portFlows(on(vxlan, nil), off, 200)},
			{"of another host", remoteFlows(on(vxlan, nil), overlay.RemotePort{MAC: vnet.MAC{2, 5: 3}, Endpoint: addrs("192.0.2.1")[0]})},
			{"of another host, IPv6", remoteFlows(on(vxlan, nil), overlay.RemotePort{MAC: vnet.MAC{2, 5: 3}, Endpoint: addrs("2001:db8:f::1")[0]})},
			{"IPv4 address", answers(on(vxlan, nil), port.FixedIPs[0], port.MAC)},
			{"IPv6 address", answers(on(vxlan, nil), port.FixedIPs[1], port.MAC)},
			{"IPv6 address, datapath of the kernel", answers(place{number: 7}, port.FixedIPs[1], port.MAC)},
			{"IPv6 link-local address", answers(on(vxlan, nil), addrs("fe80::1")[0], port.MAC)},
		},
		"flood": {
			{"chunk", chunkFlows(on(vxlan, nil), 3, []member{{200, true}, {201, false}})},
			{"local", spreadFlows(on(overlay.Segment{Type: overlay.Local}, nil), s)},
			{"flat", spreadFlows(on(flat, nil), s)},
			{"VLAN", spreadFlows(on(vlan, nil), s)},
			{"VXLAN", spreadFlows(on(vxlan, nil), s)},
			{"VXLAN, IPv6 underlay", spreadFlows(on(vxlan, nil), six)},
			{"VXLAN, broadcast too", spreadFlows(flood(overlay.Flooding{Broadcast: true}), s)},
			{"VXLAN, broadcast alone", spreadFlows(flood(overlay.Flooding{Broadcast: true, NoMulticast: true}), s)},
			{"VXLAN, nothing", spreadFlows(flood(overlay.Flooding{NoMulticast: true}), s)},
		},
	}
	for name, blocks := range cases {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			for i, b := range blocks {
				if i > 0 {
					out.WriteString("\n")
				}
				out.WriteString("# " + b.name + "\n")
				for _, f := range b.flows {
					require.NoError(t, f.Validate())
					out.WriteString(strings.TrimSpace(f.String()) + "\n")
				}
			}
			file := filepath.Join("testdata", name+".txt")
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(out.String()), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), out.String())
		})
	}
}

// What a list of hosts for a flood has room for is what doc.go says.
func TestFloodHosts(t *testing.T) {
	for first, fit := range map[string]int{"100.127.0.1": 2000, "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1": 1300} {
		all := func(n int) spread {
			s := spread{Endpoints: map[netip.Addr]int{}}
			for a := netip.MustParseAddr(first); len(s.Endpoints) < n; a = a.Next() {
				s.Endpoints[a] = 1
			}
			return s
		}
		p := place{n: overlay.Network{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}}, number: 7, tunnel: 40000}
		for _, f := range spreadFlows(p, all(fit)) {
			require.NoError(t, f.Validate())
		}
		require.Less(t, len(encode(all(fit))), 60_000, "the record has room too")
		refused := false
		for _, f := range spreadFlows(p, all(fit+1000)) {
			refused = refused || f.Validate() != nil
		}
		require.True(t, refused || len(encode(all(fit+1000))) > 60_000)
	}
}
