package overlaytest

import (
	"context"
	"os/exec"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
)

// prepare makes networks "n" and "m" with a port each, "p" and "q".
func (b *bench) prepare() overlay.State {
	b.t.Helper()
	s := overlay.State{Networks: []overlay.Network{b.plain("n"), b.plain("m")},
		Ports: []overlay.Port{port("p", "n", 1), port("q", "m", 2)}}
	b.sync(b.f[0], s)
	return s
}

// device makes a veth pair: name on the host, eth0 in a machine's namespace.
func (b *bench) device(name, vm string) {
	b.t.Helper()
	if b.lab == nil {
		return
	}
	b.vm(vm).IP("link", "add", "name", "eth0", "type", "veth", "peer", "name", name, "netns", b.hosts[0].Netns)
	b.t.Cleanup(func() { // at once: the kernel takes its time over the devices of a namespace that goes
		_ = exec.Command("nsenter", "--net="+b.hosts[0].Netns, "ip", "link", "del", "dev", name).Run()
	})
}

// link is what `ip` says of a device on the host; empty when it is not there.
func (b *bench) link(name string) string {
	if b.lab == nil {
		return ""
	}
	out, _ := exec.Command("nsenter", "--net="+b.hosts[0].Netns, "ip", "-d", "link", "show", "dev", name).CombinedOutput()
	return string(out)
}

func pluggingCases() []Case {
	return []Case{
		{Name: "unknown port", Says: "Plug of a port that has not been ensured is ErrNotFound; Unplug of one without a device is no error.", run: func(b *bench) {
			_, err := b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "p", Kind: overlay.Tap})
			require.ErrorIs(b.t, err, vnet.ErrNotFound)
			b.prepare()
			b.silent("unplugging nothing", func() { b.ok(b.f[0].Unplug(b.ctx, "p")); b.ok(b.f[0].Unplug(b.ctx, "never")) })
		}},
		{Name: "twice is once", Says: "Plugging the same again does nothing.", run: func(b *bench) {
			s := b.prepare()
			for _, a := range []overlay.Attachment{b.veth("p"), {PortID: "q", Kind: overlay.Tap}} {
				d, err := b.f[0].Plug(b.ctx, a)
				b.ok(err)
				require.NotEmpty(b.t, d.Name)
				require.Positive(b.t, d.MTU)
				b.silent("plugging again", func() {
					again, err := b.f[0].Plug(b.ctx, a)
					b.ok(err)
					require.Equal(b.t, d, again)
				})
			}
			b.planned(b.f[0], s)
			b.reopen(0)
			b.planned(b.f[0], s)
			b.silent("a restart", func() {
				b.sync(b.f[0], s)
				_, err := b.f[0].Plug(b.ctx, b.veth("p"))
				b.ok(err)
				_, err = b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "q", Kind: overlay.Tap})
				b.ok(err)
			})
		}},
		{Name: "another device", Says: "Another device at the same port is ErrConflict.", run: func(b *bench) {
			b.prepare()
			b.device("tap0", "x")
			b.device("tap1", "y")
			_, err := b.f[0].Plug(b.ctx, b.veth("p"))
			b.ok(err)
			_, err = b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "p", Kind: overlay.Existing, Name: "tap0"})
			require.ErrorIs(b.t, err, vnet.ErrConflict)
			_, err = b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "p", Kind: overlay.Tap})
			require.ErrorIs(b.t, err, vnet.ErrConflict)
			a := b.veth("p")
			a.Netns = b.netns("other")
			_, err = b.f[0].Plug(b.ctx, a)
			require.ErrorIs(b.t, err, vnet.ErrConflict)
			_, err = b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "q", Kind: overlay.Existing, Name: "tap0"})
			b.ok(err)
			_, err = b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "q", Kind: overlay.Existing, Name: "tap1"})
			require.ErrorIs(b.t, err, vnet.ErrConflict)
			b.ok(b.f[0].Unplug(b.ctx, "p"))
			_, err = b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "p", Kind: overlay.Existing, Name: "tap1"})
			b.ok(err)
			b.ok(b.f[0].Sync(b.ctx, overlay.State{}, vnet.SyncOptions{}))
		}},
		{Name: "unplug gives back", Says: "Unplug disconnects the port's device and removes it if Plug made it.", run: func(b *bench) {
			s := b.prepare()
			b.device("tap0", "x")
			before := b.link("tap0")
			_, err := b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "p", Kind: overlay.Existing, Name: "tap0"})
			b.ok(err)
			made, err := b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "q", Kind: overlay.Tap})
			b.ok(err)
			if b.lab != nil {
				require.NotEqual(b.t, before, b.link("tap0"))
				require.Contains(b.t, b.link(made.Name), "tun")
			}
			b.reopen(0) // knows nothing of it but what the platform says
			for range 2 {
				b.ok(b.f[0].Unplug(b.ctx, "p"))
				b.ok(b.f[0].Unplug(b.ctx, "q"))
			}
			if b.lab != nil {
				after := b.link("tap0")
				require.Contains(b.t, after, "tap0")
				for _, trace := range []string{"alias", "altname", "master", "bridge_slave"} {
					require.NotContains(b.t, after, trace)
				}
				require.NotContains(b.t, b.link(made.Name), "tun")
			}
			b.planned(b.f[0], s)
		}},
		{Name: "delete unplugs", Says: "Delete of a port unplugs it; a network with a plugged port is in use.", run: func(b *bench) {
			b.prepare()
			d, err := b.f[0].Plug(b.ctx, b.veth("p"))
			b.ok(err)
			require.ErrorIs(b.t, b.f[0].DeleteNetwork(b.ctx, "n"), vnet.ErrInUse)
			require.ErrorIs(b.t, b.reopen(0).DeleteNetwork(b.ctx, "n"), vnet.ErrInUse, "after a restart")
			b.ok(b.f[0].DeletePort(b.ctx, "p"))
			if b.lab != nil {
				require.NotContains(b.t, b.link(d.Name), "veth")
			}
			b.ok(b.f[0].DeleteNetwork(b.ctx, "n"))
		}},
		{Name: "sync keeps what is plugged", Says: "Devices stay plugged as long as their port stays, and go with it.", run: func(b *bench) {
			s := b.prepare()
			for _, id := range []string{"p", "q"} {
				_, err := b.f[0].Plug(b.ctx, b.veth(id))
				b.ok(err)
			}
			s.Ports[0].FixedIPs = ips(7)
			s.Ports = s.Ports[:1]
			b.sync(b.f[0], s)
			b.planned(b.f[0], s)
			b.silent("plugging what is plugged", func() {
				_, err := b.f[0].Plug(b.ctx, b.veth("p"))
				b.ok(err)
			})
			if b.lab != nil {
				require.NotContains(b.t, b.vm("q").IP("link"), "eth0", "the device of the port that went")
			}
			b.ok(b.f[0].Sync(b.ctx, overlay.State{}, vnet.SyncOptions{}))
			b.planned(b.f[0], overlay.State{})
		}},
		{Name: "a port changes", Says: "Ensure makes one object as described, also when it was different and has a device.", run: func(b *bench) {
			s := b.prepare()
			_, err := b.f[0].Plug(b.ctx, b.veth("p"))
			b.ok(err)
			for i, change := range []func(p *overlay.Port){
				func(p *overlay.Port) { p.AdminDown = true },
				func(p *overlay.Port) { p.Filtered = true },
				func(p *overlay.Port) { p.AdminDown, p.Filtered = false, false },
				func(p *overlay.Port) { p.NetworkID = "m" },
				func(p *overlay.Port) { p.NetworkID = "n" },
				func(p *overlay.Port) { p.MAC = mac(77) },
			} {
				change(&s.Ports[0])
				b.ok(b.f[0].EnsurePort(b.ctx, s.Ports[0]))
				b.planned(b.f[0], s)
				b.silent("ensuring again", func() { b.ok(b.f[0].EnsurePort(b.ctx, s.Ports[0])) })
				_ = i
			}
			if b.lab != nil {
				_, err := b.f[0].Plug(b.ctx, b.veth("p"))
				b.ok(err)
				require.Equal(b.t, mac(77), b.vm("p").MAC("eth0"))
			}
			b.planned(b.reopen(0), s)
		}},
		{Name: "explain", Says: "Explain goes from a network or port to the platform's objects that carry it; of what is not there it is ErrNotFound.", run: func(b *bench) {
			if _, ok := b.hosts[0].Overlay.(overlay.Explainer); !ok {
				_, err := b.f[0].Explain(b.ctx, "network", "n")
				require.ErrorIs(b.t, err, vnet.ErrUnsupported)
				return
			}
			b.prepare()
			_, err := b.f[0].Plug(b.ctx, b.veth("p"))
			b.ok(err)
			for _, o := range [][2]string{{"network", "n"}, {"port", "p"}, {"port", "q"}} {
				x, err := b.f[0].Explain(b.ctx, o[0], o[1])
				b.ok(err)
				require.Contains(b.t, x.Text, o[1])
				require.NotEmpty(b.t, x.Of)
			}
			for _, kind := range []string{"network", "port"} {
				_, err := b.f[0].Explain(b.ctx, kind, "none")
				require.ErrorIs(b.t, err, vnet.ErrNotFound)
			}
			_, err = b.f[0].Explain(b.ctx, "rule", "p")
			require.True(b.t, isField(err, "kind"), err)
		}},
		{Name: "events", Says: "Watch yields port-up and port-down until ctx ends.", run: func(b *bench) {
			if _, ok := b.hosts[0].Overlay.(overlay.Watcher); !ok {
				return
			}
			b.prepare()
			ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
			defer cancel()
			events := make(chan vnet.Event, 100)
			seq := b.f[0].Watch(ctx)
			go func() {
				defer close(events)
				for e := range seq {
					events <- e
				}
			}()
			wait := func(kind string) {
				b.t.Helper()
				for e := range events {
					if e.Kind == kind && e.ID == "p" && e.Part == vnet.PartOverlay && !e.Time.IsZero() {
						return
					}
				}
				b.t.Fatalf("no %s of port p", kind)
			}
			_, err := b.f[0].Plug(b.ctx, b.veth("p"))
			b.ok(err)
			if b.lab != nil {
				b.vm("p").Up("eth0")
			}
			wait("port-up")
			b.ok(b.f[0].Unplug(b.ctx, "p"))
			wait("port-down")
			cancel()
			select {
			case <-events:
			case <-time.After(5 * time.Second):
				b.t.Fatal("Watch did not end with its context")
			}
		}},
	}
}
