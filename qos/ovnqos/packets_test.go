package ovnqos_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/qostest"
	"github.com/vnet-go/vnet/router"
)

func TestTraffic(t *testing.T) {
	qostest.RunTraffic(t, qostest.Harness{Make: func(t testing.TB) qostest.Site { return newSite(t, "netdev").tenant(t).suite() }})
}

// TestGuestShares: guarantees, which need the kernel's data path, and that its
// meters hold too.
func TestGuestShares(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	x := newSite(t, "system").tenant(t)
	x.share()
	qostest.RunTraffic(t, qostest.Harness{
		UplinkKbps: 8_000, Only: func(name string) bool {
			return name == "guarantee on tunnels" || name == "guarantee on a physical network" || name == "before plugging"
		},
		Make: func(t testing.TB) qostest.Site { return x.suite() }})
	t.Run("ovn-controller restarts", func(t *testing.T) {
		// It takes the queues of the tunnels' device away, and puts none back.
		ctx := t.Context()
		require.NoError(t, x.qos.EnsureUplink(ctx, qos.Uplink{Name: qos.Tunnelled, Kbps: 20_000, Host: "hv1"}))
		require.NoError(t, x.qos.EnsurePort(ctx, qos.Port{ID: "free", Uplink: qos.Tunnelled, Host: "hv1", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 15_000}}}))
		x.settle()
		x.hv[0].OVNController.Restart()
		x.site.c.WaitHV()
		lab.Eventually(t, patience, "the share is back", func() bool {
			out, err := x.hv[0].Exec("tc", "class", "show", "dev", "br-phy")
			return err == nil && strings.Contains(out, "rate 15Mbit") && strings.Contains(out, "1:f001") && strings.Contains(out, "rate 20Mbit ceil 20Mbit")
		})
	})
}

// rate is that of a flow, in kbit/s, when its burst has passed.
func rate(from, to qostest.VM, dst string, kbps int) float64 {
	f := from.NS.Send(to.NS, dst, lab.Offer{Kbps: kbps})
	defer f.Stop()
	time.Sleep(400 * time.Millisecond)
	return f.Measure(time.Second).Kbps
}

// TestGateway: limits that were there before the router, the ones of a floating
// IP that is translated on its port's host, and a gateway that gets another MAC.
func TestGateway(t *testing.T) {
	x := newSite(t, "netdev").tenant(t)
	ctx := t.Context()
	x.network("ext", overlay.Segment{Type: overlay.Flat, PhysicalNetwork: physical})
	shape := func(egress, ingress uint32) qos.Shape {
		return qos.Shape{Egress: qos.Limits{Kbps: egress, BurstKbit: 200}, Ingress: qos.Limits{Kbps: ingress, BurstKbit: 200}}
	}
	require.NoError(t, x.qos.EnsureGateway(ctx, qos.Gateway{RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", Shape: shape(4000, 3000)}))
	r, rt := x.routed()
	require.InEpsilon(t, 4000, rate(r.Plain, r.Outside, r.Outside.V4, 8000), 0.1, "the gateway's, out")

	r.FloatingIP.Shape = shape(6000, 5000)
	require.NoError(t, x.qos.EnsureFloatingIP(ctx, r.FloatingIP))
	require.NoError(t, x.router.EnsureFloatingIP(ctx, router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: r.FloatingIP.FloatingIP,
		FixedIP: prefixes(r.Floating.V4 + "/32")[0].Addr(), PortID: "fl", ExternalMAC: vnet.MAC{2, 0, 0, 0, 1, 5}}))
	x.reaches(r.Outside, "203.0.113.50")
	require.InEpsilon(t, 6000, rate(r.Floating, r.Outside, r.Outside.V4, 10_000), 0.1, "from the floating IP, on its port's host")
	require.InEpsilon(t, 5000, rate(r.Outside, r.Floating, "203.0.113.50", 10_000), 0.1, "to the floating IP, on its port's host")

	rt.Gateway.MAC = vnet.MAC{2, 0, 0, 0, 1, 4}
	require.NoError(t, x.router.EnsureRouter(ctx, rt))
	x.reaches(r.Plain, r.Outside.V4)
	require.InEpsilon(t, 4000, rate(r.Plain, r.Outside, r.Outside.V4, 8000), 0.1, "with another MAC")
}
