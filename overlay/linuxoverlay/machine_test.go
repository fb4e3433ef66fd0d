package linuxoverlay_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
)

// machine is a host namespace and the handles opened on it, one a process life.
type machine struct {
	*lab.Host
	owner vnet.Owner
	o     linux.Options
	leave bool // what is in the host's namespace goes with that, at once

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

func (m *machine) backend(t testing.TB) *linuxoverlay.Backend {
	t.Helper()
	b, err := linuxoverlay.New(m.open(t), nil)
	require.NoError(t, err)
	return b
}

// writes is how many requests that change something all handles have sent.
func (m *machine) writes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, h := range m.hosts {
		n += int(h.NS().NFT().Writes()) + int(h.NS().RTNL().Writes())
	}
	return n
}

// machines makes n hosts on one underlay, each with the device phys0 on the
// wire "phys"; change may edit their options.
func machines(t testing.TB, n int, change func(*lab.Lab, *machine)) (*lab.Lab, []*machine) {
	t.Helper()
	l := lab.New(t)
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("h%d", i+1))
	}
	var out []*machine
	for _, ns := range l.Underlay(names...) {
		m := &machine{Host: ns, owner: vnet.Owner(l.Owner("v")), o: linux.Options{Name: ns.Short, Netns: ns.Path, NetnsDir: l.NetnsDir(),
			TunnelIP: ns.IP, PhysicalNetworks: map[string]string{"physnet": "phys0"}}}
		l.Plug(l.Wire("phys"), ns.NS, "phys0")
		if change != nil {
			change(l, m)
		}
		out = append(out, m)
		t.Cleanup(func() {
			if m.leave {
				m.mu.Lock()
				defer m.mu.Unlock()
			} else if err := m.open(t).Cleanup(context.Background()); err != nil {
				t.Errorf("cleanup of %s: %v", m.o.Name, err)
			}
			for _, h := range m.hosts {
				h.Close()
			}
		})
	}
	return l, out
}
