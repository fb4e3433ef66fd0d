package nftsecgroup

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/secgroup"
)

func TestRecord(t *testing.T) {
	p := uint16(80)
	big := secgroup.Group{ID: "big", Stateless: true}
	for i := range 500 {
		big.Rules = append(big.Rules, secgroup.Rule{ID: fmt.Sprintf("r%d", i), Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: &p, PortMax: &p,
			RemotePrefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(i >> 8), 0}), 24)})
	}
	want := secgroup.State{
		Groups:        []secgroup.Group{secgroup.DefaultGroup("d"), big},
		AddressGroups: []secgroup.AddressGroup{{ID: "a", Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}}},
		Ports: []secgroup.Port{{ID: "6f1d6f6e-8c8e-4a52-9d1b-0f3ac3f1b6a0", NetworkID: "b1a4c3de-6f70-4b8a-8f0e-2f6f1f5b7c11", MAC: vnet.MAC{2, 0, 0, 0, 0, 1},
			FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}, Groups: []string{"d"}}},
	}.Canonical()
	var elems []nft.Element
	var r recorder
	add := func(e entry) {
		list, err := r.pieces(e)
		require.NoError(t, err)
		t.Logf("%s: %d elements", e.key(), len(list))
		elems = append(elems, list...)
	}
	for i := range want.Groups {
		add(entry{Group: &want.Groups[i]})
	}
	add(entry{AddressGroup: &want.AddressGroups[0]})
	add(entry{Port: &want.Ports[0]})
	got, err := readRecord(elems)
	require.NoError(t, err)
	require.Equal(t, want, got)

	_, err = readRecord(elems[1:])
	require.ErrorContains(t, err, "pieces")
}
