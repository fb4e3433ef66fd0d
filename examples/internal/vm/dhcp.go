package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Clients are the DHCPv4 clients a machine may boot with.
var Clients = []string{"builtin", "udhcpc", "dhclient", "dhcpcd"}

// offer is what a DHCPv4 server gave, whichever client asked.
type offer struct {
	address netip.Prefix
	server  string
	routers []netip.Addr
	routes  []route // option 121
	dns     []netip.Addr
	search  []string
	mtu     int
	seconds int
	host    string
	applied bool // the client configured the interface by itself
}

type route struct {
	dst netip.Prefix
	via netip.Addr
}

func (m *machine) dhcp4(ctx, life context.Context, link netlink.Link) error {
	var o *offer
	var err error
	switch m.spec.Client {
	case "", "builtin":
		o, err = m.builtin4(ctx, life, link)
	default:
		o, err = m.foreign(ctx, life, link)
	}
	if err != nil {
		return err
	}
	return m.apply4(link, o)
}

// apply4 configures the interface as the server said.
func (m *machine) apply4(link netlink.Link, o *offer) error {
	dev := link.Attrs().Name
	l := Lease{Device: dev, By: "dhcpv4", Address: o.address, Server: o.server, Seconds: o.seconds, MTU: o.mtu}
	for _, r := range o.routes {
		l.Routes = append(l.Routes, r.dst.String()+" via "+r.via.String())
	}
	if !o.applied {
		if o.mtu > 0 {
			if err := netlink.LinkSetMTU(link, o.mtu); err != nil {
				return fmt.Errorf("MTU %d: %w", o.mtu, err)
			}
		}
		if err := addAddr(link, o.address); err != nil {
			return err
		}
		// A client that understands option 121 ignores option 3 (RFC 3442).
		routes := o.routes
		if len(routes) == 0 {
			for _, r := range o.routers {
				routes = append(routes, route{via: r})
			}
		}
		for _, r := range routes {
			if err := addRoute(link, r.dst, r.via); err != nil {
				return err
			}
		}
	}
	if o.host != "" {
		if err := unix.Sethostname([]byte(o.host)); err != nil {
			return err
		}
	}
	m.dns(o.search, o.dns...)
	m.lease(l)
	return nil
}

func addr4(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

func (m *machine) builtin4(ctx, life context.Context, link netlink.Link) (*offer, error) {
	c, err := nclient4.New(link.Attrs().Name, nclient4.WithTimeout(700*time.Millisecond), nclient4.WithRetry(12))
	if err != nil {
		return nil, err
	}
	ask := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionHostName, dhcpv4.OptionDomainName, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionDNSDomainSearchList,
		dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRenewTimeValue)}
	lease, err := c.Request(ctx, ask...)
	if err != nil {
		c.Close()
		return nil, err
	}
	// The client is kept: it renews the lease while the machine lives.
	go func() {
		defer c.Close()
		for {
			t := lease.ACK.IPAddressRenewalTime(lease.ACK.IPAddressLeaseTime(time.Hour) / 2)
			select {
			case <-life.Done():
				return
			case <-time.After(t):
			}
			next, err := c.Renew(life, lease)
			if err != nil {
				m.log.Error("DHCPv4 renewal failed", "err", err)
				continue
			}
			lease = next
		}
	}()
	return fromACK(lease.ACK), nil
}

func fromACK(ack *dhcpv4.DHCPv4) *offer {
	bits, _ := ack.SubnetMask().Size()
	o := &offer{address: netip.PrefixFrom(addr4(ack.YourIPAddr), bits), server: ack.ServerIdentifier().String(), host: ack.HostName(),
		seconds: int(ack.IPAddressLeaseTime(0).Seconds())}
	for _, r := range ack.Router() {
		o.routers = append(o.routers, addr4(r))
	}
	for _, r := range ack.ClasslessStaticRoute() {
		bits, _ := r.Dest.Mask.Size()
		o.routes = append(o.routes, route{netip.PrefixFrom(addr4(r.Dest.IP), bits), addr4(r.Router)})
	}
	for _, d := range ack.DNS() {
		o.dns = append(o.dns, addr4(d))
	}
	if s := ack.DomainSearch(); s != nil {
		o.search = s.Labels
	} else if d := ack.DomainName(); d != "" {
		o.search = []string{d}
	}
	if b := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(b) == 2 {
		o.mtu = int(b[0])<<8 | int(b[1])
	}
	return o
}

// foreign gets the lease by a client of the system's, which tells by a script
// what it was given.
func (m *machine) foreign(ctx, life context.Context, link netlink.Link) (*offer, error) {
	dev := link.Attrs().Name
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(m.dir, name+"-"+dev) }
	write := func(path, text string, mode os.FileMode) {
		err = errors.Join(err, os.WriteFile(path, []byte(text), mode))
	}
	told, script, conf := file("told"), file("script"), file("conf")
	os.Remove(told)
	write(script, fmt.Sprintf("#!/bin/sh\nexec %q hook %q \"$@\"\n", self, told), 0o755)
	var args []string
	switch m.spec.Client {
	case "udhcpc":
		args = []string{"udhcpc", "-f", "-i", dev, "-s", script, "-t", "10", "-T", "1", "-A", "1", "-O", "staticroutes", "-O", "mtu", "-O", "search", "-p", file("pid")}
	case "dhclient":
		write(conf, `option classless-routes code 121 = array of unsigned integer 8;
timeout 12; retry 1; initial-interval 1; backoff-cutoff 2;
request subnet-mask, routers, domain-name-servers, domain-name, domain-search, host-name, interface-mtu, classless-routes;
`, 0o644)
		args = []string{"dhclient", "-d", "-4", "-cf", conf, "-lf", file("leases"), "-pf", file("pid"), "-sf", script, dev}
	case "dhcpcd":
		// Each machine needs its own places: they are named by interface, and all have an eth0.
		for _, dir := range []string{"/run/dhcpcd", "/var/lib/dhcpcd"} {
			os.MkdirAll(dir, 0o755)
			if merr := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); merr != nil {
				err = errors.Join(err, merr)
			}
		}
		write(conf, `ipv4only
noarp
script `+script+`
option subnet_mask, routers, domain_name_servers, domain_name, domain_search, host_name, interface_mtu, classless_static_routes
`, 0o644)
		args = []string{"dhcpcd", "-B", "-4", "-f", conf, dev}
	default:
		return nil, fmt.Errorf("no such client %q", m.spec.Client)
	}
	if err != nil {
		return nil, err
	}
	out, err := os.Create(file("client-log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.CommandContext(life, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		var env map[string]string
		if readJSON(told, &env) == nil {
			return fromEnv(m.spec.Client, env)
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("%s ended: %v; see %s", m.spec.Client, err, out.Name())
		case <-ctx.Done():
			return nil, fmt.Errorf("%s got no lease; see %s", m.spec.Client, out.Name())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Hook is what the script of a foreign client runs: it writes down what the
// client was given.
func Hook(file string, args []string) error {
	env := map[string]string{}
	for _, e := range os.Environ() {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	reason := env["reason"]
	if len(args) > 0 {
		reason = args[0] // udhcpc
	}
	switch strings.ToUpper(reason) {
	case "BOUND", "REBOOT", "RENEW", "REBIND":
		b, err := json.Marshal(env)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file+".new", b, 0o644); err != nil {
			return err
		}
		return os.Rename(file+".new", file)
	}
	return nil
}

// fromEnv reads what clients tell their scripts: udhcpc in words of its own,
// dhclient and dhcpcd in those of dhclient-script(8).
func fromEnv(client string, env map[string]string) (*offer, error) {
	get := func(names ...string) string {
		for _, n := range names {
			if env[n] != "" {
				return env[n]
			}
		}
		return ""
	}
	o := &offer{server: get("serverid", "new_dhcp_server_identifier"), host: get("hostname", "new_host_name"), applied: client == "dhcpcd"}
	a, err := netip.ParseAddr(get("ip", "new_ip_address"))
	if err != nil {
		return nil, fmt.Errorf("%s told of no address", client)
	}
	bits, err := strconv.Atoi(get("mask", "new_subnet_cidr"))
	if err != nil {
		mask, err := netip.ParseAddr(get("new_subnet_mask"))
		if err != nil {
			return nil, fmt.Errorf("%s told of no mask", client)
		}
		bits, _ = net.IPMask(mask.AsSlice()).Size()
	}
	o.address = netip.PrefixFrom(a, bits)
	addrs := func(s string) (out []netip.Addr) {
		for _, f := range strings.Fields(s) {
			if a, err := netip.ParseAddr(f); err == nil {
				out = append(out, a)
			}
		}
		return out
	}
	o.routers, o.dns = addrs(get("router", "new_routers")), addrs(get("dns", "new_domain_name_servers"))
	o.mtu, _ = strconv.Atoi(get("mtu", "new_interface_mtu"))
	o.seconds, _ = strconv.Atoi(get("lease", "new_dhcp_lease_time"))
	o.search = strings.Fields(strings.ReplaceAll(get("search", "new_domain_search", "domain", "new_domain_name"), ",", " "))
	// "10.0.0.0/24 10.0.0.1 ..." of udhcpc and dhcpcd
	f := strings.Fields(get("staticroutes", "new_classless_static_routes"))
	for i := 0; i+1 < len(f); i += 2 {
		dst, err1 := netip.ParsePrefix(f[i])
		via, err2 := netip.ParseAddr(f[i+1])
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%s told of a route %q", client, f[i:i+2])
		}
		o.routes = append(o.routes, route{dst, via})
	}
	// The option's bytes as dhclient prints them.
	var raw dhcpv4.Routes
	var b []byte
	for _, x := range strings.Fields(get("new_classless_routes")) {
		n, _ := strconv.Atoi(x)
		b = append(b, byte(n))
	}
	if len(b) > 0 {
		if err := raw.FromBytes(b); err != nil {
			return nil, err
		}
		for _, r := range raw {
			bits, _ := r.Dest.Mask.Size()
			o.routes = append(o.routes, route{netip.PrefixFrom(addr4(r.Dest.IP), bits), addr4(r.Router)})
		}
	}
	return o, nil
}

// ipv6 heeds router advertisements, when there are any to heed, and asks by
// DHCPv6 when they say so, or when that is all there is.
func (m *machine) ipv6(ctx context.Context, link netlink.Link, ra, dhcp bool) error {
	dev := link.Attrs().Name
	ll, err := linkLocal(ctx, link)
	if err != nil {
		return err
	}
	managed, other, auto := dhcp, false, false
	if ra {
		adv, from, err := solicit(ctx, dev)
		if err != nil {
			return err
		}
		managed, other = adv.ManagedConfiguration, adv.OtherConfiguration
		for _, o := range adv.Options {
			switch o := o.(type) {
			case *ndp.PrefixInformation:
				if !o.AutonomousAddressConfiguration {
					continue
				}
				// The kernel makes the address of the same advertisement; it is only waited for.
				auto = true
				p := netip.PrefixFrom(o.Prefix, int(o.PrefixLength))
				a, err := waitAddr(ctx, link, func(a netip.Addr) bool { return p.Contains(a) })
				if err != nil {
					return fmt.Errorf("no address in %s came of the advertisement: %w", p, err)
				}
				m.lease(Lease{Device: dev, By: "slaac", Address: netip.PrefixFrom(a, int(o.PrefixLength)), Server: from.String(), Seconds: int(o.ValidLifetime.Seconds()), MTU: mtuOf(adv)})
			case *ndp.RecursiveDNSServer:
				m.dns(nil, o.Servers...)
			case *ndp.DNSSearchList:
				m.dns(o.DomainNames)
			}
		}
	}
	if managed || other {
		return m.dhcp6(ctx, link, ll, managed)
	}
	if !auto {
		return errors.New("the router advertises no way to an address")
	}
	return nil
}

func mtuOf(ra *ndp.RouterAdvertisement) int {
	for _, o := range ra.Options {
		if o, ok := o.(*ndp.MTU); ok {
			return int(o.MTU)
		}
	}
	return 0
}

// solicit asks for a router advertisement until one comes.
func solicit(ctx context.Context, dev string) (*ndp.RouterAdvertisement, netip.Addr, error) {
	ifi, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	c, _, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	defer c.Close()
	if err := c.JoinGroup(netip.IPv6LinkLocalAllNodes()); err != nil {
		return nil, netip.Addr{}, err
	}
	rs := &ndp.RouterSolicitation{Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr}}}
	for ctx.Err() == nil {
		if err := c.WriteTo(rs, nil, netip.IPv6LinkLocalAllRouters()); err != nil {
			return nil, netip.Addr{}, err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		for {
			msg, _, from, err := c.ReadFrom()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, netip.Addr{}, err
			}
			if adv, ok := msg.(*ndp.RouterAdvertisement); ok {
				return adv, from.WithZone(""), nil
			}
		}
	}
	return nil, netip.Addr{}, errors.New("no router advertisement came")
}

func linkLocal(ctx context.Context, link netlink.Link) (netip.Addr, error) {
	a, err := waitAddr(ctx, link, netip.Addr.IsLinkLocalUnicast)
	if err != nil {
		return a, fmt.Errorf("no link-local address: %w", err)
	}
	return a, nil
}

// waitAddr waits for an IPv6 address that has passed duplicate address detection.
func waitAddr(ctx context.Context, link netlink.Link, match func(netip.Addr) bool) (netip.Addr, error) {
	for {
		list, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return netip.Addr{}, err
		}
		for _, x := range list {
			a, _ := netip.AddrFromSlice(x.IP)
			if !match(a) {
				continue
			}
			if x.Flags&unix.IFA_F_DADFAILED != 0 {
				return a, fmt.Errorf("%s is taken by another", a)
			}
			if x.Flags&unix.IFA_F_TENTATIVE == 0 {
				return a, nil
			}
		}
		select {
		case <-ctx.Done():
			return netip.Addr{}, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// dhcp6 asks for an address, or only for the other configuration.
func (m *machine) dhcp6(ctx context.Context, link netlink.Link, ll netip.Addr, managed bool) error {
	dev := link.Attrs().Name
	c, err := nclient6.New(dev, nclient6.WithTimeout(700*time.Millisecond), nclient6.WithRetry(12))
	if err != nil {
		return err
	}
	defer c.Close()
	mac := link.Attrs().HardwareAddr
	var reply *dhcpv6.Message
	if managed {
		adv, err := c.Solicit(ctx)
		if err != nil {
			return fmt.Errorf("solicit: %w", err)
		}
		if reply, err = c.Request(ctx, adv); err != nil {
			return fmt.Errorf("request: %w", err)
		}
	} else {
		req, err := dhcpv6.NewMessage()
		if err != nil {
			return err
		}
		req.MessageType = dhcpv6.MessageTypeInformationRequest
		req.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: mac}))
		req.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList))
		req.AddOption(dhcpv6.OptElapsedTime(0))
		if reply, err = c.SendAndRead(ctx, c.RemoteAddr(), req, nclient6.IsMessageType(dhcpv6.MessageTypeReply)); err != nil {
			return fmt.Errorf("information request: %w", err)
		}
	}
	server := ""
	if id := reply.Options.ServerID(); id != nil {
		server = id.String()
	}
	for _, ia := range reply.Options.IANA() {
		for _, x := range ia.Options.Addresses() {
			a, _ := netip.AddrFromSlice(x.IPv6Addr)
			p := netip.PrefixFrom(a, 128)
			if err := addAddr(link, p); err != nil {
				return err
			}
			if _, err := waitAddr(ctx, link, func(b netip.Addr) bool { return a == b }); err != nil {
				return err
			}
			m.lease(Lease{Device: dev, By: "dhcpv6", Address: p, Server: server, Seconds: int(x.ValidLifetime.Seconds())})
			managed = false // got
		}
	}
	if managed {
		return fmt.Errorf("the server gave no address: %s", reply.Summary())
	}
	for _, d := range reply.Options.DNS() {
		a, _ := netip.AddrFromSlice(d)
		m.dns(nil, a)
	}
	if s := reply.Options.DomainSearchList(); s != nil {
		m.dns(s.Labels)
	}
	return nil
}
