package secgrouptest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/secgroup"
)

// serve echoes whatever comes by TCP and UDP at the port of a machine.
func (w *world) serve(name string, port uint16) {
	w.t.Helper()
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), port).String()
	var l net.Listener
	var u net.PacketConn
	require.NoError(w.t, w.vms[name].Do(func() (err error) {
		if l, err = net.Listen("tcp", at); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp", at)
		return err
	}))
	w.t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(buf[:n], from)
		}
	}()
}

// dial connects from a machine to an address.
func (w *world) dial(from, network string, to netip.Addr, port uint16, within time.Duration) (net.Conn, error) {
	var c net.Conn
	err := w.vms[from].Do(func() (err error) {
		ctx, cancel := context.WithTimeout(w.ctx, within)
		defer cancel()
		c, err = (&net.Dialer{}).DialContext(ctx, network, netip.AddrPortFrom(to, port).String())
		return err
	})
	return c, err
}

// echo sends a message and waits for it to come back.
func echo(c net.Conn, within time.Duration) error { return echoOf(c, 0, within) }

// echoOf is echo of a message with so many bytes more.
func echoOf(c net.Conn, more int, within time.Duration) error {
	msg := fmt.Appendf(nil, "message %010d of a long conversation", tags.Add(1))
	msg = append(msg, bytes.Repeat([]byte("x"), more)...)
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := c.Write(msg); err != nil {
		return err
	}
	buf := make([]byte, len(msg))
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		// By UDP an answer of before may still be under way.
		if bytes.Equal(buf, msg) {
			return nil
		}
	}
}

// runSockets judges live connections of real stacks.
func runSockets(t *testing.T, h Harness) {
	w := newWorld(t, h, true)
	long := lab.Patience(patience)
	web, ssh := rule(in, ip4, ports("tcp", 80, 80)), rule(in, ip4, ports("tcp", 22, 22))
	web6, ssh6 := rule(in, ip6, ports("tcp", 80, 80)), rule(in, ip6, ports("tcp", 22, 22))
	dns, ntp := rule(in, ip4, ports("udp", 80, 80)), rule(in, ip6, ports("udp", 22, 22))
	open, less := group("g", web, web6, ssh, ssh6, dns, ntp), group("g", ssh, ssh6, ntp)
	w.sync(secgroup.State{
		Groups: []secgroup.Group{all("out", out), open},
		Ports:  []secgroup.Port{w.port("a", "out"), w.port("b", "g"), w.port("c", "out")},
	})
	w.serve("b", 80)
	w.serve("b", 22)
	type stream struct {
		name string
		c    net.Conn
		ends bool
	}
	var streams []stream
	b := w.vms["b"]
	for _, from := range []string{"a", "c"} {
		for _, to := range []netip.Addr{b.v4, b.v6} {
			for _, port := range []uint16{80, 22} {
				for _, network := range []string{"tcp", "udp"} {
					if network == "udp" && (port == 80) != to.Is4() {
						continue
					}
					name := fmt.Sprintf("%s from %s to %s", network, from, netip.AddrPortFrom(to, port))
					c, err := w.dial(from, network, to, port, long)
					require.NoError(t, err, name)
					defer c.Close()
					require.NoError(t, echo(c, long), name)
					streams = append(streams, stream{name, c, port == 80})
				}
			}
		}
	}
	for _, s := range streams {
		// A datagram of several fragments is judged as one, and TCP of any length passes.
		if w.limit.Fragments && strings.HasPrefix(s.name, "udp") {
			require.Error(t, echoOf(s.c, 4000, 300*time.Millisecond), s.name)
			continue
		}
		require.NoError(t, echoOf(s.c, 4000, long), s.name)
	}
	_, err := w.dial("a", "tcp", b.v4, 81, 2*time.Second)
	require.Error(t, err, "a port without a rule")
	w.each(func(e *secgroup.Enforcer) error { return e.EnsureGroup(w.ctx, less) })
	for _, s := range streams {
		if s.ends {
			require.Error(t, echo(s.c, 150*time.Millisecond), s.name)
		} else {
			require.NoError(t, echo(s.c, long), s.name)
		}
	}
	// What comes back allows new connections; the old ones are over.
	w.each(func(e *secgroup.Enforcer) error { return e.EnsureGroup(w.ctx, open) })
	c, err := w.dial("a", "tcp", b.v4, 80, long)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, echo(c, long))
}
