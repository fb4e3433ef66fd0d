package sriov

import (
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
)

// Attachment is the function that a port got, and what a hypervisor needs to
// give it to a machine.
type Attachment struct {
	PortID   string   `json:"port_id"`
	VNICType VNICType `json:"vnic_type"`
	Device   string   `json:"device"` // id
	PF       string   `json:"pf"`     // PCI address
	VF       int      `json:"vf"`     // index; -1: the whole PF
	Function          // of the VF, or of the PF
	MAC      vnet.MAC `json:"mac"`
	VLAN     VLAN     `json:"vlan"`
	// VFIO is the character device of the IOMMU group, "/dev/vfio/12"; "" unless
	// the driver is vfio-pci.
	VFIO string `json:"vfio,omitempty"`
	// Tap is the character device of a macvtap, whose name is Netdev.
	Tap string `json:"tap,omitempty"` // "/dev/tap7"
	// Representor is the VF's device on the host, in switchdev mode: plug it into
	// the overlay, in kind overlay.Existing.
	Representor string `json:"representor,omitempty"`
}

// address is the function's address in parts: domain, bus, slot, function.
func (a Attachment) address() [4]string {
	f := strings.FieldsFunc(a.PCI, func(r rune) bool { return r == ':' || r == '.' })
	if len(f) != 4 {
		return [4]string{}
	}
	return [4]string(f)
}

// LibvirtXML returns the element of a domain: an interface of type hostdev for a
// VF, a hostdev for a whole PF, an interface of type direct for a macvtap.
// libvirt writes MAC and VLAN of a VF itself, the same again; it leaves the
// driver alone (managed='no'), as it is bound already
// (libvirt.org/formatdomain.html).
func (a Attachment) LibvirtXML() string {
	p := a.address()
	source := fmt.Sprintf("<address type='pci' domain='0x%s' bus='0x%s' slot='0x%s' function='0x%s'/>", p[0], p[1], p[2], p[3])
	managed := "no"
	if a.Driver != string(VFIO) {
		managed = "yes"
	}
	var b strings.Builder
	switch a.VNICType {
	case DirectPhysical:
		fmt.Fprintf(&b, "<hostdev mode='subsystem' type='pci' managed='%s'>\n  <source>\n    %s\n  </source>\n</hostdev>\n", managed, source)
	case MacVTap:
		fmt.Fprintf(&b, "<interface type='ethernet'>\n  <mac address='%s'/>\n  <target dev='%s' managed='no'/>\n  <model type='virtio'/>\n</interface>\n", a.MAC, a.Netdev)
	default:
		fmt.Fprintf(&b, "<interface type='hostdev' managed='%s'>\n  <mac address='%s'/>\n  <source>\n    %s\n  </source>\n", managed, a.MAC, source)
		if a.VLAN.ID > 0 {
			fmt.Fprintf(&b, "  <vlan>\n    <tag id='%d'/>\n  </vlan>\n", a.VLAN.ID)
		}
		b.WriteString("</interface>\n")
	}
	return b.String()
}

// QEMU returns the arguments of qemu-system for a device named id. A macvtap's
// character device must be open as the file descriptor fd of the new process;
// for others fd is not used.
func (a Attachment) QEMU(id string, fd int) []string {
	if a.VNICType == MacVTap {
		return []string{"-netdev", fmt.Sprintf("tap,id=%s,fd=%d,vhost=on", id, fd),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=%s,mac=%s", id, a.MAC)}
	}
	return []string{"-device", fmt.Sprintf("vfio-pci,host=%s,id=%s", a.PCI, id)}
}
