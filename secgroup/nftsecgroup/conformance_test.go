package nftsecgroup_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/nftsecgroup"
	"github.com/vnet-go/vnet/secgroup/secgrouptest"
)

// machine is a host namespace and the handles opened on it, one a process life.
type machine struct {
	ns    *lab.Host
	owner vnet.Owner
	o     linux.Options

	mu    sync.Mutex
	hosts []*linux.Host
}

func (m *machine) open(t testing.TB) *linux.Host {
	t.Helper()
	h, err := linux.Open(context.Background(), m.owner, &m.o)
	require.NoError(t, err)
	m.mu.Lock()
	m.hosts = append(m.hosts, h)
	m.mu.Unlock()
	return h
}

func (m *machine) backend(t testing.TB) *nftsecgroup.Backend {
	t.Helper()
	b, err := nftsecgroup.New(m.open(t), nil)
	require.NoError(t, err)
	return b
}

func (m *machine) writes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, h := range m.hosts {
		n += int(h.NS().NFT().Writes()) + int(h.NS().RTNL().Writes())
	}
	return n
}

func machines(t testing.TB, n int) []*machine {
	t.Helper()
	l := lab.New(t)
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("h%d", i+1))
	}
	var out []*machine
	for _, ns := range l.Underlay(names...) {
		m := &machine{ns: ns, owner: vnet.Owner(l.Owner("s")), o: linux.Options{Name: ns.Short, Netns: ns.Path, NetnsDir: l.NetnsDir(), TunnelIP: ns.IP}}
		out = append(out, m)
		t.Cleanup(func() {
			h := m.open(t)
			if err := h.Cleanup(context.Background()); err != nil {
				t.Errorf("cleanup of %s: %v", m.o.Name, err)
			}
			for _, h := range m.hosts {
				h.Close()
			}
		})
	}
	return out
}

func harness() secgrouptest.Harness {
	return secgrouptest.Harness{Make: func(t testing.TB, n int) []secgrouptest.Host {
		var out []secgrouptest.Host
		for _, m := range machines(t, n) {
			h := m.open(t)
			sg, err := nftsecgroup.New(h, nil)
			require.NoError(t, err)
			ov, err := linuxoverlay.New(h, nil)
			require.NoError(t, err)
			out = append(out, secgrouptest.Host{
				Name: m.o.Name, Endpoint: m.ns.IP, SecGroup: sg, Overlay: ov,
				Reopen: func(t testing.TB) secgroup.Backend { return m.backend(t) },
				Writes: m.writes,
				Foreign: func(t testing.TB) func(testing.TB) {
					lab.Need(t, "nft")
					for _, line := range []string{
						"add table bridge vnet-other", "add chain bridge vnet-other sg-secure", "add rule bridge vnet-other sg-secure drop",
						"add table inet vnet-other", "add set inet vnet-other sg-record { type ipv6_addr; }", "add element inet vnet-other sg-record { 2001:db8::1 }",
						"add table inet firewall", "add chain inet firewall sg-in/web", "add rule inet firewall sg-in/web accept",
					} {
						_, err := m.ns.Exec(context.Background(), "nft", strings.Fields(line)...)
						require.NoError(t, err)
					}
					look := func(t testing.TB) string {
						var all string
						for _, table := range []string{"bridge vnet-other", "inet vnet-other", "inet firewall"} {
							s, err := m.ns.Exec(context.Background(), "nft", append([]string{"list", "table"}, strings.Fields(table)...)...)
							require.NoError(t, err)
							all += s
						}
						return all
					}
					before := look(t)
					return func(t testing.TB) { require.Equal(t, before, look(t)) }
				},
			})
		}
		return out
	}}
}

func TestConformance(t *testing.T) {
	secgrouptest.Run(t, harness())
}
