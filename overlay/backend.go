package overlay

import (
	"context"
	"iter"

	"github.com/vnet-go/vnet"
)

// MAC is [vnet.MAC].
type MAC = vnet.MAC

// Backend makes networks and ports on one platform. It gets validated,
// canonical objects from [Fabric]; errors it returns are wrapped there.
//
//   - Ensure makes one object as described, whether it was absent, different
//     or already so. The same call again writes nothing and loses no packet.
//   - Delete of what does not exist is no error. Delete of a network that has
//     ports is [vnet.ErrInUse].
//   - Sync makes the whole state so: it creates, changes, and removes what is
//     ours and not wanted, in that order as far as dependencies allow. Traffic
//     that was allowed before and is after flows on through it. It returns a
//     [*vnet.BudgetError], having written nothing, when it would delete too much.
//   - Plan says what Sync would do, and writes nothing.
//   - All methods may be called from several goroutines.
type Backend interface {
	EnsureNetwork(ctx context.Context, n Network) error
	DeleteNetwork(ctx context.Context, id string) error
	EnsurePort(ctx context.Context, p Port) error
	DeletePort(ctx context.Context, id string) error
	Sync(ctx context.Context, s State, o vnet.SyncOptions) error
	Plan(ctx context.Context, s State) (vnet.Plan, error)
	Health(ctx context.Context) vnet.Health
	// Features tells what this backend can do on this platform, found out by
	// looking. What it cannot do it refuses with [*vnet.UnsupportedError].
	Features(ctx context.Context) Features
}

// Features is what a backend can do.
type Features struct {
	Segments map[SegmentType]bool // false or absent: refused
	// Missing says for a refused type what would provide it, for people.
	Missing map[SegmentType]string
	Central bool // one backend writes for all hosts; RemotePorts are not needed
	// Flooding is what networks may ask for, each field by itself; a network
	// that asks for the rest is refused. Floods is what crosses tunnels whether
	// a network asks for it or not.
	Flooding, Floods Flooding
	// DropsUnknown: frames to MACs that no port of the network has go to none of
	// its ports, not even on the sender's host; on a physical network they go out.
	DropsUnknown bool
	// AsksHolder: neighbour solicitations for addresses of other hosts' ports are
	// not answered on the host but go, in one copy, to the port that has the address.
	AsksHolder bool
}

// RemoteBackend is implemented by backends that run per host and must be
// told of the ports on other hosts.
type RemoteBackend interface {
	EnsureRemotePort(ctx context.Context, p RemotePort) error
	DeleteRemotePort(ctx context.Context, id string) error
}

// Plugger connects devices of this host to ports. Central platforms have
// one per host beside their one Backend.
type Plugger interface {
	// Plug connects the device to the port, which must have been ensured.
	// Plugging the same again does nothing; another device at the same port is
	// [vnet.ErrConflict].
	Plug(ctx context.Context, a Attachment) (Device, error)
	// Unplug disconnects the port's device and removes it if Plug made it.
	Unplug(ctx context.Context, portID string) error
}

// Pruner is implemented by pluggers of central platforms, where the backend
// that removes a port is not on the host that has its device.
type Pruner interface {
	// Prune takes away the devices of this host that it has plugged for other
	// ports than these, or for ports that are of another host now.
	Prune(ctx context.Context, ports []Port) error
}

// DeviceKind is what kind of device is at a port.
type DeviceKind string

// The device kinds.
const (
	Existing DeviceKind = "existing" // a tap or veth that the caller made, by name
	Veth     DeviceKind = "veth"     // Plug makes a pair; the far end goes to Attachment.Netns
	Tap      DeviceKind = "tap"      // Plug makes a persistent tap for a VMM
	// VhostUserClient: the switch is the client, the VMM the server, which makes
	// Attachment.Socket; either may be restarted.
	VhostUserClient DeviceKind = "vhostuser-client"
	// VhostUserServer: the switch is the server and makes the socket
	// (Device.Socket), the VMM the client, which must be restarted with the switch.
	VhostUserServer DeviceKind = "vhostuser-server"
)

// Attachment says which device is to be at a port of this host.
type Attachment struct {
	PortID string     `json:"port_id"`
	Kind   DeviceKind `json:"kind"`
	// Name is the name of the existing device, or the name the far end of the
	// veth pair gets in Netns (default "eth0"); empty for Tap.
	Name string `json:"name,omitempty"`
	// Netns is the path of the network namespace that gets the far end of a
	// Veth, e.g. /run/netns/vm1. The far end gets the port's MAC and MTU and is
	// left down and without addresses.
	Netns string `json:"netns,omitempty"`
	// Socket is the absolute path of the socket that a VhostUserClient connects
	// to, at most 107 characters.
	Socket string `json:"socket,omitempty"`
}

// Device is what Plug connected.
type Device struct {
	Name   string // on the host; of vhost-user, in the switch
	MTU    int    // bytes; what the guest should use
	Socket string // of vhost-user: where the VMM listens or connects; else ""
}

// Explainer is implemented by backends that can say what carries an object.
type Explainer interface {
	// Explain goes from a network or port ("network" or "port") to the
	// platform's objects that carry it.
	Explain(ctx context.Context, kind, id string) (vnet.Explanation, error)
}

// Watcher is implemented by backends that notice things by themselves.
type Watcher interface {
	// Watch yields events ("port-up", "port-down") until ctx ends. A slow
	// reader gets one [vnet.EventLost] in place of what was dropped.
	Watch(ctx context.Context) iter.Seq[vnet.Event]
}
