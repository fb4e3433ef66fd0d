package dhcp

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
)

// DefaultLease is the lease time of a scope that names none.
const DefaultLease = 24 * time.Hour

// Keys of [Scope.BootFiles] that are not client architectures.
const (
	BootIPXE    uint16 = 0xfffe // clients that are iPXE already
	BootDefault uint16 = 0xffff // clients of no or another architecture
)

type fieldErrors []error

func (f *fieldErrors) add(field, value, reason string, args ...any) {
	*f = append(*f, &vnet.FieldError{Field: field, Value: value, Reason: fmt.Sprintf(reason, args...)})
}

func (f *fieldErrors) id(field, id string) {
	if err := vnet.CheckID(field, id); err != nil {
		*f = append(*f, err)
	}
}

// Is4 reports whether the scope is DHCPv4.
func (s Scope) Is4() bool { return s.Subnet.Addr().Is4() }

// Contains reports whether a is an address that the scope may give: in its
// subnet and, for v4, neither its first nor its last.
func (s Scope) Contains(a netip.Addr) bool {
	if !s.Subnet.Contains(a) {
		return false
	}
	return !s.Is4() || s.Subnet.Bits() >= 31 || a != s.Subnet.Masked().Addr() && a != lastAddr(s.Subnet)
}

// Times returns the lease time, T1 and T2 with defaults filled in. A
// negative lease is infinite, and so are then T1 and T2.
func (s Scope) Times() (lease, t1, t2 time.Duration) {
	lease, t1, t2 = s.Lease, s.T1, s.T2
	switch {
	case lease < 0:
		return -1, -1, -1
	case lease == 0:
		lease = DefaultLease
	}
	if t1 == 0 {
		t1 = lease / 2
		if t2 > 0 && t1 > t2 {
			t1 = t2
		}
	}
	if t2 == 0 {
		t2 = max(lease/8*7, t1)
	}
	return lease, t1, t2
}

// Validate reports what is wrong with s, as [*vnet.FieldError]s joined.
func (s Scope) Validate() error {
	var f fieldErrors
	f.id("id", s.ID)
	f.id("network_id", s.NetworkID)
	if !s.Subnet.IsValid() {
		f.add("subnet", "", "is empty")
		return errors.Join(f...)
	}
	v4 := s.Is4()
	fam := map[bool]string{true: "IPv4", false: "IPv6"}[v4]
	switch {
	case s.Subnet.Addr().Is4In6():
		f.add("subnet", s.Subnet.String(), "is an IPv4-mapped prefix")
	case s.Subnet.Masked() != s.Subnet:
		f.add("subnet", s.Subnet.String(), "has host bits set; the subnet is %s", s.Subnet.Masked())
	case s.Subnet.Addr().IsMulticast() || s.Subnet.Addr().IsLoopback():
		f.add("subnet", s.Subnet.String(), "is not a unicast range")
	}
	switch s.Mode {
	case "", Stateful:
	case Stateless:
		if v4 {
			f.add("mode", string(s.Mode), "is for IPv6 subnets")
		}
	default:
		f.add("mode", string(s.Mode), "is neither %q nor %q", Stateful, Stateless)
	}
	addr := func(field string, a netip.Addr) bool {
		switch {
		case a.Is4() != v4:
			f.add(field, a.String(), "is not an %s address", fam)
		case a.Zone() != "":
			f.add(field, a.String(), "has a zone")
		case a.IsUnspecified() || a.IsMulticast():
			f.add(field, a.String(), "is not a unicast address")
		default:
			return true
		}
		return false
	}
	if v4 {
		if !s.ServerIP.IsValid() {
			f.add("server_ip", "", "is empty")
		} else if addr("server_ip", s.ServerIP) && !s.Contains(s.ServerIP) && len(s.Relays) == 0 {
			f.add("server_ip", s.ServerIP.String(), "is not an address of %s", s.Subnet)
		}
		if s.Router.IsValid() && addr("router", s.Router) && !s.Contains(s.Router) {
			f.add("router", s.Router.String(), "is not an address of %s", s.Subnet)
		}
	}
	for i, a := range s.DNS {
		addr(fmt.Sprintf("dns[%d]", i), a)
	}
	for i, a := range s.NTP {
		addr(fmt.Sprintf("ntp[%d]", i), a)
	}
	if s.Domain != "" {
		checkName(&f, "domain", s.Domain)
	}
	for i, d := range s.SearchDomain {
		checkName(&f, fmt.Sprintf("search_domain[%d]", i), d)
	}
	if s.MTU != 0 && (s.MTU < 68 || s.MTU > 65535) {
		f.add("mtu", fmt.Sprint(s.MTU), "is not 68 to 65535") // RFC 2132, 5.1
	}
	for i, r := range s.Routes {
		at := fmt.Sprintf("routes[%d]", i)
		if !v4 {
			f.add(at, r.Destination.String(), "cannot be told by DHCPv6; routers announce routes")
			continue
		}
		switch d := r.Destination; {
		case !d.IsValid():
			f.add(at+".destination", "", "is empty")
		case !d.Addr().Is4():
			f.add(at+".destination", d.String(), "is not an IPv4 prefix")
		case d.Masked() != d:
			f.add(at+".destination", d.String(), "has host bits set")
		}
		if r.NextHop.IsValid() && (!r.NextHop.Is4() || r.NextHop.IsMulticast()) {
			f.add(at+".nexthop", r.NextHop.String(), "is not an IPv4 unicast address")
		}
	}
	const longest = (math.MaxUint32 - 1) * time.Second
	if s.Lease > 0 && s.Lease < time.Second || s.Lease > longest {
		f.add("lease", s.Lease.String(), "is not 1 s to %s", longest)
	}
	if lease, t1, t2 := s.Times(); s.T1 < 0 || s.T2 < 0 {
		f.add("t1", fmt.Sprintf("%s, t2 %s", s.T1, s.T2), "are negative")
	} else if lease > 0 && (t1 > t2 || t2 > lease) {
		f.add("t1", fmt.Sprintf("%s, t2 %s, lease %s", t1, t2, lease), "must not decrease in this order")
	}
	if len(s.TFTPServer) > 255 {
		f.add("tftp_server", s.TFTPServer, "is longer than 255 bytes")
	}
	for _, k := range slices.Sorted(keys(s.BootFiles)) {
		if v := s.BootFiles[k]; v == "" || len(v) > 255 {
			f.add(fmt.Sprintf("boot_files[%d]", k), v, "is not 1 to 255 bytes")
		}
	}
	checkOptions(&f, "options", s.Options, v4)
	for i, r := range s.Pool {
		at := fmt.Sprintf("pool[%d]", i)
		switch {
		case s.Mode == Stateless:
			f.add(at, "", "is for stateful scopes")
		case !s.Contains(r.First):
			f.add(at+".first", r.First.String(), "is not an address of %s", s.Subnet)
		case !s.Contains(r.Last):
			f.add(at+".last", r.Last.String(), "is not an address of %s", s.Subnet)
		case r.Last.Less(r.First):
			f.add(at, r.First.String()+"-"+r.Last.String(), "ends before it begins")
		default:
			for j, o := range s.Pool[:i] {
				if !r.Last.Less(o.First) && !o.Last.Less(r.First) {
					f.add(at, r.First.String()+"-"+r.Last.String(), "overlaps pool[%d]", j)
				}
			}
		}
	}
	for i, p := range s.Relays {
		if !p.IsValid() || p.Addr().Is4() != v4 {
			f.add(fmt.Sprintf("relays[%d]", i), p.String(), "is not an %s prefix", fam)
		}
	}
	return errors.Join(f...)
}

// Validate reports what is wrong with r by itself, as [*vnet.FieldError]s joined.
func (r Reservation) Validate() error {
	var f fieldErrors
	f.id("id", r.ID)
	f.id("network_id", r.NetworkID)
	if !r.MAC.IsUnicast() {
		f.add("mac", r.MAC.String(), "is not a unicast address")
	}
	if n := len(r.ClientID); n > 255 || n == 1 {
		f.add("client_id", "", "is not 2 to 255 bytes") // RFC 2132, 9.14
	}
	if n := len(r.DUID); n > 130 || n > 0 && n < 3 {
		f.add("duid", "", "is not 3 to 130 bytes") // RFC 8415, 11.1
	}
	for i, a := range r.IPs {
		at := fmt.Sprintf("ips[%d]", i)
		switch {
		case !a.IsValid():
			f.add(at, "", "is empty")
		case a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
			f.add(at, a.String(), "is not a unicast address")
		case slices.Contains(r.IPs[:i], a):
			f.add(at, a.String(), "is there twice")
		}
	}
	if r.Hostname != "" {
		checkName(&f, "hostname", r.Hostname)
	}
	checkOptions(&f, "options", r.Options, true)
	checkOptions(&f, "options6", r.Options6, false)
	return errors.Join(f...)
}

// Validate reports what is wrong with any object of the state, and objects
// that cannot stand beside each other: the same id twice, overlapping scopes
// of a network, an address or a client that two reservations name, two
// addresses of one reservation in one scope.
func (s State) Validate() error {
	var errs []error
	fail := func(field, value, reason string, args ...any) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: value, Reason: fmt.Sprintf(reason, args...)})
	}
	ids := map[string]int{}
	byNet := map[string][]int{}
	for i, sc := range s.Scopes {
		at := fmt.Sprintf("scopes[%d]", i)
		if err := sc.Validate(); err != nil {
			errs = append(errs, vnet.In(at, err))
			continue
		}
		if j, dup := ids[sc.ID]; dup {
			fail(at+".id", sc.ID, "is also the id of scopes[%d]", j)
		}
		ids[sc.ID] = i
		for _, j := range byNet[sc.NetworkID] {
			if s.Scopes[j].Subnet.Overlaps(sc.Subnet) {
				fail(at+".subnet", sc.Subnet.String(), "overlaps %s of scope %q on the same network", s.Scopes[j].Subnet, s.Scopes[j].ID)
			}
		}
		byNet[sc.NetworkID] = append(byNet[sc.NetworkID], i)
	}
	type netIP struct {
		net string
		ip  netip.Addr
	}
	type client struct {
		net      string
		mac      vnet.MAC
		cid, uid string
	}
	rids, ips, clients := map[string]int{}, map[netIP]int{}, map[client]int{}
	for i, r := range s.Reservations {
		at := fmt.Sprintf("reservations[%d]", i)
		if err := r.Validate(); err != nil {
			errs = append(errs, vnet.In(at, err))
			continue
		}
		if j, dup := rids[r.ID]; dup {
			fail(at+".id", r.ID, "is also the id of reservations[%d]", j)
		}
		rids[r.ID] = i
		c := client{r.NetworkID, r.MAC, string(r.ClientID), string(r.DUID)}
		if j, dup := clients[c]; dup {
			fail(at+".mac", r.MAC.String(), "is also the client of reservation %q on the same network", s.Reservations[j].ID)
		}
		clients[c] = i
		used := map[int]netip.Addr{}
		for k, ip := range r.IPs {
			f := fmt.Sprintf("%s.ips[%d]", at, k)
			if j, dup := ips[netIP{r.NetworkID, ip}]; dup {
				fail(f, ip.String(), "is also an address of reservation %q on the same network", s.Reservations[j].ID)
			}
			ips[netIP{r.NetworkID, ip}] = i
			for _, j := range byNet[r.NetworkID] {
				sc := s.Scopes[j]
				if !sc.Subnet.Contains(ip) {
					continue
				}
				if other, dup := used[j]; dup {
					fail(f, ip.String(), "is in scope %q as %s is already", sc.ID, other)
				}
				used[j] = ip
				if !sc.Contains(ip) {
					fail(f, ip.String(), "is the first or last address of %s", sc.Subnet)
				}
				if sc.Is4() && ip == sc.ServerIP {
					fail(f, ip.String(), "is the server_ip of scope %q", sc.ID)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// Canonical returns s with defaults filled in and lists in a fixed order:
// two scopes that mean the same are [Scope.Equal].
func (s Scope) Canonical() Scope {
	s = s.Clone()
	s.Subnet = s.Subnet.Masked()
	if s.Mode == "" {
		s.Mode = Stateful
	}
	s.Lease, s.T1, s.T2 = s.Times()
	for _, d := range []*time.Duration{&s.Lease, &s.T1, &s.T2} {
		if *d > 0 {
			*d = max(d.Truncate(time.Second), time.Second)
		}
	}
	if !s.Is4() {
		s.ServerIP, s.Router, s.MTU = netip.Addr{}, netip.Addr{}, 0
	}
	s.Domain = lower(s.Domain)
	for i := range s.SearchDomain {
		s.SearchDomain[i] = lower(s.SearchDomain[i])
	}
	for i := range s.Routes {
		if !s.Routes[i].NextHop.IsValid() {
			s.Routes[i].NextHop = netip.IPv4Unspecified()
		}
	}
	sortOptions(s.Options)
	slices.SortFunc(s.Pool, func(a, b AddrRange) int { return a.First.Compare(b.First) })
	for i := range s.Relays {
		s.Relays[i] = s.Relays[i].Masked()
	}
	slices.SortFunc(s.Relays, comparePrefix)
	s.Relays = slices.Compact(s.Relays)
	return s
}

// Canonical returns r with options in the order of their codes. The order of
// addresses has a meaning (the first of a family is offered first) and stays.
func (r Reservation) Canonical() Reservation {
	r = r.Clone()
	r.Hostname = lower(r.Hostname)
	sortOptions(r.Options)
	sortOptions(r.Options6)
	return r
}

// Canonical returns s with canonical objects in the order of their ids.
func (s State) Canonical() State {
	out := State{Scopes: make([]Scope, len(s.Scopes)), Reservations: make([]Reservation, len(s.Reservations))}
	for i, x := range s.Scopes {
		out.Scopes[i] = x.Canonical()
	}
	for i, x := range s.Reservations {
		out.Reservations[i] = x.Canonical()
	}
	slices.SortFunc(out.Scopes, func(a, b Scope) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(out.Reservations, func(a, b Reservation) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Equal reports whether s and o mean the same.
func (s Scope) Equal(o Scope) bool { return reflect.DeepEqual(s.Canonical(), o.Canonical()) }

// Equal reports whether r and o mean the same.
func (r Reservation) Equal(o Reservation) bool {
	return reflect.DeepEqual(r.Canonical(), o.Canonical())
}

// Equal reports whether s and o mean the same, whatever the order of objects.
func (s State) Equal(o State) bool { return reflect.DeepEqual(s.Canonical(), o.Canonical()) }

// Clone returns a copy that shares nothing with s. Empty lists become nil.
func (s Scope) Clone() Scope {
	s.DNS = clone(s.DNS)
	s.SearchDomain = clone(s.SearchDomain)
	s.NTP = clone(s.NTP)
	s.Routes = clone(s.Routes)
	s.Options = cloneOptions(s.Options)
	s.Pool = clone(s.Pool)
	s.Relays = clone(s.Relays)
	if len(s.BootFiles) == 0 {
		s.BootFiles = nil
	} else {
		m := make(map[uint16]string, len(s.BootFiles))
		for k, v := range s.BootFiles {
			m[k] = v
		}
		s.BootFiles = m
	}
	return s
}

// Clone returns a copy that shares nothing with r. Empty lists become nil.
func (r Reservation) Clone() Reservation {
	r.ClientID = clone(r.ClientID)
	r.DUID = clone(r.DUID)
	r.IPs = clone(r.IPs)
	r.Options = cloneOptions(r.Options)
	r.Options6 = cloneOptions(r.Options6)
	return r
}

// Clone returns a copy that shares nothing with s.
func (s State) Clone() State {
	out := State{}
	for _, x := range s.Scopes {
		out.Scopes = append(out.Scopes, x.Clone())
	}
	for _, x := range s.Reservations {
		out.Reservations = append(out.Reservations, x.Clone())
	}
	return out
}

func clone[E any](in []E) []E {
	if len(in) == 0 {
		return nil
	}
	return slices.Clone(in)
}

func cloneOptions(in []Option) []Option {
	out := clone(in)
	for i := range out {
		out[i].Data = bytes.Clone(out[i].Data)
		if out[i].Data == nil {
			out[i].Data = []byte{}
		}
	}
	return out
}

func sortOptions(o []Option) {
	slices.SortStableFunc(o, func(a, b Option) int { return cmp.Compare(a.Code, b.Code) })
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

func keys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func lower(s string) string { return strings.TrimSuffix(strings.ToLower(s), ".") }

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// checkName wants a host or domain name as RFC 1123, 2.1, has them; an
// underscore is let pass, as it is in use.
func checkName(f *fieldErrors, field, name string) {
	n := strings.TrimSuffix(name, ".")
	if n == "" || len(n) > 253 {
		f.add(field, name, "is not 1 to 253 characters")
		return
	}
	for _, l := range strings.Split(n, ".") {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			f.add(field, name, "has a label that is empty, longer than 63 characters, or begins or ends with a hyphen")
			return
		}
		for _, c := range l {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				f.add(field, name, "has the character %q", c)
				return
			}
		}
	}
}

// protocol4 are the v4 options that carry the protocol itself: pad, requested
// address, lease time, overload, message type, server identifier, parameter
// list, maximum size, T1, T2, client identifier, rapid commit, relay
// information, end.
var protocol4 = []uint16{0, 50, 51, 52, 53, 54, 55, 57, 58, 59, 61, 80, 82, 255}

// protocol6 are the v6 ones: identifiers, identity associations, addresses,
// requests, times, relaying, authentication, status, rapid commit,
// reconfiguration, prefix delegation.
var protocol6 = []uint16{0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 18, 19, 20, 25, 26}

func checkOptions(f *fieldErrors, field string, opts []Option, v4 bool) {
	seen := map[uint16]bool{}
	for i, o := range opts {
		at, val := fmt.Sprintf("%s[%d].code", field, i), fmt.Sprint(o.Code)
		switch {
		case v4 && slices.Contains(protocol4, o.Code), !v4 && slices.Contains(protocol6, o.Code):
			f.add(at, val, "is the protocol's own")
		case v4 && o.Code > 254:
			f.add(at, val, "is not 1 to 254")
		case seen[o.Code]:
			f.add(at, val, "is there twice")
		}
		seen[o.Code] = true
		if limit := map[bool]int{true: 255, false: 1024}[v4]; len(o.Data) > limit {
			f.add(fmt.Sprintf("%s[%d].data", field, i), "", "is longer than %d bytes", limit)
		}
	}
}
