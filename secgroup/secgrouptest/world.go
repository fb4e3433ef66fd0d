package secgrouptest

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/secgroup"
)

// The networks and virtual machines that packets are sent between:
//
//	host 1:  a b d (net1)   x y (net2, with the addresses of a and b)
//	host 2:  c     (net1)
//
// net1 and net2 are tunnel networks. All ports are born closed but d's, which
// has no port security in most cases. vm.bare ones have no address of their
// own: their stacks answer nothing, and frames are made by hand.
type world struct {
	t     testing.TB
	ctx   context.Context
	hosts []Host
	enf   []*secgroup.Enforcer
	vms   map[string]*vm
	over  overlay.State // of all hosts; RemotePorts left out
	limit Limits
	// settle is Harness.Settle, or nothing.
	settle func()
	// quiet is how long after the last expected frame an unwanted one may still come.
	quiet time.Duration
}

type vm struct {
	*lab.NS
	name string
	host int
	net  string
	mac  vnet.MAC
	v4   netip.Addr
	v6   netip.Addr
	ll   netip.Addr
	cap  *lab.Capture
}

func worldVMs() []*vm {
	mk := func(name string, host int, net string, n int) *vm {
		m := mac(n)
		if net == "net2" {
			m[2] = 2
		}
		return &vm{name: name, host: host, net: net, mac: m, ll: m.LinkLocal(),
			v4: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), v6: addr(fmt.Sprintf("2001:db8::%x", n))}
	}
	return []*vm{mk("a", 0, "net1", 1), mk("b", 0, "net1", 2), mk("c", 1, "net1", 3), mk("d", 0, "net1", 4), mk("x", 0, "net2", 1), mk("y", 0, "net2", 2)}
}

// newWorld plugs the machines in. With addresses, their stacks are alive;
// without, only frames made by hand come from them.
func newWorld(t testing.TB, h Harness, addresses bool) *world {
	t.Helper()
	w := &world{t: t, ctx: context.WithoutCancel(t.Context()), hosts: h.Make(t, 2), vms: map[string]*vm{}, quiet: lab.Patience(50 * time.Millisecond), limit: h.Limits, settle: h.Settle}
	if w.settle == nil {
		w.settle = func() {}
	}
	if h.Slow {
		w.quiet = max(w.quiet, 100*time.Millisecond)
	}
	for i, host := range w.hosts {
		if h.Central && i > 0 {
			break
		}
		e, err := secgroup.New(host.SecGroup, nil)
		require.NoError(t, err)
		w.enf = append(w.enf, e)
	}
	l := lab.New(t)
	for i, id := range []string{"net1", "net2"} {
		w.over.Networks = append(w.over.Networks, overlay.Network{ID: id, Segment: segment(h, uint32(100+i)), MTU: 1400,
			Subnets: []overlay.Subnet{{ID: id + "-4", CIDR: prefix("10.0.0.0/16")}, {ID: id + "-6", CIDR: prefix("2001:db8::/64")}}})
	}
	for _, v := range worldVMs() {
		v.NS = l.NS(v.name)
		w.vms[v.name] = v
		if !addresses {
			v.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
			v.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
		}
		w.over.Ports = append(w.over.Ports, overlay.Port{ID: v.name, NetworkID: v.net, MAC: v.mac, FixedIPs: []netip.Addr{v.v4, v.v6},
			Filtered: v.name != "d", Host: w.hosts[v.host].Name})
	}
	for i, host := range w.hosts {
		if h.Central && i > 0 {
			break
		}
		s := overlay.State{Networks: w.over.Networks}
		for _, p := range w.over.Ports {
			if p.Host == host.Name || h.Central {
				s.Ports = append(s.Ports, p)
			}
		}
		for _, v := range w.vms {
			if v.host != i && !h.Central {
				s.RemotePorts = append(s.RemotePorts, overlay.RemotePort{ID: v.name, NetworkID: v.net, MAC: v.mac, IPs: []netip.Addr{v.v4, v.v6}, Endpoint: w.hosts[v.host].Endpoint})
			}
		}
		f, err := overlay.New(host.Overlay, nil)
		require.NoError(t, err)
		require.NoError(t, f.Sync(w.ctx, s, vnet.SyncOptions{}))
	}
	for _, v := range w.vms {
		w.plug(v)
		if addresses {
			v.Addr("eth0", v.v4.String()+"/16")
			v.Addr("eth0", v.v6.String()+"/64")
		}
	}
	return w
}

// plug gives a machine its device.
func (w *world) plug(v *vm) {
	w.t.Helper()
	_, err := w.hosts[v.host].Overlay.Plug(w.ctx, overlay.Attachment{PortID: v.name, Kind: overlay.Veth, Name: "eth0", Netns: v.Path})
	require.NoError(w.t, err)
	v.Up("eth0")
	v.cap = v.Capture("eth0")
	w.settle()
}

// sync gives every host the state.
func (w *world) sync(s secgroup.State) {
	w.t.Helper()
	for _, e := range w.enf {
		require.NoError(w.t, e.Sync(w.ctx, s, vnet.SyncOptions{Force: true}))
	}
	w.settle()
}

// each calls f with the enforcer of every host.
func (w *world) each(f func(e *secgroup.Enforcer) error) {
	w.t.Helper()
	for _, e := range w.enf {
		require.NoError(w.t, f(e))
	}
	w.settle()
}

// port is the secgroup port of a machine, in groups.
func (w *world) port(name string, groups ...string) secgroup.Port {
	v := w.vms[name]
	return secgroup.Port{ID: v.name, NetworkID: v.net, MAC: v.mac, FixedIPs: []netip.Addr{v.v4, v.v6}, Groups: groups, Host: w.hosts[v.host].Name}
}

// open is the port of a machine with port security off.
func (w *world) open(name string) secgroup.Port {
	p := w.port(name)
	p.DisablePortSecurity = true
	return p
}

// probe is one frame and where it must, or must not, arrive.
type probe struct {
	name     string
	from, to string
	frame    lab.Frame // SrcMAC, DstMAC, Src and Dst are filled in when zero
	v6       bool      // which addresses to fill in
	pass     bool
}

var tags atomic.Uint64

// patience is how long the suite waits for what must arrive.
const patience = 10 * time.Second

// fill completes the frame, and tags it where it has room for a payload.
func (w *world) fill(p probe) probe {
	from, to := w.vms[p.from], w.vms[p.to]
	f := &p.frame
	if f.SrcMAC.IsZero() {
		f.SrcMAC = from.mac
	}
	if f.DstMAC.IsZero() {
		f.DstMAC = to.mac
	}
	if f.ARP == nil && f.EtherType == 0 {
		if !f.Src.IsValid() {
			f.Src = from.v4
			if p.v6 {
				f.Src = from.v6
			}
		}
		if !f.Dst.IsValid() {
			f.Dst = to.v4
			if f.Src.Is6() {
				f.Dst = to.v6
			}
		}
		if f.Dst.IsMulticast() && p.frame.DstMAC == to.mac {
			f.DstMAC = multicastMAC(f.Dst)
		}
	}
	if f.ARP == nil && f.Payload == nil && !f.Target.IsValid() {
		f.Payload = binary.BigEndian.AppendUint64([]byte("vnet"), tags.Add(1))
	}
	return p
}

func multicastMAC(a netip.Addr) vnet.MAC {
	if a.Is4() {
		b := a.As4()
		return vnet.MAC{1, 0, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := a.As16()
	return vnet.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// is reports whether got is the frame that was sent.
func is(sent lab.Frame) func(lab.Frame) bool {
	// The wire form tells the same story for both; Ethernet padding is only
	// in the payload of what has no length of its own.
	want, err := lab.ParseFrame(sent.Bytes())
	return func(got lab.Frame) bool {
		if err != nil || got.String() != want.String() || got.EtherType != want.EtherType {
			return false
		}
		return len(got.Payload) >= len(want.Payload) && string(got.Payload[:len(want.Payload)]) == string(want.Payload)
	}
}

// send sends all probes and returns, for each, whether it arrived.
func (w *world) send(probes []probe) []bool {
	w.t.Helper()
	for i := range probes {
		probes[i] = w.fill(probes[i])
	}
	for _, v := range w.vms {
		v.cap.Reset()
	}
	for _, p := range probes {
		w.vms[p.from].Inject("eth0", p.frame.Bytes())
	}
	got := make([]bool, len(probes))
	end := time.Now().Add(lab.Patience(patience))
	for i, p := range probes {
		if p.pass {
			_, got[i] = w.vms[p.to].cap.Find(time.Until(end), is(p.frame))
		}
	}
	time.Sleep(w.quiet)
	for i, p := range probes {
		if !p.pass {
			_, got[i] = w.vms[p.to].cap.Find(0, is(p.frame))
		}
	}
	return got
}

// check sends all probes and fails where one arrives that must not, or the
// other way round.
func (w *world) check(t testing.TB, probes []probe) {
	t.Helper()
	for i, arrived := range w.send(probes) {
		if p := probes[i]; arrived != p.pass {
			t.Errorf("%s: %s -> %s: %s: arrived %t, want %t", p.name, p.from, p.to, p.frame, arrived, p.pass)
		}
	}
}
