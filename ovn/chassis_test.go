package ovn_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
)

// TestChassisRows is the host's half without ovs-vswitchd: what is written, and
// what is understood of what others write.
func TestChassisRows(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.VSwitch)
	l := lab.New(t)
	lab.Need(t, "ethtool", "ovs-vsctl")
	host, vm := l.NS("host"), l.NS("vm")
	vsctl := func(args ...string) string {
		return s.Run("ovs-vsctl", append([]string{"--no-wait", "--db=" + s.Endpoint()}, args...)...)
	}
	open := func(owner vnet.Owner) *ovn.Chassis {
		c, err := ovn.OpenChassis(t.Context(), owner, s.Endpoint(), &ovn.ChassisOptions{Netns: host.Path})
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	red, blue := open("red"), open("blue")
	ctx := t.Context()
	veth := ovn.Plug{Part: vnet.PartOverlay, PortID: "p1", Kind: ovn.DeviceVeth, Name: "eth7", Netns: vm.Path, MAC: vnet.MustParseMAC("02:00:00:00:00:01"), MTU: 1400}
	_, err := red.Plug(ctx, veth)
	require.ErrorIs(t, err, vnet.ErrNotFound, "no integration bridge")
	require.ErrorContains(t, err, "br-int")
	links := func(ns *lab.NS) string {
		out, err := ns.Exec(ctx, "ip", "-o", "link")
		require.NoError(t, err)
		return string(out)
	}
	require.NotContains(t, links(host), red.DeviceName(vnet.PartOverlay, "p1"), "taken back")

	vsctl("add-br", "br-ovn", "--", "set", "bridge", "br-ovn", "datapath_type=netdev", "--", "set", "open", ".", "external_ids:system-id=c1",
		"external_ids:ovn-bridge=br-ovn", "external_ids:ovn-encap-ip=192.0.2.7", "external_ids:ovn-encap-type=geneve,vxlan",
		"external_ids:ovn-bridge-mappings=ext:br-ext,dmz:br-dmz", "external_ids:ovn-remote=tcp:192.0.2.1:6642", "external_ids:ovn-cms-options=enable-chassis-as-gw")
	var cfg ovn.ChassisConfig
	lab.Eventually(t, time.Minute, "the configuration is seen", func() bool {
		cfg, err = red.Config(ctx)
		return err == nil && cfg.DatapathType == "netdev"
	})
	require.Equal(t, ovn.ChassisConfig{SystemID: "c1", Remote: "tcp:192.0.2.1:6642", Bridge: "br-ovn", EncapTypes: []string{"geneve", "vxlan"},
		EncapIPs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, BridgeMappings: map[string]string{"ext": "br-ext", "dmz": "br-dmz"},
		CMSOptions: []string{"enable-chassis-as-gw"}, DatapathType: "netdev", OVSVersion: cfg.OVSVersion}, cfg)

	p, err := red.Plug(ctx, veth)
	require.NoError(t, err)
	require.Equal(t, red.DeviceName(vnet.PartOverlay, "p1"), p.Device)
	require.Contains(t, links(host), p.Device)
	require.Contains(t, links(vm), "eth7")
	out, err := vm.Exec(ctx, "ethtool", "-k", "eth7")
	require.NoError(t, err)
	require.Contains(t, string(out), "tx-checksumming: off")
	records := transactions(s)
	again, err := red.Plug(ctx, veth)
	require.NoError(t, err)
	require.Equal(t, p, again)
	require.Equal(t, records, transactions(s), "twice is once")
	require.Contains(t, vsctl("get", "interface", p.Device, "external_ids"), `iface-id="red/p1"`)
	require.Contains(t, vsctl("list-ports", "br-ovn"), p.Device)

	l.Veth(host, "tap9", vm, "far9")
	existing := ovn.Plug{Part: vnet.PartOverlay, PortID: "p2", Kind: ovn.DeviceExisting, Name: "tap9"}
	_, err = red.Plug(ctx, existing)
	require.NoError(t, err)
	_, err = blue.Plug(ctx, existing)
	require.ErrorIs(t, err, vnet.ErrConflict, "it is red's")
	_, err = red.Plug(ctx, ovn.Plug{Part: vnet.PartOverlay, PortID: "p1", Kind: ovn.DeviceExisting, Name: "tap9"})
	require.ErrorIs(t, err, vnet.ErrConflict, "another device at the port")
	_, err = red.Plug(ctx, ovn.Plug{Part: vnet.PartOverlay, PortID: "p3", Kind: ovn.DeviceExisting, Name: "nothing"})
	require.ErrorIs(t, err, vnet.ErrNotFound)
	_, err = blue.Plug(ctx, ovn.Plug{Part: vnet.PartMetadata, PortID: "p1", Kind: ovn.DeviceTap, MTU: 1442})
	require.NoError(t, err)
	all, err := red.Plugged(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"p1", "p2"}, []string{all[0].PortID, all[1].PortID})
	require.Len(t, all, 2)

	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = red.WaitInstalled(short, vnet.PartOverlay, "p1")
	require.ErrorIs(t, err, vnet.ErrNotReady)
	require.ErrorContains(t, err, "ovs-vswitchd has not taken")
	set := func(name, row string) {
		s.Transact(fmt.Sprintf(`["Open_vSwitch",{"op":"update","table":"Interface","where":[["name","==",%q]],"row":%s}]`, name, row))
	}
	set(p.Device, `{"ofport":5}`)
	short, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = red.WaitInstalled(short, vnet.PartOverlay, "p1")
	require.ErrorContains(t, err, "ovn-controller has not installed")
	done := make(chan error, 1)
	go func() {
		p, err := red.WaitInstalled(ctx, vnet.PartOverlay, "p1")
		if err == nil && p.OFPort != 5 {
			err = fmt.Errorf("ofport %d", p.OFPort)
		}
		done <- err
	}()
	vsctl("set", "interface", p.Device, "external_ids:ovn-installed=true")
	require.NoError(t, <-done)
	_, err = red.Plug(ctx, veth)
	require.NoError(t, err)
	require.Contains(t, vsctl("get", "interface", p.Device, "external_ids"), `ovn-installed="true"`, "what ovn-controller writes stays")

	// A device that was taken out of the switch by hand is put back.
	vsctl("del-port", p.Device)
	lab.Eventually(t, time.Minute, "it is seen to be gone", func() bool { all, _ := red.Plugged(ctx); return len(all) == 1 })
	_, err = red.Plug(ctx, veth)
	require.NoError(t, err)

	require.NoError(t, red.Unplug(ctx, vnet.PartOverlay, "p1"))
	require.NoError(t, red.Unplug(ctx, vnet.PartOverlay, "p2"))
	require.NoError(t, red.Unplug(ctx, vnet.PartOverlay, "p2"))
	require.NotContains(t, links(host), p.Device)
	require.Contains(t, links(host), "tap9", "the caller's own")
	require.NoError(t, red.Unplug(ctx, vnet.PartMetadata, "p1"))
	all, err = blue.Plugged(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1, "blue's is still there")
	// What a killed process has left: a device and no rows.
	_, err = red.Plug(ctx, veth)
	require.NoError(t, err)
	vsctl("del-port", p.Device)
	lab.Eventually(t, time.Minute, "it is seen to be gone", func() bool { all, _ := red.Plugged(ctx); return len(all) == 0 })
	_, err = red.Plug(ctx, existing)
	require.NoError(t, err)
	require.NoError(t, red.Cleanup(ctx))
	require.NotContains(t, links(host), p.Device)
	require.Contains(t, links(host), "tap9")
	require.NotContains(t, vsctl("list-ports", "br-ovn"), "tap9")
	all, err = blue.Plugged(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.NoError(t, blue.Unplug(ctx, vnet.PartMetadata, "p1"))
}
