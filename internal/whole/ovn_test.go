package whole_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/whole"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/reach/reachtest"
	"github.com/vnet-go/vnet/router/ovnrouter"
	"github.com/vnet-go/vnet/secgroup/ovnsecgroup"
)

// On OVN there are the worlds that are the same everywhere. Streams and owners
// are for platforms whose Sync is atomic for each host and where a connection
// that is forbidden ends at once, which is not so here.
func TestOVN(t *testing.T) {
	whole.Same(t, whole.Harness{Seed: *seed, Worlds: *worlds, Packets: *packets, Make: func(t testing.TB, owners int) []whole.Site {
		l := lab.New(t)
		central := l.OVNCentral(nil)
		physical := func(i int) string {
			if i == 0 {
				return reachtest.Physical
			}
			return fmt.Sprint("phys", i)
		}
		var o []lab.ChassisOptions
		for _, name := range []string{"h1", "h2"} {
			x := lab.ChassisOptions{Name: name}
			for i := range owners {
				x.Physical = append(x.Physical, physical(i))
			}
			o = append(o, x)
		}
		chassis := l.Chassis(central, o...)
		var out []whole.Site
		for i := range owners {
			s := ovnSite(t, vnet.Owner(l.Owner(fmt.Sprint(i))), central, chassis)
			s.Station = func(_ testing.TB, ns *lab.NS) {
				l.Plug(l.Wire(physical(i)), ns, "eth0")
				ns.NoOffload("eth0")
			}
			out = append(out, s)
		}
		return out
	}})
}

func ovnSite(t testing.TB, owner vnet.Owner, central *lab.Central, chassis []*lab.Chassis) whole.Site {
	ctx := context.Background()
	c, err := ovn.Dial(ctx, owner, strings.Split(central.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(central.SBEndpoints(), ","), Wait: ovn.WaitHypervisors, Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := c.Cleanup(ctx); err != nil {
			t.Error(err)
		}
		c.Close()
	})
	ov, err := ovnoverlay.New(c, nil)
	require.NoError(t, err)
	sg, err := ovnsecgroup.New(c, nil)
	require.NoError(t, err)
	ro, err := ovnrouter.New(c, nil)
	require.NoError(t, err)
	s := whole.Site{Central: true, Limits: whole.Limits{TrackedAll: true, OwnAddressesOnly: true, SYNOnce: true}}
	for _, x := range chassis {
		ch, err := ovn.OpenChassis(ctx, owner, x.Endpoint, &ovn.ChassisOptions{Netns: x.Path})
		require.NoError(t, err)
		t.Cleanup(func() {
			if err := ch.Cleanup(ctx); err != nil {
				t.Error(err)
			}
			ch.Close()
		})
		p, err := ovnoverlay.NewPlugger(c, ch)
		require.NoError(t, err)
		s.Hosts = append(s.Hosts, whole.Host{Name: x.ChassisName, Endpoint: x.EncapIP, Overlay: ov, Plugger: p, SecGroup: sg, Router: ro})
	}
	n := 0
	s.Settle = func(testing.TB) {
		central.WaitHV()
		for _, x := range chassis {
			n++
			x.Vsctl("--timeout=30", "set", "Open_vSwitch", ".", fmt.Sprintf("external_ids:settled=%d", n)) // waits for ovs-vswitchd
		}
		central.WaitHV()
		for _, x := range chassis {
			_, err := x.Exec("ovs-appctl", "revalidator/purge")
			require.NoError(t, err)
		}
	}
	return s
}
