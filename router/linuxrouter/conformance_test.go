package linuxrouter_test

import (
	"context"
	"errors"
	"flag"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/linuxrouter"
	"github.com/vnet-go/vnet/router/routertest"
)

var (
	worlds  = flag.Int("worlds", 0, "how many worlds the random ring makes")
	packets = flag.Int("packets", 0, "how many packets it sends in each at most")
)

func TestConformance(t *testing.T) {
	routertest.Run(t, routertest.Harness{Worlds: *worlds, Packets: *packets, Make: func(t testing.TB) routertest.Host {
		l := lab.New(t)
		ns := l.NS("h1")
		x := host(t, open(t, l, ns, ""))
		x.Beside = func(t testing.TB) routertest.Host { return host(t, open(t, l, ns, "b")) }
		x.Foreign = func(t testing.TB) func(testing.TB) { return foreign(t, l, ns) }
		return x
	}})
}

func host(t testing.TB, h *linux.Host) routertest.Host {
	ob, err := linuxoverlay.New(h, nil)
	require.NoError(t, err)
	backend := func(t testing.TB) router.Backend {
		b, err := linuxrouter.New(h, nil)
		require.NoError(t, err)
		return b
	}
	return routertest.Host{Overlay: ob, Router: backend(t), Reopen: backend, Writes: func() int { return writes(h) },
		Dying: func(t testing.TB, n int) router.Backend {
			b, err := linuxrouter.New(dying{h, &n}, nil)
			require.NoError(t, err)
			return b
		}}
}

// dying is the target of a process that ends after some steps.
type dying struct {
	linux.Target
	left *int
}

func (d dying) Submit(ctx context.Context, steps ...linux.Step) error {
	step := func(f func() error) error {
		if *d.left--; *d.left < 0 {
			return errors.New("killed")
		}
		return f()
	}
	steps = slices.Clone(steps)
	for i := range steps {
		s := &steps[i]
		s.Undo = nil // the dead take nothing back
		if do := s.Do; do != nil {
			s.Do = func(ctx context.Context) error { return step(func() error { return do(ctx) }) }
		}
		if f := s.NFT; f != nil {
			s.NFT = func(tx *nft.Tx) error { return step(func() error { return f(tx) }) }
		}
	}
	return d.Target.Submit(ctx, steps...)
}

// writes counts what was written to the host's namespace and those of the
// routers that stand.
func writes(h *linux.Host) int {
	n := h.NS().NFT().Writes() + h.NS().RTNL().Writes()
	ids, err := h.Namespaces(context.Background(), vnet.PartRouter)
	if err != nil {
		return -1
	}
	for _, id := range ids {
		ns := h.NamespaceRef(h.NetnsName(vnet.PartRouter, id))
		n += ns.NFT().Writes() + ns.RTNL().Writes()
	}
	return int(n)
}

// foreign makes a router of another owner on the same host and devices of
// nobody's.
func foreign(t testing.TB, l *lab.Lab, ns *lab.NS) func(testing.TB) {
	lab.Need(t, "nft")
	ctx := context.Background()
	ns.IP("link", "add", "name", "rother", "type", "veth", "peer", "name", "iother")
	ns.IP("link", "set", "dev", "rother", "alias", "vnet:another:router:port:r1-in")
	ns.IP("link", "set", "dev", "iother", "alias", "somebody's")
	ns.IP("addr", "add", "192.0.2.1/24", "dev", "iother")
	h := open(t, l, ns, "b")
	ob, err := linuxoverlay.New(h, nil)
	require.NoError(t, err)
	two := &site{l: l, h: h}
	two.networks(t, ob)
	svc := fresh(t, h)
	state := router.State{Routers: []router.Router{r1}, FloatingIPs: []router.FloatingIP{f1}}
	require.NoError(t, svc.Sync(ctx, state, vnet.SyncOptions{}))
	name := regexp.MustCompile(`\b(rother|iother|` + h.LinkName("r", "ri") + `|` + h.LinkName("r", "rg") + `)\b`)
	look := func(t testing.TB) (out string) {
		for line := range strings.Lines(ns.IP("-o", "link") + ns.IP("-o", "addr")) {
			if name.MatchString(line) {
				out += line
			}
		}
		return out
	}
	before := look(t)
	require.NotEmpty(t, before)
	return func(t testing.TB) {
		require.Equal(t, before, look(t))
		p, err := svc.Plan(ctx, state)
		require.NoError(t, err)
		require.Empty(t, p.Changes)
	}
}
