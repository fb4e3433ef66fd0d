package secgroup

import (
	"context"

	"github.com/vnet-go/vnet"
)

// Backend filters the traffic of ports on one platform. The rules are those
// of overlay.Backend. In addition:
//
//   - With port security a port sends only from its own addresses: MAC, IPv4,
//     IPv6 and the link-local address of its MACs; ARP and ND speak only of
//     those; it is no DHCP or DHCPv6 server and sends no router
//     advertisements. DHCP requests, ARP and ND always pass, as do DHCP answers,
//     ND and RA to the port.
//   - Replies of an allowed connection and ICMP errors related to it pass;
//     invalid packets are dropped.
//   - When a rule, group, member or address goes, connections that only it
//     allowed end at once, and no others.
//   - A group may be deleted only when no port and no rule of another group
//     refers to it ([vnet.ErrInUse]), an address group when no rule does. A rule
//     may refer to a group or address group that does not exist yet: it has no
//     members. A port's groups must exist ([vnet.ErrNotFound]).
//   - A port may be ensured before or after its device is plugged. On a central
//     platform it must be in the overlay, or pending in the same batch, or
//     EnsurePort and Sync are [vnet.ErrNotFound], naming it; when the overlay
//     deletes it, what was asked here goes too, and DeletePort or the next Sync
//     clears the addresses it leaves in its groups.
type Backend interface {
	EnsureGroup(ctx context.Context, g Group) error
	DeleteGroup(ctx context.Context, id string) error
	EnsureAddressGroup(ctx context.Context, g AddressGroup) error
	DeleteAddressGroup(ctx context.Context, id string) error
	EnsurePort(ctx context.Context, p Port) error
	DeletePort(ctx context.Context, id string) error
	Sync(ctx context.Context, s State, o vnet.SyncOptions) error
	Plan(ctx context.Context, s State) (vnet.Plan, error)
	Health(ctx context.Context) vnet.Health
	Features(ctx context.Context) Features
}

// Features is what a backend can do.
type Features struct {
	Stateless bool
	// Tracking says by what means connections are held, for people, e.g.
	// "bridge conntrack" or "inet conntrack through br_netfilter".
	Tracking string
	// Limits are sentences, for people, that say where the platform does
	// otherwise than the contract.
	Limits []string
}

// Explainer is implemented by backends that can say what carries an object.
type Explainer interface {
	// Explain takes "port", "group", "rule" (id "group/rule") or
	// "addressgroup" and its id.
	Explain(ctx context.Context, kind, id string) (vnet.Explanation, error)
}

// PacketExplainer is implemented by backends that can say what the rules of a
// port do with a packet.
type PacketExplainer interface {
	// ExplainPacket says whether p passes as the first packet of a connection,
	// and by which rule, or why not.
	ExplainPacket(ctx context.Context, portID string, p Packet) (vnet.Explanation, error)
}
