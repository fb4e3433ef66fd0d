package ovndhcp

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
)

// Kinds of rows.
const (
	kindScope  = "scope"       // DHCP_Options, and the Logical_Switch_Port that answers ARP; the id is the scope's
	kindOwn    = "reservation" // DHCP_Options of one client; the id is "RESERVATION/4" or "RESERVATION/6"
	kindServer = "server"
)

// Keys in external_ids.
const (
	keyScope       = "vnet:scope"            // of a scope's row: the scope as JSON
	keyReservation = "vnet:dhcp:reservation" // of a port's row: the reservation as JSON
)

// writer is one submission.
type writer struct{ tx *ovn.Tx }

// served is a scope and what its row has in options.
type served struct {
	dhcp.Scope
	options map[string]string
}

func (w *writer) serve(scopes []dhcp.Scope) []served {
	out := make([]served, len(scopes))
	for i, s := range scopes {
		o, err := scopeOptions(w.tx.Conn().Owner(), s)
		if err != nil {
			w.tx.Fail(err) // an older version of this package could do more
		}
		out[i] = served{s, o}
	}
	return out
}

func changed(rs []ovn.Result) bool {
	return slices.ContainsFunc(rs, func(r ovn.Result) bool { return r.Verb != "" })
}

// tell records the change of an object: how it differs, or when it does not,
// how its rows do.
func (w *writer) tell(kind, id string, have, want dhcp.State, rs []ovn.Result) {
	if !changed(rs) {
		return
	}
	if p := dhcp.Diff(have, want); len(p.Changes) > 0 {
		w.tx.Change(p.Changes[0])
		return
	}
	w.tx.Record(kind, id, vnet.ImpactNone, append([]ovn.Result{{}}, rs...)...)
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs
	}
	return string(b)
}

func scopeOf(row *nbrow.DHCPOptions) (s dhcp.Scope) {
	// What cannot be read is a scope that differs from every wanted one.
	_ = json.Unmarshal([]byte(row.ExternalIDs[keyScope]), &s)
	return s
}

func reservationOf(row *nbrow.LogicalSwitchPort) *dhcp.Reservation {
	if row == nil || row.ExternalIDs[keyReservation] == "" {
		return nil
	}
	var r dhcp.Reservation
	_ = json.Unmarshal([]byte(row.ExternalIDs[keyReservation]), &r)
	return &r
}

func portID(row *nbrow.LogicalSwitchPort) string {
	m, _ := ovn.MarkOf(row.ExternalIDs)
	return m.ID
}

// ownID is the id of the row of one client.
func ownID(reservation string, v4 bool) string {
	return reservation + map[bool]string{true: "/4", false: "/6"}[v4]
}

func ownOf(id string) string {
	r, _, _ := strings.Cut(id, "/")
	return r
}

// scope is the scope that stands, or nil.
func (w *writer) scope(id string) *dhcp.Scope {
	row := ovn.Find[nbrow.DHCPOptions](w.tx, vnet.PartDHCP, kindScope, id)
	if row == nil {
		return nil
	}
	s := scopeOf(row)
	return &s
}

// scopes are those of a network that stand, or all.
func (w *writer) scopes(network string) (out []dhcp.Scope) {
	return scopesOf(w.tx, w.tx.Conn().Owner(), network)
}

func scopesOf(v ovn.Reader, owner vnet.Owner, network string) (out []dhcp.Scope) {
	for row := range ovn.All[nbrow.DHCPOptions](v) {
		if m, ok := ovn.MarkOf(row.ExternalIDs); !ok || m.Kind != kindScope || m.Part != vnet.PartDHCP || m.Owner != owner {
			continue
		}
		if s := scopeOf(row); network == "" || s.NetworkID == network {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b dhcp.Scope) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// serverMAC is the source of what the server of a network sends, and for v6 its
// DUID: the same in every process and for ever, or clients take it for another.
func serverMAC(owner vnet.Owner, network string) vnet.MAC {
	h := sha256.Sum256([]byte("vnet dhcp server\x00" + string(owner) + "\x00" + network))
	return vnet.MAC{0x02, h[0], h[1], h[2], h[3], h[4]}
}

// putScope makes the rows of a scope be so.
func (w *writer) putScope(s dhcp.Scope) ([]ovn.Result, error) {
	o, err := scopeOptions(w.tx.Conn().Owner(), s)
	if err != nil {
		return nil, err
	}
	r := []ovn.Result{ovn.Ensure(w.tx, kindScope, s.ID, &nbrow.DHCPOptions{Cidr: s.Subnet.String(), Options: o, ExternalIDs: map[string]string{keyScope: text(s)}})}
	return append(r, w.putServer(s)...), nil
}

// putServer makes the port that answers ARP for a server, so that clients can
// renew by unicast. The network may not stand yet. DHCPv6 clients do not need
// it: they unicast only where a server says so, and OVN's does not.
func (w *writer) putServer(s dhcp.Scope) []ovn.Result {
	port := ovn.Find[nbrow.LogicalSwitchPort](w.tx, vnet.PartDHCP, kindServer, s.ID)
	sw := ovn.Find[nbrow.LogicalSwitch](w.tx, vnet.PartOverlay, "network", s.NetworkID)
	if sw == nil || !s.Is4() || s.ServerIP == s.Router {
		if port != nil {
			return []ovn.Result{w.tx.Delete(port)}
		}
		return nil
	}
	r := ovn.Ensure(w.tx, kindServer, s.ID, &nbrow.LogicalSwitchPort{Name: w.tx.Conn().Name("dhcp", s.ID), Type: "localport",
		Addresses: []string{serverMAC(w.tx.Conn().Owner(), s.NetworkID).String() + " " + s.ServerIP.String()}})
	return []ovn.Result{r, w.tx.Hold(sw, "ports", r.UUID)}
}

func (w *writer) dropScope(id string) (r []ovn.Result) {
	if row := ovn.Find[nbrow.DHCPOptions](w.tx, vnet.PartDHCP, kindScope, id); row != nil {
		r = append(r, w.tx.Delete(row))
	}
	if port := ovn.Find[nbrow.LogicalSwitchPort](w.tx, vnet.PartDHCP, kindServer, id); port != nil {
		r = append(r, w.tx.Delete(port))
	}
	return r
}

// port finds the port that a reservation is for.
func (w *writer) port(r dhcp.Reservation) (*nbrow.LogicalSwitchPort, error) {
	sw := ovn.Find[nbrow.LogicalSwitch](w.tx, vnet.PartOverlay, "network", r.NetworkID)
	if sw == nil {
		return nil, fmt.Errorf("network %s of it: %w", r.NetworkID, vnet.ErrNotFound)
	}
	row := ovn.Find[nbrow.LogicalSwitchPort](w.tx, vnet.PartOverlay, "port", r.ID)
	if row != nil {
		if _, ok := addressesOf(row, r.MAC); ok && ovn.Holder[nbrow.LogicalSwitch](w.tx, row) == sw {
			return row, nil
		}
	}
	for _, u := range sw.Ports {
		row := ovn.At[nbrow.LogicalSwitchPort](w.tx, u)
		if row == nil {
			continue
		}
		if m, ok := ovn.MarkOf(row.ExternalIDs); !ok || m.Owner != w.tx.Conn().Owner() || m.Part != vnet.PartOverlay || m.Kind != "port" {
			continue
		}
		if _, ok := addressesOf(row, r.MAC); ok {
			return row, nil
		}
	}
	return nil, fmt.Errorf("port with MAC %s on network %s: %w", r.MAC, r.NetworkID, vnet.ErrNotFound)
}

// addressesOf are those that a port has with a MAC.
func addressesOf(row *nbrow.LogicalSwitchPort, mac vnet.MAC) (ips []netip.Addr, ok bool) {
	for _, a := range row.Addresses {
		f := strings.Fields(a)
		if len(f) == 0 {
			continue
		}
		if m, err := vnet.ParseMAC(f[0]); err != nil || m != mac {
			continue
		}
		ok = true
		for _, s := range f[1:] {
			if ip, err := netip.ParseAddr(s); err == nil {
				ips = append(ips, ip)
			}
		}
	}
	return ips, ok
}

// standing is the port that has a reservation, or nil. Its id is that of the
// reservation nearly always.
func (w *writer) standing(id string) *nbrow.LogicalSwitchPort { return standingOf(w.tx, id) }

func standingOf(v ovn.Reader, id string) *nbrow.LogicalSwitchPort {
	if row := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", id); row != nil {
		if r := reservationOf(row); r != nil && r.ID == id {
			return row
		}
	}
	for row := range ovn.All[nbrow.LogicalSwitchPort](v) {
		r := reservationOf(row)
		if r == nil || r.ID != id {
			continue
		}
		if m, ok := ovn.MarkOf(row.ExternalIDs); ok && ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", m.ID) == row {
			return row
		}
	}
	return nil
}

// clear takes a reservation off a port; its rows stay.
func (w *writer) clear(port *nbrow.LogicalSwitchPort) []ovn.Result {
	return []ovn.Result{ovn.Update(w.tx, port, &nbrow.LogicalSwitchPort{})}
}

// dropRows deletes the rows of one client.
func (w *writer) dropRows(id string, but ...string) (r []ovn.Result) {
	for _, v4 := range []bool{true, false} {
		if row := ovn.Find[nbrow.DHCPOptions](w.tx, vnet.PartDHCP, kindOwn, ownID(id, v4)); row != nil && !slices.Contains(but, row.UUID) {
			r = append(r, w.tx.Delete(row))
		}
	}
	return r
}

// follow makes what reservations of a network have be as its scopes are now.
func (w *writer) follow(network string) (out []ovn.Result, err error) {
	sw := ovn.Find[nbrow.LogicalSwitch](w.tx, vnet.PartOverlay, "network", network)
	if sw == nil {
		return nil, nil
	}
	scopes := w.serve(w.scopes(network))
	for _, u := range sw.Ports {
		row := ovn.At[nbrow.LogicalSwitchPort](w.tx, u)
		r := reservationOf(row)
		if r == nil {
			continue
		}
		res, err := w.putReservation(row, *r, scopes)
		var f *vnet.FieldError
		if errors.As(err, &f) {
			continue // its port has other addresses by now; what reserves them comes
		}
		if err != nil {
			return nil, fmt.Errorf("reservation %s: %w", r.ID, err)
		}
		out = append(out, res...)
	}
	return out, nil
}

// putReservation makes a port be served as a reservation says.
func (w *writer) putReservation(port *nbrow.LogicalSwitchPort, r dhcp.Reservation, scopes []served) ([]ovn.Result, error) {
	fixed, _ := addressesOf(port, r.MAC)
	four, six, err := place(r, fixed, scopes)
	if err != nil {
		return nil, err
	}
	want := &nbrow.LogicalSwitchPort{ExternalIDs: map[string]string{keyReservation: text(r)}}
	var rows []ovn.Result
	var keep []string
	for _, s := range []*served{four, six} {
		if s == nil {
			continue
		}
		uuid := ovn.UUID[nbrow.DHCPOptions](w.tx, vnet.PartDHCP, kindScope, s.ID)
		own, err := clientOptions(*s, r)
		if err != nil {
			return nil, err
		}
		if own != nil {
			x := ovn.Ensure(w.tx, kindOwn, ownID(r.ID, s.Is4()), &nbrow.DHCPOptions{Cidr: s.Subnet.String(), Options: own})
			rows, uuid = append(rows, x), x.UUID
			keep = append(keep, uuid)
		}
		if s.Is4() {
			want.Dhcpv4Options = &uuid
		} else {
			want.Dhcpv6Options = &uuid
		}
	}
	out := append([]ovn.Result{ovn.Update(w.tx, port, want)}, rows...)
	return append(out, w.dropRows(r.ID, keep...)...), nil
}

// place finds the scopes that serve a client: OVN gives a client the first
// address of its port that is in the subnet of the row its port refers to.
func place(r dhcp.Reservation, fixed []netip.Addr, scopes []served) (four, six *served, err error) {
	var errs []error
	for i, ip := range r.IPs {
		at := slices.IndexFunc(scopes, func(s served) bool { return s.Mode != dhcp.Stateless && s.Contains(ip) })
		if at < 0 {
			continue
		}
		s := &scopes[at]
		first := slices.IndexFunc(fixed, s.Subnet.Contains)
		if first < 0 || fixed[first] != ip {
			reason := "is no fixed IP of its port, and OVN gives those"
			if slices.Contains(fixed, ip) {
				reason = fmt.Sprintf("is not the port's first of %s, which is what OVN gives", s.Subnet)
			}
			errs = append(errs, &vnet.FieldError{Field: fmt.Sprintf("ips[%d]", i), Value: ip.String(), Reason: reason})
			continue
		}
		if s.Is4() && four == nil { // the first is what is offered
			four = s
		} else if !s.Is4() {
			if six != nil {
				errs = append(errs, &vnet.UnsupportedError{Feature: "several addresses of one client by DHCPv6", Backend: name})
			}
			six = s
		}
	}
	if six == nil {
		for i, s := range scopes {
			if s.Mode == dhcp.Stateless && slices.ContainsFunc(fixed, s.Subnet.Contains) {
				six = &scopes[i]
				break
			}
		}
	}
	return four, six, errors.Join(errs...)
}
