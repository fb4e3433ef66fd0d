package linux

import (
	"context"
	"strings"

	"github.com/vnet-go/vnet/internal/nft"
)

// The names of what the handle keeps in this owner's tables, and where its
// chains hook in. The page in doc.go is made of these.
const (
	tablePrefix = "vnet-"

	mapPorts    = "ports"    // bridge: device -> index
	mapIndices  = "indices"  // bridge: index -> canonical device name; the comment is the port's id
	mapBound    = "bound"    // bridge: index -> device that is plugged
	setDevices  = "devices"  // bridge: devices that are plugged
	setHeld     = "held"     // bridge: index . part
	setFiltered = "filtered" // bridge: indices that want filtering
	setFilled   = "filled"   // bridge: indices whose filters stand
	setNetworks = "networks" // inet: bridges that are networks
	setBridged  = "bridged"  // inet: bridge . the same bridge
	mapZones    = "zones"    // inet, bridge: bridge -> conntrack zone
	mapZoneIDs  = "zoneids"  // inet: conntrack zone -> bridge
	setUplinks  = "uplinks"  // bridge: devices whose root qdisc is ours

	chainPrerouting = "prerouting"
	chainForward    = "forward"
	chainOutput     = "output"
	chainInput      = "input"
	chainZone       = "zone"
)

// Priorities of the handle's base chains. Chains of parts in the same tables
// come after: in bridge prerouting above PriorityClassify, in bridge forward
// above PriorityForward; in inet prerouting conntrack is at -200.
const (
	PriorityClassify int32 = -300 // bridge prerouting, inet prerouting
	PriorityForward  int32 = -200 // bridge forward and output
	PriorityProtect  int32 = -150 // inet input and forward
)

// BridgeTable is this owner's table of family bridge.
func (h *Host) BridgeTable() nft.Table {
	return nft.Table{Family: nft.Bridge, Name: tablePrefix + string(h.owner)}
}

// InetTable is this owner's table of family inet.
func (h *Host) InetTable() nft.Table {
	return nft.Table{Family: nft.Inet, Name: tablePrefix + string(h.owner)}
}

func bridgeSet(t nft.Table, name string, key ...nft.Type) nft.Set {
	return nft.Set{Table: t, Name: name, Key: key}
}

func (h *Host) setOf(name string) nft.Set { return tableSet(h.BridgeTable(), h.InetTable(), name) }

// tableSet is the definition of a set of the handle, in whichever of the two
// tables it is; mapZones in inet.
func tableSet(bridge, inet nft.Table, name string) nft.Set {
	ifname, mark, zone := nft.TypeIfName, nft.TypeMark, nft.TypeZone
	with := func(s nft.Set, data nft.Type) nft.Set { s.Data = []nft.Type{data}; return s }
	switch name {
	case mapPorts:
		return with(bridgeSet(bridge, name, ifname), mark)
	case mapIndices, mapBound:
		return with(bridgeSet(bridge, name, mark), ifname)
	case setDevices, setUplinks:
		return bridgeSet(bridge, name, ifname)
	case setHeld:
		return bridgeSet(bridge, name, mark, ifname)
	case setFiltered, setFilled:
		return bridgeSet(bridge, name, mark)
	case setNetworks:
		return bridgeSet(inet, name, ifname)
	case setBridged:
		return bridgeSet(inet, name, ifname, ifname)
	case mapZones:
		return with(bridgeSet(inet, name, ifname), zone)
	case mapZoneIDs:
		return with(bridgeSet(inet, name, zone), ifname)
	}
	panic("linux: no set " + name)
}

// PortsMap is the map of family bridge from device name to port index. It has
// devices that are not plugged too; see [Host.DevicesSet].
func (h *Host) PortsMap() nft.Set { return h.setOf(mapPorts) }

// DevicesSet is the set of family bridge of the devices plugged at ports. A
// base chain of a part in the bridge table first lets go what is of none:
//
//	{nft.IIfName.NotIn(h.DevicesSet()), nft.Accept()}
func (h *Host) DevicesSet() nft.Set { return h.setOf(setDevices) }

// UplinksSet is the set of family bridge of the devices that are not of our
// making and whose root qdisc is: [Host.Cleanup] takes it from them.
func (h *Host) UplinksSet() nft.Set { return h.setOf(setUplinks) }

// FilteredSet is the set of family bridge of port indices that want filtering.
func (h *Host) FilteredSet() nft.Set { return h.setOf(setFiltered) }

// NetworksSet is the set of family inet of the bridges that are networks. A
// base chain of a part in the inet table first lets go what is of none:
//
//	{nft.IIfName.NotIn(h.NetworksSet()), nft.Accept()}
func (h *Host) NetworksSet() nft.Set { return h.setOf(setNetworks) }

// ZonesMap is the map of family inet from bridge to conntrack zone.
func (h *Host) ZonesMap() nft.Set { return h.setOf(mapZones) }

// bridgeZones is the same map in family bridge, where that has conntrack.
func (h *Host) bridgeZones() nft.Set {
	s := h.setOf(mapZones)
	s.Table = h.BridgeTable()
	return s
}

// zonesInBridge reports whether family bridge tracks connections here.
func (h *Host) zonesInBridge() bool {
	f := h.Features()
	return f.BridgeConntrack && f.BridgeMeta
}

// Base declares the base tables with the handle's own sets, maps and chains in
// a transaction of the host's namespace. What refers to them declares them
// first; it costs nothing when they stand.
func (h *Host) Base(tx *nft.Tx) {
	if !tx.Once(h) {
		return
	}
	for _, name := range []string{mapPorts, mapIndices, mapBound, setDevices, setHeld, setFiltered, setFilled, setNetworks, setBridged, mapZones, mapZoneIDs, setUplinks} {
		tx.Set(h.setOf(name))
	}
	for _, c := range h.baseChains() {
		tx.Chain(c)
	}
}

// baseChains are the handle's chains.
func (h *Host) baseChains() []nft.Chain {
	br, in := h.BridgeTable(), h.InetTable()
	devices, ports := h.setOf(setDevices), h.setOf(mapPorts)
	networks := h.setOf(setNetworks)
	closed := nft.Rule{nft.Mark.In(h.setOf(setFiltered)), nft.Mark.NotIn(h.setOf(setFilled)), nft.Counter(), nft.Drop()}
	base := func(hook nft.HookPoint, prio int32) *nft.Hook {
		return &nft.Hook{Type: nft.Filter, Hook: hook, Priority: prio}
	}
	chains := []nft.Chain{
		{Table: br, Name: chainPrerouting, Base: base(nft.Prerouting, PriorityClassify), Rules: []nft.Rule{
			{nft.IIfName.NotIn(devices), nft.Accept()},
			{nft.SetMark(nft.IIfName.Map(ports))},
			closed,
		}},
		{Table: br, Name: chainForward, Base: base(nft.Forward, PriorityForward), Rules: []nft.Rule{
			{nft.IIfName.In(devices), nft.SetMark(nft.Const(uint32(0)))},
			{nft.OIfName.NotIn(devices), nft.Accept()},
			{nft.SetMark(nft.OIfName.Map(ports))},
			closed,
		}},
		{Table: br, Name: chainOutput, Base: base(nft.Output, PriorityForward), Rules: []nft.Rule{
			{nft.OIfName.NotIn(devices), nft.Accept()},
			{nft.SetMark(nft.OIfName.Map(ports))},
			closed,
		}},
		// Seen by inet, bridged packets (br_netfilter) come in by the bridge.
		{Table: in, Name: chainZone, Base: base(nft.Prerouting, PriorityClassify), Rules: []nft.Rule{
			{nft.SetCtZone(nft.IIfName.Map(h.setOf(mapZones)))},
		}},
		// A guest must not reach this host's own stack, nor be routed by it.
		// AF_PACKET sockets see what is dropped here.
		{Table: in, Name: chainInput, Base: base(nft.Input, PriorityProtect), Rules: []nft.Rule{
			{nft.IIfName.In(networks), nft.Counter(), nft.Drop()},
		}},
		{Table: in, Name: chainForward, Base: base(nft.Forward, PriorityProtect), Rules: []nft.Rule{
			{nft.Concat(nft.IIfName, nft.OIfName).In(h.setOf(setBridged)), nft.Accept()},
			{nft.IIfName.In(networks), nft.Counter(), nft.Drop()},
		}},
	}
	if h.zonesInBridge() {
		chains = append(chains, nft.Chain{Table: br, Name: chainZone, Base: base(nft.Prerouting, PriorityClassify), Rules: []nft.Rule{
			{nft.SetCtZone(nft.IBrName.Map(h.bridgeZones()))},
		}})
	}
	return chains
}

// BaseSteps returns the step that makes the base tables stand; none when they
// do. The registries' steps have it in them.
func (h *Host) BaseSteps(ctx context.Context) ([]Step, error) {
	diff, err := h.ns.nft.Check(ctx, h.base)
	if err != nil || len(diff) == 0 {
		return nil, err
	}
	return []Step{{Phase: FilterAdd, NFT: h.base}}, nil
}

func (h *Host) base(tx *nft.Tx) error { h.Base(tx); return nil }

// foreign returns the tables of the same kind of other owners.
func (h *Host) foreign(ctx context.Context, f nft.Family) ([]nft.Table, error) {
	all, err := h.ns.nft.Tables(ctx)
	if err != nil {
		return nil, err
	}
	var out []nft.Table
	for _, t := range all {
		if t.Family == f && strings.HasPrefix(t.Name, tablePrefix) && t.Name != tablePrefix+string(h.owner) {
			out = append(out, t)
		}
	}
	return out, nil
}
