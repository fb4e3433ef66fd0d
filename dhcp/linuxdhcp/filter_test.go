package linuxdhcp

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
)

var (
	macS = vnet.MustParseMAC("02:00:00:00:00:01")
	macA = vnet.MustParseMAC("02:00:00:00:00:0a")
)

func TestFilter(t *testing.T) {
	vm := func() *bpf.VM {
		// The interpreter has no packet type; the instruction is replaced.
		p := filter()
		p[0] = bpf.LoadConstant{Dst: bpf.RegA, Val: 0}
		v, err := bpf.NewVM(p)
		require.NoError(t, err)
		return v
	}()
	_, err := bpf.Assemble(filter())
	require.NoError(t, err)
	ip4, ip6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	udp := func(a netip.Addr, port uint16) []byte {
		return lab.Frame{SrcMAC: macA, DstMAC: macS, Src: a, Dst: a, Proto: 17, SrcPort: 5, DstPort: port, Payload: make([]byte, 40)}.Bytes()
	}
	frag := udp(ip4, 67)
	frag[ethLen+6] = 0x20
	tcp := udp(ip4, 67)
	tcp[ethLen+9] = 6
	reply := lab.ARPRequest(macA, ip4, ip4).Bytes()
	reply[ethLen+7] = 2
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"bootps":           {udp(ip4, 67), true},
		"bootpc":           {udp(ip4, 68), false},
		"fragment":         {frag, false},
		"tcp":              {tcp, false},
		"dhcpv6 server":    {udp(ip6, 547), true},
		"dhcpv6 client":    {udp(ip6, 546), false},
		"arp request":      {lab.ARPRequest(macA, ip4, ip4).Bytes(), true},
		"arp reply":        {reply, false},
		"solicitation":     {lab.NeighborSolicitation(macA, ip6, ip6).Bytes(), true},
		"echo":             {lab.Frame{SrcMAC: macA, DstMAC: macS, Src: ip6, Dst: ip6, Proto: 58, ICMPType: 128}.Bytes(), false},
		"short":            {make([]byte, 14), false},
		"other ether type": {append(make([]byte, 12), 0x88, 0xcc, 0, 0), false},
	} {
		n, err := vm.Run(c.frame)
		require.NoError(t, err)
		require.Equal(t, c.want, n > 0, name)
	}
	p := filter()
	p[0] = bpf.LoadConstant{Dst: bpf.RegA, Val: 4}
	v, err := bpf.NewVM(p)
	require.NoError(t, err)
	n, err := v.Run(udp(ip4, 67))
	require.NoError(t, err)
	require.Zero(t, n, "what the host sends")
}
