// Package desired is what one host is to be, and where that is said: a [Source]
// yields whole states with a revision, and hears how far the host has come.
// [File] is a Source of a JSON file, or of a directory of them; a distributed
// store is another.
//
// A State marshals to JSON and back without loss. A file has the State's fields,
// beside them "revision" and "force":
//
//	{
//	  "revision": "42",
//	  "overlay":  {"networks": [{"id": "red", "segment": {"type": "vxlan", "id": 7}}],
//	               "ports": [{"id": "p1", "network_id": "red", "mac": "02:00:00:00:00:01", "filtered": true}]},
//	  "secgroup": {"groups": [...], "ports": [...]},
//	  "router":   {"routers": [...], "floating_ips": [...], "port_forwards": [...]},
//	  "dhcp":     {"scopes": [...], "reservations": [...]},
//	  "metadata": {"endpoints": [...]},
//	  "attachments": [{"port_id": "p1", "kind": "veth", "name": "eth0", "netns": "/run/netns/vm1"}]
//	}
package desired
