package lab

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
)

func TestFramesCrossAVeth(t *testing.T) {
	l := New(t)
	a, b := l.NS("a"), l.NS("b")
	l.Veth(a, "eth0", b, "eth0")
	cap := b.Capture("eth0")
	want := Frame{SrcMAC: a.MAC("eth0"), DstMAC: b.MAC("eth0"), Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"),
		Proto: UDP, SrcPort: 1000, DstPort: 2000, Payload: []byte("hello")}
	a.Inject("eth0", want.Bytes())
	got := cap.Wait(time.Second, func(f Frame) bool { return f.DstPort == 2000 })
	require.Equal(t, want.Payload, got.Payload)
	require.Equal(t, want.SrcMAC, got.SrcMAC)
	cap.None(20*time.Millisecond, func(f Frame) bool { return f.DstPort == 2001 })
}

func TestTaggedFrameKeepsItsTag(t *testing.T) {
	l := New(t)
	a, b := l.NS("a"), l.NS("b")
	l.Veth(a, "eth0", b, "eth0")
	cap := b.Capture("eth0")
	a.Inject("eth0", Frame{SrcMAC: a.MAC("eth0"), DstMAC: BroadcastMAC, VLAN: 77, EtherType: 0x88b5, Payload: []byte("x")}.Bytes())
	got := cap.Wait(time.Second, func(f Frame) bool { return f.EtherType == 0x88b5 })
	require.EqualValues(t, 77, got.VLAN)
}

func TestUnderlayHostsPing(t *testing.T) {
	l := New(t)
	h := l.Underlay("h1", "h2")
	require.NoError(t, h[0].Ping(h[1].IP.String(), 1))
	Eventually(t, 3*time.Second, "ping over IPv6", func() bool { return h[0].Ping(h[1].IP6.String(), 1) == nil })
}

func TestLabLeavesNothing(t *testing.T) {
	var prefix string
	t.Run("inner", func(t *testing.T) {
		l := New(t)
		prefix = l.Prefix()
		n := l.NS("x")
		n.Start("sleep", "60")
	})
	ents, err := os.ReadDir(netnsDir)
	require.NoError(t, err)
	for _, e := range ents {
		require.False(t, strings.HasPrefix(e.Name(), prefix), e.Name())
	}
}

// The kernel's own stack is the oracle for checksums: it answers only right ones.
func TestKernelAcceptsChecksums(t *testing.T) {
	l := New(t)
	a, b := l.NS("a"), l.NS("b")
	l.Veth(a, "eth0", b, "eth0")
	b.Addr("eth0", "10.0.0.2/24")
	b.Addr("eth0", "2001:db8::2/64")
	cap := a.Capture("eth0")
	for _, f := range []Frame{
		{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: ICMP, ICMPType: 8, ICMPID: 7, ICMPSeq: 9, Payload: []byte("odd")},
		{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"), Proto: ICMPv6, ICMPType: 128, ICMPID: 7, ICMPSeq: 9, Payload: []byte("odd")},
	} {
		f.SrcMAC, f.DstMAC = a.MAC("eth0"), b.MAC("eth0")
		b.IP("neigh", "replace", f.Src.String(), "lladdr", f.SrcMAC.String(), "dev", "eth0")
		a.Inject("eth0", f.Bytes())
		cap.Wait(time.Second, func(g Frame) bool { return (g.ICMPType == 0 || g.ICMPType == 129) && g.ICMPSeq == 9 && g.Dst == f.Src })
	}
	// A SYN to a closed port is answered by a reset, if its checksum was right.
	syn := Frame{SrcMAC: a.MAC("eth0"), DstMAC: b.MAC("eth0"), Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"), Proto: TCP, SrcPort: 5, DstPort: 6, Flags: SYN, Seq: 99}
	a.Inject("eth0", syn.Bytes())
	cap.Wait(time.Second, func(g Frame) bool { return g.Proto == TCP && g.Flags&RST != 0 && g.Ack == 100 })
	ns := NeighborSolicitation(a.MAC("eth0"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"))
	a.Inject("eth0", ns.Bytes())
	cap.Wait(time.Second, func(g Frame) bool { return g.ICMPType == 136 && g.Target == ns.Target && g.LinkAddr == b.MAC("eth0") })
}

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := Frame{SrcMAC: vnet.MAC{2, 1}, DstMAC: vnet.MAC{2, 2}, TTL: rapid.Uint8Range(1, 255).Draw(t, "ttl")}
		if rapid.Bool().Draw(t, "v6") {
			f.Src, f.Dst, f.EtherType = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), EtherIPv6
		} else {
			f.Src, f.Dst, f.EtherType = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), EtherIPv4
		}
		f.Proto = rapid.SampledFrom([]uint8{UDP, TCP, ICMP, 47}).Draw(t, "proto")
		switch f.Proto {
		case UDP:
			f.SrcPort, f.DstPort = rapid.Uint16().Draw(t, "sp"), rapid.Uint16().Draw(t, "dp")
		case TCP:
			f.SrcPort, f.DstPort, f.Flags = rapid.Uint16().Draw(t, "sp"), rapid.Uint16().Draw(t, "dp"), SYN
		case ICMP:
			f.ICMPType, f.ICMPID = 8, rapid.Uint16().Draw(t, "id")
		}
		f.Payload = rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "payload")
		g, err := ParseFrame(f.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		require.Equal(t, f, g)
	})
}

func FuzzParseFrame(f *testing.F) {
	f.Add(Frame{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: UDP}.Bytes())
	f.Add(NeighborSolicitation(vnet.MAC{2}, netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2")).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = ParseFrame(b) })
}
