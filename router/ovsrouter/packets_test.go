package ovsrouter

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
)

var (
	machine = vnet.MAC{2, 0, 0, 0, 0, 5}
	routers = vnet.MAC{2, 0, 0, 0, 1, 1}
	a4, b4  = netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.1.5")
	a6, b6  = netip.MustParseAddr("2001:db8:1::5"), netip.MustParseAddr("2001:db8:2::5")
)

func sent(t *testing.T, f lab.Frame) packet {
	f.SrcMAC, f.DstMAC = machine, routers
	p, ok := parse(f.Bytes())
	require.True(t, ok)
	return p
}

func frame(t *testing.T, b []byte) lab.Frame {
	f, err := lab.ParseFrame(b)
	require.NoError(t, err)
	return f
}

func TestComplain(t *testing.T) {
	for _, x := range []struct {
		src, dst, own string
		typ           uint8
	}{{"10.0.0.5", "10.0.1.5", "10.0.0.1", 11}, {"2001:db8:1::5", "2001:db8:2::5", "2001:db8:1::1", 3}} {
		p := sent(t, lab.Frame{Src: netip.MustParseAddr(x.src), Dst: netip.MustParseAddr(x.dst), Proto: lab.UDP, SrcPort: 7, DstPort: 9, TTL: 1, Payload: []byte("hello")})
		f := frame(t, complain(p, netip.MustParseAddr(x.own), ttlExceeded, 0))
		require.Equal(t, x.typ, f.ICMPType)
		require.Equal(t, netip.MustParseAddr(x.own), f.Src)
		require.Equal(t, p.src, f.Dst)
		require.Equal(t, machine, f.DstMAC)
		require.Equal(t, p.ip, f.Payload[:len(p.ip)])
	}
	// Never about errors, nor with an address of the other family.
	e := sent(t, lab.Frame{Src: a4, Dst: b4, Proto: lab.ICMP, ICMPType: 3, Payload: make([]byte, 28)})
	require.Nil(t, complain(e, b4, noRoute, 0))
	e = sent(t, lab.Frame{Src: a6, Dst: b6, Proto: lab.ICMPv6, ICMPType: 1, Payload: make([]byte, 48)})
	require.Nil(t, complain(e, b6, noRoute, 0))
	u := sent(t, lab.Frame{Src: a4, Dst: b4, Proto: lab.UDP, SrcPort: 7, DstPort: 9})
	require.Nil(t, complain(u, a6, noRoute, 0))
}

func TestReset(t *testing.T) {
	for _, x := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		f := frame(t, reset(sent(t, lab.Frame{Src: x[0], Dst: x[1], Proto: lab.TCP, SrcPort: 1000, DstPort: 80, Flags: lab.SYN, Seq: 41})))
		require.EqualValues(t, lab.RST|lab.ACK, f.Flags)
		require.EqualValues(t, 42, f.Ack)
		require.EqualValues(t, 80, f.SrcPort)
		f = frame(t, reset(sent(t, lab.Frame{Src: x[0], Dst: x[1], Proto: lab.TCP, SrcPort: 1000, DstPort: 80, Flags: lab.ACK, Seq: 41, Ack: 77})))
		require.EqualValues(t, lab.RST, f.Flags)
		require.EqualValues(t, 77, f.Seq)
		require.Nil(t, reset(sent(t, lab.Frame{Src: x[0], Dst: x[1], Proto: lab.TCP, SrcPort: 1000, DstPort: 80, Flags: lab.RST})))
	}
}

func TestUntranslate(t *testing.T) {
	came := netip.MustParseAddr("203.0.113.50")
	for _, proto := range []uint8{lab.TCP, lab.UDP} {
		want := sent(t, lab.Frame{Src: a4, Dst: came, Proto: proto, SrcPort: 7, DstPort: 2200, Payload: []byte("abc")})
		got := untranslate(sent(t, lab.Frame{Src: a4, Dst: b4, Proto: proto, SrcPort: 7, DstPort: 22, Payload: []byte("abc")}), came, 2200)
		require.Equal(t, want.ip, got.ip)
	}
}

func TestWho(t *testing.T) {
	f := frame(t, who(routers, a4, b4))
	require.NotNil(t, f.ARP)
	require.Equal(t, b4, f.ARP.TPA)
	require.Equal(t, a4, f.ARP.SPA)
	f = frame(t, who(routers, a6, b6))
	require.EqualValues(t, 135, f.ICMPType)
	require.Equal(t, b6, f.Target)
	require.Equal(t, vnet.MAC{0x33, 0x33, 0xff, 0, 0, 5}, f.DstMAC)
	f = frame(t, advertisement(routers, machine, a6, b6))
	require.EqualValues(t, 136, f.ICMPType)
	require.EqualValues(t, 0xe0, f.NAFlags)
	require.Equal(t, routers, f.LinkAddr)
	f = frame(t, advertisement(routers, machine, a6, netip.IPv6Unspecified()))
	require.Equal(t, allNodes, f.Dst)
}

// What comes from anywhere is read without harm.
func FuzzParse(f *testing.F) {
	f.Add(lab.Frame{SrcMAC: machine, DstMAC: routers, Src: a4, Dst: b4, Proto: lab.TCP, Flags: lab.SYN}.Bytes())
	f.Add(lab.Frame{SrcMAC: machine, DstMAC: routers, Src: a6, Dst: b6, Proto: lab.UDP}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parse(b)
		if !ok {
			return
		}
		own := a4
		if p.src.Is6() {
			own = a6
		}
		for _, c := range []complaint{ttlExceeded, portUnreachable, tooBig} {
			if out := complain(p, own, c, 1400); out != nil {
				if _, ok := parse(out); !ok {
					t.Fatalf("% x", out)
				}
			}
		}
		if p.proto == 6 {
			reset(p)
		}
		if p.src.Is4() {
			untranslate(p, b4, 7)
		}
	})
}
