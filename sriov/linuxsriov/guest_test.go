package linuxsriov

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/sriov"
	"github.com/vnet-go/vnet/sriov/sriovtest"
)

// bench is the guest's two cards: eth0, whose VFs are given to machines, and
// eth1 at the other end of its wire.
type bench struct {
	l     *lab.Lab
	dir   string
	owner string
	out   *lab.NS // has eth1
}

func (x *bench) backend(t *testing.T) *Backend {
	t.Helper()
	h, err := linux.Open(context.Background(), vnet.Owner(x.owner), nil)
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	b, err := New(h, &Options{Dir: x.dir})
	require.NoError(t, err)
	return b
}

func (x *bench) allocator(t *testing.T) *sriov.Allocator {
	t.Helper()
	a, err := sriov.New(x.backend(t), nil)
	require.NoError(t, err)
	return a
}

// fresh is an allocator for a test that ends with nothing given.
func (x *bench) fresh(t *testing.T) *sriov.Allocator {
	t.Helper()
	a := x.allocator(t)
	t.Cleanup(func() {
		assert.NoError(t, x.allocator(t).Sync(context.Background(), sriov.State{}, vnet.SyncOptions{Force: true}))
	})
	return a
}

func device(vfs int) sriov.Device {
	return sriov.Device{ID: "nic1", PF: "eth0", PhysicalNetwork: "physnet1", VFs: vfs}
}

func port(n int) sriov.Port {
	return sriov.Port{ID: fmt.Sprint("p", n), VNICType: sriov.Direct, PhysicalNetwork: "physnet1", MAC: vnet.MAC{2, 0, 0, 0, 0, byte(n)}, PortSecurity: true}
}

const allocateEnv = "VNET_SRIOV_ALLOCATE" // the folder of the records, in a process that allocates

// The 82576 that QEMU emulates.
func TestGuestIGB(t *testing.T) {
	if dir := os.Getenv(allocateEnv); dir != "" {
		allocate(t, dir)
		return
	}
	if lab.RanInGuest(t, "igb") {
		return
	}
	x := &bench{l: lab.New(t), dir: filepath.Join(t.TempDir(), "records")}
	x.owner = x.l.Owner("s")
	for _, m := range []string{"vfio-pci", "igbvf", "macvtap", "8021q"} {
		require.NoError(t, exec.Command("modprobe", m).Run(), m)
	}
	x.out = x.l.NS("out")
	sh(t, "ip link set eth1 netns %s", x.out.Name)
	x.out.Up("eth1")
	for _, c := range []struct {
		name string
		f    func(*testing.T, *bench)
	}{
		{"traffic", traffic}, {"what the driver refuses", refusals}, {"a machine holds it", holding}, {"repair", repair},
		{"processes", processes}, {"crashes", crashes}, {"used by others", others}, {"writes", writes},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, x) })
	}
	t.Run("conformance", func(t *testing.T) {
		sriovtest.Run(t, sriovtest.Harness{Open: x.allocator, PF: "eth0", NoLinkState: true, NoServiceTag: true, NoMinRate: true, NoMaxRate: true})
	})
	t.Run("conformance with devices on the host", func(t *testing.T) {
		sriovtest.Run(t, sriovtest.Harness{Open: x.allocator, PF: "eth0", Driver: sriov.Kernel, Only: []string{"allocation", "settings"}, NoLinkState: true, NoServiceTag: true, NoMinRate: true, NoMaxRate: true})
	})
}

func sh(t *testing.T, format string, args ...any) string {
	t.Helper()
	cmd := fmt.Sprintf(format, args...)
	out, err := exec.Command("sh", "-c", cmd).CombinedOutput()
	require.NoError(t, err, "%s: %s", cmd, out)
	return string(out)
}

// link waits until the card has its link: it loses it when its VFs are made.
func link(t *testing.T) {
	t.Helper()
	lab.Eventually(t, 20*time.Second, "the link of eth0", func() bool {
		b, _ := os.ReadFile("/sys/class/net/eth0/carrier")
		return strings.TrimSpace(string(b)) == "1"
	})
}

// A VF in a VLAN talks to the outside, and to nobody else; its card is told to
// check what it sends.
func traffic(t *testing.T, x *bench) {
	a, ctx := x.fresh(t), t.Context()
	require.NoError(t, a.EnsureDevice(ctx, device(2)))
	p := port(1)
	p.Driver, p.VLAN = sriov.Kernel, sriov.VLAN{ID: 100}
	got, err := a.EnsurePort(ctx, p)
	require.NoError(t, err)
	require.NotEmpty(t, got.Netdev)
	link(t)
	vm := x.l.NS("vm1")
	defer x.l.Remove(vm)
	sh(t, "ip link set %s netns %s", got.Netdev, vm.Name)
	require.Equal(t, p.MAC, vm.MAC(got.Netdev), "the machine gets the MAC of its port")
	vm.Configure(got.Netdev, []string{"192.0.2.1/24"})
	sh(t, "ip -n %s link add link eth1 name v100 type vlan id 100", x.out.Name)
	x.out.Configure("v100", []string{"192.0.2.2/24"})
	defer sh(t, "ip -n %s link del v100", x.out.Name)
	lab.Eventually(t, 30*time.Second, "the VF reaches the outside", func() bool { return vm.Ping("192.0.2.2", 1) == nil })

	// On the wire its frames are tagged; the machine sees no tag.
	wire, inside := x.out.Capture("eth1"), vm.Capture(got.Netdev)
	frame := func(mac vnet.MAC, port uint16) lab.Frame {
		return lab.Frame{SrcMAC: mac, DstMAC: x.out.MAC("eth1"), Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Proto: lab.UDP, SrcPort: 9, DstPort: port}
	}
	to := func(port uint16) func(lab.Frame) bool { return func(f lab.Frame) bool { return f.DstPort == port } }
	vm.Inject(got.Netdev, frame(p.MAC, 1001).Bytes())
	require.Equal(t, uint16(100), wire.Wait(5*time.Second, to(1001)).VLAN)
	back := frame(x.out.MAC("eth1"), 1002)
	back.DstMAC = p.MAC
	x.out.Inject("v100", back.Bytes())
	require.Zero(t, inside.Wait(5*time.Second, to(1002)).VLAN)
	x.out.Inject("eth1", func() []byte { f := back; f.DstPort = 1003; return f.Bytes() }())
	inside.None(300*time.Millisecond, to(1003))

	// QEMU's card does not drop what comes from another MAC, but it has been told
	// to, and until it may, the machine cannot change the MAC that it listens to.
	require.Equal(t, uint32(3), antiSpoof(t, got))
	out, err := vm.Exec(ctx, "ip", "link", "set", got.Netdev, "address", "02:00:00:00:00:63")
	require.Error(t, err, out)
	p.PortSecurity = false
	_, err = a.EnsurePort(ctx, p)
	require.NoError(t, err)
	require.Zero(t, antiSpoof(t, got))
	require.NotEmpty(t, vm.MAC(got.Netdev), "the machine keeps its device")

	// Another VLAN, another world.
	p.VLAN.ID = 101
	_, err = a.EnsurePort(ctx, p)
	require.NoError(t, err)
	vm.Inject(got.Netdev, frame(p.MAC, 1007).Bytes())
	require.Equal(t, uint16(101), wire.Wait(5*time.Second, to(1007)).VLAN)

	// A macvtap: what is written to its character device goes out with its MAC.
	q := port(2)
	q.VNICType = sriov.MacVTap
	tap, err := a.EnsurePort(ctx, q)
	require.NoError(t, err)
	f, err := os.OpenFile(tap.Tap, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	lab.Eventually(t, 30*time.Second, "the macvtap reaches the outside", func() bool {
		_, err := f.Write(append(make([]byte, 10), frame(q.MAC, 1008).Bytes()...)) // after a virtio_net_hdr
		require.NoError(t, err)
		_, ok := wire.Find(500*time.Millisecond, to(1008))
		return ok
	})

	// Released while the machine has it, it comes back to the host, and is as it was.
	require.NoError(t, a.DeletePort(ctx, "p1"))
	all, err := a.Discover(ctx)
	require.NoError(t, err)
	v := all[0].VFs[got.VF]
	assert.NotEmpty(t, v.Netdev)
	assert.Equal(t, sriov.Settings{MAC: v.MAC, SpoofCheck: true, LinkState: sriov.Auto}, v.Settings)
}

// antiSpoof reads from the card itself what it does about a VF's frames: bit 0,
// checks their MAC, bit 1, their VLAN (82576 datasheet, register DTXSWC).
func antiSpoof(t *testing.T, a sriov.Attachment) uint32 {
	t.Helper()
	f, err := os.OpenFile("/sys/bus/pci/devices/"+a.PF+"/resource0", os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 0x4000, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(m)) }()
	v := binary.NativeEndian.Uint32(m[0x3500:])
	return v>>a.VF&1 | v>>(a.VF+8)&1<<1
}

// Each word of the driver reaches the caller, with the field and what to do.
func refusals(t *testing.T, x *bench) {
	a, ctx := x.fresh(t), t.Context()
	require.NoError(t, a.EnsureDevice(ctx, device(2)))
	stands := port(1)
	_, err := a.EnsurePort(ctx, stands)
	require.NoError(t, err)
	refused := func(field string, errno unix.Errno, f func(*sriov.Port)) error {
		t.Helper()
		p := stands
		f(&p)
		_, err := a.EnsurePort(ctx, p)
		var e *sriov.SettingError
		require.ErrorAs(t, err, &e)
		assert.Equal(t, field, e.Field)
		assert.ErrorIs(t, err, errno)
		return err
	}
	rate := func(p *sriov.Port) { p.MaxKbps = 10_000 }
	sh(t, "ip link set eth0 down")
	assert.ErrorIs(t, refused("rates", unix.EINVAL, rate), vnet.ErrNotReady)
	sh(t, "ip link set eth0 up")
	link(t)
	assert.ErrorIs(t, refused("link_state", unix.EOPNOTSUPP, func(p *sriov.Port) { p.LinkState = sriov.Disable }), vnet.ErrUnsupported)
	assert.ErrorIs(t, refused("vlan", unix.EPROTONOSUPPORT, func(p *sriov.Port) { p.VLAN = sriov.VLAN{ID: 5, Service: true} }), vnet.ErrUnsupported)
	err = refused("rates", unix.EINVAL, func(p *sriov.Port) { p.MinKbps = 5_000 })
	assert.NotErrorIs(t, err, vnet.ErrNotReady, "the link is there: it is the value")
	refused("rates", unix.EINVAL, func(p *sriov.Port) { p.MaxKbps = 100_000_000 })
	var u *vnet.UnsupportedError
	d := device(2)
	d.Mode = sriov.Switchdev
	require.NoError(t, a.DeletePort(ctx, "p1"))
	require.ErrorAs(t, a.EnsureDevice(ctx, d), &u)
	assert.Contains(t, u.Feature, "switchdev")

	// With a link, a limit is taken, changed, and taken away.
	require.NoError(t, a.EnsureDevice(ctx, device(2)))
	link(t)
	for _, kbps := range []int{10_000, 999, 25_600, 0} {
		p := port(1)
		p.MaxKbps = kbps
		got, err := a.EnsurePort(ctx, p)
		require.NoError(t, err)
		all, err := a.Discover(ctx)
		require.NoError(t, err)
		assert.Equal(t, sriov.Mbps(kbps), all[0].VFs[got.VF].MaxMbps)
	}
}

// A function whose group a process has open is not taken away.
func holding(t *testing.T, x *bench) {
	a, ctx := x.fresh(t), t.Context()
	require.NoError(t, a.EnsureDevice(ctx, device(1)))
	got, err := a.EnsurePort(ctx, port(1))
	require.NoError(t, err)
	assert.Equal(t, "vfio-pci", got.Driver)
	require.FileExists(t, filepath.Join("/sys/bus/pci/drivers/vfio-pci", got.PCI, "vendor"))
	group, err := os.OpenFile(got.VFIO, os.O_RDWR, 0)
	require.NoError(t, err)
	begin := time.Now()
	err = a.DeletePort(ctx, "p1")
	require.ErrorIs(t, err, vnet.ErrInUse)
	assert.ErrorContains(t, err, got.VFIO)
	p := port(1)
	p.Driver = sriov.Kernel
	_, err = a.EnsurePort(ctx, p)
	require.ErrorIs(t, err, vnet.ErrInUse)
	assert.Less(t, time.Since(begin), time.Minute, "nothing waits for the machine")
	p = port(1)
	p.VLAN.ID = 7
	_, err = a.EnsurePort(ctx, p)
	require.NoError(t, err, "settings change while it runs")
	// The machine ends: its function can be had again.
	require.NoError(t, group.Close())
	require.NoError(t, a.DeletePort(ctx, "p1"))
	all, err := a.Discover(ctx)
	require.NoError(t, err)
	assert.Equal(t, "igbvf", all[0].VFs[0].Driver)
	assert.Equal(t, "(null)\n", sh(t, "cat /sys/bus/pci/devices/%s/driver_override", got.PCI))
}

// What others do to a function or its card is found, and put right.
func repair(t *testing.T, x *bench) {
	a, ctx := x.fresh(t), t.Context()
	want := sriov.State{Devices: []sriov.Device{device(2)}, Ports: []sriov.Port{port(1), port(2)}}
	want.Ports[0].VLAN.ID, want.Ports[1].Driver = 5, sriov.Kernel
	require.NoError(t, a.Sync(ctx, want, vnet.SyncOptions{}))
	before, err := a.Attachments(ctx)
	require.NoError(t, err)
	pci, pf := before[0].PCI, before[0].PF
	for _, c := range []struct {
		name, do string
		found    []string
	}{
		{"the driver is changed", fmt.Sprintf(`echo > %[2]s/%[1]s/driver_override; echo %[1]s > %[2]s/%[1]s/driver/unbind; echo %[1]s > /sys/bus/pci/drivers_probe`, pci, "/sys/bus/pci/devices"),
			[]string{"driver: kernel -> vfio-pci"}},
		{"the driver is taken away", fmt.Sprintf("echo %[1]s > /sys/bus/pci/devices/%[1]s/driver/unbind", pci), []string{"driver: none -> vfio-pci"}},
		{"settings are changed", "ip link set eth0 vf 0 mac 02:00:00:00:77:77; ip link set eth0 vf 0 vlan 9; ip link set eth0 vf 0 spoofchk off; ip link set eth0 vf 0 trust on",
			[]string{"mac: 02:00:00:00:77:77 -> 02:00:00:00:00:01", "vlan: 9 priority 0 -> 5 priority 0", "spoof_check: false -> true", "trusted: true -> false"}},
		{"the VFs are gone", "echo 0 > /sys/class/net/eth0/device/sriov_numvfs", []string{"vfs: 0 -> 2", "driver: none: the VF is gone -> vfio-pci", "driver: none: the VF is gone -> kernel"}},
		{"the card's driver is loaded again", fmt.Sprintf("echo 0 > /sys/class/net/eth0/device/sriov_numvfs; echo %[1]s > /sys/bus/pci/drivers/igb/unbind; echo %[1]s > /sys/bus/pci/drivers/igb/bind", pf),
			[]string{"vfs: 0 -> 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sh(t, "%s", c.do)
			b := x.allocator(t)
			plan, err := b.Plan(ctx, want)
			require.NoError(t, err)
			var diff []string
			for _, ch := range plan.Changes {
				diff = append(diff, ch.Diff...)
			}
			for _, f := range c.found {
				assert.Contains(t, diff, f)
			}
			require.NoError(t, b.Sync(ctx, want, vnet.SyncOptions{}))
			plan, err = b.Plan(ctx, want)
			require.NoError(t, err)
			assert.Empty(t, plan.Changes)
			after, err := b.Attachments(ctx)
			require.NoError(t, err)
			for i := range before {
				assert.Equal(t, before[i].PCI, after[i].PCI)
				assert.Equal(t, before[i].Driver, after[i].Driver)
			}
		})
	}
}

// allocate is a process that wants more VFs than there are.
func allocate(t *testing.T, dir string) {
	x := &bench{dir: dir, owner: os.Getenv(allocateEnv + "_OWNER")}
	a := x.allocator(t)
	for i := range 6 {
		p := port(i)
		p.ID = fmt.Sprintf("p%d-%d", os.Getpid(), i)
		got, err := a.EnsurePort(t.Context(), p)
		if errors.Is(err, vnet.ErrConflict) {
			continue
		}
		require.NoError(t, err)
		line, err := json.Marshal(got)
		require.NoError(t, err)
		fmt.Printf("GOT %s\n", line)
	}
}

// Processes that want VFs at the same time never get the same.
func processes(t *testing.T, x *bench) {
	a, ctx := x.fresh(t), t.Context()
	require.NoError(t, a.EnsureDevice(ctx, device(7)))
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestGuestIGB$")
			cmd.Env = append(os.Environ(), allocateEnv+"="+x.dir, allocateEnv+"_OWNER="+x.owner)
			out, err := cmd.CombinedOutput()
			if !assert.NoError(t, err, string(out)) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
				if line, ok := strings.CutPrefix(s.Text(), "GOT "); ok {
					var at sriov.Attachment
					require.NoError(t, json.Unmarshal([]byte(line), &at))
					got = append(got, at.PCI)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, got, 7)
	slices.Sort(got)
	assert.Len(t, slices.Compact(got), 7, "given twice")
}

// crashing is a kernel that a process stops talking to after some writes.
type crashing struct {
	kernel
	left *int
}

var errCrash = errors.New("crash")

func (k crashing) do(f func() error) error {
	if *k.left == 0 {
		return errCrash
	}
	*k.left--
	return f()
}
func (k crashing) write(path, text string) error {
	return k.do(func() error { return k.kernel.write(path, text) })
}
func (k crashing) setMAC(pf string, vf int, m vnet.MAC) error {
	return k.do(func() error { return k.kernel.setMAC(pf, vf, m) })
}
func (k crashing) setVLAN(pf string, vf, vlan, qos int, proto uint16) error {
	return k.do(func() error { return k.kernel.setVLAN(pf, vf, vlan, qos, proto) })
}
func (k crashing) setTrust(pf string, vf int, on bool) error {
	return k.do(func() error { return k.kernel.setTrust(pf, vf, on) })
}

// Wherever giving or taking back ends, Sync goes on from there, both ways.
func crashes(t *testing.T, x *bench) {
	a, ctx := x.fresh(t), t.Context()
	require.NoError(t, a.EnsureDevice(ctx, device(2)))
	want := sriov.State{Devices: []sriov.Device{device(2)}, Ports: []sriov.Port{port(1)}}
	want.Ports[0].VLAN.ID, want.Ports[0].Trusted = 5, true
	none := sriov.State{Devices: want.Devices}
	first, err := a.Discover(ctx)
	require.NoError(t, err)
	for _, back := range []bool{false, true} {
		for n := 0; ; n++ {
			require.Less(t, n, 20)
			if back {
				require.NoError(t, x.allocator(t).Sync(ctx, want, vnet.SyncOptions{}))
			}
			left := n
			b := x.backend(t)
			b.k = crashing{b.k, &left}
			var err error
			if back {
				err = b.DeletePort(ctx, "p1")
			} else {
				_, err = b.EnsurePort(ctx, want.Ports[0].Canonical())
			}
			ended := err == nil
			if !ended {
				require.ErrorIs(t, err, errCrash)
			}
			b2 := x.allocator(t)
			if n%2 == 0 {
				require.NoError(t, b2.Sync(ctx, want, vnet.SyncOptions{}))
				plan, err := b2.Plan(ctx, want)
				require.NoError(t, err)
				require.Empty(t, plan.Changes)
			}
			require.NoError(t, b2.Sync(ctx, none, vnet.SyncOptions{Force: true}))
			now, err := b2.Discover(ctx)
			require.NoError(t, err)
			v, w := first[0].VFs[0], now[0].VFs[0]
			v.Netdev, v.MAC, w.Netdev, w.MAC = "", vnet.MAC{}, "", vnet.MAC{}
			require.Equal(t, v, w, "after %d writes", n)
			if ended {
				require.Greater(t, n, 3)
				break
			}
		}
	}
}

// VFs that others use without a record are left to them.
func others(t *testing.T, x *bench) {
	a, ctx := x.fresh(t), t.Context()
	require.NoError(t, a.EnsureDevice(ctx, device(2)))
	all, err := a.Discover(ctx)
	require.NoError(t, err)
	dev := all[0].VFs[0].Netdev
	sh(t, "ip link set %s up", dev)
	got, err := a.EnsurePort(ctx, port(1))
	require.NoError(t, err)
	assert.Equal(t, 1, got.VF, "the host has the other one up")
	require.NoError(t, a.DeletePort(ctx, "p1"))
	err = a.EnsureDevice(ctx, device(3))
	require.ErrorIs(t, err, vnet.ErrInUse)
	assert.ErrorContains(t, err, dev)
	sh(t, "ip link set %s down", dev)
	pci := all[0].VFs[1].PCI
	sh(t, "echo vfio-pci > /sys/bus/pci/devices/%[1]s/driver_override; echo %[1]s > /sys/bus/pci/devices/%[1]s/driver/unbind; echo %[1]s > /sys/bus/pci/drivers_probe", pci)
	err = a.EnsureDevice(ctx, device(3))
	require.ErrorIs(t, err, vnet.ErrInUse)
	assert.ErrorContains(t, err, pci)
	sh(t, "echo > /sys/bus/pci/devices/%[1]s/driver_override; echo %[1]s > /sys/bus/pci/devices/%[1]s/driver/unbind; echo %[1]s > /sys/bus/pci/drivers_probe", pci)

	// Another owner sees who has what, and takes nothing.
	_, err = a.EnsurePort(ctx, port(1))
	require.NoError(t, err)
	y := &bench{l: x.l, dir: x.dir, owner: x.l.Owner("y")}
	b := y.allocator(t)
	require.ErrorIs(t, b.EnsureDevice(ctx, device(2)), vnet.ErrConflict)
	require.NoError(t, b.Sync(ctx, sriov.State{}, vnet.SyncOptions{Force: true}))
	all, err = b.Discover(ctx)
	require.NoError(t, err)
	assert.Equal(t, "p1", all[0].VFs[0].Port)
	assert.Equal(t, vnet.Owner(x.owner), all[0].VFs[0].Owner)
}

// A second time nothing is written.
func writes(t *testing.T, x *bench) {
	a, ctx := x.fresh(t), t.Context()
	want := sriov.State{Devices: []sriov.Device{device(2)}, Ports: []sriov.Port{port(1), port(2)}}
	require.NoError(t, a.Sync(ctx, want, vnet.SyncOptions{}))
	b := x.backend(t)
	left := 0
	b.k = crashing{b.k, &left}
	c, err := sriov.New(b, nil)
	require.NoError(t, err)
	require.NoError(t, c.Sync(ctx, want, vnet.SyncOptions{}))
	_, err = c.EnsurePort(ctx, want.Ports[0])
	require.NoError(t, err)
	require.NoError(t, c.EnsureDevice(ctx, want.Devices[0]))
}
