package ovsdhcp

import (
	"crypto/sha256"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
)

// Ports of DHCP (RFC 2131, 4.1; RFC 8415, 7.2).
const (
	server4 = 67
	server6 = 547
)

// Priorities in the table. What scopes of one network have in common would be
// the same flow twice: each scope has a slot of its own, and with it another
// priority.
const (
	priorityScope = 1000
	maxSlots      = 1000
	priorityCut   = 3000 // a port that floods
)

// All_DHCP_Relay_Agents_and_Servers, All_DHCP_Servers (RFC 8415, 7.1).
func groups6() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("ff02::1:2"), netip.MustParseAddr("ff05::1:3")}
}

// serverMAC is where the servers of a network are: on all hosts alike, so that
// a machine that moves finds its server again.
func serverMAC(owner vnet.Owner, network string) vnet.MAC {
	h := sha256.Sum256([]byte("dhcp\x00" + string(owner) + "\x00" + network))
	m := vnet.MAC(h[:6])
	m[0] = m[0]&^0x01 | 0x02
	return m
}

// scopeFlows hand requests for the scope to this process: those that local
// ports send to all servers or to this one, and their questions where it is.
// What goes on the wire, or came from there or through a tunnel, is not looked
// at, but for the relays that the scope names.
func scopeFlows(owner vnet.Owner, s dhcp.Scope, net, slot uint16, do ...openflow.Action) []openflow.Flow {
	var out []openflow.Flow
	add := func(m openflow.Match, where ...openflow.Cond) {
		out = append(out, openflow.Flow{Table: pipeline.DHCP, Priority: priorityScope + slot,
			Match: m.With(openflow.Reg(pipeline.RegNetwork).Is(uint64(net))).With(where...), Actions: do})
	}
	local := openflow.Reg(pipeline.RegFlags).Masked(0, pipeline.FromTunnel|pipeline.FromWire)
	wire := openflow.Reg(pipeline.RegFlags).Masked(pipeline.FromWire, pipeline.FromWire)
	if !s.Is4() {
		ll := serverMAC(owner, s.NetworkID).LinkLocal()
		where := openflow.ICMP6(openflow.ICMPv6Type.Is(135), openflow.ICMPv6Code.Is(0), openflow.NDTarget.Addr(ll))
		add(where, local)
		for _, r := range s.Relays {
			add(where.With(openflow.IPv6Src.Prefix(r)), wire)
		}
		for _, dst := range append(groups6(), ll) {
			to := openflow.UDP6(openflow.UDPDst.Is(server6), openflow.IPv6Dst.Addr(dst))
			add(to, local)
			for _, r := range s.Relays {
				add(to.With(openflow.IPv6Src.Prefix(r)), wire)
			}
		}
		return out
	}
	to := func(dst netip.Addr) openflow.Match {
		return openflow.UDP4(openflow.UDPDst.Is(server4), openflow.IPv4Dst.Addr(dst))
	}
	add(to(netip.AddrFrom4([4]byte{255, 255, 255, 255})), local)
	add(to(s.ServerIP), local)
	if s.ServerIP != s.Router {
		who := openflow.ARP(openflow.ARPOp.Is(1), openflow.ARPTPA.Addr(s.ServerIP))
		add(who, local)
		for _, r := range s.Relays {
			add(who.With(openflow.ARPSPA.Prefix(r)), wire)
		}
	}
	for _, r := range s.Relays {
		add(to(s.ServerIP).With(openflow.IPv4Src.Prefix(r)), wire)
	}
	return out
}
