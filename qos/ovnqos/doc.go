// Package ovnqos limits ports, gateways and floating IPs by rows of OVN's
// Northbound database: written once, carried out by ovn-controller on every
// host. It also keeps guarantees on uplinks, with a part that runs on the hosts.
//
// # Limits
//
//	QoS "port" P/egress          from-lport 2002: inport is the port of P; its limit, and its DSCP mark
//	QoS "port" P/ingress         to-lport 2002: outport is the port of P
//	QoS "gateway" R/egress, ...  the same, on the external network's switch, at the gateway's port,
//	                             on the chassis that has the gateway
//	QoS "floatingip" F/egress    2003: ip4.src is the floating IP, at the gateway's port, on the
//	                             chassis that has the gateway or the fixed port
//	QoS "floatingip" F/ingress   2003: ip4.dst
//
// and in the overlay's Logical_Switch_Port external_ids vnet:qos:port, what was
// asked for. What was asked of a gateway or floating IP stands in its rows.
// There is one row for a direction that something is asked of, held by the
// Logical_Switch: of the rows of one switch and direction that match a packet
// the one of the highest priority acts, so a floating IP with limits of its own
// is not counted for the gateway. The limits of a port stand on another switch
// and hold as well. ovn-controller gives each row a meter of its own on each
// chassis where it may match (its actions.c, encode_SET_METER).
//
// A call is one transaction; a port and its limits may be one, by [ovn.Batch].
// There is no state in the process. When the overlay deletes a port, its limits
// go in the same transaction. The port of a gateway has a name that changes
// with its MAC (router/ovnrouter), and limits may be there before it: the handle
// writes their matches anew with the name ([ovn.GatewayMatch]).
//
// The burst is always written, as [qos.Limits.Burst] has it: without one OVN's
// would be what passes in one second. What is over a limit is dropped, so a small
// burst costs TCP: of 10 Mbit/s one connection had all with the default, half
// with 200 kbit (the kernel's data path, with TSO and without).
//
// ARP is not counted: a limit that is used up must not cost a machine its
// neighbours. Besides, answers that flows make of a packet take a slow path, and
// in that of Open vSwitch 3.1's user space datapath a meter before a tunnel that
// is one of several outputs lets ovs-vswitchd never return
// (dpif_execute_helper_cb in its lib/dpif.c). Answers to neighbour discovery are
// ovn-controller's.
//
// Packet rates are refused: QoS rows know kbit/s only, and the Meter rows that
// count packets are for logs of ACLs and for what is sent to ovn-controller.
//
// # Statistics
//
// OVN counts on the hosts only. [Meters] reads there what the meters of the
// integration bridge have seen; the application brings the results to the
// Backend (Options.Meters), which knows the rows that they belong to by the
// logical flows in the Southbound. Counts begin anew when a limit changes, and
// when ovs-vswitchd starts.
//
// # Guarantees
//
//	Meter, Meter_Band "uplink" HOST/NAME     what an uplink carries; used by no flow, northd brings it to the Southbound
//	Logical_Switch_Port options:qos_min_rate of a port with a guarantee: northd gives it a queue on its chassis
//
// By itself OVN 23.03 puts such queues below no limit, and what has no queue
// passes by them all: of a device whose queues were held to 10 Mbit/s by hand a
// port that nothing was promised to sent 20. So every host with an uplink runs a
// [Shares], which reads the Southbound and gives the device an HTB: all of it
// within what the uplink carries, a class for each port with a guarantee, one
// for everything else; who has something left lends it. Classes are found by
// the packet's priority (set_queue), which tunnels keep: physical networks and
// tunnels are the same. This needs the kernel's data path; that of user space
// sends to devices without a priority, and is refused by name.
//
//   - An uplink may be promised no more than it carries, also by two processes
//     at the same moment: [vnet.ErrConflict].
//   - ovn-controller takes the queues of the tunnels' device away when it starts,
//     and sets others beside ours: Shares looks every few seconds and mends
//     that. Do not mark devices with external_ids:ovn-egress-iface, which would
//     let it do the same to them.
//   - The numbers of queues are OVN 23.03's. Later ones give a queue only to
//     ports of networks with a localnet port, so that tunnels have none: Shares
//     then says [vnet.ErrNotReady].
//   - A device is shared out by one owner. What has a queueing discipline of
//     somebody else's is left alone: [vnet.ErrConflict].
//   - A port keeps the number of its queue when it moves to another chassis, and
//     may meet a port with the same there: they share the sum of their guarantees.
package ovnqos
