package answer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sysctl"
	"github.com/vnet-go/vnet/metadata"
)

// Port is where the service is, TCP.
const Port = 80

// Table is the metadata table of a namespace.
func Table() nft.Table { return nft.Table{Family: nft.Inet, Name: "vnet-metadata"} }

// Rules declares the table of an endpoint's own namespace.
func Rules(tx *nft.Tx) error {
	tx.Chain(nft.Chain{Table: Table(), Name: "input", Base: base(nft.Filter, nft.Input, 0), Rules: []nft.Rule{
		{nft.TCPDPort.Eq(uint16(Port)), nft.Accept()},
		{nft.L4Proto.Eq(nft.ProtoICMP), nft.Accept()},
		{nft.L4Proto.Eq(nft.ProtoICMPv6), nft.Accept()},
		{nft.Counter(), nft.Drop()},
	}})
	return nil
}

// base is a base chain.
func base(typ nft.ChainType, hook nft.HookPoint, prio int32) *nft.Hook {
	return &nft.Hook{Type: typ, Hook: hook, Priority: prio}
}

// Settings of an endpoint's own namespace: it answers, and is no router.
func Settings() []sysctl.KV {
	return []sysctl.KV{
		{Key: "net/ipv4/ip_forward", Value: "0"},
		{Key: "net/ipv6/conf/all/forwarding", Value: "0"},
		{Key: "net/ipv6/conf/all/disable_ipv6", Value: "0"},
		{Key: "net/ipv6/conf/default/disable_ipv6", Value: "0"},
		{Key: "net/ipv6/conf/default/accept_ra", Value: "0"},
		{Key: "net/ipv6/conf/default/addr_gen_mode", Value: "1"},
		{Key: "net/ipv4/conf/all/rp_filter", Value: "0"},
		{Key: "net/ipv4/conf/default/rp_filter", Value: "0"},
		// The second address of a subnet stays when the first one goes.
		{Key: "net/ipv4/conf/all/promote_secondaries", Value: "1"},
		// ARP asks in the name of the subnet's address, not of 169.254.169.254.
		{Key: "net/ipv4/conf/all/arp_announce", Value: "2"},
	}
}

// Addresses of the device in an endpoint's namespace: the three of the
// service, the link-local one to speak from too, and its own.
func Addresses(e metadata.Endpoint) []netip.Prefix {
	return append([]netip.Prefix{netip.PrefixFrom(metadata.IPv4(), 32), netip.PrefixFrom(metadata.IPv6LinkLocal(), 64), netip.PrefixFrom(metadata.IPv6(), 128)}, e.Addresses...)
}

// Routes of the device: replies go straight to the machine on the network,
// whatever subnet it is in.
func Routes(dev string) []rtnl.Route {
	return []rtnl.Route{
		{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Dev: dev, Scope: rtnl.ScopeLink},
		{Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Dev: dev},
	}
}

// Namespace is where sockets are opened.
type Namespace interface{ Do(func() error) error }

// Listen opens the sockets of an endpoint in its namespace. who says who has a
// source address there; zone is the index of the device it came in by, of a
// link-local one.
func Listen(ctx context.Context, ns Namespace, port int, who func(source netip.Addr, zone int) (metadata.Asker, bool)) ([]metadata.Listener, error) {
	return listen(ctx, ns, port, func(c net.Conn) (metadata.Asker, bool) {
		source, zone, ok := peer(c)
		if !ok {
			return metadata.Asker{}, false
		}
		return who(source, zone)
	})
}

// ListenAt is Listen where the address that was asked tells who asks.
func ListenAt(ctx context.Context, ns Namespace, port int, who func(source, local netip.Addr) (metadata.Asker, bool)) ([]metadata.Listener, error) {
	return listen(ctx, ns, port, func(c net.Conn) (metadata.Asker, bool) {
		source, _, ok := peer(c)
		local, is := c.LocalAddr().(*net.TCPAddr)
		if !ok || !is {
			return metadata.Asker{}, false
		}
		return who(source, local.AddrPort().Addr().Unmap())
	})
}

func listen(ctx context.Context, ns Namespace, port int, who func(net.Conn) (metadata.Asker, bool)) ([]metadata.Listener, error) {
	var out []metadata.Listener
	err := ns.Do(func() error {
		for network, host := range map[string]string{"tcp4": "0.0.0.0", "tcp6": "::"} {
			l, err := new(net.ListenConfig).Listen(ctx, network, net.JoinHostPort(host, strconv.Itoa(port)))
			if err != nil {
				return err
			}
			out = append(out, metadata.Listener{Listener: l, HopLimit: hopLimit, Who: who})
		}
		return nil
	})
	if err != nil {
		for _, l := range out {
			l.Close()
		}
		return nil, err
	}
	return out, nil
}

// peer is the other end of a connection. The zone of a link-local address is
// an index in the endpoint's namespace: package net would look for its name in
// the process's.
func peer(c net.Conn) (source netip.Addr, zone int, ok bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return source, 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return source, 0, false
	}
	var sa unix.Sockaddr
	if cerr := raw.Control(func(fd uintptr) { sa, err = unix.Getpeername(int(fd)) }); cerr != nil || err != nil {
		return source, 0, false
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr), 0, true
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr), int(sa.ZoneId), true
	}
	return source, 0, false
}

// hopLimit sets the TTL or hop limit of what a connection sends from now on.
func hopLimit(c net.Conn, hops int) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		level, opt := unix.IPPROTO_IP, unix.IP_TTL
		if d, e := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); e == nil && d == unix.AF_INET6 {
			level, opt = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		}
		err = unix.SetsockoptInt(int(fd), level, opt, hops)
	})
	return errors.Join(cerr, err)
}
