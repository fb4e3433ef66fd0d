package dhcptest

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/internal/lab"
)

// ready6 waits until the network is served.
func (f *field) ready6(s *station) {
	f.t.Helper()
	for end := time.Now().Add(wait); ; {
		if _, ok := s.cap.Find(100*time.Millisecond, isReply6(s.send6(infoReq6))); ok {
			return
		}
		if time.Now().After(end) {
			f.t.Fatal("the network is not served")
		}
	}
}

// net6 makes a network with one client that has an address; nil without v6.
func (f *field) net6(change func(*dhcp.Scope)) (*station, dhcp.Reservation, dhcp.Scope) {
	f.t.Helper()
	net := f.network()
	sc := scope6of(net)
	if change != nil {
		change(&sc)
	}
	if !f.feat.V6 {
		require.ErrorIs(f.t, f.s.EnsureScope(f.ctx, sc), vnet.ErrUnsupported)
		return nil, dhcp.Reservation{}, sc
	}
	f.scope(sc)
	s := f.station(net)
	r := f.reserve(net, s.mac, func(r *dhcp.Reservation) { r.Hostname = "web" }, "2001:db8:a::11")
	f.ready6(s)
	return s, r, sc
}

func asks(codes ...uint16) opt6 {
	var b []byte
	for _, c := range codes {
		b = binary.BigEndian.AppendUint16(b, c)
	}
	return opt6{oro6, b}
}

const ever = math.MaxUint32

// life6 is an address as it is given for two hours.
func (f *field) life6(ip netip.Addr) addr6 {
	if f.limited(dhcp.LimitLease6) {
		return addr6{ip, ever, ever}
	}
	return addr6{ip, 7200, 7200}
}

var own6 = netip.MustParseAddr("2001:db8:a::11")

var cases6 = []packetCase{
	{"v6 boot", "A known client gets its address by DHCPv6, and what the scope says.", func(f *field) {
		s, r, _ := f.net6(nil)
		if s == nil {
			return
		}
		adv, _ := s.ask6(solicit6, iaNA(7), asks(23, 24), opt6{39, []byte{1, 3, 'v', 'm', '1', 0}})
		require.EqualValues(f.t, advertise6, adv.typ)
		t1, t2, addrs, _ := adv.ia()
		require.Equal(f.t, []addr6{f.life6(own6)}, addrs)
		if f.limited(dhcp.LimitLease6) {
			require.Equal(f.t, [2]uint32{ever, ever}, [2]uint32{t1, t2})
		} else {
			require.Equal(f.t, [2]uint32{3600, 6300}, [2]uint32{t1, t2})
		}
		f.holds(r.ID, 0)
		rep, _ := s.ask6(request6, opt6{serverID6, adv.opt(serverID6)}, iaNA(7, own6), asks(23, 24), opt6{39, []byte{1, 3, 'v', 'm', '1', 0}})
		require.EqualValues(f.t, reply6, rep.typ)
		_, _, addrs, _ = rep.ia()
		require.Equal(f.t, []addr6{f.life6(own6)}, addrs)
		require.Equal(f.t, addr("2001:db8:53::1").AsSlice(), rep.opt(23))
		if search := string(rep.opt(24)); f.limited(dhcp.LimitSearch6) {
			require.Empty(f.t, search)
		} else {
			require.Equal(f.t, "\x07example\x03org\x00", search)
		}
		if name := string(rep.opt(39)); f.limited(dhcp.LimitNames) {
			require.Empty(f.t, name)
		} else {
			require.Equal(f.t, "\x06\x03web\x00", name)
		}
		f.event("lease", r.ID, "state", "new")
		f.holds(r.ID, 1)
	}},
	{"v6 renew", "A client renews by unicast: the server answers solicitations for its link-local address.", func(f *field) {
		s, r, _ := f.net6(nil)
		if s == nil {
			return
		}
		rep, fr := s.ask6(solicit6, iaNA(7))
		server := opt6{serverID6, rep.opt(serverID6)}
		if f.limited(dhcp.LimitLease6) {
			s.silent6(renew6, server, iaNA(7, own6))
			s.silent6(rebind6, iaNA(7, own6))
			return
		}
		s.ns.Inject(device, lab.NeighborSolicitation(s.mac, s.mac.LinkLocal(), fr.Src).Bytes())
		na := s.cap.Wait(wait, func(x lab.Frame) bool { return x.ICMPType == 136 && x.Proto == lab.ICMPv6 && x.Target == fr.Src })
		require.Equal(f.t, fr.SrcMAC, na.LinkAddr)
		require.EqualValues(f.t, 0x60, na.NAFlags, "solicited, override, no router")
		for range 2 {
			m, _ := s.reply6(s.send6to(na.LinkAddr, fr.Src, renew6, server, iaNA(7, own6)))
			_, _, addrs, _ := m.ia()
			require.Equal(f.t, []addr6{f.life6(own6)}, addrs)
		}
		f.event("lease", r.ID)
		f.event("lease", r.ID, "state", "renewed")
		m, _ := s.ask6(rebind6, iaNA(7, own6))
		require.EqualValues(f.t, reply6, m.typ)
		m, _ = s.ask6(renew6, server, iaNA(7, addr("2001:db8:a::99")))
		_, _, addrs, _ := m.ia()
		require.ElementsMatch(f.t, []addr6{f.life6(own6), {addr("2001:db8:a::99"), 0, 0}}, addrs, "what is not its own ends now")
		f.event("nak", r.ID)
		s.silent6(renew6, opt6{serverID6, []byte("another server")}, iaNA(7, own6))
	}},
	{"v6 moved network", "Confirm tells a client whether it is still on the same link.", func(f *field) {
		s, _, _ := f.net6(nil)
		if s == nil {
			return
		}
		m, _ := s.ask6(confirm6, iaNA(7, own6))
		if f.limited(dhcp.LimitLease6) {
			require.Nil(f.t, m.opt(status6))
			m, _ = s.ask6(confirm6, iaNA(7, addr("2001:db8:bad::1")))
			require.Nil(f.t, m.opt(status6))
			return
		}
		require.Equal(f.t, []byte{0, 0}, m.opt(status6)[:2])
		m, _ = s.ask6(confirm6, iaNA(7, addr("2001:db8:bad::1")))
		require.Equal(f.t, []byte{0, 4}, m.opt(status6)[:2], "NotOnLink")
	}},
	{"v6 release and decline", "Release and decline are answered, and the application hears of them.", func(f *field) {
		s, r, _ := f.net6(nil)
		if s == nil {
			return
		}
		adv, _ := s.ask6(solicit6, iaNA(7))
		server := opt6{serverID6, adv.opt(serverID6)}
		s.ask6(request6, server, iaNA(7, own6))
		if f.limited(dhcp.LimitLease6) {
			s.silent6(release6, server, iaNA(7, own6))
			m, _ := s.ask6(decline6, server, iaNA(7, own6))
			require.Nil(f.t, m.opt(status6))
			return
		}
		m, _ := s.ask6(release6, server, iaNA(7, own6))
		require.Equal(f.t, []byte{0, 0}, m.opt(status6)[:2])
		f.event("release", r.ID)
		f.holds(r.ID, 0)
		s.ask6(decline6, server, iaNA(7, own6))
		f.event("decline", r.ID)
	}},
	{"v6 rapid commit", "A client that wants it gets its address in two messages.", func(f *field) {
		if sc := scope6of("net"); f.limited(dhcp.LimitRapidCommit) {
			sc.RapidCommit = true
			require.ErrorIs(f.t, f.s.EnsureScope(f.ctx, sc), vnet.ErrUnsupported)
			return
		}
		s, r, _ := f.net6(func(sc *dhcp.Scope) { sc.RapidCommit = true })
		if s == nil {
			return
		}
		m, _ := s.ask6(solicit6, iaNA(7), opt6{rapid6, nil})
		require.EqualValues(f.t, reply6, m.typ)
		require.NotNil(f.t, m.opt(rapid6))
		f.event("lease", r.ID)
		m, _ = s.ask6(solicit6, iaNA(7))
		require.EqualValues(f.t, advertise6, m.typ)
	}},
	{"v6 stateless", "A stateless scope tells all but addresses.", func(f *field) {
		s, r, _ := f.net6(func(sc *dhcp.Scope) { sc.Mode = dhcp.Stateless })
		if s == nil {
			return
		}
		m, _ := s.ask6(infoReq6, asks(23))
		require.Equal(f.t, addr("2001:db8:53::1").AsSlice(), m.opt(23))
		require.Nil(f.t, m.opt(24))
		m, _ = s.ask6(solicit6, iaNA(7))
		_, _, addrs, status := m.ia()
		require.Empty(f.t, addrs)
		if f.limited(dhcp.LimitLease6) {
			require.Equal(f.t, -1, status)
		} else {
			require.Equal(f.t, 2, status, "NoAddrsAvail")
		}
		stranger := f.station(r.NetworkID)
		if f.limited(dhcp.LimitUnknown) {
			stranger.silent6(infoReq6, asks(23))
			return
		}
		m, _ = stranger.ask6(infoReq6, asks(23))
		require.NotNil(f.t, m.opt(23))
	}},
	{"v6 unknown client", "A client nobody reserved for hears nothing.", func(f *field) {
		s, r, _ := f.net6(nil)
		if s == nil {
			return
		}
		stranger := f.station(r.NetworkID)
		stranger.silent6(solicit6, iaNA(7))
		stranger.silent6(confirm6, iaNA(7, own6))
	}},
	{"v6 relay", "Clients behind relays are answered through them.", func(f *field) {
		if !f.feat.Relay {
			return
		}
		relay, r, sc := f.net6(nil)
		if relay == nil {
			return
		}
		sc.Relays = []netip.Prefix{netip.PrefixFrom(relay.mac.LinkLocal(), 128)}
		f.scope(sc)
		client := mac(9998)
		f.reserve(r.NetworkID, client, nil, "2001:db8:a::22")
		inner := message6{typ: solicit6, xid: 0x123, opts: []opt6{{clientID6, append([]byte{0, 3, 0, 1}, client[:]...)}, iaNA(1)}}.bytes()
		for hop := range byte(2) {
			link := netip.IPv6Unspecified()
			if hop == 0 {
				link = addr("2001:db8:a::1")
			}
			b := append([]byte{relayForw6, hop}, link.AsSlice()...)
			b = append(b, client.LinkLocal().AsSlice()...)
			inner = append(b, options6([]opt6{{interfaceID, []byte{'e', hop}}, {relayMsg6, inner}})...)
		}
		relay.cap.Reset()
		relay.ns.Inject(device, lab.Frame{SrcMAC: relay.mac, DstMAC: vnet.MAC{0x33, 0x33, 0, 1, 0, 2}, Src: relay.mac.LinkLocal(), Dst: allServers6, Proto: lab.UDP, SrcPort: 547, DstPort: 547, Payload: inner}.Bytes())
		fr := relay.cap.Wait(wait, func(x lab.Frame) bool { return x.SrcPort == 547 && len(x.Payload) > 34 && x.Payload[0] == relayRepl6 })
		require.EqualValues(f.t, 547, fr.DstPort)
		b := fr.Payload
		for hop := byte(1); hop != 255; hop-- {
			require.Equal(f.t, []byte{relayRepl6, hop}, b[:2])
			require.Equal(f.t, client.LinkLocal().AsSlice(), b[18:34])
			opts, err := parseOptions6(b[34:])
			require.NoError(f.t, err)
			m := message6{opts: opts}
			require.Equal(f.t, []byte{'e', hop}, m.opt(interfaceID))
			b = m.opt(relayMsg6)
		}
		m, err := parse6(b)
		require.NoError(f.t, err)
		require.EqualValues(f.t, advertise6, m.typ)
		_, _, addrs, _ := m.ia()
		require.Equal(f.t, addr("2001:db8:a::22"), addrs[0].ip)
	}},
	{"v6 pool", "A pool gives addresses by DHCPv6 too.", func(f *field) {
		if !f.feat.Pool {
			return
		}
		s, r, sc := f.net6(func(sc *dhcp.Scope) {
			sc.Pool = []dhcp.AddrRange{{First: addr("2001:db8:a::1000"), Last: addr("2001:db8:a::1fff")}}
		})
		if s == nil {
			return
		}
		guest := f.station(r.NetworkID)
		adv, _ := guest.ask6(solicit6, iaNA(3))
		_, _, addrs, _ := adv.ia()
		require.Len(f.t, addrs, 1)
		got := addrs[0].ip
		require.True(f.t, sc.Subnet.Contains(got))
		server := opt6{serverID6, adv.opt(serverID6)}
		rep, _ := guest.ask6(request6, server, iaNA(3, got))
		_, _, addrs, _ = rep.ia()
		require.Equal(f.t, got, addrs[0].ip)
		f.event("lease", sc.ID, "ip", got.String())
		guest.ask6(release6, server, iaNA(3, got))
		f.event("release", sc.ID)
	}},
}
