package ovnqos_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovnqos"
)

// south is a Southbound as northd fills it, with one chassis.
type south struct {
	t  testing.TB
	sb *ovsdbtest.Server
}

func newSouth(t testing.TB) *south {
	s := &south{t, ovsdbtest.New(t, ovsdbtest.SB)}
	s.ctl("--id=@e", "create", "Encap", "type=geneve", "ip=192.0.2.9", "chassis_name=id1", "--", "create", "Chassis", "name=id1", "hostname=hv1", "encaps=@e",
		"--", "create", "Datapath_Binding", "tunnel_key=1")
	return s
}

func (s *south) ctl(args ...string) string {
	return s.sb.Run("ovn-sbctl", append([]string{"--db=" + s.sb.Endpoint()}, args...)...)
}

func (s *south) uplink(name string, kbps int) {
	s.ctl("--id=@b", "create", "Meter_Band", "action=drop", fmt.Sprint("rate=", kbps), "--", "create", "Meter", `name="o/uplink/hv1/`+name+`"`, "unit=kbps", "bands=@b")
}

// port binds a port to the chassis; queue 0 is none.
func (s *south) port(id string, key, queue, kbps int, uplink string) {
	chassis := strings.TrimSpace(s.ctl("--bare", "--columns=_uuid", "list", "Chassis", "id1"))
	dp := strings.TrimSpace(s.ctl("--bare", "--columns=_uuid", "list", "Datapath_Binding"))
	record := fmt.Sprintf(`{\"id\":\"%s\",\"shape\":{\"egress\":{\"min_kbps\":%d}},\"uplink\":\"%s\"}`, id, kbps, uplink)
	args := []string{"create", "Port_Binding", `logical_port="o/` + id + `"`, "datapath=" + dp, fmt.Sprint("tunnel_key=", key), "chassis=" + chassis,
		`external_ids:vnet\:qos\:port="` + record + `"`, fmt.Sprint("options:qos_min_rate=", kbps*1000)}
	if queue > 0 {
		args = append(args, fmt.Sprint("options:qdisc_queue_id=", queue))
	}
	s.ctl(args...)
}

// TestShares: what a host makes of what the Southbound says.
func TestShares(t *testing.T) {
	s := newSouth(t)
	l := lab.New(t)
	ns := l.NS("hv1")
	for _, d := range []string{"a", "b", "c"} {
		l.Veth(ns, d, ns, d+"-far")
	}
	ctx := t.Context()
	c, err := ovn.Dial(ctx, "o", nil, &ovn.Options{Southbound: []string{s.sb.Endpoint()}})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	open := func() *ovnqos.Shares {
		x, err := ovnqos.NewShares(c, "hv1", &ovnqos.SharesOptions{Netns: ns.Path, Every: 20 * time.Millisecond,
			Devices: map[string]string{qos.Tunnelled: "a", "physnet1": "b", "physnet2": "c"}})
		require.NoError(t, err)
		t.Cleanup(func() { x.Close() })
		return x
	}
	x := open()
	tc := func(args ...string) string {
		out, err := ns.Exec(ctx, "tc", args...)
		require.NoError(t, err)
		return out
	}
	classes := func(dev string) string {
		var all []string
		for _, line := range strings.Split(tc("class", "show", "dev", dev), "\n") {
			if f := strings.Fields(line); len(f) > 2 {
				for i, w := range f {
					if w == "rate" {
						all = append(all, f[2]+" "+f[i+1]+"-"+f[i+3])
					}
				}
			}
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	becomes := func(dev, want string, apply *ovnqos.Shares) {
		t.Helper()
		lab.Eventually(t, waitLimit, dev+" is "+want, func() bool {
			if apply != nil {
				if err := apply.Apply(ctx); err != nil {
					t.Log(err)
				}
			}
			return classes(dev) == want
		})
	}

	require.NoError(t, x.Apply(ctx))
	require.Empty(t, classes("a"), "nobody has asked")
	s.uplink("*tunnelled", 20_000)
	s.uplink("physnet1", 10_000)
	s.uplink("elsewhere", 10_000)
	becomes("a", "1:f001 20Mbit-20Mbit, 1:fffe 20Mbit-20Mbit", x)
	becomes("b", "1:f001 10Mbit-10Mbit, 1:fffe 10Mbit-10Mbit", x)
	s.port("p1", 1, 1, 15_000, "*tunnelled")
	s.port("p2", 2, 2, 4000, "physnet1")
	s.port("p3", 3, 0, 1000, "physnet1")
	becomes("a", "1:2 15Mbit-20Mbit, 1:f001 5Mbit-20Mbit, 1:fffe 20Mbit-20Mbit", x)
	becomes("b", "1:3 4Mbit-10Mbit, 1:f001 6Mbit-10Mbit, 1:fffe 10Mbit-10Mbit", x)
	require.ErrorIs(t, x.Apply(ctx), vnet.ErrNotReady, "p3 has no queue")

	// Another that comes after it goes on with what stands.
	before := tc("-s", "qdisc", "show", "dev", "a")
	x = open()
	require.ErrorIs(t, x.Apply(ctx), vnet.ErrNotReady)
	require.Equal(t, before, tc("-s", "qdisc", "show", "dev", "a"))

	// ovn-controller has its own idea of classes, and takes it all away when it starts.
	serve, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- x.Serve(serve) }()
	tc("class", "change", "dev", "a", "parent", "1:fffe", "classid", "1:2", "htb", "rate", "1mbit", "ceil", "30gbit")
	becomes("a", "1:2 15Mbit-20Mbit, 1:f001 5Mbit-20Mbit, 1:fffe 20Mbit-20Mbit", nil)
	tc("qdisc", "del", "dev", "a", "root")
	becomes("a", "1:2 15Mbit-20Mbit, 1:f001 5Mbit-20Mbit, 1:fffe 20Mbit-20Mbit", nil)
	s.ctl("set", "Port_Binding", `o/p3`, "options:qdisc_queue_id=2") // as a port that has moved here may
	becomes("b", "1:3 5Mbit-10Mbit, 1:f001 5Mbit-10Mbit, 1:fffe 10Mbit-10Mbit", nil)
	s.ctl("clear", "Port_Binding", `o/p2`, "chassis")
	becomes("b", "1:3 1Mbit-10Mbit, 1:f001 9Mbit-10Mbit, 1:fffe 10Mbit-10Mbit", nil)
	stop()
	require.NoError(t, <-done)

	// What is somebody else's stays.
	tc("qdisc", "add", "dev", "c", "root", "handle", "7:", "tbf", "rate", "1mbit", "burst", "10k", "latency", "10ms")
	s.uplink("physnet2", 10_000)
	lab.Eventually(t, waitLimit, "a conflict", func() bool { return strings.Contains(fmt.Sprint(x.Apply(ctx)), vnet.ErrConflict.Error()) })
	require.Contains(t, tc("qdisc", "show", "dev", "c"), "tbf 7:")

	// Nobody has an uplink any more.
	s.ctl("--all", "destroy", "Meter")
	becomes("a", "", x)
	becomes("b", "", x)
	require.NotContains(t, tc("qdisc", "show", "dev", "a"), "htb")
	require.NoError(t, x.Apply(ctx))
	require.Contains(t, tc("qdisc", "show", "dev", "c"), "tbf 7:")
}

const waitLimit = 10 * time.Second
