package ovnoverlay

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/ovn"
)

// Kinds of rows; the id is the network's or the port's.
const (
	kindNetwork  = "network"  // Logical_Switch
	kindLocalnet = "localnet" // Logical_Switch_Port of a provider network; "NETWORK/VLAN" with a VLAN id
	kindPort     = "port"     // Logical_Switch_Port
	kindDown     = "down"     // ACLs of a network that is down: "NETWORK/DIRECTION"
)

// Keys in external_ids, for what OVN has no column for.
const (
	keySegment = "vnet:segment" // of a switch: Segment.String
	keyMTU     = "vnet:mtu"     // of a switch, and of its ports for hosts that see the Southbound only: what devices get
	keyAsked   = "vnet:asked"   // of a switch: the MTU that was asked for, and Flooding
	keySubnets = "vnet:subnets" // of a switch: JSON
	keyDown    = "vnet:down"    // of a switch or port: "true" when administratively down
	keyAddress = "vnet:address" // of a port: our member of addresses
)

// putNetwork makes the rows of a network be as they must.
func putNetwork(tx *ovn.Tx, n overlay.Network, mtu int) {
	c := tx.Conn()
	old := ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, kindNetwork, n.ID)
	subnets, _ := json.Marshal(n.Subnets)
	sw := ovn.Ensure(tx, kindNetwork, n.ID, &nbrow.LogicalSwitch{Name: c.Name(kindNetwork, n.ID), ExternalIDs: map[string]string{
		keySegment: n.Segment.String(), keyMTU: strconv.Itoa(mtu), keyAsked: asked(n), keySubnets: string(subnets), keyDown: strconv.FormatBool(n.AdminDown)}})
	results := []ovn.Result{sw}
	place := n.ID
	if n.Segment.ID != 0 { // a row of its own: ovn-northd never takes a tag back
		place = fmt.Sprintf("%s/%d", n.ID, n.Segment.ID)
	}
	if old != nil && old.ExternalIDs[keySegment] != n.Segment.String() {
		for _, u := range old.Ports {
			row := ovn.At[nbrow.LogicalSwitchPort](tx, u)
			if m, ok := ours(tx, row); ok && m.Kind == kindLocalnet && (m.ID != place || !n.Segment.Type.Physical()) {
				results = append(results, tx.Delete(row))
			}
		}
	}
	if n.Segment.Type.Physical() {
		l := &nbrow.LogicalSwitchPort{Name: c.Name(kindLocalnet, place), Type: "localnet", Addresses: []string{"unknown"},
			Enabled: new(!n.AdminDown), Options: map[string]string{"network_name": n.Segment.PhysicalNetwork}}
		if n.Segment.ID != 0 {
			l.TagRequest = new(int(n.Segment.ID))
		}
		r := ovn.Ensure(tx, kindLocalnet, place, l)
		results = append(results, r, tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", r.UUID),
			tx.Members(ovn.At[nbrow.LogicalSwitchPort](tx, r.UUID), "addresses", l.Addresses, nil))
	}
	// OVN has no switch that is down. Its ports are disabled, and what ports of
	// other parts send each other is dropped.
	for _, dir := range []string{nbrow.ACLDirectionFromLport, nbrow.ACLDirectionToLport} {
		id := n.ID + "/" + dir
		if n.AdminDown {
			r := ovn.Ensure(tx, kindDown, id, &nbrow.ACL{Direction: dir, Match: "1", Action: nbrow.ACLActionDrop, Priority: 32767})
			results = append(results, r, tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "acls", r.UUID))
		} else if row := ovn.Find[nbrow.ACL](tx, vnet.PartOverlay, kindDown, id); row != nil {
			results = append(results, tx.Delete(row))
		}
	}
	impact := vnet.ImpactNone
	if old != nil {
		impact = vnet.ImpactSome
		down := old.ExternalIDs[keyDown] == "true"
		if down != n.AdminDown {
			impact = vnet.ImpactObject
		}
		if down != n.AdminDown || old.ExternalIDs[keyMTU] != strconv.Itoa(mtu) {
			for _, u := range old.Ports {
				p := ovn.At[nbrow.LogicalSwitchPort](tx, u)
				if m, ok := ours(tx, p); ok && m.Kind == kindPort {
					results = append(results, ovn.Ensure(tx, kindPort, m.ID, &nbrow.LogicalSwitchPort{Enabled: new(!n.AdminDown && p.ExternalIDs[keyDown] != "true"),
						ExternalIDs: map[string]string{keyMTU: strconv.Itoa(mtu)}}, "enabled", "external_ids:"+keyMTU))
				}
			}
		}
	}
	tx.Record(kindNetwork, n.ID, impact, results...)
}

// ours is the mark of a row that this part of this owner has made.
func ours(tx *ovn.Tx, row *nbrow.LogicalSwitchPort) (m ovn.Mark, ok bool) {
	if row == nil {
		return m, false
	}
	m, ok = ovn.MarkOf(row.ExternalIDs)
	return m, ok && m.Owner == tx.Conn().Owner() && m.Part == vnet.PartOverlay
}

// asked is what a network asks for that OVN does not write down.
func asked(n overlay.Network) string {
	s := fmt.Sprintf("mtu %d", n.MTU)
	if n.Flooding.Broadcast {
		s += ", broadcast"
	}
	return s
}

// dropNetwork removes the rows of a network that nobody uses.
func dropNetwork(tx *ovn.Tx, id string) error {
	sw := ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, kindNetwork, id)
	if sw == nil {
		return nil
	}
	var users []string
	for _, u := range sw.Ports {
		row := ovn.At[nbrow.LogicalSwitchPort](tx, u)
		if m, ok := ours(tx, row); row == nil || ok && m.Kind == kindLocalnet {
			continue
		}
		if m, ok := ovn.MarkOf(row.ExternalIDs); ok {
			users = append(users, fmt.Sprintf("%s %s %s", m.Part, m.Kind, m.ID))
		} else {
			users = append(users, row.Name)
		}
	}
	tx.Guard(sw, "ports")
	if len(users) > 0 {
		slices.Sort(users)
		if more := len(users) - 8; more > 0 {
			users = append(users[:8], fmt.Sprintf("%d more", more))
		}
		return fmt.Errorf("%s are on it: %w", strings.Join(users, ", "), vnet.ErrInUse)
	}
	// What it holds goes with it.
	tx.Record(kindNetwork, id, vnet.ImpactObject, tx.Delete(sw))
	return nil
}

// address is a port's member of Logical_Switch_Port.addresses.
func address(p overlay.Port) string {
	s := p.MAC.String()
	for _, ip := range p.FixedIPs {
		s += " " + ip.String()
	}
	return s
}

// parse takes an address apart.
func parse(s string) (mac vnet.MAC, ips []netip.Addr) {
	for i, f := range strings.Fields(s) {
		if i == 0 {
			mac, _ = vnet.ParseMAC(f)
		} else if ip, err := netip.ParseAddr(f); err == nil {
			ips = append(ips, ip)
		}
	}
	return mac, ips
}

// putPort makes the rows of a port be as they must.
func putPort(tx *ovn.Tx, p overlay.Port) error {
	c := tx.Conn()
	sw := ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, kindNetwork, p.NetworkID)
	if sw == nil {
		return fmt.Errorf("network %s: %w", p.NetworkID, vnet.ErrNotFound)
	}
	old := ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, kindPort, p.ID)
	addr := address(p)
	want := &nbrow.LogicalSwitchPort{Name: c.PortName(p.ID), Addresses: []string{addr}, Enabled: new(!p.AdminDown && sw.ExternalIDs[keyDown] != "true"),
		ExternalIDs: map[string]string{keyDown: strconv.FormatBool(p.AdminDown), ovn.KeyFiltered: strconv.FormatBool(p.Filtered), keyAddress: addr,
			keyMTU: sw.ExternalIDs[keyMTU]}}
	if p.Host != "" {
		want.Options = map[string]string{"requested-chassis": p.Host}
	}
	r := ovn.Ensure(tx, kindPort, p.ID, want)
	results := []ovn.Result{r, tx.Hold(sw, "ports", r.UUID)}
	impact := vnet.ImpactNone
	if old != nil {
		impact = vnet.ImpactSome
		var gone []string
		if a := old.ExternalIDs[keyAddress]; a != addr && a != "" {
			gone = []string{a}
			if now, _ := parse(a); now != p.MAC {
				impact = vnet.ImpactObject
			}
		}
		results = append(results, tx.Members(ovn.At[nbrow.LogicalSwitchPort](tx, r.UUID), "addresses", []string{addr}, gone))
	}
	tx.Record(kindPort, p.ID, impact, results...)
	return nil
}

func dropPort(tx *ovn.Tx, id string) {
	row := ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, kindPort, id)
	if row == nil {
		return
	}
	// References of groups are weak: the port leaves them by itself.
	tx.Record(kindPort, id, vnet.ImpactObject, tx.Delete(row))
}
