package placement_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos/placement"
	"github.com/vnet-go/vnet/qos/placement/placementtest"
)

func TestMemory(t *testing.T) {
	placementtest.Run(t, placementtest.Harness{Make: func(testing.TB) placement.Store { return new(placement.Memory) }})
}

func TestFile(t *testing.T) {
	paths := map[placement.Store]string{}
	open := func(t testing.TB, path string) placement.Store {
		f, err := placement.OpenFile(path)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		paths[f] = path
		return f
	}
	placementtest.Run(t, placementtest.Harness{Draws: 10,
		Make: func(t testing.TB) placement.Store { return open(t, filepath.Join(t.TempDir(), "ledger")) },
		Reopen: func(t testing.TB, s placement.Store) placement.Store {
			require.NoError(t, s.(*placement.File).Close())
			return open(t, paths[s])
		}})
}

func small(t testing.TB, s placement.Store) *placement.Ledger {
	l, err := placement.New(s, nil)
	require.NoError(t, err)
	require.NoError(t, l.EnsureProviders(context.Background(), false, placement.Provider{ID: "h", Name: "h",
		Inventories: map[placement.Class]placement.Inventory{placement.EgressKbps: {Total: 1 << 40}}}))
	return l
}

func one(n int64) placement.Request {
	return placement.Request{Groups: []placement.Group{{ID: "g", Resources: placement.Resources{placement.EgressKbps: n}}}}
}

func TestOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	f, err := placement.OpenFile(path)
	require.NoError(t, err)
	_, err = placement.OpenFile(path)
	require.ErrorIs(t, err, vnet.ErrInUse)
	l := small(t, f)
	require.NoError(t, f.Close())
	_, err = l.Claim(t.Context(), "c", one(1))
	require.ErrorIs(t, err, os.ErrClosed)
}

// TestTornLine: what was being written when the machine stopped is cut off; what
// is spoilt otherwise is not passed over.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	f, err := placement.OpenFile(path)
	require.NoError(t, err)
	l := small(t, f)
	for i := range 3 {
		_, err := l.Claim(t.Context(), fmt.Sprintf("c%d", i), one(1))
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	last := strings.LastIndex(strings.TrimSuffix(string(whole), "\n"), "\n") + 1
	for cut := last; cut < len(whole); cut++ {
		require.NoError(t, os.WriteFile(path, whole[:cut], 0o600))
		f, err := placement.OpenFile(path)
		require.NoError(t, err, "cut at %d of %d", cut, len(whole))
		a, err := f.Allocation(t.Context(), "c1")
		require.NoError(t, err)
		require.NotEmpty(t, a.Parts)
		a, err = f.Allocation(t.Context(), "c2")
		require.NoError(t, err)
		require.Empty(t, a.Parts)
		require.NoError(t, f.Close())
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, whole[:last], after)
	}
	spoilt := slices.Clone(whole)
	spoilt[20] ^= 1
	require.NoError(t, os.WriteFile(path, spoilt, 0o600))
	_, err = placement.OpenFile(path)
	require.ErrorContains(t, err, "line 1 is spoilt")
}

// TestKilled: a process that is killed while it writes loses nothing that it
// was told, and leaves nothing half.
func TestKilled(t *testing.T) {
	if path := os.Getenv("PLACEMENT_KILLED"); path != "" {
		f, err := placement.OpenFile(path)
		if err != nil {
			fmt.Println("error", err)
			return
		}
		l := small(t, f)
		for i := 0; ; i++ {
			id := fmt.Sprintf("c%d-%d", os.Getpid(), i)
			if _, err := l.Claim(context.Background(), id, one(1)); err != nil {
				fmt.Println("error", err)
				return
			}
			fmt.Println(id)
		}
	}
	path := filepath.Join(t.TempDir(), "ledger")
	var told []string
	for range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "PLACEMENT_KILLED="+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; n < 200 && lines.Scan(); n++ {
			require.NotContains(t, lines.Text(), "error")
			told = append(told, lines.Text())
		}
		require.NoError(t, cmd.Process.Kill())
		for lines.Scan() {
			told = append(told, lines.Text())
		}
		cmd.Wait()
	}
	f, err := placement.OpenFile(path)
	require.NoError(t, err)
	defer f.Close()
	require.Greater(t, len(told), 1000)
	for _, id := range told {
		a, err := f.Allocation(t.Context(), id)
		require.NoError(t, err)
		require.NotEmpty(t, a.Parts, id)
	}
	u, err := f.Usage(t.Context(), "h")
	require.NoError(t, err)
	require.GreaterOrEqual(t, int(u[placement.EgressKbps]), len(told))
}

func TestHostProviders(t *testing.T) {
	all, err := placement.HostProviders(placement.Host{ID: "11111111-2222-3333-4444-555555555555", Name: "h1", Kind: placement.AgentOVS, Kpps: 100,
		Devices: []placement.Device{{Name: "br-physnet0", PhysicalNetwork: "physnet-0", EgressKbps: 10_000_000, IngressKbps: 10_000_000, Reserved: 1000}, {EgressKbps: 5_000_000}}})
	require.NoError(t, err)
	var text []string
	for _, p := range all {
		text = append(text, fmt.Sprint(p.Name, " ", p.ID, " ", p.Traits, " ", p.Inventories))
	}
	// The ids are those that Python's uuid.uuid5 gives.
	require.Equal(t, []string{
		"h1 11111111-2222-3333-4444-555555555555 [] map[]",
		"h1:Open vSwitch agent 37db8e4c-80cb-5aac-a5ae-d6d528e5c4a0 [CUSTOM_VNIC_TYPE_NORMAL] map[NET_PACKET_RATE_KILOPACKET_PER_SEC:{100 0 0 0 0 0}]",
		"h1:Open vSwitch agent:br-physnet0 56268de7-6620-5b17-b01e-a28de25025e4 [CUSTOM_PHYSNET_PHYSNET_0 CUSTOM_VNIC_TYPE_NORMAL] map[NET_BW_EGR_KILOBIT_PER_SEC:{10000000 1000 0 0 0 0} NET_BW_IGR_KILOBIT_PER_SEC:{10000000 1000 0 0 0 0}]",
		"h1:Open vSwitch agent:rp_tunnelled bfd7fa71-6d9c-585e-8397-3cf8a9b8365f [CUSTOM_NETWORK_TUNNEL_PROVIDER CUSTOM_VNIC_TYPE_NORMAL] map[NET_BW_EGR_KILOBIT_PER_SEC:{5000000 0 0 0 0 0}]",
	}, text)
	var e *vnet.FieldError
	_, err = placement.HostProviders(placement.Host{ID: "h", Name: "h", Kind: placement.AgentOVN, Devices: []placement.Device{{Name: "a", PhysicalNetwork: "net"}, {Name: "b", PhysicalNetwork: "NET"}}})
	require.ErrorAs(t, err, &e)
	require.Equal(t, "devices[1].physical_network", e.Field)
	_, err = placement.HostProviders(placement.Host{ID: "h", Name: "h", Kind: "agent"})
	require.ErrorAs(t, err, &e)
	require.Equal(t, "kind", e.Field)
}

func TestPortRequest(t *testing.T) {
	r, ok, err := placement.PortRequest(placement.Port{ID: "port", PhysicalNetwork: "physnet0", EgressKbps: 1000, Kpps: 5})
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, r.Validate())
	require.Len(t, r.Groups, 2)
	require.Equal(t, []string{"CUSTOM_PHYSNET_PHYSNET0", "CUSTOM_VNIC_TYPE_NORMAL"}, r.Groups[0].Required)
	require.Equal(t, []string{"CUSTOM_VNIC_TYPE_NORMAL"}, r.Groups[1].Required)
	require.Equal(t, [][]string{{r.Groups[0].ID, r.Groups[1].ID}}, r.SameSubtree)
	again, _, err := placement.PortRequest(placement.Port{ID: "port", EgressKbps: 2000})
	require.NoError(t, err)
	require.Equal(t, []string{placement.TunnelTrait, "CUSTOM_VNIC_TYPE_NORMAL"}, again.Groups[0].Required)
	require.Equal(t, r.Groups[0].ID, again.Groups[0].ID, "ids do not change with amounts")
	_, ok, err = placement.PortRequest(placement.Port{ID: "port"})
	require.NoError(t, err)
	require.False(t, ok)
	_, _, err = placement.PortRequest(placement.Port{ID: "port", Kpps: 1, EgressKpps: 1})
	require.Error(t, err)
}

// crowd is 10,000 hosts of two devices, with 100,000 allocations.
func crowd(b *testing.B) *placement.Ledger {
	ctx := context.Background()
	l, err := placement.New(new(placement.Memory), nil)
	require.NoError(b, err)
	for i := range 10_000 {
		h := fmt.Sprintf("h%05d", i)
		all, err := placement.HostProviders(placement.Host{ID: h, Name: h, Kind: placement.AgentOVS, Kpps: 10_000, Devices: []placement.Device{
			{Name: "br-a", PhysicalNetwork: "a", EgressKbps: 10_000_000, IngressKbps: 10_000_000}, {EgressKbps: 10_000_000, IngressKbps: 10_000_000}}})
		require.NoError(b, err)
		require.NoError(b, l.EnsureProviders(ctx, false, all...))
		for j := range 10 {
			a := placement.Allocation{Consumer: fmt.Sprintf("c%05d-%d", i, j), Parts: map[string]placement.Resources{
				all[2].ID: {placement.EgressKbps: int64(1000 * (1 + (i*7+j)%900))}, all[1].ID: {placement.PacketRate: 10}}}
			require.NoError(b, l.Store().Allocate(ctx, a))
		}
	}
	return l
}

func BenchmarkTenThousandHosts(b *testing.B) {
	ctx := context.Background()
	l := crowd(b)
	r, _, err := placement.PortRequest(placement.Port{ID: "port", PhysicalNetwork: "a", EgressKbps: 100_000, Kpps: 10})
	require.NoError(b, err)
	b.Run("candidates", func(b *testing.B) {
		for b.Loop() {
			all, err := l.Candidates(ctx, r, 10)
			if err != nil || len(all) != 10 {
				b.Fatal(all, err)
			}
		}
	})
	b.Run("claim and release", func(b *testing.B) {
		for b.Loop() {
			_, err := l.Claim(ctx, "new", r)
			if err := errors.Join(err, l.Release(ctx, "new")); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("claim and release on a host", func(b *testing.B) {
		r := r
		r.Hosts = []string{"h05000"}
		for b.Loop() {
			_, err := l.Claim(ctx, "new", r)
			if err := errors.Join(err, l.Release(ctx, "new")); err != nil {
				b.Fatal(err)
			}
		}
	})
}
