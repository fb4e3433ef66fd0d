package linux

import (
	"context"
	"errors"
	"iter"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
)

var errLater = errors.New("linux: being built")

// Table names and what stands in them are described in the package's page.

// BridgeTable is this owner's table of family bridge.
func (h *Host) BridgeTable() nft.Table {
	return nft.Table{Family: nft.Bridge, Name: "vnet-" + string(h.owner)}
}

// InetTable is this owner's table of family inet.
func (h *Host) InetTable() nft.Table {
	return nft.Table{Family: nft.Inet, Name: "vnet-" + string(h.owner)}
}

// Base declares the base tables with the handle's own sets, maps and chains in
// a transaction of the host's namespace. What refers to them declares them
// first; it costs nothing when they stand.
func (h *Host) Base(tx *nft.Tx) {}

// PortsMap is the map of family bridge from device name to port index.
func (h *Host) PortsMap() nft.Set {
	return nft.Set{Table: h.BridgeTable(), Name: "ports", Key: []nft.Type{nft.TypeIfName}, Data: []nft.Type{nft.TypeMark}}
}

// Ports hands out a small number for each port id, stable as long as a part
// holds it, kept in the kernel. Packet marks carry it.
type Ports struct{ h *Host }

// Ports returns the registry of port indices.
func (h *Host) Ports() *Ports { return &h.ports }

// PortEntry is a port as the registry knows it.
type PortEntry struct {
	ID       string
	Index    uint32
	Device   string      // "" while nothing is bound
	Filtered bool        // wants filtering: closed unless Filled
	Filled   bool        // may pass
	Holders  []vnet.Part // sorted
}

// List returns all entries, sorted by id.
func (p *Ports) List(ctx context.Context) ([]PortEntry, error) { return nil, errLater }

// Get returns one entry, or [vnet.ErrNotFound].
func (p *Ports) Get(ctx context.Context, portID string) (PortEntry, error) {
	return PortEntry{}, errLater
}

// Claim returns the index of a port, giving it one if it has none, and the
// steps that make part hold it; none when it does. The index is reserved in
// this process at once.
func (p *Ports) Claim(ctx context.Context, part vnet.Part, portID string) (index uint32, steps []Step, err error) {
	return 0, nil, errLater
}

// Release returns the steps after which part does not hold the port; the
// index is free when nobody does.
func (p *Ports) Release(ctx context.Context, part vnet.Part, portID string) ([]Step, error) {
	return nil, errLater
}

// Bind returns the steps (phase FilterAdd) that tie a device to a port, and
// say whether it wants filtering. They hold the port for overlay. overlay
// submits them before it connects the device, so that a filtered port is
// closed from its first frame.
func (p *Ports) Bind(ctx context.Context, portID, device string, filtered bool) ([]Step, error) {
	return nil, errLater
}

// Unbind returns the steps (phase FilterDel) that take it back.
func (p *Ports) Unbind(ctx context.Context, portID string) ([]Step, error) { return nil, errLater }

// Fill returns the step that opens a filtered port to what its filters let
// pass; secgroup submits it in or after the transaction with those filters.
func (p *Ports) Fill(ctx context.Context, portID string) ([]Step, error) { return nil, errLater }

// Unfill returns the step that closes a filtered port.
func (p *Ports) Unfill(ctx context.Context, portID string) ([]Step, error) { return nil, errLater }

// Networks knows which bridges are networks of ours.
type Networks struct{ h *Host }

// Networks returns the registry of network bridges.
func (h *Host) Networks() *Networks { return &h.nets }

// Add returns the steps (phase FilterAdd) that make the network's bridge known
// in the base tables: from then on what comes from it never reaches this
// host's own IP stack. overlay submits them before it makes the bridge.
func (n *Networks) Add(ctx context.Context, networkID string) ([]Step, error) { return nil, errLater }

// Remove returns the steps (phase FilterDel) that take it back.
func (n *Networks) Remove(ctx context.Context, networkID string) ([]Step, error) {
	return nil, errLater
}

// Zones hands out a conntrack zone for each network id, kept in the kernel.
// From the claim on, what crosses the network's bridge is tracked in its zone.
type Zones struct{ h *Host }

// Zones returns the registry of conntrack zones.
func (h *Host) Zones() *Zones { return &h.zones }

// Get returns a network's zone, or [vnet.ErrNotFound].
func (z *Zones) Get(ctx context.Context, networkID string) (uint16, error) { return 0, errLater }

// Claim returns the zone of a network, giving it one if it has none, and the
// steps (phase FilterAdd) that keep it; none when it stands.
func (z *Zones) Claim(ctx context.Context, networkID string) (zone uint16, steps []Step, err error) {
	return 0, nil, errLater
}

// Release returns the steps (phase FilterDel) that free it.
func (z *Zones) Release(ctx context.Context, networkID string) ([]Step, error) { return nil, errLater }

// Features is what this kernel can do, found by trying in a namespace made for
// it.
type Features struct {
	VLAN            bool // IEEE 802.1Q devices (module 8021q)
	VXLAN           bool // module vxlan
	BridgeConntrack bool // ct in nftables' family bridge (module nf_conntrack_bridge)
	BrNetfilter     bool // bridged packets seen by family inet (module br_netfilter)
	BridgeMeta      bool // meta ibrname, obrname (module nft_meta_bridge)
	// Missing says for each field that is false what would provide it.
	Missing map[string]string
}

// Features returns what the kernel can do.
func (h *Host) Features() Features { return Features{} }

// Cleanup removes everything of this owner on this host: namespaces, devices,
// tables, tracked connections. It needs no live objects: it is what `down`
// calls after a crash. Devices that the caller made are let go of, not removed.
func (h *Host) Cleanup(ctx context.Context) error { return errLater }

// PortEvent is a change of the device at a port.
type PortEvent struct {
	PortID string
	Device string
	Up     bool // set up and carrying
	Gone   bool // unplugged or removed
	// Lost: the kernel dropped events. All ports follow again.
	Lost bool
}

// WatchPorts yields the ports plugged on this host, then each change, until
// ctx ends.
func (h *Host) WatchPorts(ctx context.Context) iter.Seq[PortEvent] {
	return func(yield func(PortEvent) bool) {}
}
