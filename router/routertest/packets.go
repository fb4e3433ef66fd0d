package routertest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv6"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/router"
)

// Packets are the cases with machines and real packets.
func Packets() []Case {
	return []Case{
		{"between networks", "Packets between internal networks are routed, not translated, and their TTL or hop limit is lowered by one.", func(t *testing.T, e *env) {
			e.sync(basic())
			e.hears("a2", "10.0.1.5", "b:7000 hears 10.0.0.6")
			e.hears("a2", "2001:db8:2::5", "b:7000 hears 2001:db8:1::6")
			e.hears("a", "10.0.1.5", "b:7000 hears 10.0.0.5") // with a floating IP too
			cap := e.at("b").Capture("eth0")
			e.hears("a2", "10.0.1.5", "b:7000 hears 10.0.0.6")
			e.hears("a2", "2001:db8:2::5", "b:7000 hears 2001:db8:1::6")
			cap.Wait(patience, func(f lab.Frame) bool { return f.Src == addr("10.0.0.6") && f.DstPort == 7000 && f.TTL == 63 })
			cap.Wait(patience, func(f lab.Frame) bool { return f.Src == addr("2001:db8:1::6") && f.DstPort == 7000 && f.TTL == 63 })
		}},
		{"time exceeded", "The router says so by ICMP when a TTL or hop limit ends.", func(t *testing.T, e *env) {
			e.sync(basic())
			a := e.at("a")
			cap := a.Capture("eth0")
			mac := basic().Routers[0].Interfaces[0].MAC
			for src, dst := range map[string]string{"10.0.0.5": "10.0.1.5", "2001:db8:1::5": "2001:db8:2::5"} {
				a.Inject("eth0", lab.Frame{SrcMAC: a.MAC("eth0"), DstMAC: mac, Src: addr(src), Dst: addr(dst), Proto: lab.UDP, SrcPort: 1, DstPort: 2, TTL: 1}.Bytes())
			}
			cap.Wait(patience, func(f lab.Frame) bool { return f.Proto == lab.ICMP && f.ICMPType == 11 && f.Src == addr("10.0.0.1") })
			cap.Wait(patience, func(f lab.Frame) bool {
				return f.Proto == lab.ICMPv6 && f.ICMPType == 3 && f.Src == addr("2001:db8:1::1")
			})
		}},
		{"source NAT", "IPv4 that leaves by the gateway gets the gateway's first IPv4 address; IPv6 keeps its own.", func(t *testing.T, e *env) {
			e.sync(basic())
			e.at("ext")
			e.hears("a2", "203.0.113.1", "ext:7000 hears 203.0.113.2")
			e.hears("b", "203.0.113.1", "ext:7000 hears 203.0.113.2")
			e.hears("a2", "2001:db8:f::1", "ext:7000 hears 2001:db8:1::6")
			// What comes in from outside keeps its source.
			if e.limited(router.LimitRoutedIn) {
				cap := e.at("b").Capture("eth0")
				e.deaf("ext", "10.0.1.5")
				cap.Wait(patience, func(f lab.Frame) bool { return f.Src == addr("203.0.113.1") && f.DstPort == 7000 })
				return
			}
			e.hears("ext", "10.0.1.5", "b:7000 hears 203.0.113.1")
		}},
		{"of no connection", "What belongs to no connection does not leave by the gateway of a router that hides sources.", func(t *testing.T, e *env) {
			e.sync(basic())
			a2, r := e.at("a2"), basic().Routers[0]
			cap := e.at("ext").Capture("eth0")
			e.hears("a2", "203.0.113.1", "ext:7000 hears 203.0.113.2")
			a2.Inject("eth0", lab.Frame{SrcMAC: a2.MAC("eth0"), DstMAC: r.Interfaces[0].MAC, Src: addr("10.0.0.6"), Dst: addr("203.0.113.1"), Proto: lab.TCP,
				SrcPort: 5555, DstPort: 7001, Flags: lab.ACK, Seq: 1, Ack: 1, TTL: 64}.Bytes())
			left := func(f lab.Frame) bool { return f.Proto == lab.TCP && f.DstPort == 7001 }
			if e.limited(router.LimitPicksUp) {
				cap.Wait(patience, func(f lab.Frame) bool { return left(f) && f.Src == addr("203.0.113.2") })
				return
			}
			e.hears("a2", "203.0.113.1", "ext:7000 hears 203.0.113.2")
			cap.None(quiet, left)
		}},
		{"no source NAT", "With DisableSNAT the source stays, but for fixed addresses of floating IPs.", func(t *testing.T, e *env) {
			s := basic()
			s.Routers[0].Gateway.DisableSNAT = true
			e.sync(s)
			e.at("ext")
			e.hears("a2", "203.0.113.1", "ext:7000 hears 10.0.0.6")
			e.hears("a", "203.0.113.1", "ext:7000 hears 203.0.113.50")
			e.hears("ext", "10.0.0.6", "a2:7000 hears 203.0.113.1")
			e.hears("b", "203.0.113.50", "a:7000 hears 203.0.113.2")
		}},
		{"floating IP", "A floating IP stands for its fixed address in both directions.", func(t *testing.T, e *env) {
			e.sync(basic())
			e.hears("ext", "203.0.113.50", "a:7000 hears 203.0.113.1")
			e.hears("a", "203.0.113.1", "ext:7000 hears 203.0.113.50")
			require.NoError(t, e.at("ext").Ping("203.0.113.50", 1))
			require.NoError(t, e.svc.DeleteFloatingIP(e.ctx, "f1"))
			e.deaf("ext", "203.0.113.50")
			e.hears("a", "203.0.113.1", "ext:7000 hears 203.0.113.2")
		}},
		{"hairpin", "From inside, a floating IP is reached too; the callee sees the caller's floating IP or the gateway's address.", func(t *testing.T, e *env) {
			e.sync(basic())
			cap, ttl := e.at("a").Capture("eth0"), uint8(63)
			if e.limited(router.LimitHairpinTTL) {
				ttl = 62
			}
			e.hears("a2", "203.0.113.50", "a:7000 hears 203.0.113.2") // of the same network
			cap.Wait(patience, func(f lab.Frame) bool { return f.Src == addr("203.0.113.2") && f.DstPort == 7000 && f.TTL == ttl })
			e.hears("b", "203.0.113.50", "a:7000 hears 203.0.113.2")  // of another
			e.hears("a", "203.0.113.50", "a:7000 hears 203.0.113.50") // itself
			f2 := router.FloatingIP{ID: "f2", RouterID: "r1", FloatingIP: addr("203.0.113.51"), FixedIP: addr("10.0.0.6")}
			require.NoError(t, e.svc.EnsureFloatingIP(e.ctx, f2))
			e.hears("a2", "203.0.113.50", "a:7000 hears 203.0.113.51")
		}},
		{"port forwards", "The n-th external port goes to the n-th internal one, from outside and inside.", func(t *testing.T, e *env) {
			s := basic()
			s.PortForwards = append(s.PortForwards, router.PortForward{ID: "p2", RouterID: "r1", Protocol: "udp", ExternalIP: addr("203.0.113.60"), ExternalPort: router.PortRange{First: 53},
				InternalIP: addr("10.0.1.5"), InternalPort: router.PortRange{First: 7000}})
			e.sync(s)
			e.at("a2")
			callers := map[string]string{"ext": "203.0.113.1", "b": "203.0.113.2", "a2": "203.0.113.2"}
			if e.limited(router.LimitForwardHairpin) {
				callers["b"], callers["a"] = "10.0.1.5", "10.0.0.5"
			}
			for i := range 4 {
				for from, seen := range callers {
					got, err := e.at(from).ask("tcp", fmt.Sprintf("203.0.113.2:%d", 2200+i))
					require.NoError(t, err)
					require.Equal(t, fmt.Sprintf("a2:%d hears %s", 22+i, seen), got)
				}
			}
			got, err := e.at("ext").ask("udp", "203.0.113.60:53")
			require.NoError(t, err)
			require.Equal(t, "b:7000 hears 203.0.113.1", got)
			if e.limited(router.LimitSilentPorts) {
				e.deaf("ext", "203.0.113.2")
				require.NoError(t, e.at("ext").Ping("203.0.113.2", 1))
				require.Error(t, e.at("ext").Ping("203.0.113.60", 1))
			} else {
				require.NoError(t, e.at("ext").Ping("203.0.113.60", 1))
				_, err = e.at("ext").dial("tcp", "203.0.113.2:2204")
				require.ErrorIs(t, err, syscall.ECONNREFUSED, "the router's own port")
			}
			require.NoError(t, e.svc.DeletePortForward(e.ctx, "p2"))
			e.deaf("ext", "203.0.113.60")
		}},
		{"extra routes", "Extra routes are used; several with one destination share the traffic.", func(t *testing.T, e *env) {
			s := basic()
			lan := netip.MustParsePrefix("192.168.5.0/24")
			s.Routers[0].Routes = []router.Route{{Destination: lan, NextHop: addr("10.0.0.5")}}
			e.sync(s)
			for _, m := range []string{"a", "a2"} {
				e.at(m).IP("route", "add", "local", "192.168.5.0/24", "dev", "lo")
			}
			got, err := e.at("b").ask("tcp", "192.168.5.9:7000")
			require.NoError(t, err)
			require.Equal(t, "a:7000 hears 10.0.1.5", got)
			s.Routers[0].Routes = append(s.Routers[0].Routes, router.Route{Destination: lan, NextHop: addr("10.0.0.6")})
			e.sync(s)
			seen := map[string]bool{}
			for i := 1; i < 64 && len(seen) < 2; i++ {
				got, err := e.at("b").ask("tcp", fmt.Sprintf("192.168.5.%d:7000", i))
				if e.Lags && err != nil {
					continue // its first packet went another way than the next
				}
				require.NoError(t, err)
				seen[got] = true
			}
			require.Len(t, seen, 2)
		}},
		{"same subnets", "Routers know nothing of each other: two may have the same subnets behind them.", func(t *testing.T, e *env) {
			s := basic()
			s.Routers = append(s.Routers, second())
			s.FloatingIPs = append(s.FloatingIPs, router.FloatingIP{ID: "f2", RouterID: "r2", FloatingIP: addr("203.0.113.51"), FixedIP: addr("10.0.0.5")})
			e.sync(s)
			e.at("a")
			e.at("o")
			e.hears("ext", "203.0.113.50", "a:7000 hears 203.0.113.1")
			e.hears("ext", "203.0.113.51", "o:7000 hears 203.0.113.1")
			e.hears("a", "203.0.113.51", "o:7000 hears 203.0.113.50")
			e.hears("o", "203.0.113.50", "a:7000 hears 203.0.113.51")
		}},
		{"moved floating IP", "A floating IP that moves ends the connections that used it, and no others.", func(t *testing.T, e *env) {
			s := basic()
			e.sync(s)
			e.at("a")
			e.at("a2")
			ext := e.at("ext")
			gone, err := ext.dial("tcp", "203.0.113.50:7000")
			require.NoError(t, err)
			defer gone.Close()
			stays, err := ext.dial("tcp", "203.0.113.2:2200")
			require.NoError(t, err)
			defer stays.Close()
			got, err := say(gone, patience)
			require.NoError(t, err)
			require.Equal(t, "a:7000 hears 203.0.113.1", got)
			_, err = say(stays, patience)
			require.NoError(t, err)
			s.FloatingIPs[0].FixedIP = addr("10.0.0.6")
			require.NoError(t, e.svc.EnsureFloatingIP(e.ctx, s.FloatingIPs[0]))
			if e.limited(router.LimitMovedConnections) {
				got, err = say(gone, patience)
				require.NoError(t, err)
				require.Equal(t, "a:7000 hears 203.0.113.1", got)
			} else {
				_, err = say(gone, quiet)
				require.Error(t, err, "the connection of before the move")
			}
			got, err = say(stays, patience)
			require.NoError(t, err)
			require.Equal(t, "a2:22 hears 203.0.113.1", got)
			e.hears("ext", "203.0.113.50", "a2:7000 hears 203.0.113.1")
			e.nothingToDo(s)
			got, err = say(stays, patience)
			require.NoError(t, err, "after a restart")
			require.Equal(t, "a2:22 hears 203.0.113.1", got)
		}},
		{"announced", "Addresses that appear are announced by gratuitous ARP and unsolicited neighbour advertisements.", func(t *testing.T, e *env) {
			s := basic()
			cap := e.at("ext").Capture("eth0")
			require.NoError(t, e.svc.EnsureRouter(e.ctx, s.Routers[0]))
			mac := s.Routers[0].Gateway.MAC
			arp := func(a netip.Addr) func(lab.Frame) bool {
				return func(f lab.Frame) bool { return f.ARP != nil && f.ARP.SPA == a && f.ARP.TPA == a && f.ARP.SHA == mac }
			}
			six := e.limited(router.LimitAnnounceIPv6)
			na := func(f lab.Frame) bool {
				return f.ICMPType == 136 && f.Target == addr("2001:db8:f::2") && f.LinkAddr == mac && f.NAFlags&0xe0 == 0xa0
			}
			cap.Wait(patience, arp(addr("203.0.113.2")))
			if !six {
				cap.Wait(patience, na)
			}
			require.NoError(t, e.svc.EnsureFloatingIP(e.ctx, s.FloatingIPs[0]))
			cap.Wait(patience, arp(addr("203.0.113.50")))
			// With another MAC, all of them again.
			mac = vnet.MAC{2, 0, 0, 0, 1, 9}
			s.Routers[0].Gateway.MAC, s.PortForwards = mac, nil
			e.sync(s)
			cap.Wait(patience, arp(addr("203.0.113.2")))
			cap.Wait(patience, arp(addr("203.0.113.50")))
			if six {
				cap.None(quiet, na)
			} else {
				cap.Wait(patience, na)
			}
			e.nothingToDo(s)
		}},
		{"errors", "ICMP errors about translated packets are translated, in what they quote too.", func(t *testing.T, e *env) {
			e.sync(basic())
			e.at("a")
			c, err := e.at("ext").dial("udp", "203.0.113.50:9")
			require.NoError(t, err)
			defer c.Close()
			for end := time.Now().Add(patience); !errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end); {
				_, err = say(c, quiet)
			}
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}},
		{"deleted floating IP", "A floating IP or port forward that is deleted ends the connections that used it, and no others.", func(t *testing.T, e *env) {
			s := basic()
			s.FloatingIPs = append(s.FloatingIPs, router.FloatingIP{ID: "f2", RouterID: "r1", FloatingIP: addr("203.0.113.51"), FixedIP: addr("10.0.1.5")})
			e.sync(s)
			for _, m := range []string{"a", "a2", "b"} {
				e.at(m)
			}
			type call struct{ from, to, want string }
			conns := map[call]net.Conn{}
			in, out, forward, other := call{"ext", "203.0.113.50:7000", "a:7000 hears 203.0.113.1"}, call{"a", "203.0.113.1:7000", "ext:7000 hears 203.0.113.50"},
				call{"ext", "203.0.113.2:2200", "a2:22 hears 203.0.113.1"}, call{"ext", "203.0.113.51:7000", "b:7000 hears 203.0.113.1"}
			for _, c := range []call{in, out, forward, other, {"a", "10.0.1.5:7000", "b:7000 hears 10.0.0.5"}, {"a2", "203.0.113.1:7000", "ext:7000 hears 203.0.113.2"}} {
				conn, err := e.at(c.from).dial("tcp", c.to)
				require.NoError(t, err, "%v", c)
				defer conn.Close()
				conns[c] = conn
			}
			check := func() {
				t.Helper()
				for c, conn := range conns {
					got, err := say(conn, patience)
					require.NoError(t, err, "%v", c)
					require.Equal(t, c.want, got)
				}
			}
			ended := func(cs ...call) {
				t.Helper()
				for _, c := range cs {
					_, err := say(conns[c], quiet)
					for end := time.Now().Add(patience); e.Lags && err == nil && time.Now().Before(end); {
						_, err = say(conns[c], quiet)
					}
					require.Error(t, err, "%v", c)
					delete(conns, c)
				}
			}
			check()
			require.NoError(t, e.svc.DeleteFloatingIP(e.ctx, "f1"))
			ended(in, out)
			check()
			idle := func() {
				if e.limited(router.LimitBusyForwards) {
					time.Sleep(2 * time.Second)
				}
			}
			idle() // until the last acknowledgement is through
			require.NoError(t, e.svc.DeletePortForward(e.ctx, "p1"))
			idle()
			ended(forward)
			check()
			s.FloatingIPs, s.PortForwards = nil, nil
			e.sync(s)
			ended(other)
			check()
		}},
		{"moved by one that is killed", "A floating IP that moves ends its connections, and no others, also when the process is killed on the way.", func(t *testing.T, e *env) {
			if e.Dying == nil {
				return
			}
			one, two := basic(), basic()
			two.FloatingIPs[0].FixedIP = addr("10.0.0.6")
			e.sync(one)
			e.at("a")
			e.at("a2")
			stays, err := e.at("ext").dial("tcp", "203.0.113.2:2200")
			require.NoError(t, err)
			defer stays.Close()
			for n := 0; ; n++ {
				e.sync(one)
				c, err := e.at("ext").dial("tcp", "203.0.113.50:7000")
				require.NoError(t, err)
				got, err := say(c, patience)
				require.NoError(t, err)
				require.Equal(t, "a:7000 hears 203.0.113.1", got)
				killed := service(t, e.Dying(t, n)).Sync(e.ctx, two, vnet.SyncOptions{})
				e.svc = e.restarted()
				e.sync(two)
				_, err = say(c, quiet)
				require.Error(t, err, "the connection of before, killed after %d", n)
				c.Close()
				_, err = say(stays, patience)
				require.NoError(t, err)
				e.nothingToDo(two)
				if killed == nil {
					break
				}
			}
		}},
		{"host routes", "The longest prefix wins: a route to one address goes before that to its subnet, in both families.", func(t *testing.T, e *env) {
			s := basic()
			s.Routers[0].Routes = []router.Route{
				{Destination: netip.MustParsePrefix("192.168.5.0/24"), NextHop: addr("10.0.0.5")}, {Destination: netip.MustParsePrefix("192.168.5.9/32"), NextHop: addr("10.0.0.6")},
				{Destination: netip.MustParsePrefix("2001:db8:5::/64"), NextHop: addr("2001:db8:1::5")}, {Destination: netip.MustParsePrefix("2001:db8:5::9/128"), NextHop: addr("2001:db8:1::6")}}
			e.sync(s)
			for _, m := range []string{"a", "a2"} {
				e.at(m).IP("route", "add", "local", "192.168.5.0/24", "dev", "lo")
				e.at(m).IP("-6", "route", "add", "local", "2001:db8:5::/64", "dev", "lo")
			}
			for to, who := range map[string]string{"192.168.5.8": "a", "192.168.5.9": "a2", "2001:db8:5::8": "a", "2001:db8:5::9": "a2"} {
				got, err := e.at("b").ask("tcp", net.JoinHostPort(to, "7000"))
				require.NoError(t, err, to)
				require.Contains(t, got, who+":7000", to)
			}
			s.Routers[0].Routes = s.Routers[0].Routes[:1]
			e.sync(s)
			lab.Eventually(t, patience, "the way of before", func() bool { // what flows may go its old way for a moment
				got, err := e.at("b").ask("tcp", "192.168.5.9:7000")
				return err == nil && strings.Contains(got, "a:7000")
			})
			e.nothingToDo(s)
		}},
		{"IPv6 gateway", "A gateway may be IPv6 alone, with a link-local next hop.", func(t *testing.T, e *env) {
			s := basic()
			g := s.Routers[0].Gateway
			s.FloatingIPs, s.PortForwards = nil, nil
			ext := e.at("ext")
			g.Addresses, g.NextHops = pfx("2001:db8:f::2/64"), []netip.Addr{ext.MAC("eth0").LinkLocal()}
			ext.IP("-6", "addr", "add", "2001:db8:e::1/128", "dev", "lo")
			e.sync(s)
			e.nothingToDo(s)
			e.hears("a", "2001:db8:f::1", "ext:7000 hears 2001:db8:1::5")
			got, err := e.at("a").ask("tcp", "[2001:db8:e::1]:7000")
			require.NoError(t, err)
			require.Equal(t, "ext:7000 hears 2001:db8:1::5", got)
			e.deaf("a", "203.0.113.1")
		}},
		{"owners side by side", "Two owners' routers of the same ids on one host know nothing of each other.", func(t *testing.T, e *env) {
			if e.Beside == nil {
				return
			}
			two := newEnv(t, e.Beside(t))
			one := e
			for _, x := range []*env{one, two} {
				x.sync(basic())
				x.at("a")
			}
			both := func() {
				t.Helper()
				for _, x := range []*env{one, two} {
					x.hears("ext", "203.0.113.50", "a:7000 hears 203.0.113.1")
				}
			}
			both()
			calls, err := two.at("ext").dial("tcp", "203.0.113.50:7000")
			require.NoError(t, err)
			defer calls.Close()
			s := basic()
			s.FloatingIPs[0].FixedIP = addr("10.0.0.6")
			one.at("a2")
			one.sync(s)
			one.hears("ext", "203.0.113.50", "a2:7000 hears 203.0.113.1")
			one.sync(router.State{})
			got, err := say(calls, patience)
			require.NoError(t, err, "the other owner's connection")
			require.Equal(t, "a:7000 hears 203.0.113.1", got)
			two.nothingToDo(basic())
			one.sync(basic())
			both()
		}},
		{"autoconfiguration", "A host gets its address, default route, and MTU by advertisements, for as long as Serve runs and anew when it does so again.", autoconfiguration},
		{"admin down", "A router that is administratively down forwards nothing.", func(t *testing.T, e *env) {
			s := basic()
			e.sync(s)
			e.at("b")
			e.hears("a", "10.0.1.5", "b:7000 hears 10.0.0.5")
			s.Routers[0].AdminDown = true
			e.sync(s)
			e.nothingToDo(s)
			e.deaf("a", "10.0.1.5")
			s.Routers[0].AdminDown = false
			e.sync(s)
			e.nothingToDo(s)
			e.hears("a", "10.0.1.5", "b:7000 hears 10.0.0.5")
			e.hears("a", "203.0.113.1", "ext:7000 hears 203.0.113.50")
		}},
		{"advertisements", "Router advertisements carry flags, prefixes, MTU and resolvers as the interface says, and solicitations are answered.", advertisements},
	}
}

func advertisements(t *testing.T, e *env) {
	if !e.svc.Features(e.ctx).RA {
		return
	}
	lab.Need(t, "rdisc6")
	lifetime := 12 * time.Second
	if e.limited(router.LimitAdvertisedLifetime) {
		lifetime = 65535 * time.Second
	}
	e.quiet()
	defer e.serve()()
	vm := e.at("a")
	for _, mode := range []router.RAMode{router.SLAAC, router.DHCPv6Stateless, router.DHCPv6Stateful} {
		s := basic()
		s.Routers[0].Interfaces[0].RA = &router.RA{Mode: mode, MTU: 1400, RDNSS: []netip.Addr{addr("2001:db8::53")}, DNSSL: []string{"example.org"}, Interval: 4 * time.Second}
		e.sync(s)
		var c *ndp.Conn
		lab.Eventually(t, 2*patience, "a link-local address", func() bool {
			return nil == vm.Do(func() error {
				ifi, err := net.InterfaceByName("eth0")
				if err != nil {
					return err
				}
				// Package net remembers the index of a zone's name, over all namespaces.
				ifi.Name = strconv.Itoa(ifi.Index)
				c, _, err = ndp.Listen(ifi, ndp.LinkLocal)
				return err
			})
		})
		require.NoError(t, c.SetControlMessage(ipv6.FlagHopLimit, true))
		defer c.Close()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(2*patience)))
		stateful := mode == router.DHCPv6Stateful
		for {
			m, cm, from, err := c.ReadFrom()
			require.NoError(t, err)
			ra, ok := m.(*ndp.RouterAdvertisement)
			if !ok || ra.ManagedConfiguration != stateful || ra.OtherConfiguration != (mode == router.DHCPv6Stateless) {
				continue // of the mode before, or the deadline ends it
			}
			require.Equal(t, 255, cm.HopLimit)
			require.True(t, from.IsLinkLocalUnicast())
			require.Equal(t, lifetime, ra.RouterLifetime)
			var seen []string
			for _, o := range ra.Options {
				switch o := o.(type) {
				case *ndp.PrefixInformation:
					require.Equal(t, netip.MustParsePrefix("2001:db8:1::/64"), netip.PrefixFrom(o.Prefix, int(o.PrefixLength)))
					require.Equal(t, !stateful, o.AutonomousAddressConfiguration)
					require.True(t, o.OnLink)
					seen = append(seen, "prefix")
				case *ndp.MTU:
					require.EqualValues(t, 1400, o.MTU)
					seen = append(seen, "mtu")
				case *ndp.RecursiveDNSServer:
					require.Equal(t, []netip.Addr{addr("2001:db8::53")}, o.Servers)
					seen = append(seen, "rdnss")
				case *ndp.DNSSearchList:
					require.Equal(t, []string{"example.org"}, o.DomainNames)
					seen = append(seen, "dnssl")
				case *ndp.LinkLayerAddress:
					require.Equal(t, net.HardwareAddr(vnet.MAC{2, 0, 0, 0, 1, 1}.HardwareAddr()), o.Addr)
					seen = append(seen, "mac")
				}
			}
			require.ElementsMatch(t, []string{"prefix", "mtu", "rdnss", "dnssl", "mac"}, seen)
			break
		}
		out, err := vm.Exec(e.ctx, "rdisc6", "-1", "-w", "4000", "eth0")
		require.NoError(t, err, out)
		flag := func(name string, on bool) {
			for line := range strings.Lines(out) {
				if strings.Contains(line, name) {
					require.Equal(t, on, strings.Contains(line, "Yes"), out)
				}
			}
		}
		flag("Stateful address conf.", stateful)
		flag("Stateful other conf.", mode == router.DHCPv6Stateless)
		flag("Autonomous address conf.", !stateful)
		require.Contains(t, out, "2001:db8::53")
		require.Contains(t, out, "from fe80::ff:fe00:101")
	}
}

// autoconfiguration is an unmodified kernel on an advertised network.
func autoconfiguration(t *testing.T, e *env) {
	if !e.svc.Features(e.ctx).RA {
		return
	}
	e.quiet()
	s := basic()
	s.Routers[0].Interfaces[0].RA = &router.RA{Mode: router.SLAAC, MTU: 1400, Interval: 4 * time.Second}
	e.sync(s)
	e.at("ext")
	stop := e.serve()
	vm := e.at("auto")
	lab.Eventually(t, 5*patience, "an address, a default route and an MTU", func() bool {
		return strings.Contains(vm.IP("-6", "addr", "show", "dev", "eth0"), vm.MAC("eth0").EUI64(netip.MustParsePrefix("2001:db8:1::/64")).String()+"/64") &&
			strings.Contains(vm.IP("-6", "route", "show", "default"), "via fe80::ff:fe00:101 ") && strings.Contains(vm.IP("-6", "route"), "mtu 1400")
	})
	lab.Eventually(t, 5*patience, "a way out", func() bool { return vm.Ping("2001:db8:f::1", 1) == nil })
	stop()
	cap := vm.Capture("eth0")
	if e.limited(router.LimitAdvertisedLifetime) {
		heard := func(seconds uint16) func(lab.Frame) bool {
			return func(f lab.Frame) bool { return f.Proto == lab.ICMPv6 && f.ICMPType == 134 && f.ICMPSeq == seconds }
		}
		cap.Wait(5*patience, heard(65535))
		s.Routers[0].Interfaces[0].RA = nil
		require.NoError(t, e.svc.EnsureRouter(e.ctx, s.Routers[0]))
		cap.Reset()
		cap.None(5*time.Second, heard(65535)) // the interval and more
		cap.None(0, heard(0))
		return
	}
	advertised := func(seconds uint16) func(lab.Frame) bool {
		return func(f lab.Frame) bool { return f.Proto == lab.ICMPv6 && f.ICMPType == 134 && f.ICMPSeq == seconds }
	}
	cap.None(quiet, advertised(12))
	require.NoError(t, vm.Ping("2001:db8:f::1", 3), "the router works on without this process")
	stop = e.serve()
	defer func() { stop() }()
	cap.Wait(5*patience, advertised(12))
	// What is no router for hosts any more says so (RFC 4861, 6.2.5).
	s.Routers[0].Interfaces[0].RA = nil
	require.NoError(t, e.svc.EnsureRouter(e.ctx, s.Routers[0]))
	cap.Wait(2*patience, advertised(0))
}
