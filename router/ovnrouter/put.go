package ovnrouter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/router"
)

// work collects what is done to the rows of one object into one change.
type work struct {
	c vnet.Change
}

func newWork(kind, id string) *work {
	return &work{vnet.Change{Part: vnet.PartRouter, Kind: kind, ID: id, Impact: vnet.ImpactNone}}
}

// main is the row that stands for the object.
func (w *work) main(r ovn.Result) {
	w.c.Verb = r.Verb
	w.differ("", r)
}

// part is a row beside it, and what holds it.
func (w *work) part(what string, rs ...ovn.Result) {
	for _, r := range rs {
		switch {
		case r.Verb == "":
			continue
		case r.Verb == vnet.Update:
			w.differ(what+" ", r)
		case r.Verb == vnet.Create:
			w.c.Diff = append(w.c.Diff, what+": new")
		default:
			w.c.Diff = append(w.c.Diff, what+": gone")
			w.felt(vnet.ImpactSome)
		}
		if w.c.Verb == "" {
			w.c.Verb = vnet.Update
		}
		return // that it is held too goes without saying
	}
}

func (w *work) differ(at string, r ovn.Result) {
	for _, d := range r.Diff {
		w.c.Diff = append(w.c.Diff, at+d)
		if strings.HasPrefix(d, "enabled:") {
			w.felt(vnet.ImpactObject)
		} else {
			w.felt(vnet.ImpactSome)
		}
	}
}

func (w *work) felt(i vnet.Impact) {
	if w.c.Impact != vnet.ImpactObject {
		w.c.Impact = i
	}
}

// tell makes it known; nothing if nothing was done.
func (w *work) tell(tx *ovn.Tx) {
	switch w.c.Verb {
	case "":
		return
	case vnet.Create:
		w.c.Diff, w.c.Impact = nil, vnet.ImpactNone
	case vnet.Delete:
		w.c.Diff, w.c.Impact = nil, vnet.ImpactObject
	}
	tx.Change(w.c)
}

// putRouter makes the rows of r be as they must, and removes those that it had
// and has no more. Ports in taken belong to other routers from now on.
func (b *Backend) putRouter(tx *ovn.Tx, r router.Router, taken func(portID string) bool) error {
	old, stood := standingRouter(tx, r.ID)
	at := where{names: b.c, age: b.o.NeighborAge, physical: func(n string) string { return physicalOf(tx, n) }}
	for _, i := range r.Interfaces {
		if switchOf(tx, i.NetworkID) == nil {
			return fmt.Errorf("network %s: %w", i.NetworkID, vnet.ErrNotFound)
		}
	}
	if g := r.Gateway; g != nil {
		if switchOf(tx, g.NetworkID) == nil {
			return fmt.Errorf("network %s: %w", g.NetworkID, vnet.ErrNotFound)
		}
		var err error
		if at.chassis, err = b.place(tx, r.ID, g); err != nil {
			return err
		}
	}
	rows := rowsOf(r, at)
	w := newWork(kindRouter, r.ID)
	main := ovn.Ensure(tx, kindRouter, r.ID, rows.router)
	w.main(main)
	lr := ovn.At[nbrow.LogicalRouter](tx, main.UUID)
	if lr == nil {
		return tx.Err()
	}
	keep := map[string]bool{}
	for _, p := range rows.ports {
		for _, g := range p.chassis {
			res := ovn.Ensure(tx, kindChassis, g.id, g.row)
			keep[res.UUID] = true
			w.part("chassis "+g.row.ChassisName, res)
			p.lrp.GatewayChassis = append(p.lrp.GatewayChassis, res.UUID)
		}
		var before []string
		if was := ovn.Find[nbrow.LogicalRouterPort](tx, vnet.PartRouter, kindPort, p.id); was != nil {
			before = was.GatewayChassis
		}
		lrp := ovn.Ensure(tx, kindPort, p.id, p.lrp)
		w.part("port "+p.id, lrp, tx.Hold(lr, "ports", lrp.UUID))
		lsp := ovn.Ensure(tx, kindPort, p.id, p.lsp)
		w.part("port "+p.id+" on network "+p.network, lsp, tx.Hold(switchOf(tx, p.network), "ports", lsp.UUID))
		keep[lrp.UUID] = true
		for _, uuid := range before {
			if _, ok := own[nbrow.GatewayChassis](tx, uuid, kindChassis); ok && !keep[uuid] {
				w.part("chassis "+ovn.At[nbrow.GatewayChassis](tx, uuid).ChassisName, tx.Delete(ovn.At[nbrow.GatewayChassis](tx, uuid)))
			}
		}
	}
	for _, x := range rows.routes {
		res := ovn.Ensure(tx, kindRoute, x.id, x.row)
		keep[res.UUID] = true
		w.part(fmt.Sprintf("route %s via %s", x.row.IPPrefix, x.row.Nexthop), res, tx.Hold(lr, "static_routes", res.UUID))
	}
	if rows.hairpin != "" {
		want := &nbrow.AddressSet{Name: b.c.Symbol(kindHairpin, r.ID)}
		if stood {
			for _, f := range old.fips(tx) {
				want.Addresses = append(want.Addresses, f.FloatingIP.String())
			}
		}
		set := ovn.Ensure(tx, kindHairpin, rows.hairpin, want)
		w.part("addresses for hairpins", set)
		for _, n := range rows.snats {
			n.row.AllowedExtIPs = &set.UUID
		}
	}
	for _, n := range rows.snats {
		res := ovn.Ensure(tx, kindSNAT, n.id, n.row)
		keep[res.UUID] = true
		w.part("SNAT of "+n.row.LogicalIP, res, tx.Hold(lr, "nat", res.UUID))
	}
	if stood {
		for _, uuid := range old.row.StaticRoutes {
			if _, ok := own[nbrow.LogicalRouterStaticRoute](tx, uuid, kindRoute); ok && !keep[uuid] {
				x := ovn.At[nbrow.LogicalRouterStaticRoute](tx, uuid)
				w.part(fmt.Sprintf("route %s via %s", x.IPPrefix, x.Nexthop), tx.Delete(x))
			}
		}
		for _, uuid := range old.row.Nat {
			if _, ok := own[nbrow.NAT](tx, uuid, kindSNAT); ok && !keep[uuid] {
				n := ovn.At[nbrow.NAT](tx, uuid)
				w.part("SNAT of "+n.LogicalIP, tx.Delete(n))
			}
		}
		if rows.hairpin == "" {
			w.part("addresses for hairpins", tx.Delete(ovn.Find[nbrow.AddressSet](tx, vnet.PartRouter, kindHairpin, r.ID)))
		}
		for _, uuid := range old.row.Ports {
			if id, ok := own[nbrow.LogicalRouterPort](tx, uuid, kindPort); ok && !keep[uuid] && !(taken != nil && taken(id)) {
				w.part("port "+id, dropPort(tx, id))
			}
		}
		b.reattach(tx, w, old)
	}
	w.tell(tx)
	return tx.Err()
}

// reattach lets the port forwards of a router be on the switches of its
// interfaces, and hairpin by its gateway's address, which may have changed.
func (b *Backend) reattach(tx *ovn.Tx, w *work, old standing) {
	now, _ := standingRouter(tx, old.r.ID)
	for _, f := range old.forwards(tx) {
		uuid := ovn.UUID[nbrow.LoadBalancer](tx, vnet.PartRouter, kindForward, f.ID)
		for _, n := range old.networks() {
			if sw := switchOf(tx, n); sw != nil && !slices.Contains(now.networks(), n) {
				w.part("network "+n, tx.Members(sw, "load_balancer", nil, []string{uuid}))
			}
		}
		w.part("port forward "+f.ID, ovn.Ensure(tx, kindForward, f.ID, balancerOf(f, b.c, now.own)))
		w.part("port forward "+f.ID, b.attach(tx, now, uuid)...)
	}
}

// attach puts a load balancer on a router and on the switches behind it, where
// those who call it from inside are translated.
func (b *Backend) attach(tx *ovn.Tx, s standing, uuid string) (out []ovn.Result) {
	out = append(out, tx.Members(s.row, "load_balancer", []string{uuid}, nil))
	for _, n := range s.networks() {
		if sw := switchOf(tx, n); sw != nil {
			out = append(out, tx.Members(sw, "load_balancer", []string{uuid}, nil))
		}
	}
	return out
}

func dropPort(tx *ovn.Tx, id string) ovn.Result {
	lrp := ovn.Find[nbrow.LogicalRouterPort](tx, vnet.PartRouter, kindPort, id)
	if lrp != nil {
		for _, uuid := range lrp.GatewayChassis {
			if _, ok := own[nbrow.GatewayChassis](tx, uuid, kindChassis); ok {
				tx.Delete(ovn.At[nbrow.GatewayChassis](tx, uuid))
			}
		}
	}
	lsp := tx.Delete(ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartRouter, kindPort, id))
	if lrp == nil {
		return lsp
	}
	return tx.Delete(lrp)
}

// dropRouter removes a router that nothing is on any more.
func dropRouter(tx *ovn.Tx, s standing) {
	w := newWork(kindRouter, s.r.ID)
	for _, uuid := range s.row.Ports {
		if id, ok := own[nbrow.LogicalRouterPort](tx, uuid, kindPort); ok {
			dropPort(tx, id)
		}
	}
	for _, uuid := range s.row.StaticRoutes {
		if _, ok := own[nbrow.LogicalRouterStaticRoute](tx, uuid, kindRoute); ok {
			tx.Delete(ovn.At[nbrow.LogicalRouterStaticRoute](tx, uuid))
		}
	}
	for _, uuid := range s.row.Nat {
		if _, ok := own[nbrow.NAT](tx, uuid, kindSNAT); ok {
			tx.Delete(ovn.At[nbrow.NAT](tx, uuid))
		}
	}
	tx.Delete(ovn.Find[nbrow.AddressSet](tx, vnet.PartRouter, kindHairpin, s.r.ID))
	w.main(tx.Delete(ovn.Find[nbrow.LogicalRouter](tx, vnet.PartRouter, kindRouter, s.r.ID)))
	w.tell(tx)
}

// putFloating makes a floating IP of a router that stands.
func (b *Backend) putFloating(tx *ovn.Tx, s standing, f router.FloatingIP) {
	b.putFloatingAs(tx, s, f, slices.ContainsFunc(s.forwards(tx), func(p router.PortForward) bool { return p.InternalIP == f.FixedIP }))
}

func (b *Backend) putFloatingAs(tx *ovn.Tx, s standing, f router.FloatingIP, central bool) {
	w := newWork(kindFloating, f.ID)
	was := ovn.Find[nbrow.NAT](tx, vnet.PartRouter, kindFloating, f.ID)
	var out ovn.Result
	if was != nil {
		if lr := ovn.Holder[nbrow.LogicalRouter](tx, was); lr != nil && (lr.UUID != s.row.UUID || was.ExternalIP != f.FloatingIP.String()) {
			out = hairpin(tx, lr, was.ExternalIP, false)
		}
	}
	res := ovn.Ensure(tx, kindFloating, f.ID, natOf(f, b.c, central))
	w.main(res)
	w.part("router", tx.Hold(s.row, "nat", res.UUID))
	w.part("hairpin", out, hairpin(tx, s.row, f.FloatingIP.String(), true))
	if w.c.Verb == vnet.Update {
		w.felt(vnet.ImpactObject)
	}
	w.tell(tx)
}

func dropFloating(tx *ovn.Tx, id string) {
	w := newWork(kindFloating, id)
	n := ovn.Find[nbrow.NAT](tx, vnet.PartRouter, kindFloating, id)
	if n == nil {
		return
	}
	if lr := ovn.Holder[nbrow.LogicalRouter](tx, n); lr != nil {
		hairpin(tx, lr, n.ExternalIP, false)
	}
	w.main(tx.Delete(n))
	w.tell(tx)
}

// hairpin adds an external address to those that a router without SNAT
// translates sources for, or removes it.
func hairpin(tx *ovn.Tx, lr *nbrow.LogicalRouter, ip string, in bool) ovn.Result {
	m, ok := ovn.MarkOf(lr.ExternalIDs)
	if !ok {
		return ovn.Result{}
	}
	set := ovn.Find[nbrow.AddressSet](tx, vnet.PartRouter, kindHairpin, m.ID)
	switch {
	case set == nil:
		return ovn.Result{}
	case in:
		return tx.Members(set, "addresses", []string{ip}, nil)
	}
	return tx.Members(set, "addresses", nil, []string{ip})
}

// putForward makes a port forward of a router that stands, and lets floating
// IPs of where it goes, and went, be translated where they must be for it.
func (b *Backend) putForward(tx *ovn.Tx, s standing, f router.PortForward) {
	was, stood := forwardOf(ovn.Find[nbrow.LoadBalancer](tx, vnet.PartRouter, kindForward, f.ID))
	b.putForwardRow(tx, s, f)
	if stood && (was.RouterID != f.RouterID || was.InternalIP != f.InternalIP) {
		b.recentre(tx, was.RouterID, was.InternalIP)
	}
	b.recentre(tx, f.RouterID, f.InternalIP)
}

func (b *Backend) putForwardRow(tx *ovn.Tx, s standing, f router.PortForward) {
	w := newWork(kindForward, f.ID)
	uuid := ovn.UUID[nbrow.LoadBalancer](tx, vnet.PartRouter, kindForward, f.ID)
	was, stood := forwardOf(ovn.Find[nbrow.LoadBalancer](tx, vnet.PartRouter, kindForward, f.ID))
	w.main(ovn.Ensure(tx, kindForward, f.ID, balancerOf(f, b.c, s.own)))
	if stood && was.RouterID != f.RouterID {
		if old, ok := standingRouter(tx, was.RouterID); ok {
			w.part("router", tx.Members(old.row, "load_balancer", nil, []string{uuid}))
			for _, n := range old.networks() {
				if sw := switchOf(tx, n); sw != nil {
					tx.Members(sw, "load_balancer", nil, []string{uuid})
				}
			}
		}
	}
	w.part("attached", b.attach(tx, s, uuid)...)
	if w.c.Verb == vnet.Update {
		w.felt(vnet.ImpactObject)
	}
	w.tell(tx)
}

func (b *Backend) dropForward(tx *ovn.Tx, id string) {
	f, ok := forwardOf(ovn.Find[nbrow.LoadBalancer](tx, vnet.PartRouter, kindForward, id))
	dropForwardRow(tx, id)
	if ok {
		b.recentre(tx, f.RouterID, f.InternalIP)
	}
}

func dropForwardRow(tx *ovn.Tx, id string) {
	row := ovn.Find[nbrow.LoadBalancer](tx, vnet.PartRouter, kindForward, id)
	if row == nil {
		return
	}
	w := newWork(kindForward, id)
	w.main(tx.Delete(row))
	w.tell(tx)
}

// recentre makes the floating IP of a fixed address, if there is one, anew.
func (b *Backend) recentre(tx *ovn.Tx, routerID string, fixed netip.Addr) {
	s, ok := standingRouter(tx, routerID)
	if !ok {
		return
	}
	for _, n := range ovn.By[nbrow.NAT](tx, "logical_ip", fixed.String()) {
		if id, ok := own[nbrow.NAT](tx, n.UUID, kindFloating); ok && slices.Contains(s.row.Nat, n.UUID) {
			b.putFloating(tx, s, floatingOf(tx, routerID, id))
		}
	}
}

// strays removes what no router has: what is left when others have removed a
// row of ours by hand.
func (b *Backend) strays(tx *ovn.Tx) error {
	for m, lsp := range ovn.Own[nbrow.LogicalSwitchPort](tx, vnet.PartRouter) {
		if m.Kind == kindPort && ovn.Find[nbrow.LogicalRouterPort](tx, vnet.PartRouter, kindPort, m.ID) == nil {
			tx.Record("port", m.ID, vnet.ImpactNone, tx.Delete(lsp))
		}
	}
	for m, set := range ovn.Own[nbrow.AddressSet](tx, vnet.PartRouter) {
		if m.Kind == kindHairpin && ovn.Find[nbrow.LogicalRouter](tx, vnet.PartRouter, kindRouter, m.ID) == nil {
			tx.Record(kindHairpin, m.ID, vnet.ImpactNone, tx.Delete(set))
		}
	}
	return tx.Err()
}
