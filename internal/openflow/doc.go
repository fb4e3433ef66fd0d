// Package openflow speaks OpenFlow with Open vSwitch 3.1 and later: the codec of
// flows, and a connection to one bridge. It knows nothing of networks.
//
// A [Flow] is a table, a priority, a [Match] of conditions on fields
// ([Field.Is], [Field.Masked], [Field.Prefix] ... ) and a list of [Action]s.
// Flows have a canonical form: two that a switch takes for one have the same
// [Flow.Key], two that are the same are [Flow.Equal], in whatever order and from
// whatever parts they were put together, and what a switch reports of a flow
// equals what it was sent. Their String is what
// "ovs-ofctl -O OpenFlow15 --no-stats --no-names dump-flows" prints.
// [Flow.Validate] finds fields without their prerequisites, values outside of
// masks, and actions on fields that the packet need not have, before anything
// is sent.
//
// A [Conn] is one connection, by [Dial] to the bridge's .mgmt socket. One
// goroutine reads; any number of calls are under way at a time, told apart by
// xid; each ends with its context, with the switch's refusal as an [*Error] that
// has the names of the specification, or with the connection. A switch that is
// silent is given up ([Options.Keepalive]); what it says is never trusted with a
// length or a depth. There is no reconnecting in here: [Conn.Done] says when it
// is over.
//
// [Conn.Bundle] makes any number of changes at once or not at all. Open vSwitch
// commits a bundle without the messages that it refused on the way, so the
// commit is sent when a barrier has shown that there were none; a bundle costs
// three round trips, whatever its size. When it returns, the tables are changed; a
// data path may go on as before with flows that it has cached, for the
// milliseconds until revalidators have been through them.
//
// # Version
//
// OpenFlow 1.5 alone (wire version 6), which every Open vSwitch since 2.12 has
// switched on by default. 1.4 would be needed for nothing: flow monitors and
// bundles are the same in both, while set_field has masks only in 1.5 (1.4 takes
// Nicira's reg_load2 for that), packet-outs can carry registers only in 1.5, and
// group buckets have names that last. A bridge whose column protocols leaves 1.5
// out is refused with a [*VersionError].
//
// What Open vSwitch 3.1 does in its own way, as seen and tested here:
//
//   - Flow descriptions come with statistics in one multipart message (type 1),
//     not as OFPMP_FLOW_DESC.
//   - Registers come as OXM_OF_PKT_REG, 64 bits wide; they are taken apart into
//     Reg0 to Reg15.
//   - A match that names packet_type is another flow than one that does not;
//     like ovs-ofctl we do not.
//   - Tables 254 and 255 are not for controllers.
//   - ct, dec_ttl and all set_field, move, push and pop of network and transport
//     fields are refused unless the flow's match says that the packet has them
//     (OFPBAC_MATCH_INCONSISTENT).
//   - A flow monitor reports the connection's own changes in full with the flag
//     OFPFMF_ONLY_OWN, and refuses OFPFMF_NO_ABBREV; its errors have a spoilt xid.
//   - A packet-in by a flow of priority 0 that matches everything has the reason
//     no_match.
//
// # Sources
//
// OpenFlow Switch Specification 1.5.1: 7.1 (header), 7.2.3 (match, OXM), 7.2.4.4
// (OXS), 7.2.5 and 7.2.6 (instructions, actions), 7.3.4 (flow, group, meter
// modification), 7.3.5 (multipart), 7.3.6 (packet-out), 7.3.9 (bundles), 7.3.10
// (asynchronous configuration), 7.4 (packet-in, flow-removed, port status), 7.5.4
// (errors). ovs-fields(7) and ovs-actions(7) for what fields and actions mean.
// Of Open vSwitch's headers the numbers of nicira-ext.h (NXT_PACKET_IN2,
// NXT_RESUME, NXT_SET_PACKET_IN_FORMAT, NXT_SET_CONTROLLER_ID, NXT_CT_FLUSH_ZONE,
// NXT_CT_FLUSH, NXM classes), of ofp-actions.c (NXAST_RESUBMIT_TABLE,
// NXAST_RESUBMIT_TABLE_CT, NXAST_CONTROLLER2, NXAST_CT, NXAST_NAT, NXAST_CT_CLEAR,
// NXAST_LEARN, NXAST_LEARN2, NXAST_CONJUNCTION, NXAST_CLONE, NXAST_NOTE,
// NXAST_OUTPUT_REG2, NXAST_STACK_PUSH and _POP, NXAST_MULTIPATH,
// NXAST_CHECK_PKT_LARGER), meta-flow.h, ofp-errors.h and netronome-ext.h.
package openflow
