package engine

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
	"github.com/vnet-go/vnet/internal/lab"
)

var (
	macS = vnet.MustParseMAC("02:00:00:00:00:01")
	macA = vnet.MustParseMAC("02:00:00:00:00:0a")
)

// What is built is read by the lab's own code, which checks checksums.
func TestFrames(t *testing.T) {
	for _, c := range []dhcpwire.Result{
		{MAC: macA, Src: netip.MustParseAddrPort("192.0.2.2:67"), Dst: netip.MustParseAddrPort("192.0.2.10:68"), Payload: []byte("odd")},
		{MAC: macA, Src: netip.MustParseAddrPort("[fe80::1]:547"), Dst: netip.MustParseAddrPort("[fe80::2]:546"), Payload: []byte("even")},
	} {
		b := datagram(nil, macS, c)
		f, err := lab.ParseFrame(b)
		require.NoError(t, err)
		require.Equal(t, macS, f.SrcMAC)
		require.Equal(t, macA, f.DstMAC)
		require.Equal(t, c.Src, netip.AddrPortFrom(f.Src, f.SrcPort))
		require.Equal(t, c.Dst, netip.AddrPortFrom(f.Dst, f.DstPort))
		require.Equal(t, string(c.Payload), string(f.Payload))
		require.Zero(t, checksumOf(t, b))
		p := parse(b)
		require.Equal(t, macS, p.packet.MAC)
		require.Equal(t, c.Payload, p.packet.Payload)
	}
	a := lab.ARPRequest(macA, netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.2"))
	require.Equal(t, "02000000000a020000000001080600010800060400020200000000"+"01c0000202"+"02000000000ac000020a",
		hex.EncodeToString(arpReply(nil, macS, parse(a.Bytes()))))
	ns := parse(lab.NeighborSolicitation(macA, macA.LinkLocal(), macS.LinkLocal()).Bytes())
	require.Equal(t, solicitation, ns.kind)
	na := advertisement(nil, macS, ns)
	require.Zero(t, checksumOf(t, na))
	require.Equal(t, "02000000000a02000000000186dd6000000000203aff"+"fe800000000000000000"+"00fffe000001"+"fe8000000000000000"+"0000fffe00000a", hex.EncodeToString(na[:54])[:44]+hex.EncodeToString(na[22:54]))
}

// checksumOf sums the pseudo header and the rest: zero when it is right.
func checksumOf(t *testing.T, b []byte) uint16 {
	t.Helper()
	p := b[ethLen:]
	if p[0]>>4 == 4 {
		require.Zero(t, checksum(0, p[:ip4Len]), "IP header")
		return checksum(add(uint32(p[9])+uint32(len(p)-ip4Len), p[12:ip4Len]), p[ip4Len:])
	}
	return checksum(add(uint32(p[6])+uint32(len(p)-ip6Len), p[8:ip6Len]), p[ip6Len:])
}

func FuzzFrame(f *testing.F) {
	f.Add(lab.ARPRequest(macA, netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.2")).Bytes())
	f.Add(lab.NeighborSolicitation(macA, macA.LinkLocal(), macS.LinkLocal()).Bytes())
	f.Add(datagram(nil, macS, dhcpwire.Result{MAC: macA, Src: netip.MustParseAddrPort("192.0.2.2:67"), Dst: netip.MustParseAddrPort("192.0.2.10:67"), Payload: []byte("x")}))
	f.Add(datagram(nil, macS, dhcpwire.Result{MAC: macA, Src: netip.MustParseAddrPort("[fe80::1]:547"), Dst: netip.MustParseAddrPort("[fe80::2]:547"), Payload: []byte("x")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := parse(b)
		if p.kind == dhcp4 || p.kind == dhcp6 {
			giaddr(p.packet.Payload)
			if len(p.packet.Payload) > len(b)-ethLen-ip4Len-udpLen {
				t.Fatal("payload is longer than the frame")
			}
		}
	})
}

func TestLimiter(t *testing.T) {
	l := NewLimiter[vnet.MAC](10, 5)
	at := time.Unix(1000, 0)
	allowed := func(mac vnet.MAC, n int) (ok int) {
		for range n {
			if l.Allow(mac, at, false) {
				ok++
			}
		}
		return ok
	}
	require.Equal(t, 5, allowed(macA, 50), "a burst")
	require.Equal(t, 5, allowed(macS, 50), "others are not touched")
	at = at.Add(200 * time.Millisecond)
	require.Equal(t, 2, allowed(macA, 50), "and then the rate")
	got := 0
	for i := range 3 * maxClients {
		if l.Allow(vnet.MAC{2, 1, byte(i >> 16), byte(i >> 8), byte(i)}, at, false) {
			got++
		}
	}
	require.LessOrEqual(t, got, maxClients+5, "invented MACs share one bucket")
	require.LessOrEqual(t, len(l.now)+len(l.old), 2*maxClients)
	require.True(t, l.Allow(vnet.MAC{2, 2}, at, true), "a relay's clients are not invented")
	at = at.Add(time.Minute)
	require.Equal(t, 5, allowed(macA, 50))
	at = at.Add(time.Minute)
	allowed(macA, 1)
	require.Less(t, len(l.now)+len(l.old), 3, "idle clients are forgotten")
}
