package ovsmetadata

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata/internal/answer"
	"github.com/vnet-go/vnet/ovs"
)

const (
	kindDevice = "device"
	deviceID   = "vnet-metadata-device" // not the application's
	deviceName = "meta0"                // in the namespace
)

// The device's MAC, and that of all that is behind it. They are on no network.
func deviceMAC() vnet.MAC { return vnet.MAC{0x02, 0xa9, 0xfe, 0xa9, 0xfe, 0x01} }
func hopMAC() vnet.MAC    { return vnet.MAC{0x02, 0xa9, 0xfe, 0xa9, 0xfe, 0x02} }

// Next hops in the namespace, on the device.
func hop4() netip.Addr { return netip.MustParseAddr("169.254.0.1") }
func hop6() netip.Addr { return netip.MustParseAddr("fe80::1") }

func (b *core) netns() string { return b.h.NetnsName(vnet.PartMetadata, deviceID) }

// device makes the metadata device and its namespace be as they must while
// there is an endpoint, and takes them away when there is none. It returns the
// namespace, or nil.
func (b *Backend) device(ctx context.Context, wanted bool) (*linux.Namespace, error) {
	if !wanted {
		return nil, b.removeDevice(ctx)
	}
	err := b.sw.Submit(ctx, vnet.PartMetadata, func(tx *ovs.Tx) error {
		tx.Keep(kindDevice, deviceID, nil, deviceFlows(tx.PortNumber(deviceID), deviceMAC(), hopMAC())...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	ns, err := b.h.CreateNamespace(ctx, b.netns())
	if err != nil {
		return nil, err
	}
	if _, err := ns.Sysctl().Set(answer.Settings()...); err != nil {
		return nil, err
	}
	in := ns.RTNL()
	if _, err := in.Link(deviceName); errors.Is(err, vnet.ErrNotFound) {
		// Or the other end is in a namespace that was removed.
		if err := b.sw.Unplug(ctx, vnet.PartMetadata, deviceID); err != nil {
			return nil, err
		}
	}
	if _, err := b.sw.Plug(ctx, ovs.Plug{Part: vnet.PartMetadata, PortID: deviceID, Kind: "veth", Name: deviceName, Netns: ns.Path(), MAC: deviceMAC()}); err != nil {
		return nil, err
	}
	if err := errors.Join(in.SetUp("lo"), in.SetUp(deviceName)); err != nil {
		return nil, err
	}
	known, err := in.Neighs(deviceName)
	if err != nil {
		return nil, err
	}
	for _, hop := range []netip.Addr{hop4(), hop6()} {
		if slices.ContainsFunc(known, func(n rtnl.Neigh) bool { return n.IP == hop && n.MAC == hopMAC() && n.State == rtnl.Permanent }) {
			continue
		}
		if err := in.SetNeigh(rtnl.Neigh{Dev: deviceName, IP: hop, MAC: hopMAC(), State: rtnl.Permanent}); err != nil {
			return nil, err
		}
	}
	for _, want := range []rtnl.Route{
		// All addresses that requests are sent to are this namespace's own.
		{Dst: inside4(), Dev: "lo", Type: rtnl.Local, Scope: rtnl.ScopeHost, Table: localTable},
		{Dst: inside6(), Dev: "lo", Type: rtnl.Local, Table: localTable},
		{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: hop4(), Dev: deviceName, OnLink: true},
		{Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Via: hop6(), Dev: deviceName},
	} {
		have, err := in.Routes(want.Table)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(have, func(h rtnl.Route) bool { return h.Dst == want.Dst && h.Dev == want.Dev && h.Via == want.Via }) {
			if err := in.SetRoute(want); err != nil {
				return nil, err
			}
		}
	}
	return ns, nil
}

// removeDevice takes the device away, if there is one of ours.
func (b *Backend) removeDevice(ctx context.Context) error {
	plugged, err := b.sw.Plugged(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(plugged, func(p ovs.Plugged) bool { return p.Part == vnet.PartMetadata && p.PortID == deviceID }) {
		if err := b.sw.Unplug(ctx, vnet.PartMetadata, deviceID); err != nil {
			return err
		}
	}
	if _, ok := b.sw.Number("port", deviceID); ok {
		err := b.sw.Submit(ctx, vnet.PartMetadata, func(tx *ovs.Tx) error {
			tx.Drop(kindDevice, deviceID)
			tx.Release("port", deviceID)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return b.h.DeleteNamespace(ctx, b.netns())
}

// localTable is the kernel's table of its own addresses (RT_TABLE_LOCAL).
const localTable = 255
