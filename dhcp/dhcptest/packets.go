package dhcptest

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/internal/lab"
)

// field is one host that serves, and stations on its networks.
type field struct {
	*bench
	l      *lab.Lab
	events chan vnet.Event
	feat   dhcp.Features

	watches bool // the backend tells of events
}

func newField(t *testing.T, h Harness) *field {
	f := &field{bench: newBench(t, h), l: lab.New(t), events: make(chan vnet.Event, 10000)}
	f.feat = f.s.Features(f.ctx)
	_, f.watches = f.h.DHCP.(dhcp.Watcher)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	if _, ok := f.h.DHCP.(dhcp.Runner); ok {
		wg.Go(func() {
			if err := f.s.Serve(ctx); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	seq := f.s.Watch(ctx)
	wg.Go(func() {
		for e := range seq {
			f.events <- e
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return f
}

// on is the field during one case.
func (f *field) on(t *testing.T) *field {
	g := *f
	b := *f.bench
	b.t, b.ctx = t, t.Context()
	g.bench = &b
	return &g
}

// network makes a network with a name of its own.
func (f *field) network() string {
	f.t.Helper()
	id := fmt.Sprintf("net-%s", f.l.Prefix()+fmt.Sprint(unique.next()))
	f.h.Network(f.t, id)
	return id
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) next() int { c.mu.Lock(); defer c.mu.Unlock(); c.n++; return c.n }

// station plugs a machine into the network; one with no reservation yet.
func (f *field) station(network string) *station {
	f.t.Helper()
	n := unique.next()
	s := &station{t: f.t, mac: mac(n), ns: f.l.NS(fmt.Sprint("vm", n)), xid: uint32(n) << 12, short: f.limited(dhcp.LimitRefusals)}
	// Its kernel makes no address of its own that could answer for it.
	s.ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	f.h.Plug(f.t, network, s.ns.Path, device, s.mac)
	s.ns.Up(device)
	lab.Eventually(f.t, 2*wait, "carrier", func() bool { return strings.Contains(s.ns.IP("-br", "link", "show", "dev", device), " UP ") })
	s.cap = s.ns.Capture(device)
	f.t.Cleanup(func() { f.l.Remove(s.ns) })
	return s
}

func (f *field) scope(sc dhcp.Scope) dhcp.Scope {
	f.t.Helper()
	require.NoError(f.t, f.s.EnsureScope(f.ctx, sc))
	f.settle()
	f.t.Cleanup(func() { require.NoError(f.t, f.s.DeleteScope(context.Background(), sc.ID)) })
	return sc
}

func (f *field) reserve(network string, m vnet.MAC, change func(*dhcp.Reservation), ips ...string) dhcp.Reservation {
	f.t.Helper()
	r := dhcp.Reservation{ID: fmt.Sprint("port-", unique.next()), NetworkID: network, MAC: m}
	for _, a := range ips {
		r.IPs = append(r.IPs, addr(a))
	}
	if change != nil {
		change(&r)
	}
	f.put(r)
	f.t.Cleanup(func() { require.NoError(f.t, f.s.DeleteReservation(context.Background(), r.ID)) })
	return r
}

// put makes a reservation, and before it the port that it is for where that matters.
func (f *field) put(r dhcp.Reservation) {
	f.t.Helper()
	f.ports(r)
	require.NoError(f.t, f.s.EnsureReservation(f.ctx, r))
	f.settle()
}

// scope4 is a scope as clouds have it.
func scope4(network string) dhcp.Scope {
	return dhcp.Scope{
		ID: network + "-v4", NetworkID: network, Subnet: prefix("10.0.0.0/24"), ServerIP: addr("10.0.0.2"), Router: addr("10.0.0.1"),
		DNS: []netip.Addr{addr("192.0.2.53"), addr("192.0.2.54")}, Domain: "example.org", SearchDomain: []string{"a.example.org", "example.org"},
		MTU: 1442, NTP: []netip.Addr{addr("192.0.2.123")}, Lease: 2 * time.Hour,
		Routes: []dhcp.Route{{Destination: prefix("169.254.169.254/32"), NextHop: addr("10.0.0.2")}},
	}
}

func scope6of(network string) dhcp.Scope {
	return dhcp.Scope{
		ID: network + "-v6", NetworkID: network, Subnet: prefix("2001:db8:a::/64"), DNS: []netip.Addr{addr("2001:db8:53::1")},
		SearchDomain: []string{"example.org"}, Lease: 2 * time.Hour,
	}
}

// event waits for an event of a kind about id, and compares details of it with
// the pairs in want, where the backend tells of any.
func (f *field) event(kind, id string, want ...string) {
	f.t.Helper()
	f.eventIn(wait, kind, id, want...)
}

func (f *field) eventIn(d time.Duration, kind, id string, want ...string) {
	f.t.Helper()
	if !f.watches {
		return
	}
	timeout := time.After(d)
	for {
		select {
		case e := <-f.events:
			if e.Kind != kind || e.ID != id {
				continue
			}
			for kv := range slices.Chunk(want, 2) {
				require.Equal(f.t, kv[1], e.Detail[kv[0]], kv[0])
			}
			return
		case <-timeout:
			f.t.Fatalf("no event %q of %s", kind, id)
		}
	}
}

// holds checks how many leases the reservation's client holds, where the
// backend knows.
func (f *field) holds(reservation string, n int) (out []dhcp.Lease) {
	f.t.Helper()
	if !f.feat.Leases {
		return nil
	}
	out = f.leases(reservation)
	require.Len(f.t, out, n)
	return out
}

func (f *field) leases(reservation string) (out []dhcp.Lease) {
	f.t.Helper()
	for l, err := range f.s.Leases(f.ctx) {
		require.NoError(f.t, err)
		if l.ReservationID == reservation {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b dhcp.Lease) int { return a.IP.Compare(b.IP) })
	return out
}

// ready waits until the network is served.
func (f *field) ready(s *station) {
	f.t.Helper()
	for end := time.Now().Add(wait); ; {
		if _, ok := s.cap.Find(100*time.Millisecond, isReply4(s.send4(message4{typ: discover}).xid)); ok {
			return
		}
		if time.Now().After(end) {
			f.t.Fatal("the network is not served")
		}
	}
}

func ip4(s string) []byte { return addr(s).AsSlice() }

// arp asks for target and returns the MAC that answers, if any.
func (s *station) arp(src, target string) (vnet.MAC, bool) {
	s.t.Helper()
	s.cap.Reset()
	s.ns.Inject(device, lab.ARPRequest(s.mac, addr(src), addr(target)).Bytes())
	f, ok := s.cap.Find(quiet*2, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.Op == 2 && f.ARP.SPA == addr(target) })
	if !ok {
		return vnet.MAC{}, false
	}
	if f.ARP.SHA != f.SrcMAC || f.ARP.THA != s.mac || f.DstMAC != s.mac {
		s.t.Fatalf("ARP reply is not for us: %v", f)
	}
	return f.ARP.SHA, true
}

type packetCase struct {
	name string
	says string
	run  func(f *field)
}

// unique numbers networks and stations of the process: tests of several
// backends may run side by side.
var unique counter

func runPackets(t *testing.T, h Harness) {
	f := newField(t, h)
	for _, c := range slices.Concat(cases4, cases6) {
		t.Run(c.name, func(t *testing.T) {
			t.Log(c.says)
			c.run(f.on(t))
		})
	}
}

var cases4 = []packetCase{
	{"boot", "A known client gets its address and what the scope says, byte by byte.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		s := f.station(net)
		r := f.reserve(net, s.mac, func(r *dhcp.Reservation) { r.Hostname = "web" }, "10.0.0.11")
		f.ready(s)
		all := opt4{55, []byte{1, 3, 6, 12, 15, 26, 28, 42, 119, 121, 249}}
		id := opt4{61, append([]byte{1}, s.mac[:]...)}
		m, fr := s.ask4(message4{typ: discover, opts: []opt4{all, id, {12, []byte("guest")}}})
		require.EqualValues(f.t, offer, m.typ)
		require.Equal(f.t, addr("10.0.0.11"), m.yiaddr)
		require.Equal(f.t, "10.0.0.2 10.0.0.11 67 68", fmt.Sprint(fr.Src, fr.Dst, fr.SrcPort, fr.DstPort))
		m, _ = s.ask4(message4{typ: request, opts: []opt4{all, id, {50, ip4("10.0.0.11")}, {54, ip4("10.0.0.2")}, {12, []byte("guest")}}})
		require.EqualValues(f.t, ack, m.typ)
		require.Equal(f.t, addr("10.0.0.11"), m.yiaddr)
		for code, want := range map[byte]string{
			1: "\xff\xff\xff\x00", 3: "\x0a\x00\x00\x01", 6: "\xc0\x00\x02\x35\xc0\x00\x02\x36", 12: "web", 15: "example.org", 26: "\x05\xa2",
			28: "\x0a\x00\x00\xff", 42: "\xc0\x00\x02\x7b", 51: "\x00\x00\x1c\x20", 54: "\x0a\x00\x00\x02", 58: "\x00\x00\x0e\x10", 59: "\x00\x00\x18\x9c", 61: string(id.data),
			119: "\x01a\x07example\x03org\x00\xc0\x02",
			121: "\x20\xa9\xfe\xa9\xfe\x0a\x00\x00\x02" + "\x00\x0a\x00\x00\x01",
			249: "\x20\xa9\xfe\xa9\xfe\x0a\x00\x00\x02" + "\x00\x0a\x00\x00\x01",
		} {
			if code == 61 && f.limited(dhcp.LimitClientID) {
				want = ""
			}
			require.Equal(f.t, want, string(m.opt(code)), "option %d", code)
		}
		f.event("lease", r.ID, "state", "new", "ip", "10.0.0.11", "hostname", "guest")
		for _, l := range f.holds(r.ID, 1) {
			require.Equal(f.t, s.mac, l.MAC)
			require.WithinDuration(f.t, time.Now().Add(2*time.Hour), l.Expires, 10*time.Second)
		}
	}},
	{"asked for little", "Options that were not asked for are not sent, but for routes and MTU.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		s := f.station(net)
		f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		m, _ := s.ask4(message4{typ: discover, opts: []opt4{{55, []byte{1, 3}}}})
		if f.limited(dhcp.LimitAllOptions) {
			require.Subset(f.t, m.codes(), []byte{1, 3, 6, 15, 26, 28, 42, 51, 54, 58, 59, 119, 121, 249})
			return
		}
		require.Equal(f.t, []byte{1, 3, 26, 51, 54, 58, 59, 121}, m.codes())
	}},
	{"broadcast flag", "A client that cannot hear unicast is answered at the broadcast address, by a frame of its own.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		s, other := f.station(net), f.station(net)
		f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		m, fr := s.ask4(message4{typ: discover, flags: 0x8000})
		require.Equal(f.t, addr("255.255.255.255"), fr.Dst)
		other.cap.None(quiet, isReply4(m.xid))
	}},
	{"renew", "A client renews by unicast: the server answers ARP for its address, and the lease goes on.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		s := f.station(net)
		r := f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		server, ok := s.arp("10.0.0.11", "10.0.0.2")
		require.True(f.t, ok, "ARP for the server is answered")
		_, ok = s.arp("10.0.0.11", "10.0.0.1")
		require.False(f.t, ok, "ARP for the router is not ours to answer")
		for _, state := range []string{"new", "renewed"} {
			sent := s.send4to(message4{typ: request, ciaddr: addr("10.0.0.11")}, server, addr("10.0.0.11"), addr("10.0.0.2"))
			m, fr := s.reply4(sent)
			require.EqualValues(f.t, ack, m.typ)
			require.Equal(f.t, addr("10.0.0.11"), fr.Dst)
			require.Equal(f.t, server, fr.SrcMAC)
			f.event("lease", r.ID, "state", state)
		}
		m, _ := s.ask4(message4{typ: request, ciaddr: addr("10.0.0.11")}) // rebinding: broadcast
		require.EqualValues(f.t, ack, m.typ)
	}},
	{"server is the router", "ARP for a server address that is the router's is left to the router.", func(f *field) {
		net := f.network()
		sc := scope4(net)
		sc.ServerIP = sc.Router
		f.scope(sc)
		s := f.station(net)
		f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		_, ok := s.arp("10.0.0.11", "10.0.0.1")
		require.False(f.t, ok)
	}},
	{"moved network", "A known client that asks for an address of another network is refused at once.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		s := f.station(net)
		r := f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		for _, m := range []message4{
			{typ: request, opts: []opt4{{50, ip4("192.168.7.7")}}},                      // init-reboot
			{typ: request, ciaddr: addr("192.168.7.7")},                                 // renewing, rebinding
			{typ: request, opts: []opt4{{50, ip4("10.0.0.12")}, {54, ip4("10.0.0.2")}}}, // selecting
		} {
			got, fr := s.ask4(m)
			require.EqualValues(f.t, nak, got.typ)
			to := addr("255.255.255.255")
			if f.limited(dhcp.LimitRefusals) {
				to = addr("10.0.0.11")
			}
			require.Equal(f.t, to, fr.Dst)
			require.Equal(f.t, addr("0.0.0.0"), got.yiaddr)
			require.Empty(f.t, got.opt(51))
			f.event("nak", r.ID)
		}
		other := message4{typ: request, opts: []opt4{{50, ip4("10.0.0.11")}, {54, ip4("10.0.0.99")}}} // chose another server
		if f.limited(dhcp.LimitServerChoice) {
			got, _ := s.ask4(other)
			require.EqualValues(f.t, ack, got.typ)
			return
		}
		s.silent4(other)
	}},
	{"unknown client", "A client nobody reserved for hears nothing, unless the scope is the subnet's only server.", func(f *field) {
		net := f.network()
		sc := f.scope(scope4(net))
		s, known := f.station(net), f.station(net)
		f.reserve(net, known.mac, nil, "10.0.0.11")
		f.ready(known)
		s.silent4(message4{typ: discover})
		s.silent4(message4{typ: request, opts: []opt4{{50, ip4("10.0.0.12")}}})
		sc.NAKUnknown = true
		f.scope(sc)
		if f.limited(dhcp.LimitUnknown) {
			s.silent4(message4{typ: request, opts: []opt4{{50, ip4("10.0.0.12")}}})
			return
		}
		m, _ := s.ask4(message4{typ: request, opts: []opt4{{50, ip4("10.0.0.12")}}})
		require.EqualValues(f.t, nak, m.typ)
		s.silent4(message4{typ: discover})
	}},
	{"impostor", "A request that names another MAC than it came from is dropped.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		s, victim := f.station(net), f.station(net)
		f.reserve(net, victim.mac, nil, "10.0.0.11")
		f.ready(victim)
		s.silent4(message4{typ: discover, chaddr: victim.mac})
		victim.cap.None(0, isReply4(s.xid&0xffffff))
	}},
	{"another host's client", "A client whose reservation names another host hears nothing here.", func(f *field) {
		net := f.network()
		sc := scope4(net)
		sc.NAKUnknown = true
		f.scope(sc)
		s, here := f.station(net), f.station(net)
		f.reserve(net, s.mac, func(r *dhcp.Reservation) { r.Host = "elsewhere" }, "10.0.0.11")
		f.reserve(net, here.mac, func(r *dhcp.Reservation) { r.Host = f.h.Name }, "10.0.0.12")
		f.ready(here)
		if f.feat.Central {
			f.ready(s) // it serves there too
			return
		}
		s.silent4(message4{typ: discover})
		s.silent4(message4{typ: request, opts: []opt4{{50, ip4("10.0.0.99")}}})
		_, ok := s.arp("10.0.0.11", "10.0.0.2")
		require.False(f.t, ok)
	}},
	{"release and decline", "Release and decline have no reply; the application hears of them.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		s := f.station(net)
		r := f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		m, _ := s.ask4(message4{typ: request, opts: []opt4{{50, ip4("10.0.0.11")}}})
		require.EqualValues(f.t, ack, m.typ)
		f.holds(r.ID, 1)
		s.silent4(message4{typ: release, ciaddr: addr("10.0.0.11"), opts: []opt4{{54, ip4("10.0.0.2")}}})
		f.event("release", r.ID, "ip", "10.0.0.11")
		f.holds(r.ID, 0)
		s.silent4(message4{typ: decline, opts: []opt4{{50, ip4("10.0.0.11")}, {54, ip4("10.0.0.2")}}})
		f.event("decline", r.ID, "ip", "10.0.0.11")
	}},
	{"inform", "A client with an address of its own gets the rest, without a lease.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		s := f.station(net)
		r := f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		m, fr := s.ask4(message4{typ: inform, ciaddr: addr("10.0.0.11")})
		require.EqualValues(f.t, ack, m.typ)
		require.Equal(f.t, addr("10.0.0.11"), fr.Dst)
		require.Equal(f.t, addr("0.0.0.0"), m.yiaddr)
		require.Empty(f.t, m.opt(51))
		require.NotEmpty(f.t, m.opt(6))
		f.holds(r.ID, 0)
	}},
	{"rapid commit", "A client that wants it gets its address in two messages.", func(f *field) {
		net := f.network()
		sc := scope4(net)
		sc.RapidCommit = true
		if f.limited(dhcp.LimitRapidCommit) {
			require.ErrorIs(f.t, f.s.EnsureScope(f.ctx, sc), vnet.ErrUnsupported)
			return
		}
		f.scope(sc)
		s := f.station(net)
		f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		m, _ := s.ask4(message4{typ: discover, opts: []opt4{{80, nil}}})
		require.EqualValues(f.t, ack, m.typ)
		require.NotNil(f.t, m.opt(80))
		m, _ = s.ask4(message4{typ: discover})
		require.EqualValues(f.t, offer, m.typ)
	}},
	{"relay", "Clients behind a relay that the scope names are answered through it, option 82 as it came; other relays are not.", func(f *field) {
		net := f.network()
		sc := scope4(net)
		if !f.feat.Relay {
			return
		}
		sc.Relays = []netip.Prefix{prefix("10.0.0.254/32")}
		f.scope(sc)
		relay := f.station(net)
		client := mac(9999)
		f.reserve(net, client, nil, "10.0.0.11")
		f.reserve(net, relay.mac, nil, "10.0.0.254")
		f.ready(relay)
		info := opt4{82, []byte{1, 4, 'p', 'o', 'r', 't'}}
		sent := relay.send4to(message4{typ: discover, hops: 1, chaddr: client, giaddr: addr("10.0.0.254"), opts: []opt4{info}}, lab.BroadcastMAC, addr("10.0.0.254"), addr("10.0.0.2"))
		m, fr := relay.reply4(sent)
		require.EqualValues(f.t, offer, m.typ)
		require.Equal(f.t, addr("10.0.0.11"), m.yiaddr)
		require.Equal(f.t, "10.0.0.254 67", fmt.Sprint(fr.Dst, fr.DstPort))
		require.Equal(f.t, info, m.opts[len(m.opts)-1], "relay information comes last (RFC 3046)")
		sent = relay.send4to(message4{typ: discover, chaddr: client, giaddr: addr("10.0.0.253"), opts: []opt4{info}}, lab.BroadcastMAC, addr("10.0.0.253"), addr("10.0.0.2"))
		relay.cap.None(quiet, isReply4(sent.xid))
	}},
	{"overlapping networks", "Networks with the same addresses and MACs live side by side.", func(f *field) {
		a, b := f.network(), f.network()
		sa, sb := scope4(a), scope4(b)
		sb.Domain = "b.example"
		f.scope(sa)
		f.scope(sb)
		x := f.station(a)
		y := &station{t: f.t, mac: x.mac, ns: f.l.NS(fmt.Sprint("vm", unique.next())), xid: 0x700000}
		y.ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
		f.h.Plug(f.t, b, y.ns.Path, device, y.mac)
		y.ns.Up(device)
		y.cap = y.ns.Capture(device)
		f.t.Cleanup(func() { f.l.Remove(y.ns) })
		f.reserve(a, x.mac, nil, "10.0.0.11")
		f.reserve(b, x.mac, nil, "10.0.0.22")
		f.ready(x)
		f.ready(y)
		m, _ := x.ask4(message4{typ: discover})
		require.Equal(f.t, "10.0.0.11 example.org", fmt.Sprintf("%s %s", m.yiaddr, m.opt(15)))
		m, _ = y.ask4(message4{typ: discover})
		require.Equal(f.t, "10.0.0.22 b.example", fmt.Sprintf("%s %s", m.yiaddr, m.opt(15)))
	}},
	{"boot files", "Boot file by architecture, and for iPXE.", func(f *field) {
		net := f.network()
		sc := scope4(net)
		sc.TFTPServer = "10.0.0.9"
		limited := f.limited(dhcp.LimitBootFiles)
		sc.BootFiles = map[uint16]string{0: "pxelinux.0", 7: "grubx64.efi", dhcp.BootIPXE: "http://10.0.0.9/boot"}
		if limited {
			sc.BootFiles = map[uint16]string{dhcp.BootDefault: "pxelinux.0", dhcp.BootIPXE: "http://10.0.0.9/boot"}
		}
		f.scope(sc)
		s := f.station(net)
		f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		for want, opts := range map[string][]opt4{
			"pxelinux.0":           {{93, []byte{0, 0}}},
			"grubx64.efi":          {{93, []byte{0, 7}}},
			"http://10.0.0.9/boot": {{93, []byte{0, 7}}, {175, []byte{1, 1, 1}}},
			"":                     {{93, []byte{0, 11}}},
		} {
			if limited && want != "http://10.0.0.9/boot" {
				want = "pxelinux.0"
			}
			m, _ := s.ask4(message4{typ: discover, opts: append(opts, opt4{55, []byte{66, 67}})})
			require.Equal(f.t, want, string(m.opt(67)))
			if limited {
				want = ""
			}
			require.Equal(f.t, want, m.file)
			require.Equal(f.t, "10.0.0.9", string(m.opt(66)))
			next := addr("10.0.0.9")
			if limited && len(opts) > 1 {
				next = addr("0.0.0.0")
			}
			require.Equal(f.t, next, m.siaddr)
		}
	}},
	{"vendor options", "Options by code are sent as they are, the reservation's over the scope's.", func(f *field) {
		if !f.feat.Options {
			return
		}
		net := f.network()
		sc := scope4(net)
		sc.Options = []dhcp.Option{{Code: 43, Data: []byte{1, 1, 7}}, {Code: 150, Data: ip4("10.0.0.8")}}
		if f.limited(dhcp.LimitOptionCodes) {
			require.ErrorIs(f.t, f.s.EnsureScope(f.ctx, sc), vnet.ErrUnsupported)
			sc.Options[0] = dhcp.Option{Code: 44, Data: []byte{1, 1, 1, 7}}
		}
		f.scope(sc)
		s := f.station(net)
		f.reserve(net, s.mac, func(r *dhcp.Reservation) { r.Options = []dhcp.Option{{Code: 150, Data: ip4("10.0.0.9")}} }, "10.0.0.11")
		f.ready(s)
		m, _ := s.ask4(message4{typ: discover, opts: []opt4{{55, []byte{1}}}})
		require.Equal(f.t, sc.Options[0].Data, m.opt(byte(sc.Options[0].Code)))
		require.Equal(f.t, ip4("10.0.0.9"), m.opt(150))
	}},
	{"changes", "What is changed while serving is what the next answer says; what is gone is silent.", func(f *field) {
		net := f.network()
		sc := f.scope(scope4(net))
		s := f.station(net)
		r := f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		sc.MTU = 1300
		require.NoError(f.t, f.s.EnsureScope(f.ctx, sc))
		f.settle()
		m, _ := s.ask4(message4{typ: request, ciaddr: addr("10.0.0.11")})
		require.EqualValues(f.t, 1300, binary.BigEndian.Uint16(m.opt(26)))
		r.IPs = []netip.Addr{addr("10.0.0.44")}
		f.put(r)
		m, _ = s.ask4(message4{typ: request, ciaddr: addr("10.0.0.11")})
		require.EqualValues(f.t, nak, m.typ)
		require.NoError(f.t, f.s.DeleteReservation(f.ctx, r.ID))
		f.settle()
		s.silent4(message4{typ: discover})
		f.put(r)
		m, _ = s.ask4(message4{typ: discover})
		require.Equal(f.t, addr("10.0.0.44"), m.yiaddr)
		require.NoError(f.t, f.s.DeleteScope(f.ctx, sc.ID))
		f.settle()
		s.silent4(message4{typ: discover})
	}},
	{"network comes later", "A network made after its scope is served when it comes, and when it comes again.", func(f *field) {
		id := "net-" + f.l.Prefix() + fmt.Sprint(unique.next())
		f.scope(scope4(id))
		for range 2 {
			f.h.Network(f.t, id)
			s := f.station(id)
			f.reserve(id, s.mac, nil, fmt.Sprintf("10.0.0.%d", 11+unique.next()%200))
			f.ready(s)
			f.h.RemoveNetwork(f.t, id)
		}
	}},
	{"garbage", "What is no DHCP is dropped, and the server goes on.", func(f *field) {
		net := f.network()
		f.scope(scope4(net))
		if f.feat.V6 {
			f.scope(scope6of(net))
		}
		s := f.station(net)
		f.reserve(net, s.mac, nil, "10.0.0.11")
		f.ready(s)
		good := message4{op: 1, typ: discover, chaddr: s.mac, xid: 0xbad, opts: []opt4{{55, []byte{1, 3}}, {61, []byte{1, 2, 3}}}}.bytes()
		rng := uint32(1)
		for i := range 40 {
			b := slices.Clone(good[:len(good)*i/40])
			for range 3 {
				rng = rng*1664525 + 1013904223
				if len(b) > 0 {
					b[int(rng>>8)%len(b)] = byte(rng)
				}
			}
			s.ns.Inject(device, lab.Frame{SrcMAC: s.mac, DstMAC: lab.BroadcastMAC, Src: addr("0.0.0.0"), Dst: addr("255.255.255.255"), Proto: lab.UDP, SrcPort: 68, DstPort: 67, Payload: b}.Bytes())
			s.ns.Inject(device, lab.Frame{SrcMAC: s.mac, DstMAC: vnet.MAC{0x33, 0x33, 0, 1, 0, 2}, Src: s.mac.LinkLocal(), Dst: allServers6, Proto: lab.UDP, SrcPort: 546, DstPort: 547, Payload: b}.Bytes())
		}
		time.Sleep(1500 * time.Millisecond) // the client's own limit
		m, _ := s.ask4(message4{typ: discover})
		require.EqualValues(f.t, offer, m.typ)
	}},
	{"flood", "One client's flood is cut, and others on its network and elsewhere are answered as always.", func(f *field) {
		net, far := f.network(), f.network()
		f.scope(scope4(net))
		f.scope(scope4(far))
		loud, calm, away := f.station(net), f.station(net), f.station(far)
		f.reserve(net, loud.mac, nil, "10.0.0.11")
		f.reserve(net, calm.mac, nil, "10.0.0.12")
		f.reserve(far, away.mac, nil, "10.0.0.12")
		f.ready(calm)
		f.ready(away)
		stop := make(chan struct{})
		sent := make(chan int, 1)
		frame := lab.Frame{SrcMAC: loud.mac, DstMAC: lab.BroadcastMAC, Src: addr("0.0.0.0"), Dst: addr("255.255.255.255"), Proto: lab.UDP, SrcPort: 68, DstPort: 67,
			Payload: message4{op: 1, typ: discover, chaddr: loud.mac, xid: 0xf100d}.bytes()}.Bytes()
		loud.cap.Reset()
		begin := time.Now()
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					sent <- n
					return
				default:
					loud.ns.Inject(device, frame)
					n++
				}
			}
		}()
		var slowest time.Duration
		lost := 0
		for range 15 {
			for _, s := range []*station{calm, away} {
				var at time.Time
				m, ok := message4{}, false
				for range 3 { // a client asks again; a busy machine loses frames before they are anybody's
					at = time.Now()
					xid := s.send4(message4{typ: discover}).xid
					var answer lab.Frame
					if answer, ok = s.cap.Find(wait, isReply4(xid)); ok {
						var err error
						m, err = parse4(answer.Payload)
						require.NoError(f.t, err)
						break
					}
					lost++
				}
				require.True(f.t, ok, "no answer to %s", s.mac)
				require.EqualValues(f.t, offer, m.typ)
				slowest = max(slowest, time.Since(at))
			}
		}
		close(stop)
		n := <-sent
		require.LessOrEqual(f.t, lost, 3, "of 30 requests")
		took := time.Since(begin)
		time.Sleep(50 * time.Millisecond)
		answered := 0
		for _, fr := range loud.cap.Frames() {
			if isReply4(0xf100d)(fr) {
				answered++
			}
		}
		f.t.Logf("%d requests in %v by one client: %d answered; others waited %v at most", n, took, answered, slowest)
		require.Less(f.t, slowest, time.Second)
		require.Less(f.t, answered, n/2+200)
	}},
	{"pool", "A scope with a pool gives its addresses to clients without a reservation, and keeps them.", func(f *field) {
		net := f.network()
		sc := scope4(net)
		sc.Pool = []dhcp.AddrRange{{First: addr("10.0.0.100"), Last: addr("10.0.0.101")}}
		if !f.feat.Pool {
			require.ErrorIs(f.t, f.s.EnsureScope(f.ctx, sc), vnet.ErrUnsupported)
			return
		}
		f.scope(sc)
		a, b, c, known := f.station(net), f.station(net), f.station(net), f.station(net)
		f.reserve(net, known.mac, nil, "10.0.0.11")
		f.ready(known)
		lease := func(s *station) netip.Addr {
			f.t.Helper()
			m, _ := s.ask4(message4{typ: discover})
			require.EqualValues(f.t, offer, m.typ)
			got, _ := s.ask4(message4{typ: request, opts: []opt4{{50, m.yiaddr.AsSlice()}, {54, ip4("10.0.0.2")}}})
			require.EqualValues(f.t, ack, got.typ)
			require.Equal(f.t, m.yiaddr, got.yiaddr)
			f.event("lease", sc.ID, "ip", got.yiaddr.String())
			return got.yiaddr
		}
		ia, ib := lease(a), lease(b)
		require.NotEqual(f.t, ia, ib)
		c.silent4(message4{typ: discover}) // full
		require.Equal(f.t, ia, lease(a), "a client keeps its address")
		a.silent4(message4{typ: release, ciaddr: ia, opts: []opt4{{54, ip4("10.0.0.2")}}})
		require.Equal(f.t, ia, lease(c))
		c.silent4(message4{typ: decline, opts: []opt4{{50, ia.AsSlice()}, {54, ip4("10.0.0.2")}}})
		f.event("decline", sc.ID)
		a.silent4(message4{typ: discover}) // the declined address rests
		m, _ := known.ask4(message4{typ: discover})
		require.Equal(f.t, addr("10.0.0.11"), m.yiaddr)
	}},
}
