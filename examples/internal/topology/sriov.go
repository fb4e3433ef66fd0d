package topology

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/sriov"
)

// cards takes over the cards of a host whose functions go to ports.
func (b *builder) cards(h *CloudHost, f Host, path string) {
	for i, d := range f.SRIOVDevices {
		dp := fmt.Sprintf("%s.sriov_devices[%d]", path, i)
		if b.c.Backend == OVN {
			b.bad(dp, "this program gives virtual functions on the backends linux and ovs only")
			continue
		}
		if b.known("physical network", d.PhysicalNW, dp+".physical_network") && !slices.Contains(h.PhysicalNets, d.PhysicalNW) {
			b.bad(dp+".physical_network", "the host is not cabled to %q", d.PhysicalNW)
		}
		if !b.claim("card", d.Name, dp) {
			continue
		}
		x := sriov.Device{ID: fmt.Sprintf("card%d", i), PF: d.Name, PhysicalNetwork: d.PhysicalNW, VFs: d.VFs, Exclude: d.Exclude}
		b.contract(dp, x.Validate())
		if d.VFs == 0 {
			b.bad(dp+".vfs", "at least one is needed")
		}
		h.States.SRIOV.Devices = append(h.States.SRIOV.Devices, x)
	}
}

// function asks for a virtual function for a direct port.
func (b *builder) function(p *port, n *network, host string) {
	h, path := b.c.Host(host), p.path+".binding:vnic_type"
	if h == nil {
		return
	}
	if n.Type != "flat" && n.Type != "vlan" {
		b.bad(path, "a card knows flat and vlan networks, and network %q is of type %q", n.Name, cmp.Or(n.Type, string(b.tunnel())))
		return
	}
	s := &h.States.SRIOV
	if !slices.ContainsFunc(s.Devices, func(d sriov.Device) bool { return d.PhysicalNetwork == n.PhysicalNW }) {
		b.bad(path, "host %q has no card with virtual functions on physical network %q", host, n.PhysicalNW)
		return
	}
	x := sriov.Port{ID: p.Name, VNICType: sriov.Direct, PhysicalNetwork: n.PhysicalNW, MAC: p.MAC, Trusted: p.Profile.Trusted,
		PortSecurity: p.PortSecurity == nil || *p.PortSecurity, Driver: sriov.Kernel} // the machines here are namespaces
	if n.Type == "vlan" {
		x.VLAN.ID = n.SegmentID
	}
	if p.AdminUp != nil && !*p.AdminUp {
		x.LinkState = sriov.Disable
	}
	b.contract(p.path, x.Validate())
	s.Ports = append(s.Ports, x)
}

// rates gives a direct port what its policy says.
func (b *builder) rates(p *port, s qos.Shape) {
	low, high, err := s.VFRates()
	if err != nil {
		b.bad(p.path+".qos_policy_id", "%v", err)
		return
	}
	ports := b.c.Host(p.host).States.SRIOV.Ports
	for i := range ports {
		if ports[i].ID == p.Name {
			ports[i].MinKbps, ports[i].MaxKbps = low, high
		}
	}
}
