package ovsdpdk_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/dpdk/ovsdpdk"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
)

// BenchmarkVhostUser compares, in one run, packets a second from one machine to
// another through the filters: by vhost-user and a polling thread, and by the same
// userspace datapath between devices of the kernel.
func BenchmarkVhostUser(b *testing.B) {
	frame := lab.Frame{SrcMAC: port0.MAC, DstMAC: port1.MAC, Src: port0.FixedIPs[0], Dst: port1.FixedIPs[0], SrcPort: 4000, DstPort: 1000}
	for b.Loop() {
		s := newSite(b)
		ctx := b.Context()
		require.NoError(b, s.setup.EnsureConfig(ctx, s.config))
		require.NoError(b, s.setup.WaitReady(ctx))
		s.machines(b)
		for i := range s.m {
			require.NoError(b, ovsdpdk.PrepareSocket(s.config, s.socket(i)))
		}
		dev := func(i int) string {
			return fmt.Sprintf("net_virtio_user%d,path=%s,server=1,queue_size=256,mac=%s", i, s.socket(i), port(i).MAC)
		}
		fast := s.d.Throughput(s.vms, dev(0), dev(1), frame, func() {
			for i := range s.m {
				_, err := s.fabric.Plug(ctx, overlay.Attachment{PortID: port(i).ID, Kind: overlay.VhostUserClient, Socket: s.socket(i)})
				require.NoError(b, err)
			}
		})
		s.host.Vswitchd.Stop() // its thread would go on polling

		plain := onSwitch(b, s.l, s.d, s.l.Switches(lab.SwitchOptions{Name: "h2"})[0])
		plain.machinesIn(b, "plain")
		for i := range plain.m {
			_, err := plain.fabric.Plug(ctx, overlay.Attachment{PortID: port(i).ID, Kind: overlay.Veth, Name: fmt.Sprint("e", i), Netns: plain.vms.Path})
			require.NoError(b, err)
			plain.vms.Up(fmt.Sprint("e", i))
		}
		slow := s.d.Throughput(plain.vms, "net_af_packet0,iface=e0", "net_af_packet1,iface=e1", frame, func() {})
		b.ReportMetric(fast/1000, "kpps-vhost-user")
		b.ReportMetric(slow/1000, "kpps-veth")
		b.ReportMetric(fast/slow, "ratio")
	}
	b.ReportMetric(0, "ns/op")
}
