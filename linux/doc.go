// Package linux is the handle of the Linux kernel platform: one [Host] is one
// network namespace in which the module's Linux backends work, for one owner.
//
// A backend is made over a [Target]: a *Host, which commits each submission at
// once, or a [*Batch], which collects what several backends submit, shows it as
// a plan, and commits it together. What is submitted are steps: an rtnetlink
// change with its undo, or a part of an nftables transaction. A commit orders
// them by [Phase], so that filters stand before anything is connected; it is not
// atomic as a whole (the kernel has no such thing across rtnetlink and
// nftables), but each phase's nftables part is, every prefix is safe, and a
// [*PartialError] says what stands.
//
// The host keeps no state of its own outside the kernel: names are computed,
// devices carry their meaning in an alias, numbers (port indices, conntrack
// zones) are elements of maps. A new process finds all of it, and [Host.Cleanup]
// removes all of it without any other knowledge.
//
// All methods may be called from several goroutines. Waits end with their
// context. This page is made from the constants of the code.
//
// # Names
//
//	device                             one or two letters + base32 hash of owner, letters, id; 15 characters
//	alias of a device of ours          vnet:OWNER:PART:KIND:ID
//	alias of a device of the caller's  vnet:OWNER:PART:existing:PORT (let go of, never removed)
//	alternative name of a port's device vnet:OWNER:port:PORT
//	namespace                          /run/netns/OWNER.HOST.PART.ID
//	tables                             bridge vnet-OWNER, inet vnet-OWNER
//
// First letters of device names: n network (bridge), p port (veth or tap), x VXLAN,
// v VLAN, f and g the two ends of a patch to a bridge of the host, r router
// interface on the bridge, i the same inside the router, m metadata,
// q what a port sends while it waits (ifb), t macvtap above a VF.
//
// # The handle's chains
//
// bridge vnet-OWNER, chain prerouting: prerouting, priority -300
//
//	iifname != @devices accept
//	meta mark set iifname map @ports
//	meta mark @filtered meta mark != @filled counter drop
//
// bridge vnet-OWNER, chain forward: forward, priority -200
//
//	iifname @devices meta mark set 0x00000000
//	oifname != @devices accept
//	meta mark set oifname map @ports
//	meta mark @filtered meta mark != @filled counter drop
//
// bridge vnet-OWNER, chain output: output, priority -200
//
//	oifname != @devices accept
//	meta mark set oifname map @ports
//	meta mark @filtered meta mark != @filled counter drop
//
// inet vnet-OWNER, chain zone: prerouting, priority -300
//
//	ct zone set iifname map @zones
//
// inet vnet-OWNER, chain input: input, priority -150
//
//	iifname @networks counter drop
//
// inet vnet-OWNER, chain forward: forward, priority -150
//
//	iifname . oifname @bridged accept
//	iifname @networks counter drop
//
// bridge vnet-OWNER, chain zone: prerouting, priority -300
//
//	ct zone set meta ibrname map @zones
//
// Chain zone of the bridge table stands only where that family tracks connections
// (see [Features]). The chains declare nothing about bridges and devices that are
// not ours: those pass.
//
// # Sets and maps
//
//	bridge ports     ifname : mark     Ports: index of a port by device; also of claimed ports whose device is not there yet
//	bridge indices   mark : ifname     Ports: the other way; the element's comment is the port's id
//	bridge bound     mark : ifname     Ports.Bind (overlay): the device plugged at a port
//	bridge devices   ifname            Ports.Bind (overlay): devices plugged at ports
//	bridge held      mark . ifname     Ports.Claim: which parts hold the port; the last to release frees the index
//	bridge filtered  mark              Ports.Bind (overlay): ports that want filtering
//	bridge filled    mark              Ports.Fill (secgroup): ports whose filters stand
//	inet   networks  ifname            Networks (overlay): bridges that are networks; the comment is the network's id
//	inet   bridged   ifname . ifname   Networks (overlay): what is only bridged when inet sees it
//	inet   zones     ifname : integer  Zones (secgroup): the network's conntrack zone; in the bridge table too where that tracks
//	inet   zoneids   integer : ifname  Zones (secgroup): the other way
//	bridge uplinks   ifname            qos: devices not of our making whose root qdisc is
//
// In every table of the module a map fp says what stands in it, by hashes: see
// internal/nft. A table without it is not ours, and is refused.
//
// # What parts add
//
// Parts write chains and sets of their own into the same two tables, begun with a
// short name of theirs, or into tables of their own in namespaces of their own:
//
//	secgroup  sg-     bridge prerouting -250 and forward -150: what a port may claim to be
//	                  inet (or bridge, where it tracks) prerouting and forward -150: rules
//	router    table inet vnet-router in the router's namespace: nat -100 and 100, filter 0
//	metadata  table inet vnet-metadata in the namespace that answers
//	qos       qos-    bridge prerouting -280 and postrouting 0: packet rates, marks, priorities
//	          table inet vnet-qos in the router's namespace: prerouting -310 and postrouting 110
//	          root qdisc 7e51: of devices at ports, devices q (ifb), root qdisc 1: of uplinks
//
// # Marks and zones
//
// A packet's mark holds one port index, of 1 to 1048575, at a time: from bridge
// prerouting (-300) on that of the port it came in by, from bridge forward (-200) on
// that of the port it goes out by, or 0. Frames of devices that are no ports of
// ours keep the mark they have. Indices and zones are unique on a host, also
// among owners. A connection that crosses a network's bridge is tracked in the
// network's zone, so that tenants with the same addresses stay apart; releasing a
// zone ends what is tracked in it.
//
// # Sysctls
//
// Set by the parts in their namespaces, never in another:
//
//	net/bridge/bridge-nf-call-ip{,6}tables = 1    secgroup, where family bridge does not track
//	net/netfilter/nf_conntrack_tcp_loose = 0      secgroup, router: an ended connection stays so
//	net/ipv{4,6}/conf/BRIDGE/forwarding = 0       overlay: a network's bridge is no router
//	net/ipv4/conf/BRIDGE/arp_ignore = 8           overlay: and answers no ARP
//	net/ipv6/conf/BRIDGE/{addr_gen_mode,accept_ra} overlay: and has no addresses
//	net/ipv4/ip_forward, net/ipv6/conf/all/forwarding = 1   router, in its namespace
package linux
