package linux

import (
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/vnet-go/vnet"
)

var update = flag.Bool("update", false, "write doc.go anew")

// notes say who writes a set of the handle and what for.
func notes() map[string]string {
	return map[string]string{
		mapPorts:    "Ports: index of a port by device; also of claimed ports whose device is not there yet",
		mapIndices:  "Ports: the other way; the element's comment is the port's id",
		mapBound:    "Ports.Bind (overlay): the device plugged at a port",
		setDevices:  "Ports.Bind (overlay): devices plugged at ports",
		setHeld:     "Ports.Claim: which parts hold the port; the last to release frees the index",
		setFiltered: "Ports.Bind (overlay): ports that want filtering",
		setFilled:   "Ports.Fill (secgroup): ports whose filters stand",
		setNetworks: "Networks (overlay): bridges that are networks; the comment is the network's id",
		setBridged:  "Networks (overlay): what is only bridged when inet sees it",
		mapZones:    "Zones (secgroup): the network's conntrack zone; in the bridge table too where that tracks",
		mapZoneIDs:  "Zones (secgroup): the other way",
		setUplinks:  "qos: devices not of our making whose root qdisc is",
	}
}

// page is the package comment, made of what the code uses.
func page(t *testing.T) string {
	h := &Host{owner: "OWNER", o: Options{Name: "HOST", NetnsDir: "/run/netns"}}
	h.featuresOnce.Do(func() { h.features = Features{BridgeConntrack: true, BridgeMeta: true} })
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`Package linux is the handle of the Linux kernel platform: one [Host] is one
network namespace in which the module's Linux backends work, for one owner.

A backend is made over a [Target]: a *Host, which commits each submission at
once, or a [*Batch], which collects what several backends submit, shows it as
a plan, and commits it together. What is submitted are steps: an rtnetlink
change with its undo, or a part of an nftables transaction. A commit orders
them by [Phase], so that filters stand before anything is connected; it is not
atomic as a whole (the kernel has no such thing across rtnetlink and
nftables), but each phase's nftables part is, every prefix is safe, and a
[*PartialError] says what stands.

The host keeps no state of its own outside the kernel: names are computed,
devices carry their meaning in an alias, numbers (port indices, conntrack
zones) are elements of maps. A new process finds all of it, and [Host.Cleanup]
removes all of it without any other knowledge.

All methods may be called from several goroutines. Waits end with their
context. This page is made from the constants of the code.

# Names

`)
	sample := func(what, name string) { p("\t%-34s %s", what, name) }
	sample("device", `one or two letters + base32 hash of owner, letters, id; 15 characters`)
	sample("alias of a device of ours", h.Alias("PART", "KIND", "ID"))
	sample("alias of a device of the caller's", h.Alias("PART", AliasExisting, "PORT")+" (let go of, never removed)")
	sample("alternative name of a port's device", h.PortAltName("PORT"))
	sample("namespace", h.o.NetnsDir+"/"+h.NetnsName("PART", "ID"))
	sample("tables", h.BridgeTable().String()+", "+h.InetTable().String())
	p("\nFirst letters of device names: n network (bridge), p port (veth or tap), x VXLAN,\nv VLAN, f and g the two ends of a patch to a bridge of the host, r router\ninterface on the bridge, i the same inside the router, m metadata,\nq what a port sends while it waits (ifb), t macvtap above a VF.\n")

	p("# The handle's chains\n")
	for _, c := range h.baseChains() {
		p("%s, chain %s: %s, priority %d\n", c.Table, c.Name, c.Base.Hook, c.Base.Priority)
		for _, r := range c.Rules {
			p("\t%s", r)
		}
		p("")
	}
	p("Chain %s of the bridge table stands only where that family tracks connections\n(see [Features]). The chains declare nothing about bridges and devices that are\nnot ours: those pass.\n", chainZone)

	p("# Sets and maps\n")
	known := notes()
	for _, name := range []string{mapPorts, mapIndices, mapBound, setDevices, setHeld, setFiltered, setFilled, setNetworks, setBridged, mapZones, mapZoneIDs, setUplinks} {
		s := h.setOf(name)
		var key []string
		for _, k := range s.Key {
			key = append(key, k.String())
		}
		typ := strings.Join(key, " . ")
		if s.IsMap() {
			typ += " : " + s.Data[0].String()
		}
		if known[name] == "" {
			t.Errorf("no note about %s", name)
		}
		p("\t%-6s %-9s %-17s %s", s.Table.Family, name, typ, known[name])
		delete(known, name)
	}
	for name := range known {
		t.Errorf("a note about %s, which is not there", name)
	}
	p("\nIn every table of the module a map fp says what stands in it, by hashes: see\ninternal/nft. A table without it is not ours, and is refused.\n")

	p(`# What parts add

Parts write chains and sets of their own into the same two tables, begun with a
short name of theirs, or into tables of their own in namespaces of their own:

	secgroup  sg-     bridge prerouting -250 and forward -150: what a port may claim to be
	                  inet (or bridge, where it tracks) prerouting and forward -150: rules
	router    table inet vnet-router in the router's namespace: nat -100 and 100, filter 0
	metadata  table inet vnet-metadata in the namespace that answers
	qos       qos-    bridge prerouting -280 and postrouting 0: packet rates, marks, priorities
	          table inet vnet-qos in the router's namespace: prerouting -310 and postrouting 110
	          root qdisc 7e51: of devices at ports, devices q (ifb), root qdisc 1: of uplinks

# Marks and zones

A packet's mark holds one port index, of %d to %d, at a time: from bridge
prerouting (%d) on that of the port it came in by, from bridge forward (%d) on
that of the port it goes out by, or 0. Frames of devices that are no ports of
ours keep the mark they have. Indices and zones are unique on a host, also
among owners. A connection that crosses a network's bridge is tracked in the
network's zone, so that tenants with the same addresses stay apart; releasing a
zone ends what is tracked in it.

# Sysctls

Set by the parts in their namespaces, never in another:

	net/bridge/bridge-nf-call-ip{,6}tables = 1    secgroup, where family bridge does not track
	net/netfilter/nf_conntrack_tcp_loose = 0      secgroup, router: an ended connection stays so
	net/ipv{4,6}/conf/BRIDGE/forwarding = 0       overlay: a network's bridge is no router
	net/ipv4/conf/BRIDGE/arp_ignore = 8           overlay: and answers no ARP
	net/ipv6/conf/BRIDGE/{addr_gen_mode,accept_ra} overlay: and has no addresses
	net/ipv4/ip_forward, net/ipv6/conf/all/forwarding = 1   router, in its namespace`,
		1, maxIndex, PriorityClassify, PriorityForward)
	return b.String()
}

// TestPage compares the package comment with the code. -update writes it.
func TestPage(t *testing.T) {
	want := page(t)
	if *update {
		var b strings.Builder
		for _, l := range strings.Split(strings.TrimRight(want, "\n"), "\n") {
			b.WriteString(strings.TrimRight("// "+l, " ") + "\n")
		}
		text := strings.ReplaceAll(b.String(), "// \t", "//\t")
		if err := os.WriteFile("doc.go", []byte(text+"package linux\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if got := squeeze(f.Doc.Text()); got != squeeze(want) {
		t.Errorf("doc.go is not what the code does: run go test ./linux -run TestPage -update")
	}
}

func TestNamesAreShortAndDiffer(t *testing.T) {
	a := &Host{owner: "a", o: Options{Name: "h.example.org", NetnsDir: "/run/netns"}}
	b := &Host{owner: "b", o: Options{Name: "h", NetnsDir: "/run/netns"}}
	seen := map[string]bool{}
	for _, h := range []*Host{a, b} {
		for _, kind := range []string{"n", "p", "rx"} {
			for _, id := range []string{"1", "2", "1f0e0a3c-8f0e-4c2b-9f57-bc6f0f5b7a51"} {
				n := h.LinkName(kind, id)
				if len(n) != 15 || !strings.HasPrefix(n, kind) || seen[n] {
					t.Errorf("name %q of %s %s", n, kind, id)
				}
				seen[n] = true
			}
		}
	}
	part, kind, id, ok := a.ParseAlias(a.Alias(vnet.PartRouter, "interface", "x:y"))
	if part != vnet.PartRouter || kind != "interface" || id != "x:y" || !ok {
		t.Errorf("alias comes back as %s %s %s %v", part, kind, id, ok)
	}
	for _, s := range []string{"", "vnet:", b.Alias(vnet.PartRouter, "interface", "x"), "vnet:a:router:x"} {
		if _, _, _, ok := a.ParseAlias(s); ok {
			t.Errorf("%q is taken for ours", s)
		}
	}
	if n := a.NetnsName(vnet.PartRouter, "r.1"); n != "a.h~example~org.router.r.1" {
		t.Errorf("namespace %s", n)
	}
}
