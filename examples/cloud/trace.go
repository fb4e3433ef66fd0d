package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/machine"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
	"github.com/vnet-go/vnet/ovn"
)

// trace asks OVN itself, by ovn-trace(8) over the Southbound's logical flows,
// what becomes of a server's packet. It says nothing of outside servers, whose
// packets come in by a physical network.
func trace(ctx context.Context, m *machine.Machine, t *topology.Cloud, from string, p vm.Probe) (*explained, error) {
	v := t.VM(from)
	if v == nil {
		return nil, nil
	}
	for _, nic := range v.NICs {
		flow, ok := microflow(t, nic, p)
		if !ok {
			continue
		}
		inport := ovn.PortName(vnet.Owner(m.Name), nic.PortID)
		flow = fmt.Sprintf("inport == %q && eth.src == %s && %s", inport, nic.MAC, flow)
		out, err := exec.CommandContext(ctx, "ovn-trace", "--db="+m.OVN("").Southbound, "--summary", "--ct=new", "--ct=new", "--ct=new", "--ct=new", flow).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("ovn-trace: %w: %s", err, out)
		}
		e := vnet.Explanation{Text: "ovn-trace: " + flow}
		for line := range strings.Lines(string(out)) {
			if line = strings.TrimRight(line, "\n"); line != "" && !strings.HasPrefix(line, "#") {
				e.Add(line)
			}
		}
		return &explained{central, []vnet.Explanation{e}}, nil
	}
	return nil, nil
}

// microflow is a probe as it leaves an interface, in the words of ovn-trace.
func microflow(t *topology.Cloud, nic topology.NIC, p vm.Probe) (string, bool) {
	i := slices.IndexFunc(nic.IPs, func(a netip.Addr) bool { return a.Is4() == p.Dst.Is4() })
	to, ok := nextMAC(t, nic, p.Dst)
	if i < 0 || !ok {
		return "", false
	}
	ip, icmp := "ip4", "icmp4.type == 8"
	if p.Dst.Is6() {
		ip, icmp = "ip6", "icmp6.type == 128"
	}
	s := fmt.Sprintf("eth.dst == %s && %s.src == %s && %s.dst == %s && ip.ttl == 64", to, ip, nic.IPs[i], ip, p.Dst)
	switch p.Proto {
	case "tcp":
		return s + fmt.Sprintf(" && tcp.src == 40000 && tcp.dst == %d && tcp.flags == 2", p.Port), true
	case "udp":
		return s + fmt.Sprintf(" && udp.src == 40000 && udp.dst == %d", p.Port), true
	}
	return s + " && " + icmp, true
}

// nextMAC is whom the server hands packets to: a neighbour, or its router.
func nextMAC(t *topology.Cloud, nic topology.NIC, dst netip.Addr) (vnet.MAC, bool) {
	for _, x := range t.All.Overlay.Ports {
		if x.NetworkID == nic.NetworkID && slices.Contains(x.FixedIPs, dst) {
			return x.MAC, true
		}
	}
	for _, r := range t.All.Router.Routers {
		for _, in := range r.Interfaces {
			if in.NetworkID == nic.NetworkID && slices.ContainsFunc(in.Addresses, func(a netip.Prefix) bool { return a.Addr().Is4() == dst.Is4() }) {
				return in.MAC, true
			}
		}
	}
	return vnet.MAC{}, false
}
