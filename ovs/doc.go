// Package ovs is the handle of the Open vSwitch platform: one integration
// bridge of one host, for one owner, over which the ovs backends run. It
// speaks OVSDB to ovsdb-server and OpenFlow to the bridge's management socket,
// and runs no program.
//
// What an object of the application needs in the switch is a set of flows
// under one cookie, computed from owner, part, kind and id, and a record of
// what was asked for, which is a note in a flow that no packet reaches. So the
// switch itself says what stands: nothing is kept in the process, a second
// call writes nothing, and a change costs what it changes. What differs is one
// bundle: packets see the pipeline before it or after.
//
// Ports, networks and routers have numbers, kept in the bridge's external_ids:
// a port's is its OpenFlow port number and what registers say, a network's its
// conntrack zone. They survive restarts of the switch, and flows of a port may
// stand before its device is plugged.
//
// The bridge fails closed (fail_mode=secure): when ovs-vswitchd has been
// restarted, flows and records are gone and nothing passes until the
// application has called Sync again; an event "switch-restarted" says so
// ([Switch.Watch]). So it is when the bridge has been removed by hand; Submit
// makes it anew.
//
// Hosts that Options.Peers names can be watched ([Tx.Probe]): ovs-vswitchd
// itself speaks BFD with theirs, by a tunnel port of its own for each, and says
// within about three seconds that one does not answer ([Switch.Probes]).
//
// # Several processes
//
// Processes of one owner may work on one switch at a time. Each reads what
// stands before it writes; numbers are claimed and freed in transactions that
// fail, and are computed anew, when another process was faster. A process may
// be killed at any moment: a change of flows is there whole or not at all (one
// of more than 25,000 flows in parts, what is new before what goes), and Sync
// makes right what it left, numbers and devices included.
//
// # Tables
//
//	0      classify          overlay   port, tunnel or wire to network (reg1), port (reg2), flags
//	1      gate              overlay   networks that are down; qos: limits of what ports send, of gateways and floating IPs
//	10-14  egress            secgroup  port security, rules of what a port sends
//	15     commit            secgroup  subroutine: whoever takes a packet out of its network lets the connection be remembered
//	16     egress            secgroup  as 10 to 14
//	20     dhcp              dhcp      DHCP of this host's ports to the server
//	21     metadata          metadata  requests for metadata to this host's proxy
//	22-24  metadata-answers  metadata  the proxy's answers
//	30     responder         overlay   ARP and ND for known addresses
//	31     router-local      router    ARP and ND for routers' addresses
//	32     answer            overlay   an advertisement made of a solicitation
//	40     router-admission  router    frames to routers' MACs
//	41-58  router            router    routes and translates
//	59     neighbours        overlay   subroutine: MAC of a known next hop
//	60     l2                overlay   to a port, a tunnel, the wire, or flooding
//	61-63  flood             overlay   to all of a network
//	70     ingress           secgroup  what is sent to a port
//	71-74  ingress           secgroup  rules of what a port is sent
//	80     deliver           overlay   out of the port in reg3; qos: limits of what ports are sent
//	253    registry          host      never reached: what stands, in notes
//
// Registers, flags, zones, numbers and cookies are in docs/pipeline.md, which is
// made from the code.
//
// # Worth knowing
//
//   - Peers are watched over VXLAN, at Options.VXLANPort, whatever networks are
//     carried by: firewalls between hosts must let that pass.
//   - On the kernel's datapath, an ovs-vswitchd before 3.2 that is started in the
//     first ten seconds of the machine counts no processors, makes no handlers, and
//     never forwards the first packet of anything ("Overriding n-handler-threads
//     to 0" in its log). Start it later, or once more.
package ovs
