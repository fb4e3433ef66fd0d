package linuxsriov

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/sriov"
)

// talk is a conversation with the kernel that was written down: what it says at
// each moment, and what it has to be told, in order. See testdata/switchdev.txt.
type talk struct {
	t     *testing.T
	lines []string
	files map[string]string
	links map[string]string
	table map[int]rtnl.VF
	mode  string
	up    map[string]bool
}

func record(t *testing.T, file string) *talk {
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	k := &talk{t: t, files: map[string]string{}, links: map[string]string{}, table: map[int]rtnl.VF{}, up: map[string]bool{}}
	for _, l := range strings.Split(string(b), "\n") {
		if l != "" && l[0] != '#' {
			k.lines = append(k.lines, l)
		}
	}
	k.listen()
	return k
}

// listen takes in what the kernel says until it has to be told something.
func (k *talk) listen() {
	for len(k.lines) > 0 && k.lines[0][0] != '>' {
		word, rest, _ := strings.Cut(k.lines[0], " ")
		k.lines = k.lines[1:]
		switch word {
		case "=":
			p, v, _ := strings.Cut(rest, " ")
			delete(k.files, p)
			delete(k.links, p)
			if to, ok := strings.CutPrefix(v, "-> "); ok {
				k.links[p] = to
			} else if v != "-" {
				k.files[p] = v
			}
		case "vf":
			n, v, _ := strings.Cut(rest, " ")
			i, err := strconv.Atoi(n)
			require.NoError(k.t, err)
			f := rtnl.VF{Proto: unix.ETH_P_8021Q}
			require.NoError(k.t, json.Unmarshal([]byte(v), &f))
			k.table[i] = f
		case "eswitch":
			k.mode = rest
		default:
			require.Fail(k.t, "no such line", word)
		}
	}
}

// told checks that a call is the next one and returns what it is answered.
func (k *talk) told(call ...any) error {
	got := "> " + strings.ReplaceAll(strings.TrimSuffix(fmt.Sprintln(call...), "\n"), "\n", `\n`)
	require.NotEmpty(k.t, k.lines, "%q after the end", got)
	want, errno, fails := strings.Cut(k.lines[0], " ! ")
	require.Equal(k.t, want, got)
	k.lines = k.lines[1:]
	k.listen()
	if fails {
		return map[string]error{"EOPNOTSUPP": unix.EOPNOTSUPP, "EBUSY": unix.EBUSY}[errno]
	}
	return nil
}

func (k *talk) read(p string) (string, error) {
	v, ok := k.files[p]
	if !ok {
		return "", &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	return v, nil
}

func (k *talk) target(p string) (string, error) {
	v, ok := k.links[p]
	if !ok {
		return "", &fs.PathError{Op: "readlink", Path: p, Err: fs.ErrNotExist}
	}
	return v, nil
}

func (k *talk) list(p string) ([]string, error) {
	var out []string
	for _, m := range []map[string]string{k.files, k.links} {
		for f := range m {
			if rest, ok := strings.CutPrefix(f, p+"/"); ok {
				name, _, _ := strings.Cut(rest, "/")
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	if out = slices.Compact(out); len(out) == 0 {
		return nil, &fs.PathError{Op: "readdir", Path: p, Err: fs.ErrNotExist}
	}
	return out, nil
}

func (k *talk) link(name string) (rtnl.Link, error) {
	if _, err := k.list(path.Join("class/net", name)); err != nil {
		return rtnl.Link{}, fmt.Errorf("%s: %w", name, vnet.ErrNotFound)
	}
	return rtnl.Link{Name: name, Up: k.up[name]}, nil
}

func (k *talk) vfs(string) ([]rtnl.VF, error) {
	var out []rtnl.VF
	for i := range len(k.table) {
		out = append(out, k.table[i])
	}
	return out, nil
}

func (k *talk) write(p, text string) error { return k.told("write", p, text) }
func (k *talk) setUp(name string, up bool) error {
	k.up[name] = up
	return k.told("up", name, up)
}
func (k *talk) setMAC(pf string, vf int, m vnet.MAC) error     { return k.told("mac", pf, vf, m) }
func (k *talk) setTrust(pf string, vf int, on bool) error      { return k.told("trust", pf, vf, on) }
func (k *talk) setSpoofCheck(pf string, vf int, on bool) error { return k.told("spoof", pf, vf, on) }
func (k *talk) setLinkState(pf string, vf int, s uint32) error { return k.told("state", pf, vf, s) }
func (k *talk) setRate(pf string, vf, a, b int) error          { return k.told("rate", pf, vf, a, b) }
func (k *talk) setFeature(dev, f string, on bool) error        { return k.told("feature", dev, f, on) }
func (k *talk) delLink(string) error                           { return nil }
func (k *talk) addMacvtap(name, parent, _ string, m vnet.MAC) error {
	return k.told("macvtap", name, parent, m)
}
func (k *talk) setVLAN(pf string, vf, vlan, qos int, proto uint16) error {
	return k.told("vlan", pf, vf, vlan, qos, proto)
}
func (k *talk) eswitch(context.Context, string) (string, error) { return k.mode, nil }
func (k *talk) setEswitch(_ context.Context, pci, mode string) error {
	return k.told("eswitch", pci, mode)
}

// held answers what the record says, which is a question and not a change.
func (k *talk) held(group int) (bool, error) {
	require.NotEmpty(k.t, k.lines)
	f := strings.Fields(k.lines[0])
	require.Equal(k.t, []string{">", "held", strconv.Itoa(group)}, f[:3])
	k.lines = k.lines[1:]
	k.listen()
	return f[3] == "true", nil
}

func (k *talk) allocator(t *testing.T) *sriov.Allocator {
	a, err := sriov.New(&Backend{owner: "o", tapName: func(string) string { return "t0" }, k: k, j: journal{t.TempDir()}}, nil)
	require.NoError(t, err)
	return a
}

// No emulated card has switchdev mode: this is a conversation written down, and
// shows that we say the right things in the right order, not that a card obeys.
func TestSwitchdevRecorded(t *testing.T) {
	k := record(t, "testdata/switchdev.txt")
	a, ctx := k.allocator(t), t.Context()
	d := sriov.Device{ID: "nic1", PF: "ens1f0np0", PhysicalNetwork: "physnet1", VFs: 2, Mode: sriov.Switchdev}
	require.NoError(t, a.EnsureDevice(ctx, d))
	all, err := a.Discover(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Equal(t, "ens1f0np0", all[0].Netdev, "not one of the representors beside it")
	assert.Equal(t, 1, all[0].NUMANode)
	assert.Equal(t, sriov.Switchdev, all[0].Mode)
	assert.Equal(t, "ens1f0npf0vf1", all[0].VFs[1].Representor)

	p := sriov.Port{ID: "p1", VNICType: sriov.Direct, PhysicalNetwork: "physnet1", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), PortSecurity: true}
	_, err = a.EnsurePort(ctx, p)
	require.ErrorIs(t, err, vnet.ErrConflict, "a port that does not ask for offload")
	p.SecurityGroups, p.Offload = true, true
	got, err := a.EnsurePort(ctx, p)
	require.NoError(t, err)
	assert.Equal(t, "ens1f0npf0vf0", got.Representor, "not that of the other PF's VF")
	assert.Equal(t, "/dev/vfio/55", got.VFIO)
	again, err := a.EnsurePort(ctx, p)
	require.NoError(t, err)
	assert.Equal(t, got, again)
	plan, err := a.Plan(ctx, sriov.State{Devices: []sriov.Device{d}, Ports: []sriov.Port{p}})
	require.NoError(t, err)
	assert.Empty(t, plan.Changes)

	require.ErrorIs(t, a.DeletePort(ctx, "p1"), vnet.ErrInUse)
	require.NoError(t, a.DeletePort(ctx, "p1"))
	require.NoError(t, a.DeleteDevice(ctx, "nic1"))
	require.Empty(t, k.lines, "what should have been said")
}

// A card that refuses the mode keeps none of its VFs.
func TestSwitchdevRefused(t *testing.T) {
	k := record(t, "testdata/switchdev.txt")
	i := slices.Index(k.lines, "> eswitch 0000:08:00.0 switchdev")
	k.lines = append(slices.Clone(k.lines[:i]), "> eswitch 0000:08:00.0 switchdev ! EOPNOTSUPP",
		"> write bus/pci/devices/0000:08:00.0/sriov_numvfs 0", "= bus/pci/devices/0000:08:00.0/sriov_numvfs 0",
		"> write bus/pci/devices/0000:08:00.0/sriov_drivers_autoprobe 1")
	a := k.allocator(t)
	err := a.EnsureDevice(t.Context(), sriov.Device{ID: "nic1", PF: "0000:08:00.0", PhysicalNetwork: "physnet1", VFs: 2, Mode: sriov.Switchdev})
	var u *vnet.UnsupportedError
	require.ErrorAs(t, err, &u)
	require.Empty(t, k.lines)
	all, err := a.Discover(t.Context())
	require.NoError(t, err)
	require.Empty(t, all[0].Device, "it is no device")
}
