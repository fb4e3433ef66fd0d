// Package ovnqos limits ports, gateways and floating IPs by rows of OVN's
// Northbound database: written once, carried out by ovn-controller on every
// host.
//
// # Rows
//
//	QoS "port" P/egress          from-lport 2002: inport is the port of P; its limit, and its DSCP mark
//	QoS "port" P/ingress         to-lport 2002: outport is the port of P
//	QoS "gateway" R/egress, ...  the same, on the external network's switch, at the gateway's port,
//	                             on the chassis that has the gateway
//	QoS "floatingip" F/egress    2003: ip4.src is the floating IP, at the gateway's port
//	QoS "floatingip" F/ingress   2003: ip4.dst
//
// and in the overlay's Logical_Switch_Port external_ids vnet:qos:port, what was
// asked for. What was asked of a gateway or floating IP stands in its rows.
// There is one row for a direction that something is asked of, held by the
// Logical_Switch: of the rows of one switch and direction that match a packet
// the one of the highest priority acts, so a floating IP with limits of its own
// is not counted for the gateway. The limits of a port stand on another switch
// and hold as well.
//
// A call is one transaction; a port and its limits may be one, by [ovn.Batch].
// There is no state in the process. When the overlay deletes a port, its limits
// go in the same transaction. The port of a gateway has a name that changes
// with its MAC (router/ovnrouter), and limits may be there before it: the handle
// writes their matches anew with the name ([ovn.GatewayMatch]).
//
// The burst is always written, as [qos.Limits.Burst] has it: without one OVN's
// would be what passes in one second.
package ovnqos
