// Package ovn is the handle of the OVN platform: one [Conn] is one OVN
// installation, for one owner, and one [Chassis] is the Open vSwitch of one
// host of it.
//
// OVN is central: subsystem backends write rows of the Northbound database
// once, through a [Target], and ovn-controller carries them out on every host.
// A Target is a *Conn, which commits each submission as one transaction, or a
// [*Batch], which makes one transaction of what several backends submit.
//
// # What a backend does
//
// It submits a function that reads and writes through a [Tx]: reads see what
// is pending in the same transaction, also of other parts; writes are computed
// from what differs. Functions find rows ([Find], [Own], [By], [Holder]), make
// their own rows be as wanted ([Ensure]), write their columns in the rows of
// other parts ([Update]), and say what that is to an application ([Tx.Record]).
// Plan, Sync and Ensure of a backend are the same function, given to
// Target.Plan or Target.Submit; a Sync ends with the check of its delete
// budget. When another writer was faster the function is called again.
//
// Nothing is decided on a partial view: Submit and Plan wait until the
// databases have been read whole (a sentinel row, NB_Global and SB_Global, is
// there), and fail with [vnet.ErrNotReady], naming what is unknown, when their
// time is over. What is written is guarded on the server by wait operations:
// rows that are changed must exist, rows that are made must not.
//
// # Marks, UUIDs and names
//
// Every row of ours has in its external_ids vnet:owner, vnet:part, vnet:kind
// and vnet:id ([Mark]). Rows with another owner, or none, are never touched. The
// row's UUID is a hash of owner, part, table, kind and id: the same object is
// the same row whoever makes it, cannot be made twice in any table, and is
// found without search. (Giving the UUID of a new row is an extension of
// ovsdb-server, of Open vSwitch 2.13 and later.) A part that needs several rows
// of a table for one object gives them kinds or ids of their own.
//
//	Logical_Switch_Port           OWNER/ID                 PortName: the iface-id of the interface
//	Logical_Router_Port and all else  OWNER/KIND/ID        Conn.Name
//	Port_Group, Address_Set       vnet.OWNER.KIND.ID       Conn.Symbol: '_' is "__", '-' is "_h"
//
// An owner has no slash and no dot, so names of two owners never meet.
//
// # Who writes what
//
// This table is [Columns], and enforced whenever a transaction is made. "key:k"
// is one key of a map; "+column" is members of a set, added and removed one by
// one and looked at as a whole only in new rows.
//
//	overlay   Logical_Switch               own         name other_config:mcast_snoop other_config:mcast_querier
//	                                                   other_config:mcast_flood_unregistered other_config:mcast_eth_src
//	                                                   other_config:mcast_ip4_src other_config:mcast_ip6_src
//	                                                   other_config:mcast_table_size other_config:mcast_idle_timeout
//	                                                   other_config:vlan-passthru other_config:fdb_age_threshold +ports +acls
//	                                                   +dns_records
//	overlay   Logical_Switch_Port          own         name type +addresses enabled parent_name tag_request ha_chassis_group
//	                                                   options:network_name options:ethtype options:mcast_flood
//	                                                   options:mcast_flood_reports options:localnet_learn_fdb options:requested-chassis
//	                                                   options:activation-strategy options:vif-plug-type options:vif-plug-mtu-request
//	                                                   options:vif-plug:representor:pf-mac options:vif-plug:representor:vf-num
//	                                                   options:virtual-ip options:virtual-parents
//	overlay   Port_Group                   own         name ports acls
//	overlay   ACL                          own         action direction match priority name log severity meter label options
//	overlay   HA_Chassis_Group             own         name ha_chassis
//	overlay   HA_Chassis                   own         chassis_name priority
//	overlay   DNS                          own         records
//
//	router    Logical_Router               own         name enabled options +load_balancer +ports +static_routes +policies +nat
//	router    Logical_Router_Port          own         name mac networks enabled peer options ipv6_ra_configs ipv6_prefix
//	                                                   ha_chassis_group gateway_chassis
//	router    Logical_Router_Static_Route  own         ip_prefix nexthop output_port policy route_table bfd options
//	router    Logical_Router_Policy        own         priority match action nexthop nexthops options
//	router    NAT                          own         type external_ip external_mac external_port_range logical_ip logical_port
//	                                                   allowed_ext_ips exempted_ext_ips gateway_port options
//	router    Gateway_Chassis              own         name chassis_name priority options
//	router    HA_Chassis_Group             own         name ha_chassis
//	router    HA_Chassis                   own         chassis_name priority
//	router    Load_Balancer                own         name vips protocol options ip_port_mappings selection_fields health_check
//	router    Load_Balancer_Health_Check   own         vip options
//	router    BFD                          own         logical_port dst_ip min_rx min_tx detect_mult options
//	router    Address_Set                  own         name addresses
//	router    Logical_Switch_Port          own         name type addresses enabled options:router-port options:nat-addresses
//	                                                   options:exclude-lb-vips-from-garp options:arp_proxy
//	router    Logical_Switch               of overlay  other_config:broadcast-arps-to-all-routers +ports +load_balancer
//
//	dhcp      DHCP_Options                 own         cidr options
//	dhcp      Logical_Switch_Port          own         name type addresses enabled
//	dhcp      Logical_Switch_Port          of overlay  dhcpv4_options dhcpv6_options
//	dhcp      Logical_Switch               of overlay  +ports
//
//	secgroup  Port_Group                   own         name ports acls
//	secgroup  ACL                          own         action direction match priority name log severity meter
//	secgroup  Address_Set                  own         name addresses
//	secgroup  Meter                        own         name unit fair bands
//	secgroup  Meter_Band                   own         action rate burst_size
//	secgroup  Logical_Switch_Port          of overlay  port_security +addresses
//
//	metadata  Logical_Switch_Port          own         name type addresses enabled options:requested-chassis
//	metadata  Logical_Switch               of overlay  +ports
//
//	qos       QoS                          own         action bandwidth direction match priority
//	qos       Meter                        own         name unit bands
//	qos       Meter_Band                   own         action rate
//	qos       Logical_Switch               of overlay  +qos_rules
//	qos       Logical_Switch_Port          of overlay  options:qos_min_rate
//
// The handle itself increments NB_Global.nb_cfg, and keeps a port of overlay
// that is filtered and that secgroup has not filled disabled ([Closed]): in the
// transaction that makes the port, and until the one that fills it. It also
// removes the limits of a port with the port, and keeps those of a gateway at
// the gateway's port, whatever that is called ([GatewayMatch]). The Southbound
// is only read.
// On a host, Chassis makes rows of Port and Interface and adds them to
// Bridge.ports, with the marks of the part that asks.
//
// # Servers
//
// Any server of Open vSwitch 2.13 or later will do, and any version of OVN: only
// columns that both the server and the generated rows (OVN 23.03) have are read
// and written. A column that the server lacks, or has with another type, is
// left out of what is written; a backend that needs it asks [Conn.Need] and
// refuses by name. What a newer server has beyond is left as it is.
//
// Of a RAFT cluster the leader is written to, whichever endpoint it is; a
// follower will do when no leader is to be found among the endpoints for some
// seconds (the server then passes transactions on). The Southbound is read from
// any connected member. A server that is silent, hangs, has lost its cluster or
// sends nonsense is left for the next, for ever. What is asked while no server
// is there is done when one is, or fails with its context; a transaction whose
// reply was lost is computed anew from what then stands, so it is never done
// twice.
//
// # Waiting
//
// A call returns when its change is in the Northbound, when ovn-northd has done
// it, or when every chassis has ([WithWait], [Options]): nb_cfg is incremented in
// the same transaction and sb_cfg, or the smaller of sb_cfg and hv_cfg, waited
// for. A batch waits once. When the time is over the error wraps
// [vnet.ErrNotReady] and names the chassis that have not answered; the change
// stands.
package ovn
