package sriov_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/sriov"
)

func TestMbps(t *testing.T) {
	for kbps, want := range map[int]int{-1: 0, 0: 0, 1: 1, 999: 1, 1000: 1, 1400: 1, 1500: 2, 10_400: 10, 1_000_000: 1000} {
		assert.Equal(t, want, sriov.Mbps(kbps), "%d kbit/s", kbps)
	}
}

func TestStateValidate(t *testing.T) {
	ok := sriov.State{
		Devices: []sriov.Device{
			{ID: "a", PF: "eth0", PhysicalNetwork: "one", VFs: 2},
			{ID: "b", PF: "0000:02:00.0", PhysicalNetwork: "two"},
			{ID: "c", PF: "eth2", PhysicalNetwork: "one", VFs: 4, Mode: sriov.Switchdev},
		},
		Ports: []sriov.Port{
			{ID: "p", VNICType: sriov.Direct, PhysicalNetwork: "one", MAC: vnet.MAC{2}, PortSecurity: true},
			{ID: "q", VNICType: sriov.DirectPhysical, PhysicalNetwork: "two"},
			{ID: "r", VNICType: sriov.Direct, PhysicalNetwork: "one", Device: "c", MAC: vnet.MAC{2}, PortSecurity: true, SecurityGroups: true, Offload: true},
		},
	}
	require.NoError(t, ok.Validate())
	for field, f := range map[string]func(*sriov.State){
		"devices[1].id":             func(s *sriov.State) { s.Devices[1].ID = "a" },
		"devices[1].pf":             func(s *sriov.State) { s.Devices[1].PF = "eth0" },
		"ports[1].id":               func(s *sriov.State) { s.Ports[1].ID = "p" },
		"ports[0].physical_network": func(s *sriov.State) { s.Ports[0].PhysicalNetwork = "three" },
		"ports[1].physical_network": func(s *sriov.State) { s.Devices[1].VFs = 2 },
		"ports[2].device":           func(s *sriov.State) { s.Ports[2].Device = "x" },
		"ports[2].offload":          func(s *sriov.State) { s.Ports[2].Device = "a" },
		"ports[2].vlan":             func(s *sriov.State) { s.Ports[2].VLAN.ID = 4 },
		"ports[0].security_groups":  func(s *sriov.State) { s.Ports[0].SecurityGroups = true },
		"ports[1].mac":              func(s *sriov.State) { s.Ports[1].MAC = vnet.MAC{2} },
	} {
		s := ok.Canonical() // a copy
		f(&s)
		var e *vnet.FieldError
		if assert.ErrorAs(t, s.Validate(), &e, field) {
			assert.ErrorContains(t, s.Validate(), field)
		}
	}
}

// What a hypervisor is told, for each kind.
func TestAttachment(t *testing.T) {
	f := sriov.Function{PCI: "0000:3b:02.3", Driver: "vfio-pci", IOMMUGroup: 7}
	vf := sriov.Attachment{VNICType: sriov.Direct, Function: f, MAC: vnet.MustParseMAC("02:00:00:00:00:01"), VLAN: sriov.VLAN{ID: 100}, VFIO: "/dev/vfio/7"}
	assert.Equal(t, `<interface type='hostdev' managed='no'>
  <mac address='02:00:00:00:00:01'/>
  <source>
    <address type='pci' domain='0x0000' bus='0x3b' slot='0x02' function='0x3'/>
  </source>
  <vlan>
    <tag id='100'/>
  </vlan>
</interface>
`, vf.LibvirtXML())
	assert.Equal(t, []string{"-device", "vfio-pci,host=0000:3b:02.3,id=net0"}, vf.QEMU("net0", 0))
	vf.VLAN = sriov.VLAN{}
	assert.NotContains(t, vf.LibvirtXML(), "vlan", "libvirt takes no tag 0")
	pf := sriov.Attachment{VNICType: sriov.DirectPhysical, VF: -1, Function: f}
	assert.True(t, strings.HasPrefix(pf.LibvirtXML(), "<hostdev mode='subsystem' type='pci' managed='no'>"))
	assert.NotContains(t, pf.LibvirtXML(), "mac")
	tap := sriov.Attachment{VNICType: sriov.MacVTap, Function: f, MAC: vf.MAC, Tap: "/dev/tap9"}
	tap.Netdev = "tvm1"
	assert.Contains(t, tap.LibvirtXML(), "<target dev='tvm1' managed='no'/>")
	assert.Equal(t, []string{"-netdev", "tap,id=net0,fd=5,vhost=on", "-device", "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01"}, tap.QEMU("net0", 5))
}
