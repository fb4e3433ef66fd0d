package dhcpwire

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

// Options of a [Server]. The zero value is usable.
type Options struct {
	// Host is this host's name: reservations that name another are known, and
	// not answered. Empty: all are answered.
	Host string
	// DUID is the DHCPv6 server identifier; nil: made from the network's id,
	// so that it is the same after a restart and on every host.
	DUID []byte
	// LinkLocal is the address that DHCPv6 replies come from.
	LinkLocal netip.Addr
	// Store gives addresses to clients without a reservation; nil: pools are
	// not served.
	Store *leasestore.Store
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Packet is a UDP datagram as it came in on the network.
type Packet struct {
	MAC     vnet.MAC       // source of the frame
	Src     netip.AddrPort // of the datagram
	Dst     netip.AddrPort
	Payload []byte
}

// Result is what came of a [Packet].
type Result struct {
	// Payload is to be sent from Src to Dst in a frame to MAC; nil: nothing.
	Payload  []byte
	Src, Dst netip.AddrPort
	MAC      vnet.MAC
	// Durable: flush the lease store before sending, and send nothing if that fails.
	Durable bool

	Request string   // "discover", "solicit", ...; empty when it could not be read
	Reply   string   // "offer", "advertise", ...; empty when nothing is sent
	Drop    string   // why nothing is sent, one of the Drop constants; empty for messages that have no reply
	Notices []Notice // what happened, for events
}

// Why nothing is sent.
const (
	DropMalformed   = "malformed"    // not a DHCP message
	DropNotRequest  = "not-request"  // a reply, or a type that servers do not take
	DropSpoofed     = "spoofed"      // names another MAC than it came from
	DropRelay       = "relay"        // through a relay that no scope names
	DropUnknown     = "unknown"      // nobody reserved anything for the client
	DropOtherHost   = "other-host"   // the client's own host answers
	DropOtherServer = "other-server" // the client chose another server
	DropNoScope     = "no-scope"     // no scope of the network fits
	DropNoAddress   = "no-address"   // known, but nothing to give; or the pool is full
)

// Notice is something that happened to a lease.
type Notice struct {
	Kind      string // "lease", "release", "decline", "nak"
	Renewed   bool   // lease: the client held it before
	NetworkID string
	Time      time.Time
	Lease     dhcp.Lease
}

// Event returns n as package dhcp documents events.
func (n Notice) Event() vnet.Event {
	id := n.Lease.ReservationID
	if id == "" {
		id = n.Lease.ScopeID
	}
	d := map[string]string{"network": n.NetworkID, "scope": n.Lease.ScopeID, "mac": n.Lease.MAC.String()}
	if n.Lease.IP.IsValid() {
		d["ip"] = n.Lease.IP.String()
	}
	if n.Lease.Hostname != "" {
		d["hostname"] = n.Lease.Hostname
	}
	if n.Kind == "lease" {
		d["state"] = "new"
		if n.Renewed {
			d["state"] = "renewed"
		}
		if !n.Lease.Expires.IsZero() {
			d["expires"] = n.Lease.Expires.UTC().Format(time.RFC3339)
		}
	}
	return vnet.Event{Time: n.Time, Part: vnet.PartDHCP, Kind: n.Kind, ID: id, Detail: d}
}

// Server answers for one network.
type Server struct {
	network string
	o       Options

	mu      sync.RWMutex
	scopes4 []*scope // by id
	scopes6 []*scope
	byMAC   map[vnet.MAC][]*dhcp.Reservation
	byID    map[string]*dhcp.Reservation
	ips     map[netip.Addr]*dhcp.Reservation

	leasesMu sync.Mutex
	leases   map[netip.Addr]dhcp.Lease // of reservations, as last told
}

type scope struct {
	dhcp.Scope
	lease, t1, t2 time.Duration
	base          map[uint16][]byte // options made from the fields, and the scope's own
	codes         []uint16          // of base, sorted
	explicit      map[uint16]bool   // codes of the scope's own
	onLink        bool              // serves clients on the network itself
}

// New returns a Server for the network with the given id. o may be nil.
func New(networkID string, o *Options) *Server {
	s := &Server{
		network: networkID, byMAC: map[vnet.MAC][]*dhcp.Reservation{}, byID: map[string]*dhcp.Reservation{},
		ips: map[netip.Addr]*dhcp.Reservation{}, leases: map[netip.Addr]dhcp.Lease{},
	}
	if o != nil {
		s.o = *o
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	if s.o.DUID == nil {
		s.o.DUID = DUID(networkID)
	}
	return s
}

// DUID returns a server identifier made from name: a DUID-UUID (RFC 6355)
// with a version 8 UUID (RFC 9562) of its hash.
func DUID(name string) []byte {
	h := sha256.Sum256([]byte("vnet dhcp " + name))
	u := append([]byte{0, 4}, h[:16]...)
	u[2+6] = u[2+6]&0x0f | 0x80
	u[2+8] = u[2+8]&0x3f | 0x80
	return u
}

// PutScope adds the scope, which must be valid, or replaces the one of that id.
func (s *Server) PutScope(d dhcp.Scope) {
	d = d.Canonical()
	sc := &scope{Scope: d, explicit: map[uint16]bool{}}
	sc.lease, sc.t1, sc.t2 = d.Times()
	if d.Is4() {
		sc.base = options4(d)
		sc.onLink = d.Subnet.Contains(d.ServerIP)
	} else {
		sc.base = options6(d)
		sc.onLink = true
	}
	for _, o := range d.Options {
		sc.base[o.Code] = o.Data
		sc.explicit[o.Code] = true
	}
	sc.codes = slices.Sorted(maps.Keys(sc.base))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropScope(d.ID)
	list := &s.scopes6
	if d.Is4() {
		list = &s.scopes4
	}
	*list = append(slices.Clone(*list), sc)
	slices.SortFunc(*list, func(a, b *scope) int { return cmp.Compare(a.ID, b.ID) })
}

// DropScope removes the scope.
func (s *Server) DropScope(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropScope(id)
}

func (s *Server) dropScope(id string) {
	gone := func(x *scope) bool { return x.ID == id }
	s.scopes4 = slices.DeleteFunc(slices.Clone(s.scopes4), gone)
	s.scopes6 = slices.DeleteFunc(slices.Clone(s.scopes6), gone)
}

// PutReservation adds the reservation, which must be valid, or replaces the
// one of that id.
func (s *Server) PutReservation(d dhcp.Reservation) {
	d = d.Canonical()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropReservation(d.ID, d.IPs)
	s.byID[d.ID] = &d
	s.byMAC[d.MAC] = append(s.byMAC[d.MAC], &d)
	for _, ip := range d.IPs {
		s.ips[ip] = &d
	}
}

// DropReservation removes the reservation, and what its client was told.
func (s *Server) DropReservation(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropReservation(id, nil)
}

func (s *Server) dropReservation(id string, keep []netip.Addr) {
	r := s.byID[id]
	if r == nil {
		return
	}
	delete(s.byID, id)
	left := slices.DeleteFunc(slices.Clone(s.byMAC[r.MAC]), func(x *dhcp.Reservation) bool { return x == r })
	if len(left) == 0 {
		delete(s.byMAC, r.MAC)
	} else {
		s.byMAC[r.MAC] = left
	}
	s.leasesMu.Lock()
	defer s.leasesMu.Unlock()
	for _, ip := range r.IPs {
		if s.ips[ip] != r {
			continue // another's already
		}
		delete(s.ips, ip)
		if !slices.Contains(keep, ip) {
			delete(s.leases, ip)
		}
	}
}

// Empty reports whether the server has neither scopes nor reservations.
func (s *Server) Empty() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.scopes4)+len(s.scopes6)+len(s.byID) == 0
}

// Leases returns what clients with reservations hold, as last told by this
// process. Pool leases are the store's.
func (s *Server) Leases() []dhcp.Lease {
	s.leasesMu.Lock()
	defer s.leasesMu.Unlock()
	now := s.o.Now()
	out := make([]dhcp.Lease, 0, len(s.leases))
	for _, l := range s.leases {
		if l.Expires.IsZero() || l.Expires.After(now) {
			out = append(out, l)
		}
	}
	return out
}

// Answers reports whether ARP for ip, asked by mac, is the server's to
// answer: ip is a server address, and mac is somebody the server talks to. On
// a physical network every host's server hears everybody, and they share a MAC.
func (s *Server) Answers(ip netip.Addr, mac vnet.MAC) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sc := range s.scopes4 {
		if sc.onLink && sc.ServerIP == ip && sc.ServerIP != sc.Router && s.talks(sc, mac) {
			return true
		}
	}
	return false
}

// Answers6 reports whether a neighbour solicitation by mac for the server's
// link-local address is to be answered.
func (s *Server) Answers6(mac vnet.MAC) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sc := range s.scopes6 {
		if s.talks(sc, mac) {
			return true
		}
	}
	return false
}

// talks reports whether the scope's clients here may be at mac.
func (s *Server) talks(sc *scope, mac vnet.MAC) bool {
	if len(s.byMAC[mac]) > 0 {
		return !s.elsewhere(mac)
	}
	return sc.NAKUnknown || sc.Mode == dhcp.Stateless || len(sc.Relays) > 0 || s.pooled(sc)
}

// TrustsRelay reports whether a scope names the relay agent.
func (s *Server) TrustsRelay(a netip.Addr) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, list := range [][]*scope{s.scopes4, s.scopes6} {
		for _, sc := range list {
			if sc.relayedBy(a) {
				return true
			}
		}
	}
	return false
}

// Relayed reports whether a scope names any relay agent.
func (s *Server) Relayed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, list := range [][]*scope{s.scopes4, s.scopes6} {
		for _, sc := range list {
			if len(sc.Relays) > 0 {
				return true
			}
		}
	}
	return false
}

func (sc *scope) relayedBy(a netip.Addr) bool {
	for _, p := range sc.Relays {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (s *Server) remote(r *dhcp.Reservation) bool {
	return r.Host != "" && s.o.Host != "" && r.Host != s.o.Host
}

func (s *Server) elsewhere(mac vnet.MAC) bool {
	rs := s.byMAC[mac]
	for _, r := range rs {
		if !s.remote(r) {
			return false
		}
	}
	return len(rs) > 0
}

// find returns the client's reservation: one that names its identifier goes
// before one for all identifiers.
func (s *Server) find(mac vnet.MAC, id []byte, want func(*dhcp.Reservation) []byte) *dhcp.Reservation {
	var any *dhcp.Reservation
	for _, r := range s.byMAC[mac] {
		switch w := want(r); {
		case len(w) == 0:
			any = r
		case string(w) == string(id):
			return r
		}
	}
	return any
}

// taken reports addresses that a pool must not give.
func (s *Server) taken(sc *scope) func(netip.Addr) bool {
	return func(a netip.Addr) bool {
		return s.ips[a] != nil || a == sc.ServerIP || a == sc.Router
	}
}

func (s *Server) pool(sc *scope) leasestore.Pool {
	return leasestore.Pool{Scope: sc.ID, Ranges: sc.Pool, Taken: s.taken(sc)}
}

func (s *Server) pooled(sc *scope) bool { return s.o.Store != nil && len(sc.Pool) > 0 }

// told remembers a lease of a reservation; it reports whether it was known before.
func (s *Server) told(l dhcp.Lease) (before bool) {
	s.leasesMu.Lock()
	defer s.leasesMu.Unlock()
	old, ok := s.leases[l.IP]
	s.leases[l.IP] = l
	return ok && old.MAC == l.MAC
}

func (s *Server) forget(ip netip.Addr) {
	s.leasesMu.Lock()
	defer s.leasesMu.Unlock()
	delete(s.leases, ip)
}

func (s *Server) expires(lease time.Duration) time.Time {
	if lease < 0 {
		return time.Time{}
	}
	return s.o.Now().Add(lease)
}

func (s *Server) notice(kind string, l dhcp.Lease) Notice {
	return Notice{Kind: kind, NetworkID: s.network, Time: s.o.Now(), Lease: l}
}

// Explain says what the server knows of the reservation.
func (s *Server) Explain(id string) vnet.Explanation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.byID[id]
	if r == nil {
		return vnet.Explanation{Text: "no reservation " + id}
	}
	x := vnet.Explanation{Text: fmt.Sprintf("reservation %s of %s on network %s", r.ID, r.MAC, r.NetworkID)}
	if s.remote(r) {
		x.Add("answered by host " + r.Host)
		return x
	}
	for _, ip := range r.IPs {
		i := slices.IndexFunc(slices.Concat(s.scopes4, s.scopes6), func(sc *scope) bool { return sc.Contains(ip) })
		if i < 0 {
			x.Add(ip.String() + ": in no scope, not served")
			continue
		}
		sc := slices.Concat(s.scopes4, s.scopes6)[i]
		e := x.Add(fmt.Sprintf("%s: scope %s (%s)", ip, sc.ID, sc.Subnet))
		s.leasesMu.Lock()
		l, ok := s.leases[ip]
		s.leasesMu.Unlock()
		switch {
		case sc.Mode == dhcp.Stateless:
			e.Add("the scope is stateless: the client makes this address itself")
		case !ok:
			e.Add("not asked for since this process began")
		case l.Expires.IsZero():
			e.Add("held for ever")
		default:
			e.Add("held until " + l.Expires.UTC().Format(time.RFC3339))
		}
	}
	return x
}

// fqdn returns the name with the domain, unless it has one.
func fqdn(host, domain string) string {
	if host == "" || domain == "" || strings.Contains(host, ".") {
		return host
	}
	return host + "." + domain
}

// printable returns what a client calls itself, if it is a plain name.
func printable(b []byte) string {
	n := strings.TrimRight(string(b), "\x00")
	if len(n) > 253 || strings.ContainsFunc(n, func(r rune) bool { return r < '!' || r > '~' }) {
		return ""
	}
	return n
}

// packNames encodes domain names as RFC 1035, 3.1, with the compression of
// 4.1.4 when wanted.
func packNames(names []string, compress bool) []byte {
	var b []byte
	at := map[string]int{}
	for _, n := range names {
		rest := strings.TrimSuffix(n, ".")
		for rest != "" {
			if i, ok := at[rest]; ok && compress {
				b = append(b, 0xc0|byte(i>>8), byte(i))
				break
			}
			if len(b) < 1<<14 {
				at[rest] = len(b)
			}
			var label string
			label, rest, _ = strings.Cut(rest, ".")
			b = append(b, byte(len(label)))
			b = append(b, label...)
			if rest == "" {
				b = append(b, 0)
			}
		}
	}
	return b
}
