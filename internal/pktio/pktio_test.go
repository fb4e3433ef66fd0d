package pktio_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/pktio"
)

func TestFilters(t *testing.T) {
	l := lab.New(t)
	a, b := l.NS("a"), l.NS("b")
	l.Veth(a, "eth0", b, "eth0")
	mac, to := a.MAC("eth0"), b.MAC("eth0")
	c, err := pktio.Open(b, "eth0", &pktio.Options{Filters: []pktio.Filter{
		{EtherType: pktio.IPv4, IPProto: 17, DstPorts: []uint16{66, 67, 68}},
		{EtherType: pktio.IPv6, IPProto: 17, DstPorts: []uint16{547}},
		{EtherType: pktio.ARP},
	}})
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, to, c.MAC())
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	udp := func(ip netip.Addr, port uint16, tag string) []byte {
		return lab.Frame{SrcMAC: mac, DstMAC: to, Src: ip, Dst: ip, Proto: 17, SrcPort: 1, DstPort: port, Payload: []byte(tag)}.Bytes()
	}
	a.Inject("eth0", udp(v4, 69, "no"))
	a.Inject("eth0", udp(v6, 67, "no"))
	a.Inject("eth0", lab.Frame{SrcMAC: mac, DstMAC: to, Src: v4, Dst: v4, Proto: 6, DstPort: 67}.Bytes())
	want := [][]byte{udp(v4, 66, "1"), udp(v4, 67, "2"), udp(v4, 68, "3"), udp(v6, 547, "4"), pktio.GratuitousARP(mac, v4)}
	for _, f := range want {
		a.Inject("eth0", f)
	}
	buf := make([]byte, 2000)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, f := range want {
		n, err := c.Receive(ctx, buf)
		require.NoError(t, err)
		require.Equal(t, f, buf[:len(f)], "received %d bytes", n)
	}
	// What is sent here is not received here.
	cap := a.Capture("eth0")
	require.NoError(t, c.Send(pktio.GratuitousARP(to, v4)))
	cap.Wait(2*time.Second, func(f lab.Frame) bool { return f.SrcMAC == to })
	short, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer stop()
	_, err = c.Receive(short, buf)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// And the socket goes on after a wait that ended.
	a.Inject("eth0", want[0])
	_, err = c.Receive(ctx, buf)
	require.NoError(t, err)
	require.Zero(t, c.Dropped())

	go c.Close()
	_, err = c.Receive(t.Context(), buf)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = pktio.Open(b, "nosuch", nil)
	require.ErrorIs(t, err, vnet.ErrNotFound)
	require.False(t, errors.Is(err, context.Canceled))
}

func TestAnnouncements(t *testing.T) {
	lab.Need(t, "ip")
	l := lab.New(t)
	a, b := l.NS("a"), l.NS("b")
	l.Veth(a, "eth0", b, "eth0")
	b.Addr("eth0", "10.0.0.2/24")
	b.Addr("eth0", "2001:db8::2/64")
	// Neighbours known by another MAC follow the announcement.
	mac := vnet.MustParseMAC("02:00:00:00:00:77")
	for _, ip := range []string{"10.0.0.9", "2001:db8::9"} {
		b.IP("neigh", "replace", ip, "lladdr", "02:00:00:00:00:66", "dev", "eth0", "nud", "stale")
		c, err := pktio.Open(a, "eth0", nil)
		require.NoError(t, err)
		require.NoError(t, c.Send(pktio.Announce(mac, netip.MustParseAddr(ip), true)))
		require.NoError(t, c.Close())
		lab.Eventually(t, 2*time.Second, "neighbour "+ip+" to move", func() bool {
			out := b.IP("neigh", "show", "dev", "eth0")
			return strings.Contains(out, mac.String())
		})
		b.IP("neigh", "flush", "dev", "eth0")
	}
}

func TestARPRoundTrip(t *testing.T) {
	m1, m2 := vnet.MustParseMAC("02:00:00:00:00:01"), vnet.MustParseMAC("02:00:00:00:00:02")
	ip1, ip2 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	m, ok := pktio.ParseARP(pktio.ARPReply(m1, ip1, m2, ip2))
	require.True(t, ok)
	require.Equal(t, pktio.ARPMessage{Op: 2, SenderMAC: m1, SenderIP: ip1, TargetMAC: m2, TargetIP: ip2}, m)
	_, ok = pktio.ParseARP(pktio.UnsolicitedNA(m1, netip.MustParseAddr("2001:db8::1"), false))
	require.False(t, ok)
	f, err := lab.ParseFrame(pktio.UnsolicitedNA(m1, netip.MustParseAddr("2001:db8::1"), false))
	require.NoError(t, err)
	require.EqualValues(t, 136, f.ICMPType)
	require.EqualValues(t, 255, f.TTL)
}

func FuzzParseARP(f *testing.F) {
	f.Add(pktio.GratuitousARP(vnet.MAC{2}, netip.MustParseAddr("192.0.2.1")))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := pktio.ParseARP(b)
		if !ok {
			return
		}
		again, ok := pktio.ParseARP(m.Frame(vnet.MAC(b[:6])))
		if !ok || again != m {
			t.Fatalf("%+v became %+v", m, again)
		}
	})
}

func TestAnswerNS(t *testing.T) {
	asker, mac := vnet.MustParseMAC("02:00:00:00:00:0a"), vnet.MustParseMAC("02:00:00:00:00:01")
	ip := netip.MustParseAddr("fe80::a9fe:a9fe")
	ask := lab.NeighborSolicitation(asker, asker.LinkLocal(), ip).Bytes()
	b, ok := pktio.AnswerNS(ask, mac, false)
	if !ok {
		t.Fatal("not answered")
	}
	f, err := lab.ParseFrame(b) // checks the checksum
	if err != nil || f.DstMAC != asker || f.SrcMAC != mac || f.Dst != asker.LinkLocal() || f.Src != ip || f.Target != ip || f.LinkAddr != mac || f.NAFlags != 0x60 || f.TTL != 255 {
		t.Fatalf("%+v %v", f, err)
	}
	b, ok = pktio.AnswerNS(lab.NeighborSolicitation(asker, netip.IPv6Unspecified(), ip).Bytes(), mac, true)
	if f, err = lab.ParseFrame(b); !ok || err != nil || f.Dst != netip.MustParseAddr("ff02::1") || f.NAFlags != 0xa0 {
		t.Fatalf("%+v %v", f, err)
	}
	for i := range ask {
		pktio.AnswerNS(ask[:i], mac, false) // what is cut is no reason to fall
	}
	ask[14+7] = 64 // it has come through a router
	if _, ok := pktio.AnswerNS(ask, mac, false); ok {
		t.Fatal("answered one from elsewhere")
	}
}
