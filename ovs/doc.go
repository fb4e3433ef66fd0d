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
// ([Switch.Watch]).
//
// Hosts that Options.Peers names can be watched ([Tx.Probe]): ovs-vswitchd
// itself speaks BFD with theirs, by a tunnel port of its own for each, and says
// within about three seconds that one does not answer ([Switch.Probes]).
package ovs
