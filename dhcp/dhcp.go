package dhcp

import (
	"net/netip"
	"time"

	"github.com/vnet-go/vnet"
)

// Mode is how a scope serves its subnet.
type Mode string

// The modes. DHCPv4 scopes are Stateful.
const (
	Stateful  Mode = "stateful"  // gives addresses
	Stateless Mode = "stateless" // IPv6 only: other configuration, no addresses (RFC 8415, section 6.1)
)

// Scope is DHCP for one subnet of a network.
type Scope struct {
	ID        string       `json:"id"` // usually the subnet's id
	NetworkID string       `json:"network_id"`
	Subnet    netip.Prefix `json:"subnet"` // v4 or v6; decides the protocol
	Mode      Mode         `json:"mode"`   // empty: Stateful
	// ServerIP is the DHCPv4 server identifier (RFC 2132, 9.7), an address of
	// the subnet that no port has, or the router's. The server answers ARP
	// for it unless it is the Router; then renewals by unicast go to the
	// router and are lost, and clients renew by broadcast when T2 is over, so
	// an address of its own is better where a per-host backend serves. It may
	// be outside of the subnet only when Relays are given. Unused for v6.
	ServerIP     netip.Addr   `json:"server_ip"`
	Router       netip.Addr   `json:"router"` // option 3; zero: none; unused for v6, where routers announce themselves
	DNS          []netip.Addr `json:"dns,omitempty"`
	Domain       string       `json:"domain,omitempty"`        // option 15
	SearchDomain []string     `json:"search_domain,omitempty"` // option 119 (RFC 3397), v6 option 24
	MTU          int          `json:"mtu,omitempty"`           // option 26; zero: not sent
	NTP          []netip.Addr `json:"ntp,omitempty"`           // option 42, v6 option 56
	// Routes are sent as options 121 (RFC 3442) and 249. The default route by
	// Router is added to them, because clients that see 121 ignore option 3.
	Routes []Route `json:"routes,omitempty"`
	// Lease is the lease (preferred and valid) time; zero: 24 h; negative:
	// infinite. Times are whole seconds.
	Lease      time.Duration `json:"lease,omitempty"`
	T1         time.Duration `json:"t1,omitempty"` // renew; zero: half of Lease
	T2         time.Duration `json:"t2,omitempty"` // rebind; zero: 7/8 of Lease
	TFTPServer string        `json:"tftp_server,omitempty"`
	// BootFiles by client architecture (option 93, RFC 4578); key 0xffff is
	// for clients that name none or another, key 0xfffe for iPXE (option 175).
	BootFiles map[uint16]string `json:"boot_files,omitempty"`
	// Options are sent as they are, asked for or not, over those made from
	// the fields above. Those that carry the protocol itself (message type,
	// server identifier, lease times, relay information) are refused.
	Options     []Option `json:"options,omitempty"`
	RapidCommit bool     `json:"rapid_commit,omitempty"` // RFC 4039, RFC 8415 section 21.14
	// NAKUnknown makes the server the only one for the subnet: it refuses
	// requests for addresses that are not the client's. Without, requests
	// of clients it does not know go unanswered, as RFC 2131 4.3.2 asks of
	// a server that is not authoritative.
	NAKUnknown bool `json:"nak_unknown,omitempty"`
	// Pool, when not empty, gives addresses to clients without a reservation
	// from these ranges, by the backend's lease store.
	// Addresses that reservations of the network hold are left out.
	Pool []AddrRange `json:"pool,omitempty"`
	// Relays are the relay agents (giaddr for v4, the relay's source address
	// for v6) through which clients of the subnet may ask; they reach the
	// server on the scope's network. A relay vouches for who its clients
	// are, so none is trusted unless named here.
	Relays []netip.Prefix `json:"relays,omitempty"`
}

// AddrRange is first to last, both included.
type AddrRange struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

// Route is one classless static route. An unspecified NextHop means on-link.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	NextHop     netip.Addr   `json:"nexthop"`
}

// Option is a DHCP option by code with its bytes on the wire.
type Option struct {
	Code uint16 `json:"code"` // 1 to 254 for v4
	Data []byte `json:"data"`
}

// Reservation binds a client to addresses: the application owns leases. A
// platform may want the overlay's port of the client first (Features.Central).
type Reservation struct {
	ID        string       `json:"id"` // usually the port's id
	NetworkID string       `json:"network_id"`
	MAC       vnet.MAC     `json:"mac"`
	ClientID  []byte       `json:"client_id,omitempty"` // option 61; when set it must match too
	DUID      []byte       `json:"duid,omitempty"`      // v6; when set it must match too
	IPs       []netip.Addr `json:"ips,omitempty"`       // at most one per scope; one in no scope of the network is not served
	Hostname  string       `json:"hostname,omitempty"`  // option 12; with Scope.Domain the FQDN (81, v6 39)
	Options   []Option     `json:"options,omitempty"`   // over the scope's; IPv4
	Options6  []Option     `json:"options6,omitempty"`  // over the scope's; IPv6
	// Host is where the client is; per-host backends answer only clients of
	// their own. Empty: here.
	Host string `json:"host,omitempty"`
}

// State is the whole desired state of DHCP as one backend sees it.
type State struct {
	Scopes       []Scope       `json:"scopes"`
	Reservations []Reservation `json:"reservations"`
}

// Lease is what a client holds, as the server last told it.
type Lease struct {
	ScopeID       string     `json:"scope_id"`
	ReservationID string     `json:"reservation_id,omitempty"` // empty: from the pool
	MAC           vnet.MAC   `json:"mac"`
	ClientID      []byte     `json:"client_id,omitempty"` // option 61 or DUID
	IAID          uint32     `json:"iaid,omitempty"`
	IP            netip.Addr `json:"ip"`
	Hostname      string     `json:"hostname,omitempty"` // what the client called itself
	Expires       time.Time  `json:"expires"`            // zero: never
}
