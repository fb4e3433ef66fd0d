package linuxrouter_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/router"
)

// Who has called an address before it was a floating IP, and calls on, is
// translated from then on, and not answered by the router.
func TestCalledBeforeItWas(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	require.NoError(t, s.svc.EnsureRouter(ctx, r1))
	require.NoError(t, s.vm.Ping("10.0.0.1", 1))
	require.NoError(t, s.ext.Ping("203.0.113.2", 1))
	mac := s.ext.MAC("eth0")
	call := func(dst string, port uint16) lab.Frame {
		return lab.Frame{SrcMAC: mac, DstMAC: r1.Gateway.MAC, Src: netip.MustParseAddr("203.0.113.1"), Dst: netip.MustParseAddr(dst), Proto: lab.UDP, SrcPort: 999, DstPort: port}
	}
	vm, ext := s.vm.Capture("eth0"), s.ext.Capture("eth0")
	// To an address that is nobody's, and to a port of the router's own.
	calls := []lab.Frame{call("203.0.113.50", 7), call("203.0.113.2", 2222)}
	for _, f := range calls {
		s.ext.Inject("eth0", f.Bytes())
	}
	ext.Wait(3*time.Second, func(f lab.Frame) bool { return f.Proto == lab.ICMP && f.ICMPType == 3 })
	ping := lab.Frame{SrcMAC: mac, DstMAC: r1.Gateway.MAC, Src: netip.MustParseAddr("203.0.113.1"), Dst: netip.MustParseAddr("203.0.113.50"), Proto: lab.ICMP, ICMPType: 8, ICMPID: 77}
	s.ext.Inject("eth0", ping.Bytes())

	require.NoError(t, s.svc.EnsureFloatingIP(ctx, f1))
	require.NoError(t, s.svc.EnsurePortForward(ctx, router.PortForward{ID: "p", RouterID: "r1", Protocol: "udp", ExternalIP: netip.MustParseAddr("203.0.113.2"),
		ExternalPort: router.PortRange{First: 2222}, InternalIP: netip.MustParseAddr("10.0.0.5"), InternalPort: router.PortRange{First: 22}}))
	for _, f := range append(calls, ping) {
		s.ext.Inject("eth0", f.Bytes())
	}
	for _, want := range []uint16{7, 22} {
		vm.Wait(3*time.Second, func(f lab.Frame) bool { return f.Proto == lab.UDP && f.DstPort == want })
	}
	vm.Wait(3*time.Second, func(f lab.Frame) bool { return f.Proto == lab.ICMP && f.ICMPType == 8 && f.ICMPID == 77 })
}
