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

// tracers ask a platform itself, beside the rules' own accounts.
var tracers = map[string]func(context.Context, *machine.Machine, *topology.Cloud, string, vm.Probe) (*explained, error){
	topology.OVN: traceOVN, topology.OVS: traceOVS,
}

// traceOVN asks OVN itself, by ovn-trace(8) over the Southbound's logical flows,
// what becomes of a server's packet. It says nothing of outside servers, whose
// packets come in by a physical network.
func traceOVN(ctx context.Context, m *machine.Machine, t *topology.Cloud, from string, p vm.Probe) (*explained, error) {
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
	src, to, ok := leaves(t, nic, p)
	if !ok {
		return "", false
	}
	ip, icmp := "ip4", "icmp4.type == 8"
	if p.Dst.Is6() {
		ip, icmp = "ip6", "icmp6.type == 128"
	}
	s := fmt.Sprintf("eth.dst == %s && %s.src == %s && %s.dst == %s && ip.ttl == 64", to, ip, src, ip, p.Dst)
	switch p.Proto {
	case "tcp":
		return s + fmt.Sprintf(" && tcp.src == 40000 && tcp.dst == %d && tcp.flags == 2", p.Port), true
	case "udp":
		return s + fmt.Sprintf(" && udp.src == 40000 && udp.dst == %d", p.Port), true
	}
	return s + " && " + icmp, true
}

// traceOVS asks the switch of the server's host, by ofproto/trace(8), what
// becomes of the first packet of a connection, and those of the
// hosts it gets to by tunnels. It says nothing of outside servers, as [traceOVN].
func traceOVS(ctx context.Context, m *machine.Machine, t *topology.Cloud, from string, p vm.Probe) (*explained, error) {
	v := t.VM(from)
	if v == nil {
		return nil, nil
	}
	for _, nic := range v.NICs {
		flow, ok := ofprotoFlow(t, nic, p)
		if !ok {
			continue
		}
		out, err := newAgentClient(m).trace(ctx, traceOf{v.Host, nic.PortID, flow})
		if err != nil {
			return nil, fmt.Errorf("ofproto/trace: %w", err)
		}
		e := traced(v.Host+", from port "+nic.PortID, flow, out)
		// Through tunnels, from host to host.
		for range t.Hosts {
			end, next, ok := tunnelled(out)
			i := slices.IndexFunc(t.Hosts, func(h topology.CloudHost) bool { return h.LocalIP == end })
			if !ok || i < 0 {
				break
			}
			host := t.Hosts[i].Name
			if out, err = newAgentClient(m).trace(ctx, traceOf{Host: host, Flow: next}); err != nil {
				return nil, fmt.Errorf("ofproto/trace: %w", err)
			}
			e.Of = append(e.Of, traced(host+", from the tunnel", next, out))
		}
		return &explained{v.Host, []vnet.Explanation{e}}, nil
	}
	return nil, nil
}

// traced is what a switch said.
func traced(where, flow, out string) vnet.Explanation {
	e := vnet.Explanation{Text: "ofproto/trace on " + where + ": " + flow}
	for line := range strings.Lines(out) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			e.Add(line)
		}
	}
	return e
}

// tunnelled is to which tunnel end a traced packet went last, and what it is
// there. Tunnels of a type have the same number in all our bridges.
func tunnelled(out string) (end netip.Addr, flow string, ok bool) {
	var port, id, to string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if v, is := strings.CutPrefix(line, "output:"); is {
			port = v
		} else if v, is := strings.CutSuffix(line, "->tun_id"); is {
			id = strings.TrimPrefix(v, "set_field:")
		} else if v, is := strings.CutSuffix(line, "->tun_dst"); is {
			to = strings.TrimPrefix(v, "set_field:")
		} else if line == "-> output to native tunnel" {
			ok = true
		} else if v, is := strings.CutPrefix(line, "Final flow: "); ok && is {
			fields := []string{"in_port=" + port, "tun_id=" + id, "tun_dst=" + to}
			for f := range strings.SplitSeq(v, ",") {
				name, _, has := strings.Cut(f, "=")
				if (!has && name != "eth") || slices.Contains([]string{"dl_src", "dl_dst", "nw_src", "nw_dst", "ipv6_src", "ipv6_dst", "nw_ttl", "icmp_type", "icmp_code", "tp_src", "tp_dst"}, name) {
					fields = append(fields, f)
				}
			}
			if strings.Contains(v, "tcp_flags=syn") {
				fields = append(fields, "tcp_flags=0x2")
			}
			end, err := netip.ParseAddr(to)
			return end, strings.Join(fields, ","), err == nil
		}
	}
	return netip.Addr{}, "", false
}

// ofprotoFlow is a probe as it leaves an interface, in the words of ovs-fields(7).
func ofprotoFlow(t *topology.Cloud, nic topology.NIC, p vm.Probe) (string, bool) {
	src, to, ok := leaves(t, nic, p)
	if !ok {
		return "", false
	}
	six, ip, echo := "", "nw", 8
	if p.Dst.Is6() {
		six, ip, echo = "6", "ipv6", 128
	}
	s := fmt.Sprintf("%s%s,dl_src=%s,dl_dst=%s,%s_src=%s,%s_dst=%s,nw_ttl=64", p.Proto, six, nic.MAC, to, ip, src, ip, p.Dst)
	switch p.Proto {
	case "tcp":
		return s + fmt.Sprintf(",tp_src=40000,tp_dst=%d,tcp_flags=0x2", p.Port), true
	case "udp":
		return s + fmt.Sprintf(",tp_src=40000,tp_dst=%d", p.Port), true
	}
	return s + fmt.Sprintf(",icmp_type=%d,icmp_code=0", echo), true
}

// leaves is from which address a probe leaves an interface, and to whose MAC;
// ok is false when it does not leave by this one.
func leaves(t *topology.Cloud, nic topology.NIC, p vm.Probe) (src netip.Addr, to vnet.MAC, ok bool) {
	i := slices.IndexFunc(nic.IPs, func(a netip.Addr) bool { return a.Is4() == p.Dst.Is4() })
	to, ok = nextMAC(t, nic, p.Dst)
	if i < 0 || !ok {
		return src, to, false
	}
	return nic.IPs[i], to, true
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
