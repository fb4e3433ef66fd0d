package dhcptest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/internal/lab"
)

// A stranger is a DHCP client that somebody else wrote. It runs in a mount
// namespace of its own where it would leave files, with a hook script that
// tells what it was told and configures the device as distributions do.
type stranger struct {
	name  string
	tools []string
	// hook is the body of the script: it calls `told KEY VALUE` for what the
	// test looks at, and `event NAME` last.
	hook string
	// args4 and args6 start it in the foreground; $D is the machine's folder.
	args4, args6 string
	// conf are files of the folder.
	conf map[string]string
	// configures: it sets addresses and routes by itself.
	configures bool
	bound      []string // events that mean: has an address
	renewed    []string
	// release makes it give its address back.
	release syscall.Signal
	// releaseArgs does the same by a command.
	releaseArgs string
	// always and duplicate are arguments, in place of $A: it looks for
	// duplicates, which takes long, only in the test of that.
	always, duplicate string
}

const prelude = `
told() { [ -z "$2" ] || echo "$1=$2" >> "$D/now"; }
event() { [ ! -f "$D/now" ] || mv "$D/now" "$D/state"; echo "$1" >> "$D/events"; }
addr() { ip addr replace "$1" dev eth0 ${2:-}; }
routes() { # dst gw ...
	while [ $# -ge 2 ]; do ip route replace "$1" via "$2" dev eth0 onlink; shift 2; done
}
mtu() { [ -z "$1" ] || ip link set dev eth0 mtu "$1"; }
rm -f "$D/now"
`

var strangers = []stranger{
	{
		name: "udhcpc", tools: []string{"udhcpc"},
		args4: "udhcpc -f -i eth0 -s $D/hook -t 8 -T 1 -A 1 -O search -O staticroutes -O mtu -O hostname -O ntpsrv -O domain -F guest.example.org$A",
		hook: `
told ip "$ip/$mask"; told dns "$dns"; told domain "$domain"; told search "$search"; told mtu "$mtu"; told hostname "$hostname"; told ntp "$ntpsrv"
case $1 in
deconfig) ip addr flush dev eth0; ip link set dev eth0 up ;;
bound|renew) addr "$ip/$mask"; mtu "$mtu"; routes $staticroutes ;;
esac
event "$1"
`,
		bound: []string{"bound"}, renewed: []string{"renew"}, release: syscall.SIGUSR2, duplicate: " -a",
	},
	{
		name: "dhclient", tools: []string{"dhclient"},
		args4: "dhclient -4 -d -cf $D/conf -lf $D/leases -pf $D/pid -sf $D/hook eth0",
		args6: "dhclient -6 -d -cf $D/conf -lf $D/leases6 -pf $D/pid6 -sf $D/hook eth0",
		conf: map[string]string{"conf": `
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
timeout 10; retry 1; reboot 2; select-timeout 0; initial-interval 1;
send host-name "guest";
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, domain-search, host-name, interface-mtu,
  rfc3442-classless-static-routes, ntp-servers, dhcp6.name-servers, dhcp6.domain-search, dhcp6.fqdn;
`},
		hook: `
told ip "$new_ip_address/$(echo "$new_subnet_mask" | sed 's/255.255.255.0/24/')"; told dns "$new_domain_name_servers"; told domain "$new_domain_name"
told search "$(echo $new_domain_search | sed 's/\. / /g; s/\.$//')"; told mtu "$new_interface_mtu"; told hostname "$new_host_name"; told ntp "$new_ntp_servers"
told ip6 "${new_ip6_address:+$new_ip6_address/$new_ip6_prefixlen}"; told dns6 "$new_dhcp6_name_servers"; told search6 "$(echo $new_dhcp6_domain_search | sed 's/\.$//')"
case $reason in
BOUND|RENEW|REBIND|REBOOT)
	[ ! -f "$D/duplicate" ] || { event DECLINE; exit 10; }
	addr "$new_ip_address/24"; mtu "$new_interface_mtu"
	set -- $new_rfc3442_classless_static_routes; r=
	while [ $# -gt 0 ]; do
		w=$1; shift
		case $w in
		0) r="$r 0.0.0.0/0" ;;
		32) r="$r $1.$2.$3.$4/32"; shift 4 ;;
		esac
		r="$r $1.$2.$3.$4"; shift 4
	done
	routes $r ;;
BOUND6|RENEW6|REBIND6) addr "$new_ip6_address/$new_ip6_prefixlen" nodad ;;
EXPIRE|FAIL|STOP|RELEASE|PREINIT) ip -4 addr flush dev eth0; ip link set dev eth0 up ;;
esac
event "$reason"
`,
		bound: []string{"BOUND", "REBOOT", "BOUND6"}, renewed: []string{"RENEW", "RENEW6"},
		releaseArgs: "dhclient -r -cf $D/conf -lf $D/leases -pf $D/pid -sf $D/hook eth0",
	},
	{
		name: "dhcpcd", tools: []string{"dhcpcd", "unshare"}, configures: true,
		args4: "exec unshare -m sh -c 'mount -t tmpfs none /var/lib/dhcpcd; mkdir -p /run/dhcpcd; mount -t tmpfs none /run/dhcpcd; exec dhcpcd -4 -B -d $A -f $D/conf -c $D/hook eth0'",
		args6: "exec unshare -m sh -c 'mount -t tmpfs none /var/lib/dhcpcd; mkdir -p /run/dhcpcd; mount -t tmpfs none /run/dhcpcd; exec dhcpcd -6 -B -d -f $D/conf6 -c $D/hook eth0'",
		conf: map[string]string{
			"conf": `
duid
persistent
noipv4ll
timeout 0
reboot 2
hostname guest
option subnet_mask, classless_static_routes, routers, interface_mtu, domain_name, domain_name_servers, domain_search, host_name, ntp_servers
`,
			"conf6": `
duid
noipv6rs
option dhcp6_name_servers, dhcp6_domain_search
interface eth0
ia_na 1
`,
		},
		hook: `
told ip "$new_ip_address/$new_subnet_cidr"; told dns "$new_domain_name_servers"; told domain "$new_domain_name"; told search "$new_domain_search"
told mtu "$new_interface_mtu"; told hostname "$new_host_name"; told ntp "$new_ntp_servers"
told ip6 "$new_dhcp6_ia_na1_ia_addr1"; told dns6 "$new_dhcp6_name_servers"; told search6 "$new_dhcp6_domain_search"
event "$reason"
`,
		bound: []string{"BOUND", "REBOOT", "BOUND6"}, renewed: []string{"RENEW", "RENEW6"}, release: syscall.SIGALRM, always: "--noarp",
	},
}

// machine is a namespace with a stranger in it.
type machine struct {
	f   *field
	ns  *lab.NS
	mac vnet.MAC
	dir string
	how stranger
}

func (f *field) machine(how stranger, network string, m vnet.MAC) *machine {
	f.t.Helper()
	n := unique.next()
	if m.IsZero() {
		m = mac(n)
	}
	x := &machine{f: f, ns: f.l.NS(fmt.Sprint("vm", n)), mac: m, dir: f.t.TempDir(), how: how}
	x.ns.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	f.h.Plug(f.t, network, x.ns.Path, device, m)
	x.ns.Up(device)
	x.write("hook", "#!/bin/sh\nD="+x.dir+"\n"+prelude+how.hook)
	for name, body := range how.conf {
		x.write(name, body)
	}
	require.NoError(f.t, os.Chmod(filepath.Join(x.dir, "hook"), 0o755))
	return x
}

func (m *machine) write(name, body string) {
	m.f.t.Helper()
	require.NoError(m.f.t, os.WriteFile(filepath.Join(m.dir, name), []byte(body), 0o644))
}

func (m *machine) start(args, more string) (pid int, stop func()) {
	m.f.t.Helper()
	args = strings.ReplaceAll(args, "$A", more)
	cmd, stop := m.ns.Start("sh", "-c", strings.ReplaceAll("exec "+strings.TrimPrefix(args, "exec "), "$D", m.dir))
	return cmd.Process.Pid, stop
}

// events lists what the hook was called for.
func (m *machine) events() []string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "events"))
	return strings.Fields(string(b))
}

func (m *machine) forget() {
	os.Remove(filepath.Join(m.dir, "events"))
	os.Remove(filepath.Join(m.dir, "state"))
}

func (m *machine) await(what string, names []string) {
	m.f.t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		for _, e := range m.events() {
			for _, n := range names {
				if e == n {
					return
				}
			}
		}
		if time.Now().After(end) {
			m.f.t.Fatalf("%s: %s did not happen; its script was called for %v", m.how.name, what, m.events())
		}
	}
}

// told is what the client was told, by its own account.
func (m *machine) told() map[string]string {
	m.f.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, "state"))
	require.NoError(m.f.t, err)
	out := map[string]string{}
	for _, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		k, v, _ := strings.Cut(l, "=")
		out[k] = strings.TrimSpace(v)
	}
	return out
}

// has waits until the machine's kernel has it.
func (m *machine) has(what string, args ...string) {
	m.f.t.Helper()
	out := ""
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if out = m.ns.IP(args...); strings.Contains(out, what) {
			return
		}
	}
	m.f.t.Fatalf("%s: no %q in\n%s", m.how.name, what, out)
}

func runClients(t *testing.T, h Harness) {
	f := newField(t, h)
	for _, how := range strangers {
		t.Run(how.name, func(t *testing.T) {
			lab.Need(t, how.tools...)
			t.Run("v4", func(t *testing.T) { bootStranger(f.on(t), how) })
			t.Run("moved", func(t *testing.T) { moveStranger(f.on(t), how) })
			t.Run("duplicate", func(t *testing.T) { duplicateStranger(f.on(t), how) })
			if how.args6 != "" && f.feat.V6 {
				t.Run("v6", func(t *testing.T) { boot6Stranger(f.on(t), how) })
			}
		})
	}
}

// bootStranger: an unmodified client boots, renews, and gives back.
func bootStranger(f *field, how stranger) {
	net := f.network()
	sc := scope4(net)
	sc.Lease, sc.T1, sc.T2 = 60*time.Second, 2*time.Second, 40*time.Second
	f.scope(sc)
	m := f.machine(how, net, vnet.MAC{})
	r := f.reserve(net, m.mac, func(r *dhcp.Reservation) { r.Hostname = "web" }, "10.0.0.11")
	pid, stop := m.start(how.args4, how.always)
	m.await("a lease", how.bound)
	require.Equal(f.t, map[string]string{
		"ip": "10.0.0.11/24", "dns": "192.0.2.53 192.0.2.54", "domain": "example.org", "search": "a.example.org example.org",
		"mtu": "1442", "hostname": "web", "ntp": "192.0.2.123",
	}, m.told())
	m.has("10.0.0.11/24", "addr", "show", "dev", device)
	if how.configures {
		m.has("mtu 1442", "route") // dhcpcd puts it on routes
	} else {
		m.has("mtu 1442", "link", "show", "dev", device)
	}
	m.has("169.254.169.254 via 10.0.0.2", "route")
	m.has("default via 10.0.0.1", "route")
	f.event("lease", r.ID, "ip", "10.0.0.11")
	// The client's own clock, or its signal, renews by unicast: the server's
	// address must answer ARP.
	if how.name == "udhcpc" {
		require.NoError(f.t, syscall.Kill(pid, syscall.SIGUSR1))
	}
	m.await("a renewal", how.renewed)
	f.event("lease", r.ID, "state", "renewed")
	if !f.watches {
		stop() // nobody hears of a release
		return
	}
	if how.releaseArgs != "" {
		_, err := m.ns.Exec(f.ctx, "sh", "-c", strings.ReplaceAll(how.releaseArgs, "$D", m.dir))
		require.NoError(f.t, err)
	} else {
		// dhcpcd can lose a signal that comes while it runs its script.
		for end := time.Now().Add(wait); len(f.leases(r.ID)) > 0 && time.Now().Before(end); time.Sleep(wait / 6) {
			require.NoError(f.t, syscall.Kill(pid, how.release))
		}
	}
	f.event("release", r.ID)
	f.holds(r.ID, 0)
	stop()
}

// moveStranger: the client's address changes while it holds a lease; it is
// refused and starts anew.
func moveStranger(f *field, how stranger) {
	net := f.network()
	sc := scope4(net)
	// dhcpcd hears the broadcast refusal only once it rebinds by broadcast.
	sc.Lease, sc.T1, sc.T2 = 60*time.Second, 2*time.Second, 4*time.Second
	f.scope(sc)
	m := f.machine(how, net, vnet.MAC{})
	r := f.reserve(net, m.mac, nil, "10.0.0.11")
	pid, stop := m.start(how.args4, how.always)
	defer stop()
	m.await("a lease", how.bound)
	m.has("10.0.0.11/24", "addr", "show", "dev", device)
	m.forget()
	r.IPs[0] = addr("10.0.0.77")
	f.put(r)
	switch {
	case f.limited(dhcp.LimitMovedLease):
		stop()
		m.forget()
		_, again := m.start(how.args4, how.always)
		defer again()
	case how.name == "udhcpc":
		require.NoError(f.t, syscall.Kill(pid, syscall.SIGUSR1))
	}
	f.eventIn(15*time.Second, "nak", r.ID)
	m.await("the new lease", how.bound)
	m.has("10.0.0.77/24", "addr", "show", "dev", device)
	require.Equal(f.t, "10.0.0.77/24", m.told()["ip"])
}

// duplicateStranger: somebody uses the address already; the client finds out
// and declines, and the application hears of it.
func duplicateStranger(f *field, how stranger) {
	net := f.network()
	if !f.watches {
		return // nobody hears of it
	}
	f.scope(scope4(net))
	m := f.machine(how, net, vnet.MAC{})
	squatter := f.station(net)
	squatter.ns.Addr(device, "10.0.0.11/24")
	r := f.reserve(net, m.mac, nil, "10.0.0.11")
	m.write("duplicate", "")
	_, stop := m.start(how.args4, how.duplicate)
	defer stop()
	f.eventIn(15*time.Second, "decline", r.ID, "ip", "10.0.0.11")
}

func boot6Stranger(f *field, how stranger) {
	net := f.network()
	sc := scope6of(net)
	sc.Lease, sc.T1, sc.T2 = 60*time.Second, 2*time.Second, 40*time.Second
	f.scope(sc)
	m := f.machine(how, net, vnet.MAC{})
	r := f.reserve(net, m.mac, func(r *dhcp.Reservation) { r.Hostname = "web" }, "2001:db8:a::11")
	m.has("fe80::", "-6", "addr", "show", "dev", device)
	_, stop := m.start(how.args6, how.always)
	defer stop()
	m.await("a lease", how.bound)
	told := m.told()
	require.Equal(f.t, "2001:db8:53::1", told["dns6"])
	if f.limited(dhcp.LimitSearch6) {
		require.Empty(f.t, told["search6"])
	} else {
		require.Equal(f.t, "example.org", told["search6"])
	}
	m.has("2001:db8:a::11/", "-6", "addr", "show", "dev", device)
	f.event("lease", r.ID, "ip", "2001:db8:a::11")
	if f.limited(dhcp.LimitLease6) {
		return // it has it for ever
	}
	m.await("a renewal", how.renewed)
	f.event("lease", r.ID, "state", "renewed")
}
