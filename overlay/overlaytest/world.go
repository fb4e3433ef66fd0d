package overlaytest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
)

// quiet is how long the suite waits for frames that must not come, and patience
// how long for those that must.
const (
	quiet    = 60 * time.Millisecond
	patience = 10 * time.Second
)

// station is a virtual machine: a namespace with a device and no addresses, so
// that its own stack stays silent and every frame is made here.
type station struct {
	*lab.NS
	name string
	host int
	port overlay.Port
	dev  overlay.Device
	cap  *lab.Capture
}

// world is networks and stations on the hosts of a bench.
type world struct {
	*bench
	t        testing.TB // of the check that is running
	networks []overlay.Network
	stations []*station
	// untold stations are not told of to other hosts.
	untold map[string]bool
	seen   []func() [][]byte
}

// world makes the networks and records the underlay of each host.
func (b *bench) world(networks ...overlay.Network) *world {
	w := &world{bench: b, t: b.t, networks: networks, untold: map[string]bool{}}
	for _, h := range b.hosts {
		if h.Underlay != nil {
			w.seen = append(w.seen, h.Underlay(b.t))
		}
	}
	return w
}

// add describes a station; n numbers its addresses.
func (w *world) add(name string, host int, network string, n int) *station {
	p := port(name, network, n)
	p.Host = w.hosts[host].Name
	s := &station{name: name, host: host, port: p}
	w.stations = append(w.stations, s)
	return s
}

func (w *world) at(name string) *station {
	w.t.Helper()
	for _, s := range w.stations {
		if s.name == name {
			return s
		}
	}
	w.t.Fatalf("no station %s", name)
	return nil
}

// state is what host i is to make.
func (w *world) state(i int) overlay.State {
	s := overlay.State{Networks: w.networks}
	central := w.f[i].Features(w.ctx).Central
	for _, x := range w.stations {
		switch {
		case x.host == i || central:
			s.Ports = append(s.Ports, x.port)
		case !w.untold[x.name]:
			s.RemotePorts = append(s.RemotePorts, remote(x.port, w.hosts[x.host]))
		}
	}
	return s
}

// sync makes it all so on every host.
func (w *world) sync() {
	w.t.Helper()
	for i, f := range w.f {
		require.NoError(w.t, f.Sync(w.ctx, w.state(i), vnet.SyncOptions{Force: true}), "host %s", w.hosts[i].Name)
	}
}

// start makes it all so, plugs every station and starts recording.
func (w *world) start() {
	w.t.Helper()
	w.sync()
	for _, s := range w.stations {
		w.plug(s)
	}
}

func (w *world) plug(s *station) {
	w.t.Helper()
	s.NS = w.vm(s.name)
	silence(s.NS)
	d, err := w.f[s.host].Plug(w.ctx, w.veth(s.name))
	require.NoError(w.t, err)
	s.dev = d
	s.Up("eth0")
	s.cap = s.Capture("eth0")
}

// settle waits until all hosts know what stands, and the devices of ports that
// are up carry.
func (w *world) settle() {
	w.t.Helper()
	if w.k.Settle != nil {
		w.k.Settle(w.t)
	}
	for _, s := range w.stations {
		if s.NS != nil && s.dev.Name != "" && !s.port.AdminDown {
			lab.Eventually(w.t, patience, "carrier at "+s.name, func() bool { return strings.Contains(s.IP("-br", "link", "show", "dev", "eth0"), " UP ") })
		}
	}
}

// silence keeps a namespace's own stack from sending anything.
func silence(n *lab.NS) {
	n.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	n.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
}

// probe is one frame and who must get it, once: everybody else must not.
type probe struct {
	says  string
	from  string
	frame lab.Frame
	to    []string
	// crosses says that the frame must, or must not, be seen on the underlay of
	// the sender's host; nil: not looked at.
	crosses *bool
}

func yes() *bool { v := true; return &v }
func no() *bool  { v := false; return &v }

var tags atomic.Uint64

// udp is a frame from one station to another that no other frame is like.
func udp(from, to *station, v6 bool) lab.Frame {
	f := lab.Frame{SrcMAC: from.port.MAC, DstMAC: to.port.MAC, Src: from.port.FixedIPs[0], Dst: to.port.FixedIPs[0], Proto: lab.UDP, SrcPort: 1000, DstPort: 2000}
	if v6 {
		f.Src, f.Dst = from.port.FixedIPs[1], to.port.FixedIPs[1]
	}
	return tagged(f)
}

func tagged(f lab.Frame) lab.Frame {
	f.Payload = binary.BigEndian.AppendUint64([]byte("vnet-overlay"), tags.Add(1))
	return f
}

// is reports whether got is the frame that was sent.
func is(sent lab.Frame) func(lab.Frame) bool {
	// Parsed from its wire form it tells the same story as what is captured.
	want, err := lab.ParseFrame(sent.Bytes())
	return func(got lab.Frame) bool {
		return err == nil && got.EtherType == want.EtherType && got.String() == want.String() &&
			len(got.Payload) >= len(want.Payload) && string(got.Payload[:len(want.Payload)]) == string(want.Payload)
	}
}

// outcome is what became of a probe.
type outcome struct {
	to      []string // a name for every copy, sorted
	crossed int      // copies on the underlay of the sender's host
}

// send sends all probes, waits for what must come and then a little for what
// must not, and says what became of each.
func (w *world) send(probes []probe) []outcome {
	w.t.Helper()
	w.settle()
	for _, s := range w.stations {
		if s.cap != nil {
			s.cap.Reset()
		}
	}
	before := make([]int, len(w.seen))
	for i, seen := range w.seen {
		before[i] = len(seen())
	}
	for _, p := range probes {
		w.at(p.from).Inject("eth0", p.frame.Bytes())
	}
	end := time.Now().Add(lab.Patience(patience))
	for _, p := range probes {
		for _, name := range p.to {
			w.at(name).cap.Find(time.Until(end), is(p.frame))
		}
		if p.crosses != nil && *p.crosses && w.seen != nil {
			i, inner := w.at(p.from).host, p.frame.Bytes()
			for countOf(w.seen[i]()[before[i]:], inner) == 0 && time.Now().Before(end) {
				time.Sleep(time.Millisecond)
			}
		}
	}
	time.Sleep(lab.Patience(quiet))
	var wire [][][]byte
	for i, seen := range w.seen {
		wire = append(wire, seen()[before[i]:])
	}
	out := make([]outcome, len(probes))
	for i, p := range probes {
		match, inner := is(p.frame), p.frame.Bytes()
		for _, s := range w.stations {
			if s.cap == nil {
				continue
			}
			for _, f := range s.cap.Frames() {
				if match(f) {
					out[i].to = append(out[i].to, s.name)
				}
			}
		}
		slices.Sort(out[i].to)
		if wire != nil {
			out[i].crossed = countOf(wire[w.at(p.from).host], inner)
		}
	}
	return out
}

// countOf says how many frames have inner in them.
func countOf(frames [][]byte, inner []byte) (n int) {
	for _, f := range frames {
		if bytes.Contains(f, inner) {
			n++
		}
	}
	return n
}

// check sends all probes and fails where one goes elsewhere than it must.
func (w *world) check(probes ...probe) {
	w.t.Helper()
	var bad []string
	fail := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for i, got := range w.send(probes) {
		p := probes[i]
		want := slices.Sorted(slices.Values(p.to))
		if !slices.Equal(got.to, want) {
			fail("%s: from %s: %s\n  arrived at %v, want %v", p.says, p.from, p.frame, got.to, want)
		}
		if p.crosses != nil && w.seen != nil && *p.crosses != (got.crossed > 0) {
			fail("%s: from %s: %s\n  crossed the underlay %d times, want it to cross: %t", p.says, p.from, p.frame, got.crossed, *p.crosses)
		}
	}
	if len(bad) > 0 {
		w.t.Errorf("%s\n%s", strings.Join(bad, "\n"), w.text())
	}
}

// text is the state and who is where, for messages of failed checks.
func (w *world) text() string {
	var s strings.Builder
	for _, n := range w.networks {
		b, _ := json.Marshal(n)
		fmt.Fprintf(&s, "network %s\n", b)
	}
	for _, x := range w.stations {
		b, _ := json.Marshal(x.port)
		fmt.Fprintf(&s, "station %s on %s: %s\n", x.name, w.hosts[x.host].Name, b)
	}
	return s.String()
}
