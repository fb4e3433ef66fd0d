package linuxoverlay_test

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/overlaytest"
)

func harness(change func(*lab.Lab, *machine)) overlaytest.Harness {
	return overlaytest.Harness{PhysicalNetwork: "physnet", Make: func(t testing.TB, n int) []overlaytest.Host {
		var out []overlaytest.Host
		_, ms := machines(t, n, change)
		for _, m := range ms {
			out = append(out, overlaytest.Host{
				Name: m.o.Name, Endpoint: m.o.TunnelIP, Netns: m.Path, Overlay: m.backend(t), Writes: m.writes,
				Reopen:   func(t testing.TB) overlay.Backend { return m.backend(t) },
				Foreign:  m.foreign,
				Underlay: m.underlay,
			})
		}
		return out
	}}
}

// underlay records what crosses the host's underlay device.
func (m *machine) underlay(testing.TB) func() [][]byte {
	c := m.CaptureBoth(m.Dev)
	return func() (out [][]byte) {
		for _, f := range c.Frames() {
			out = append(out, f.Bytes())
		}
		return out
	}
}

// foreign makes a network of another owner and one of an administrator.
func (m *machine) foreign(t testing.TB) func(testing.TB) {
	lab.Need(t, "nft", "bridge")
	m.NS.IP("link", "add", "name", "nother", "type", "bridge")
	m.NS.IP("link", "set", "dev", "nother", "alias", "vnet:other:overlay:network:blue")
	m.NS.IP("link", "add", "name", "xother", "type", "vxlan", "id", "7", "dstport", "4789", "local", m.Host.IP.String())
	m.NS.IP("link", "set", "dev", "xother", "master", "nother", "alias", "vnet:other:overlay:tunnel:blue")
	m.NS.IP("link", "add", "name", "br0", "type", "bridge")
	m.NS.IP("link", "add", "name", "veth0", "type", "veth", "peer", "name", "veth1")
	m.NS.IP("link", "set", "dev", "veth0", "master", "br0", "alias", "somebody's")
	m.NS.IP("link", "property", "add", "dev", "veth0", "altname", "vnet:other:port:blue-0")
	m.NS.IP("neigh", "add", "10.0.0.77", "lladdr", "02:00:00:00:00:77", "nud", "permanent", "dev", "nother")
	ours := regexp.MustCompile(`\b(nother|xother|br0|veth0|veth1)\b`)
	look := func(t testing.TB) string {
		all := ""
		for _, args := range [][]string{{"ip", "-d", "-o", "link"}, {"ip", "neigh", "show", "nud", "permanent"}, {"bridge", "fdb", "show", "dev", "xother"}} {
			out, err := m.Exec(context.Background(), args[0], args[1:]...)
			require.NoError(t, err)
			for line := range strings.Lines(out) {
				if ours.MatchString(line) {
					all += line
				}
			}
		}
		return all
	}
	before := look(t)
	return func(t testing.TB) { require.Equal(t, before, look(t)) }
}

func TestConformance(t *testing.T) { overlaytest.Run(t, harness(nil)) }
