package routertest

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
)

// patience is how long the suite waits for what must come, and quiet for what
// must not.
const (
	patience = 6 * time.Second
	quiet    = 300 * time.Millisecond
)

// machine is a network namespace with eth0 at a port. On TCP and UDP port 7000
// and TCP ports 22 to 25 it answers each line with its name, whom it heard it
// from, and on which port.
type machine struct {
	*lab.NS
	name string
}

// at describes the machines of the suite: ext is the provider's router, and
// knows the way to all that is behind r1.
var at = map[string]struct {
	network  string
	n        byte
	addrs    []string
	gateways []string
}{
	"a":  {"in", 0x11, []string{"10.0.0.5/24", "2001:db8:1::5/64"}, []string{"10.0.0.1", "2001:db8:1::1"}},
	"a2": {"in", 0x12, []string{"10.0.0.6/24", "2001:db8:1::6/64"}, []string{"10.0.0.1", "2001:db8:1::1"}},
	"b":  {"in2", 0x13, []string{"10.0.1.5/24", "2001:db8:2::5/64"}, []string{"10.0.1.1", "2001:db8:2::1"}},
	"o":  {"other", 0x14, []string{"10.0.0.5/24"}, []string{"10.0.0.1"}},
	// auto gets what it has from advertisements.
	"auto": {"in", 0x16, nil, nil},
	"ext":  {"out", 0x15, []string{"203.0.113.1/24", "2001:db8:f::1/64"}, nil},
}

// machine plugs one of the machines in.
func (e *env) machine(name string) *machine {
	e.t.Helper()
	if e.lab == nil {
		e.lab = &machines{lab.New(e.t), map[string]*machine{}}
	}
	x := at[name]
	m := &machine{e.lab.NS(name), name}
	// Who else has its addresses is not what is tested, and takes a second to ask.
	m.Sysctl("net/ipv6/conf/default/dad_transmits", "0")
	port := overlay.Port{ID: name, NetworkID: x.network, MAC: vnet.MAC{2, 0, 0, 0, 0, x.n}}
	if e.Told {
		for _, a := range pfx(x.addrs...) {
			port.FixedIPs = append(port.FixedIPs, a.Addr())
		}
	}
	e.attach(m.NS, port)
	m.Configure("eth0", x.addrs, x.gateways...)
	if name == "ext" {
		m.Route("10.0.0.0/8", "203.0.113.2")
		m.Route("2001:db8:1::/64", "2001:db8:f::2")
		m.Route("2001:db8:2::/64", "2001:db8:f::2")
	}
	for _, port := range []string{"7000", "22", "23", "24", "25"} {
		m.serve(e.t, port)
	}
	e.lab.all[name] = m
	return m
}

// attach puts eth0 of a namespace at a port, or on the physical network.
func (e *env) attach(ns *lab.NS, p overlay.Port) {
	e.t.Helper()
	if e.Station != nil && p.NetworkID == "out" {
		e.Station(e.t, ns, p)
		return
	}
	fabric, err := overlay.New(e.Overlay, nil)
	require.NoError(e.t, err)
	plugger := e.Plugger
	if plugger == nil {
		plugger = e.Overlay.(overlay.Plugger)
	}
	require.NoError(e.t, fabric.EnsurePort(e.ctx, p))
	_, err = plugger.Plug(e.ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: ns.Path})
	require.NoError(e.t, err)
}

type machines struct {
	*lab.Lab
	all map[string]*machine
}

func (e *env) at(name string) *machine {
	if e.lab == nil || e.lab.all[name] == nil {
		return e.machine(name)
	}
	return e.lab.all[name]
}

func (m *machine) serve(t testing.TB, port string) {
	var l net.Listener
	var u net.PacketConn
	require.NoError(t, m.Do(func() (err error) {
		if l, err = net.Listen("tcp", ":"+port); err == nil && port == "7000" {
			u, err = net.ListenPacket("udp", ":"+port)
		}
		return err
	}))
	t.Cleanup(func() { l.Close() })
	answer := func(from net.Addr) string {
		ap := netip.MustParseAddrPort(from.String())
		return fmt.Sprintf("%s:%s hears %s", m.name, port, ap.Addr().Unmap())
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintln(c, answer(c.RemoteAddr()))
				}
			}()
		}
	}()
	if u == nil {
		return
	}
	t.Cleanup(func() { u.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo([]byte(answer(from)+"\n"), from)
		}
	}()
}

// dial opens a connection from a machine.
func (m *machine) dial(network, to string) (c net.Conn, err error) {
	err = m.Do(func() error {
		d := net.Dialer{Timeout: patience}
		c, err = d.Dial(network, to)
		return err
	})
	return c, err
}

// say sends a line and returns the answer.
func say(c net.Conn, wait time.Duration) (string, error) {
	c.SetDeadline(time.Now().Add(wait))
	if _, err := fmt.Fprintln(c, "who"); err != nil {
		return "", err
	}
	buf := make([]byte, 128)
	n, err := c.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

// ask is dial, say and close. The first UDP packets may be lost to neighbour
// discovery, so they are sent again.
func (m *machine) ask(network, to string) (string, error) {
	c, err := m.dial(network, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if !strings.HasPrefix(network, "udp") {
		return say(c, patience)
	}
	s, err := say(c, quiet)
	for end := time.Now().Add(patience); os.IsTimeout(err) && time.Now().Before(end); {
		s, err = say(c, quiet)
	}
	return s, err
}

// hears fails unless what from asks of to over TCP and UDP is answered like
// this.
func (e *env) hears(from, to string, want string) {
	e.t.Helper()
	who, _, _ := strings.Cut(want, ":")
	e.at(who)
	for _, network := range []string{"tcp", "udp"} {
		ask := func() (string, error) { return e.at(from).ask(network, net.JoinHostPort(to, strconv.Itoa(7000))) }
		got, err := ask()
		for end := time.Now().Add(patience); e.Lags && got != want && time.Now().Before(end); {
			got, err = ask()
		}
		require.NoError(e.t, err, "%s from %s to %s", network, from, to)
		require.Equal(e.t, want, got, "%s from %s to %s", network, from, to)
	}
}

// deaf fails if to answers.
func (e *env) deaf(from, to string) {
	e.t.Helper()
	c, err := e.at(from).dial("udp", net.JoinHostPort(to, "7000"))
	if err != nil {
		return
	}
	defer c.Close()
	got, err := say(c, quiet)
	require.Error(e.t, err, "%s got %q from %s", from, got, to)
}
