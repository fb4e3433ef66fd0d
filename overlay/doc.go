// Package overlay is the layer 2 of a virtual network: who hears whose frames.
//
// # The model
//
// A [Network] is one broadcast domain. Its [Segment] says how frames travel
// between hosts: not at all (Local), on a physical network (Flat, VLAN), or in
// tunnels over the hosts' underlay (VXLAN, Geneve). Networks are apart: two may
// have the same addresses, also on one host. A [Port] is a place on a network
// for one device; it has a MAC and fixed IPs, may be down, and may be Filtered:
// then it passes nothing until package secgroup has filled in what may pass.
// Subnets are here because DHCP, routers and the model need them; frames do not.
//
// # Central and host verbs
//
// A [Backend] makes networks and ports; a [Plugger] ties devices of its host to
// ports. A per-host backend is both, and runs on every host with the ports of
// that host and, as [RemotePort], those of the others. From these it knows where
// every MAC is and answers ARP and ND on the host, so that neither broadcast nor
// unknown unicast needs to cross a tunnel; [Flooding] says what may. A central
// backend (Features.Central) writes once for all hosts and needs no RemotePorts.
// The same State may be given to every per-host backend: ports whose Host is
// another's are left out.
//
// # What applications call
//
// A [Fabric] over a backend. It validates (each mistake is a [*vnet.FieldError]
// that names its field, all are joined), brings input into canonical form,
// refuses by name what the backend lacks, and wraps errors in [*vnet.OpError].
// Ensure and Delete change one object, Sync and Plan compare a whole [State]; all
// of them may be repeated, and write nothing the second time.
//
// # MTU
//
// A network whose MTU is 0 gets what the underlay leaves after the encapsulation:
// 1450 for VXLAN over an IPv4 underlay of 1500, 1430 over IPv6 (see [Overhead],
// [Network.EffectiveMTU]). Plug returns it as Device.MTU; tell it to guests by
// DHCP and router advertisements.
package overlay
