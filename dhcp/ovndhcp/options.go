package ovndhcp

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
)

func no(feature string) error { return &vnet.UnsupportedError{Feature: feature, Backend: name} }

// scopeOptions is DHCP_Options.options for a scope; the keys are those of
// ovn-nb(5). It refuses what has none.
func scopeOptions(owner vnet.Owner, s dhcp.Scope) (map[string]string, error) {
	var errs []error
	refuse := func(is bool, what string) {
		if is {
			errs = append(errs, no(what))
		}
	}
	refuse(len(s.Pool) > 0, "pool")
	refuse(len(s.Relays) > 0, "relays")
	refuse(s.RapidCommit, "rapid commit")
	for arch := range s.BootFiles {
		refuse(arch != dhcp.BootDefault && arch != dhcp.BootIPXE || !s.Is4(), fmt.Sprintf("boot file of client architecture %d", arch))
	}
	refuse(!s.Is4() && len(s.NTP) > 0, "NTP servers by DHCPv6")
	refuse(!s.Is4() && s.TFTPServer != "", "TFTP server by DHCPv6")
	mac := serverMAC(owner, s.NetworkID).String()
	o := map[string]string{"server_id": mac}
	if s.Is4() {
		lease, t1, t2 := s.Times()
		o = map[string]string{"server_id": s.ServerIP.String(), "server_mac": mac, "lease_time": seconds(lease),
			"broadcast_address": last(s.Subnet).String()}
		if lease > 0 {
			o["T1"], o["T2"] = seconds(t1), seconds(t2)
		}
		if s.Router.IsValid() {
			o["router"] = s.Router.String()
		}
		if s.Domain != "" {
			o["domain_name"] = quote(s.Domain)
		}
		if len(s.SearchDomain) > 0 {
			o["domain_search_list"] = quote(strings.Join(s.SearchDomain, ","))
		}
		if s.MTU != 0 {
			o["mtu"] = strconv.Itoa(s.MTU)
		}
		if len(s.NTP) > 0 {
			o["ntp_server"] = list(s.NTP)
		}
		if r := routes(s); r != "" {
			o["classless_static_route"], o["ms_classless_static_route"] = r, r
		}
		if s.TFTPServer != "" {
			o["tftp_server"] = quote(s.TFTPServer)
			if ip, err := netip.ParseAddr(s.TFTPServer); err == nil && ip.Is4() {
				o["next_server"] = ip.String()
			}
		}
		// bootfile_name_alt is for those that are not iPXE, where there is one.
		all, ipxe := s.BootFiles[dhcp.BootDefault], s.BootFiles[dhcp.BootIPXE]
		refuse(ipxe != "" && all == "", "boot file for iPXE without one for others")
		switch {
		case ipxe != "":
			o["bootfile_name"], o["bootfile_name_alt"] = quote(ipxe), quote(all)
		case all != "":
			o["bootfile_name"] = quote(all)
		}
	} else if s.Mode == dhcp.Stateless {
		o["dhcpv6_stateless"] = "true"
	}
	if len(s.DNS) > 0 {
		o["dns_server"] = list(s.DNS)
	}
	errs = append(errs, byCode(o, s.Options, s.Is4(), "options"))
	return o, errors.Join(errs...)
}

// clientOptions is the row of one client, or nil when the scope's will do.
func clientOptions(s served, r dhcp.Reservation) (map[string]string, error) {
	opts, field := r.Options, "options"
	if !s.Is4() {
		opts, field = r.Options6, "options6"
	}
	named := s.Is4() && r.Hostname != ""
	if len(opts) == 0 && !named {
		return nil, nil
	}
	o := maps.Clone(s.options)
	if named {
		o["hostname"] = quote(r.Hostname)
	}
	return o, byCode(o, opts, s.Is4(), field)
}

// refuse says what of a reservation OVN cannot do, whatever its scopes are.
func refuse(r dhcp.Reservation) error {
	var errs []error
	if len(r.ClientID) > 0 {
		errs = append(errs, no("telling clients apart by client identifier"))
	}
	if len(r.DUID) > 0 {
		errs = append(errs, no("telling clients apart by DUID"))
	}
	errs = append(errs, byCode(map[string]string{}, r.Options, true, "options"), byCode(map[string]string{}, r.Options6, false, "options6"))
	return errors.Join(errs...)
}

func seconds(d time.Duration) string {
	if d < 0 {
		return strconv.Itoa(math.MaxUint32)
	}
	return strconv.FormatInt(int64(d/time.Second), 10)
}

// quote makes a string constant of OVN's expressions, which are those of JSON.
func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func list(as []netip.Addr) string {
	var out []string
	for _, a := range as {
		out = append(out, a.String())
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func routes(s dhcp.Scope) string {
	var out []string
	for _, r := range s.Routes {
		out = append(out, r.Destination.String()+","+r.NextHop.String())
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if len(out) > 0 && s.Router.IsValid() && !slices.ContainsFunc(s.Routes, func(r dhcp.Route) bool { return r.Destination == all }) {
		out = append(out, all.String()+","+s.Router.String())
	}
	if len(out) == 0 {
		return ""
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// option is one that OVN can send: its key and how its bytes are written.
type option struct {
	key  string
	text func(data []byte) (string, bool)
}

// options4 are the DHCPv4 options of OVN 23.03, lib/ovn-l7.h.
var options4 = map[uint16]option{
	1: {"netmask", one4}, 3: {"router", many4}, 6: {"dns_server", many4}, 7: {"log_server", many4}, 9: {"lpr_server", many4},
	12: {"hostname", str}, 15: {"domain_name", str}, 16: {"swap_server", one4}, 19: {"ip_forward_enable", yes}, 21: {"policy_filter", many4},
	23: {"default_ttl", number(1)}, 26: {"mtu", number(2)}, 28: {"broadcast_address", one4}, 31: {"router_discovery", yes}, 32: {"router_solicitation", one4},
	35: {"arp_cache_timeout", number(4)}, 36: {"ethernet_encap", yes}, 37: {"tcp_ttl", number(1)}, 38: {"tcp_keepalive_interval", number(4)},
	41: {"nis_server", many4}, 42: {"ntp_server", many4}, 44: {"netbios_name_server", many4}, 46: {"netbios_node_type", number(1)},
	66: {"tftp_server", str}, 67: {"bootfile_name", str}, 121: {"classless_static_route", routeList}, 150: {"tftp_server_address", many4},
	210: {"path_prefix", str}, 249: {"ms_classless_static_route", routeList}, 252: {"wpad", str},
}

// options6 are the DHCPv6 ones.
var options6 = map[uint16]option{23: {"dns_server", many6}}

// byCode puts options over those made from fields.
func byCode(o map[string]string, opts []dhcp.Option, v4 bool, field string) error {
	var errs []error
	known, proto := options4, "DHCPv4"
	if !v4 {
		known, proto = options6, "DHCPv6"
	}
	for i, x := range opts {
		k, ok := known[x.Code]
		if !ok {
			errs = append(errs, no(fmt.Sprintf("%s option %d", proto, x.Code)))
			continue
		}
		t, ok := k.text(x.Data)
		if !ok {
			errs = append(errs, &vnet.FieldError{Field: fmt.Sprintf("%s[%d].data", field, i), Value: fmt.Sprintf("%x", x.Data),
				Reason: fmt.Sprintf("is not what option %d (%s) has for OVN", x.Code, k.key)})
			continue
		}
		o[k.key] = t
	}
	return errors.Join(errs...)
}

func many4(b []byte) (string, bool) { return addrs(b, 4) }
func many6(b []byte) (string, bool) { return addrs(b, 16) }

func addrs(b []byte, size int) (string, bool) {
	if len(b) == 0 || len(b)%size != 0 {
		return "", false
	}
	var out []netip.Addr
	for c := range slices.Chunk(b, size) {
		a, _ := netip.AddrFromSlice(c)
		out = append(out, a)
	}
	return list(out), true
}

func one4(b []byte) (string, bool) {
	a, ok := netip.AddrFromSlice(b)
	return a.String(), ok && a.Is4()
}

func yes(b []byte) (string, bool) {
	return map[bool]string{true: "1", false: "0"}[len(b) == 1 && b[0] == 1], len(b) == 1 && b[0] <= 1
}

func number(size int) func([]byte) (string, bool) {
	return func(b []byte) (string, bool) {
		if len(b) != size {
			return "", false
		}
		return strconv.FormatUint(binary.BigEndian.Uint64(append(make([]byte, 8-size), b...)), 10), true
	}
}

func str(b []byte) (string, bool) {
	if len(b) == 0 || !utf8.Valid(b) || slices.Contains(b, 0) {
		return "", false
	}
	return quote(string(b)), true
}

// routeList reads the list of RFC 3442.
func routeList(b []byte) (string, bool) {
	var out []string
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 32 || len(b) < 1+n+4 {
			return "", false
		}
		var dst [4]byte
		copy(dst[:], b[1:1+n])
		gw := netip.AddrFrom4([4]byte(b[1+n : 5+n]))
		out = append(out, netip.PrefixFrom(netip.AddrFrom4(dst), bits).String()+","+gw.String())
		b = b[5+n:]
	}
	return "{" + strings.Join(out, ", ") + "}", len(out) > 0
}

// optionText is options as one line, for people.
func optionText(o map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(o)) {
		out = append(out, k+"="+o[k])
	}
	return strings.Join(out, " ")
}
