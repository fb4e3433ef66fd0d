package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bootTime is how long a machine waits for what it needs before it says that it did not come.
const bootTime = 12 * time.Second

// machine is a running VM.
type machine struct {
	spec  *Spec
	dir   string
	log   *slog.Logger
	begin time.Time

	mu sync.Mutex
	st State
}

// Run is the life of a machine. It is called in a process of its own that is
// in the machine's namespaces (network, mount and UTS), and returns when ctx ends.
func Run(ctx context.Context, dir string) error {
	spec, err := ReadSpec(dir)
	if err != nil {
		return err
	}
	m := &machine{spec: spec, dir: dir, begin: time.Now(), log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	m.st = State{Name: spec.Name, PID: os.Getpid(), Phase: Booting, Client: spec.Client, Addresses: map[string][]string{}}
	if err := m.save(); err != nil {
		return err
	}
	r := &responder{name: spec.Name, log: m.log, open: map[string]bool{}}
	if err := r.listen(spec.TCP, spec.UDP); err != nil {
		return err
	}
	p, err := newProber()
	if err != nil {
		return err
	}
	if err := m.serve(ctx, p, r); err != nil {
		return err
	}
	if err := m.boot(ctx); err != nil {
		m.problem("boot: %v", err)
	}
	m.mu.Lock()
	m.st.Phase = Ready
	if len(m.st.Problems) > 0 {
		m.st.Phase = Failed
	}
	m.st.BootTime = time.Since(m.begin).Seconds()
	m.mu.Unlock()
	if err := m.save(); err != nil {
		return err
	}
	m.log.Info("up", "phase", m.st.Phase, "seconds", m.st.BootTime)
	<-ctx.Done()
	return nil
}

func (m *machine) problem(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.Problems = append(m.st.Problems, fmt.Sprintf(format, args...))
	m.log.Error(fmt.Sprintf(format, args...))
}

// save writes down the state with what the kernel says now.
func (m *machine) save() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.Hostname, _ = os.Hostname()
	m.st.Addresses, m.st.Routes = observe()
	return writeJSON(filepath.Join(m.dir, stateFile), m.st)
}

func observe() (map[string][]string, []string) {
	addrs := map[string][]string{}
	links, _ := netlink.LinkList()
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		list, _ := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, a := range list {
			if !a.IP.IsLinkLocalUnicast() && !a.IP.IsLoopback() {
				addrs[l.Attrs().Name] = append(addrs[l.Attrs().Name], a.IPNet.String())
			}
		}
	}
	var routes []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, _ := netlink.RouteList(nil, family)
		for _, r := range list {
			if r.Dst != nil && (r.Dst.IP.IsLinkLocalUnicast() && r.Gw == nil || r.Dst.IP.IsMulticast()) {
				continue
			}
			dst := "default"
			if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" && r.Dst.String() != "::/0" {
				dst = r.Dst.String()
			}
			s := dst
			if r.Gw != nil {
				s += " via " + r.Gw.String()
			}
			routes = append(routes, s+" dev "+names[r.LinkIndex])
		}
	}
	slices.Sort(routes)
	return addrs, routes
}

// serve takes probes over a socket in the machine's directory.
func (m *machine) serve(ctx context.Context, p *prober, resp *responder) error {
	path := filepath.Join(m.dir, Socket)
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /probe", func(w http.ResponseWriter, r *http.Request) {
		var probes []Probe
		if err := json.NewDecoder(r.Body).Decode(&probes); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(p.run(r.Context(), probes))
	})
	mux.HandleFunc("POST /measure", serveMeasure)
	mux.HandleFunc("POST /listen", func(w http.ResponseWriter, r *http.Request) {
		var ports struct{ TCP, UDP []uint16 }
		err := json.NewDecoder(r.Body).Decode(&ports)
		if err == nil {
			err = resp.listen(ports.TCP, ports.UDP)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, r *http.Request) {
		m.save()
		m.mu.Lock()
		defer m.mu.Unlock()
		json.NewEncoder(w).Encode(m.st)
	})
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	context.AfterFunc(ctx, func() { srv.Close() })
	return nil
}

// boot goes from a link that is down to a machine that knows its name.
func (m *machine) boot(ctx context.Context) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	m.etc()
	if m.spec.Outside != nil {
		return m.outside()
	}
	boot, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	var wg sync.WaitGroup
	for i := range m.spec.NICs {
		nic := &m.spec.NICs[i]
		wg.Go(func() {
			if err := m.nic(boot, ctx, i); err != nil {
				m.problem("%s: %v", nic.Device, err)
			}
		})
	}
	wg.Wait()
	m.resolvConf()
	md, err := fetch(boot, m.spec.NICs, m.dir)
	if err != nil {
		m.problem("metadata: %v", err)
		return nil
	}
	m.mu.Lock()
	m.st.Metadata = md
	m.mu.Unlock()
	if md.Hostname != "" {
		host, _, _ := strings.Cut(md.Hostname, ".")
		if err := unix.Sethostname([]byte(host)); err != nil {
			m.problem("hostname: %v", err)
		}
	}
	// What keepalived or its like would do on the master of a shared address.
	if s := md.Meta["address_pair"]; s != "" {
		a, err := netip.ParseAddr(s)
		if err != nil {
			m.problem("metadata address_pair: %v", err)
			return nil
		}
		return m.takePair(a)
	}
	return nil
}

// etc gives the machine an /etc/resolv.conf of its own.
func (m *machine) etc() {
	mine := filepath.Join(m.dir, "resolv.conf")
	os.WriteFile(mine, nil, 0o644)
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return
	}
	if err := unix.Mount(mine, target, "", unix.MS_BIND, ""); err != nil {
		m.log.Warn("resolv.conf stays the host's", "err", err)
	}
}

func (m *machine) resolvConf() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	if len(m.st.Search) > 0 {
		b.WriteString("search " + strings.Join(m.st.Search, " ") + "\n")
	}
	for _, d := range m.st.DNS {
		b.WriteString("nameserver " + d.String() + "\n")
	}
	// Written in place: the file is a mount point.
	os.WriteFile(filepath.Join(m.dir, "resolv.conf"), []byte(b.String()), 0o644)
}

func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644)
}

// nic brings up one interface. ctx bounds the boot; life is the machine's.
func (m *machine) nic(ctx, life context.Context, i int) error {
	nic := m.spec.NICs[i]
	link, err := waitLink(ctx, nic.Device)
	if err != nil {
		return err
	}
	// Faster than the defaults by a second or two; duplicate address detection stays on.
	dev := nic.Device
	err = errors.Join(
		sysctl("ipv6/conf/"+dev+"/router_solicitation_delay", "0"),
		sysctl("ipv6/conf/"+dev+"/router_solicitation_interval", "1"),
		sysctl("ipv6/neigh/"+dev+"/retrans_time_ms", "250"),
		netlink.LinkSetUp(link))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	if nic.DHCP4 {
		wg.Go(func() {
			if err := m.dhcp4(ctx, life, link); err != nil {
				m.problem("%s: DHCPv4: %v", dev, err)
			}
		})
	}
	if nic.RA || nic.DHCP6 {
		wg.Go(func() {
			if err := m.ipv6(ctx, link, nic.RA, nic.DHCP6); err != nil {
				m.problem("%s: IPv6: %v", dev, err)
			}
		})
	}
	for _, s := range nic.Static {
		if err := addAddr(link, s.Address); err != nil {
			return err
		}
		m.lease(Lease{Device: dev, By: "static", Address: s.Address})
		if s.Gateway.IsValid() {
			if err := addRoute(link, netip.Prefix{}, s.Gateway); err != nil {
				return err
			}
		}
	}
	wg.Wait()
	return nil
}

func (m *machine) lease(l Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.Leases = append(m.st.Leases, l)
	m.log.Info("address", "dev", l.Device, "by", l.By, "address", l.Address, "server", l.Server)
}

func (m *machine) dns(search []string, servers ...netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range servers {
		if !slices.Contains(m.st.DNS, d) {
			m.st.DNS = append(m.st.DNS, d)
		}
	}
	for _, s := range search {
		if s != "" && !slices.Contains(m.st.Search, s) {
			m.st.Search = append(m.st.Search, s)
		}
	}
}

func waitLink(ctx context.Context, name string) (netlink.Link, error) {
	for {
		l, err := netlink.LinkByName(name)
		if err == nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no link: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// outside configures a machine outside the cloud.
func (m *machine) outside() error {
	o := m.spec.Outside
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range o.Addresses {
		if err := addAddr(link, a); err != nil {
			return err
		}
		m.lease(Lease{Device: "eth0", By: "static", Address: a})
	}
	for _, r := range o.Routes {
		if err := addRoute(link, r.Destination, r.NextHop); err != nil {
			return err
		}
	}
	// It also is the world's router: what hosts send on by it comes back.
	errs := sysctl("ipv4/ip_forward", "1")
	errs = errors.Join(errs, sysctl("ipv4/conf/all/send_redirects", "0"), sysctl("ipv4/conf/eth0/send_redirects", "0"))
	return errors.Join(errs, sysctl("ipv6/conf/all/forwarding", "1"), unix.Sethostname([]byte(o.Name)))
}

// takePair makes a shared address this machine's, and says so to the network.
func (m *machine) takePair(a netip.Addr) error {
	for _, nic := range m.spec.NICs {
		if !slices.Contains(nic.Pairs, a) {
			continue
		}
		link, err := netlink.LinkByName(nic.Device)
		if err != nil {
			return err
		}
		p := netip.PrefixFrom(a, a.BitLen())
		if err := addAddr(link, p); err != nil {
			return err
		}
		m.lease(Lease{Device: nic.Device, By: "address-pair", Address: p})
		if a.Is4() {
			return sendFrame(link.Attrs().Index, gratuitousARP(link.Attrs().HardwareAddr, a))
		}
		return nil // the kernel sends unsolicited NAs after duplicate address detection
	}
	return fmt.Errorf("address pair %s is on none of my ports", a)
}

func sendFrame(index int, frame []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func addAddr(link netlink.Link, p netip.Prefix) error {
	err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p)})
	if err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	return nil
}

// addRoute adds a route; a zero destination is the default route, an
// unspecified gateway means on-link.
func addRoute(link netlink.Link, dst netip.Prefix, via netip.Addr) error {
	r := &netlink.Route{LinkIndex: link.Attrs().Index}
	if dst.IsValid() && dst.Bits() > 0 {
		r.Dst = ipNet(dst)
	}
	if via.IsUnspecified() {
		r.Scope = netlink.SCOPE_LINK
	} else {
		r.Gw = via.AsSlice()
		// The gateway may be outside the address's own prefix, as with a /32.
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s via %s: %w", dst, via, err)
	}
	return nil
}
