// Package sriovtest is the contract of sriov as tests, for every backend.
package sriovtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/sriov"
)

// Harness is a host with one card, or more, of which nothing is a device yet.
type Harness struct {
	// Open returns an allocator for the host, as another process would have it.
	Open func(t *testing.T) *sriov.Allocator
	// PF is the device of a card with three or more VFs.
	PF string
	// What the card's driver cannot be asked for.
	NoLinkState, NoServiceTag, NoMinRate, NoMaxRate bool
	// Driver is what ports are bound to where a case does not care; "": VFIO.
	Driver sriov.Driver
	// Only are the cases to run; none: all.
	Only []string
}

type suite struct {
	Harness
	a *sriov.Allocator
}

// Run runs all cases, one after another: they share the card.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, *suite)
	}{
		{"discovery", discovery}, {"number of VFs", count}, {"allocation", allocation}, {"settings", settings}, {"exclusion", exclusion},
		{"a whole card", physical}, {"macvtap", macvtap}, {"sync", syncs}, {"never twice", never}, {"bad input", bad},
	} {
		if len(h.Only) > 0 && !slices.Contains(h.Only, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			s := &suite{h, h.Open(t)}
			t.Cleanup(func() { s.clear(t) })
			c.f(t, s)
		})
	}
}

// clear gives everything back.
func (s *suite) clear(t *testing.T) {
	require.NoError(t, s.a.Sync(context.Background(), sriov.State{}, vnet.SyncOptions{Force: true}))
	pf := s.pf(t)
	assert.Empty(t, pf.VFs)
	assert.Empty(t, pf.Device)
}

func (s *suite) device(vfs int) sriov.Device {
	return sriov.Device{ID: "nic1", PF: s.PF, PhysicalNetwork: "physnet1", VFs: vfs}
}

func (s *suite) port(n int) sriov.Port {
	return sriov.Port{ID: fmt.Sprint("p", n), VNICType: sriov.Direct, PhysicalNetwork: "physnet1", MAC: vnet.MAC{2, 0, 0, 0, 0, byte(n)}, PortSecurity: true, Driver: s.Driver}
}

func (s *suite) pf(t *testing.T) sriov.PF {
	t.Helper()
	all, err := s.a.Discover(context.Background()) // also at the end
	require.NoError(t, err)
	i := slices.IndexFunc(all, func(p sriov.PF) bool { return p.Netdev == s.PF || p.PCI == s.PF })
	require.GreaterOrEqual(t, i, 0, "%s is not found: %+v", s.PF, all)
	return all[i]
}

func (s *suite) vf(t *testing.T, a sriov.Attachment) sriov.VF {
	t.Helper()
	pf := s.pf(t)
	require.Less(t, a.VF, len(pf.VFs))
	return pf.VFs[a.VF]
}

func field(t *testing.T, err error, name string) {
	t.Helper()
	var f *vnet.FieldError
	if assert.ErrorAs(t, err, &f) {
		assert.Equal(t, name, f.Field)
	}
}

func discovery(t *testing.T, s *suite) {
	pf := s.pf(t)
	assert.GreaterOrEqual(t, pf.TotalVFs, 3)
	assert.True(t, sriov.IsPCI(pf.PCI), pf.PCI)
	assert.Equal(t, sriov.Legacy, pf.Mode)
	assert.Empty(t, pf.VFs)
	require.NoError(t, s.a.EnsureDevice(t.Context(), s.device(2)))
	pf = s.pf(t)
	assert.Equal(t, "nic1", pf.Device)
	assert.Equal(t, "physnet1", pf.PhysicalNetwork)
	assert.True(t, pf.Up, "a VF has no link while its PF is down")
	require.Len(t, pf.VFs, 2)
	for i, v := range pf.VFs {
		assert.Equal(t, i, v.Index)
		assert.True(t, sriov.IsPCI(v.PCI), v.PCI)
		assert.GreaterOrEqual(t, v.IOMMUGroup, 0)
		assert.NotEmpty(t, v.Driver)
		assert.Empty(t, v.Port)
	}
}

func count(t *testing.T, s *suite) {
	ctx := t.Context()
	field(t, s.a.EnsureDevice(ctx, s.device(s.pf(t).TotalVFs+1)), "vfs")
	assert.Empty(t, s.pf(t).Device, "refused before anything was written")
	for _, n := range []int{2, 2, 3, 1} {
		require.NoError(t, s.a.EnsureDevice(ctx, s.device(n)))
		require.Len(t, s.pf(t).VFs, n)
	}
	a, err := s.a.EnsurePort(ctx, s.port(1))
	require.NoError(t, err)
	err = s.a.EnsureDevice(ctx, s.device(2))
	require.ErrorIs(t, err, vnet.ErrInUse)
	assert.ErrorContains(t, err, "p1", "who has it")
	require.ErrorIs(t, s.a.DeleteDevice(ctx, "nic1"), vnet.ErrInUse)
	assert.Equal(t, "p1", s.vf(t, a).Port)
	other := s.device(1)
	other.ID = "nic2"
	require.ErrorIs(t, s.a.EnsureDevice(ctx, other), vnet.ErrConflict)
	require.NoError(t, s.a.DeletePort(ctx, "p1"))
	require.NoError(t, s.a.EnsureDevice(ctx, s.device(2)))
	require.NoError(t, s.a.DeleteDevice(ctx, "nic1"))
	require.NoError(t, s.a.DeleteDevice(ctx, "nic1"))
	assert.Empty(t, s.pf(t).VFs)
}

func allocation(t *testing.T, s *suite) {
	ctx := t.Context()
	_, err := s.a.EnsurePort(ctx, s.port(1))
	require.ErrorIs(t, err, vnet.ErrConflict, "there is no device yet")
	require.NoError(t, s.a.EnsureDevice(ctx, s.device(2)))
	before := s.pf(t).VFs
	one, err := s.a.EnsurePort(ctx, s.port(1))
	require.NoError(t, err)
	again, err := s.a.EnsurePort(ctx, s.port(1))
	require.NoError(t, err)
	require.Equal(t, one, again)
	two, err := s.a.EnsurePort(ctx, s.port(2))
	require.NoError(t, err)
	require.NotEqual(t, one.PCI, two.PCI)
	_, err = s.a.EnsurePort(ctx, s.port(3))
	require.ErrorIs(t, err, vnet.ErrConflict)
	for _, a := range []sriov.Attachment{one, two} {
		assert.Contains(t, a.LibvirtXML(), a.MAC.String())
		assert.NotEmpty(t, a.QEMU("net0", 3))
		if s.Driver != sriov.Kernel {
			assert.Equal(t, fmt.Sprintf("/dev/vfio/%d", a.IOMMUGroup), a.VFIO)
		}
		assert.Equal(t, a.PortID, s.vf(t, a).Port)
	}
	all, err := s.Open(t).Attachments(ctx)
	require.NoError(t, err)
	assert.Equal(t, []sriov.Attachment{one, two}, all, "what another process finds")
	wrong := s.port(4)
	wrong.PhysicalNetwork = "physnet2"
	_, err = s.a.EnsurePort(ctx, wrong)
	require.ErrorIs(t, err, vnet.ErrConflict)
	require.NoError(t, s.a.DeletePort(ctx, "p1"))
	require.NoError(t, s.a.DeletePort(ctx, "p1"))
	back := s.vf(t, one)
	// A driver that starts anew chooses another device name and MAC.
	for _, v := range []*sriov.VF{&back, &before[one.VF]} {
		v.Netdev, v.MAC = "", vnet.MAC{}
	}
	assert.Equal(t, before[one.VF], back, "as it was")
	three, err := s.a.EnsurePort(ctx, s.port(3))
	require.NoError(t, err)
	assert.Equal(t, one.PCI, three.PCI)
}

func settings(t *testing.T, s *suite) {
	ctx := t.Context()
	require.NoError(t, s.a.EnsureDevice(ctx, s.device(2)))
	p := s.port(1)
	a, err := s.a.EnsurePort(ctx, p)
	require.NoError(t, err)
	check := func(why string, f func(*sriov.Port)) {
		t.Helper()
		f(&p)
		plan, err := s.a.Plan(ctx, sriov.State{Devices: []sriov.Device{s.device(2)}, Ports: []sriov.Port{p}})
		require.NoError(t, err)
		assert.Len(t, plan.Changes, 1, why)
		b, err := s.a.EnsurePort(ctx, p)
		require.NoError(t, err, why)
		assert.Equal(t, a.PCI, b.PCI, "it keeps its function")
		assert.Equal(t, p.Canonical().Settings(), s.vf(t, a).Settings, why)
	}
	assert.Equal(t, p.Canonical().Settings(), s.vf(t, a).Settings)
	check("VLAN", func(p *sriov.Port) { p.VLAN = sriov.VLAN{ID: 100} })
	check("priority", func(p *sriov.Port) { p.VLAN = sriov.VLAN{ID: 101, Priority: 3} })
	check("no VLAN", func(p *sriov.Port) { p.VLAN = sriov.VLAN{} })
	check("no port security", func(p *sriov.Port) { p.PortSecurity = false })
	check("trust", func(p *sriov.Port) { p.Trusted = true })
	check("no trust", func(p *sriov.Port) { p.Trusted, p.PortSecurity = false, true })
	check("MAC", func(p *sriov.Port) { p.MAC = vnet.MAC{2, 0, 0, 0, 1, 1} })
	refuses := func(no bool, why, name string, f func(*sriov.Port)) {
		t.Helper()
		if !no {
			check(why, f)
			return
		}
		stood := s.vf(t, a).Settings
		q := p
		f(&q)
		_, err := s.a.EnsurePort(ctx, q)
		var e *sriov.SettingError
		if assert.ErrorAs(t, err, &e, why) {
			assert.Equal(t, name, e.Field)
			assert.Equal(t, "nic1", e.Device)
			assert.Equal(t, a.VF, e.VF)
		}
		assert.Equal(t, stood, s.vf(t, a).Settings, why)
		fresh := q
		fresh.ID, fresh.MAC = "fresh", vnet.MAC{2, 0, 0, 0, 2, 2}
		_, err = s.a.EnsurePort(ctx, fresh)
		require.ErrorAs(t, err, &e)
		assert.Empty(t, s.pf(t).VFs[1-a.VF].Port, "a port that was refused has no function")
	}
	refuses(s.NoLinkState, "link state", "link_state", func(p *sriov.Port) { p.LinkState = sriov.Disable })
	refuses(s.NoServiceTag, "QinQ", "vlan", func(p *sriov.Port) { p.VLAN = sriov.VLAN{ID: 7, Service: true} })
	refuses(s.NoMinRate, "guarantee", "rates", func(p *sriov.Port) { p.MinKbps = 2000 })
	if !s.NoMaxRate {
		check("limit", func(p *sriov.Port) { p.MaxKbps = 10_400 })
		assert.Equal(t, 10, s.vf(t, a).MaxMbps)
		check("no limit", func(p *sriov.Port) { p.MinKbps, p.MaxKbps = 0, 0 })
	}
}

func exclusion(t *testing.T, s *suite) {
	ctx := t.Context()
	d := s.device(2)
	require.NoError(t, s.a.EnsureDevice(ctx, d))
	d.Exclude = []string{s.pf(t).VFs[0].PCI}
	require.NoError(t, s.a.EnsureDevice(ctx, d))
	assert.True(t, s.pf(t).VFs[0].Excluded)
	a, err := s.a.EnsurePort(ctx, s.port(1))
	require.NoError(t, err)
	assert.Equal(t, 1, a.VF)
	_, err = s.a.EnsurePort(ctx, s.port(2))
	require.ErrorIs(t, err, vnet.ErrConflict)
	d.Exclude = append(d.Exclude, a.PCI)
	err = s.a.EnsureDevice(ctx, d)
	require.ErrorIs(t, err, vnet.ErrInUse)
	assert.ErrorContains(t, err, "p1")
}

func physical(t *testing.T, s *suite) {
	ctx := t.Context()
	before := s.pf(t)
	p := sriov.Port{ID: "whole", VNICType: sriov.DirectPhysical, PhysicalNetwork: "physnet1", Driver: s.Driver}
	require.NoError(t, s.a.EnsureDevice(ctx, s.device(1)))
	_, err := s.a.EnsurePort(ctx, p)
	require.ErrorIs(t, err, vnet.ErrConflict, "a card that is cut into VFs")
	require.NoError(t, s.a.EnsureDevice(ctx, s.device(0)))
	a, err := s.a.EnsurePort(ctx, p)
	require.NoError(t, err)
	assert.Equal(t, -1, a.VF)
	assert.Equal(t, before.PCI, a.PCI)
	assert.Contains(t, a.LibvirtXML(), "<hostdev mode='subsystem'")
	again, err := s.a.EnsurePort(ctx, p)
	require.NoError(t, err)
	assert.Equal(t, a, again)
	plan, err := s.a.Plan(ctx, sriov.State{Devices: []sriov.Device{s.device(0)}, Ports: []sriov.Port{p}})
	require.NoError(t, err)
	assert.Empty(t, plan.Changes, "its name may be gone, but not its record")
	require.ErrorIs(t, s.a.EnsureDevice(ctx, s.device(1)), vnet.ErrInUse)
	require.NoError(t, s.a.DeletePort(ctx, "whole"))
	require.NoError(t, s.a.DeleteDevice(ctx, "nic1"))
	after := s.pf(t)
	// The link of a card that has just been given back comes later.
	before.Carrier, after.Carrier, before.Up, after.Up = false, false, false, false
	assert.Equal(t, before, after)
}

func macvtap(t *testing.T, s *suite) {
	ctx := t.Context()
	require.NoError(t, s.a.EnsureDevice(ctx, s.device(2)))
	p := s.port(1)
	p.VNICType, p.Driver = sriov.MacVTap, ""
	a, err := s.a.EnsurePort(ctx, p)
	require.NoError(t, err)
	assert.NotEmpty(t, a.Netdev)
	assert.Contains(t, a.Tap, "/dev/tap")
	assert.Contains(t, a.LibvirtXML(), a.Netdev)
	assert.Contains(t, a.QEMU("net0", 3), "tap,id=net0,fd=3,vhost=on")
	again, err := s.a.EnsurePort(ctx, p)
	require.NoError(t, err)
	assert.Equal(t, a, again)
	p.VNICType, p.Driver = sriov.Direct, s.Driver
	b, err := s.a.EnsurePort(ctx, p)
	require.NoError(t, err)
	assert.Equal(t, sriov.Direct, b.VNICType)
	assert.Empty(t, b.Tap)
}

func syncs(t *testing.T, s *suite) {
	ctx := t.Context()
	want := sriov.State{Devices: []sriov.Device{s.device(3)}, Ports: []sriov.Port{s.port(1), s.port(2)}}
	plan, err := s.a.Plan(ctx, want)
	require.NoError(t, err)
	assert.Equal(t, 3, plan.Count(vnet.Create))
	assert.Empty(t, s.pf(t).VFs, "Plan writes nothing")
	require.NoError(t, s.a.Sync(ctx, want, vnet.SyncOptions{}))
	plan, err = s.Open(t).Plan(ctx, want)
	require.NoError(t, err)
	assert.Empty(t, plan.Changes)
	before, err := s.a.Attachments(ctx)
	require.NoError(t, err)
	require.Len(t, before, 2)
	want.Ports[1].VLAN.ID = 5
	want.Ports = append(want.Ports, s.port(3))
	require.NoError(t, s.Open(t).Sync(ctx, want, vnet.SyncOptions{}))
	after, err := s.a.Attachments(ctx)
	require.NoError(t, err)
	require.Len(t, after, 3)
	for i := range before {
		assert.Equal(t, before[i].PCI, after[i].PCI, "it keeps its function")
	}
	require.ErrorIs(t, s.a.Sync(ctx, sriov.State{Devices: []sriov.Device{s.device(2)}, Ports: want.Ports}, vnet.SyncOptions{}), vnet.ErrInUse)
	want.Ports = want.Ports[:1]
	require.NoError(t, s.a.Sync(ctx, want, vnet.SyncOptions{}))
	after, err = s.a.Attachments(ctx)
	require.NoError(t, err)
	require.Len(t, after, 1)
	assert.Equal(t, before[0], after[0])
}

func never(t *testing.T, s *suite) {
	ctx := t.Context()
	require.NoError(t, s.a.EnsureDevice(ctx, s.device(3)))
	const ask = 8
	got := make([]sriov.Attachment, ask)
	errs := make([]error, ask)
	var wg sync.WaitGroup
	for i := range ask {
		a := s.Open(t)
		wg.Go(func() { got[i], errs[i] = a.EnsurePort(ctx, s.port(10+i)) })
	}
	wg.Wait()
	have := map[string]bool{}
	for i := range ask {
		if errs[i] != nil {
			assert.ErrorIs(t, errs[i], vnet.ErrConflict)
			continue
		}
		assert.False(t, have[got[i].PCI], "%s was given twice", got[i].PCI)
		have[got[i].PCI] = true
	}
	assert.Len(t, have, 3)
}

func bad(t *testing.T, s *suite) {
	ctx := t.Context()
	require.NoError(t, s.a.EnsureDevice(ctx, s.device(1)))
	for name, f := range map[string]func(*sriov.Port){
		"id":               func(p *sriov.Port) { p.ID = "" },
		"vnic_type":        func(p *sriov.Port) { p.VNICType = "normal" },
		"physical_network": func(p *sriov.Port) { p.PhysicalNetwork = "" },
		"mac":              func(p *sriov.Port) { p.MAC = vnet.MAC{1} },
		"vlan.id":          func(p *sriov.Port) { p.VLAN.ID = 4095 },
		"vlan.priority":    func(p *sriov.Port) { p.VLAN = sriov.VLAN{ID: 1, Priority: 8} },
		"security_groups":  func(p *sriov.Port) { p.SecurityGroups = true },
		"link_state":       func(p *sriov.Port) { p.LinkState = "up" },
		"min_kbps":         func(p *sriov.Port) { p.MinKbps = -1 },
		"max_kbps":         func(p *sriov.Port) { p.MinKbps, p.MaxKbps = 2, 1 },
		"driver":           func(p *sriov.Port) { p.Driver = "uio" },
	} {
		p := s.port(1)
		f(&p)
		_, err := s.a.EnsurePort(ctx, p)
		field(t, err, name)
	}
	p := s.port(1)
	p.SecurityGroups, p.PortSecurity = true, false
	_, err := s.a.EnsurePort(ctx, p)
	require.NoError(t, err, "without port security, groups filter nothing")
	p.Offload = true
	_, err = s.a.EnsurePort(ctx, p)
	require.ErrorIs(t, err, vnet.ErrConflict, "no device is in switchdev mode")
	for name, d := range map[string]sriov.Device{
		"pf":               {ID: "x", PF: "no/such", PhysicalNetwork: "p"},
		"id":               {PF: s.PF, PhysicalNetwork: "p"},
		"physical_network": {ID: "x", PF: s.PF},
		"vfs":              {ID: "x", PF: s.PF, PhysicalNetwork: "p", VFs: -1},
		"mode":             {ID: "x", PF: s.PF, PhysicalNetwork: "p", Mode: "fast"},
		"exclude[0]":       {ID: "x", PF: s.PF, PhysicalNetwork: "p", Exclude: []string{"eth0"}},
	} {
		field(t, s.a.EnsureDevice(ctx, d), name)
	}
	field(t, s.a.EnsureDevice(ctx, sriov.Device{ID: "x", PF: "nosuch0", PhysicalNetwork: "p"}), "pf")
}
