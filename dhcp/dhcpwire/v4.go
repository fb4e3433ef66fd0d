package dhcpwire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

// Option codes of RFC 2132 and those that came after.
const (
	optMask        = 1
	optRouter      = 3
	optDNS         = 6
	optHostname    = 12
	optDomain      = 15
	optMTU         = 26
	optBroadcast   = 28
	optNTP         = 42
	optRequestedIP = 50
	optLease       = 51
	optType        = 53
	optServerID    = 54
	optParams      = 55
	optMessage     = 56
	optMaxSize     = 57
	optT1          = 58
	optT2          = 59
	optClientID    = 61
	optTFTP        = 66
	optBootFile    = 67
	optUserClass   = 77
	optRapid       = 80
	optFQDN        = 81
	optRelayInfo   = 82
	optArch        = 93
	optUUID        = 97
	optSearch      = 119
	optRoutes      = 121
	optIPXE        = 175
	optRoutesMS    = 249
)

const (
	headerLen                       = 240 // fixed header and magic cookie
	ipUDPLen                        = 28
	minSize                         = 576  // RFC 2131, section 2: every client takes this much
	maxSize                         = 1500 // more would be fragmented on most networks
	serverPort4, clientPort4 uint16 = 67, 68
)

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// options4 makes the options of a scope's fields.
func options4(d dhcp.Scope) map[uint16][]byte {
	o := map[uint16][]byte{}
	mask := net.CIDRMask(d.Subnet.Bits(), 32)
	o[optMask] = mask
	if d.Subnet.Bits() < 31 {
		b := d.Subnet.Addr().As4()
		for i := range b {
			b[i] |= ^mask[i]
		}
		o[optBroadcast] = b[:]
	}
	if d.Router.IsValid() {
		o[optRouter] = d.Router.AsSlice()
	}
	if len(d.DNS) > 0 {
		o[optDNS] = addrs(d.DNS)
	}
	if len(d.NTP) > 0 {
		o[optNTP] = addrs(d.NTP)
	}
	if d.Domain != "" {
		o[optDomain] = []byte(d.Domain)
	}
	if len(d.SearchDomain) > 0 {
		o[optSearch] = packNames(d.SearchDomain, true)
	}
	if d.MTU > 0 {
		o[optMTU] = binary.BigEndian.AppendUint16(nil, uint16(d.MTU))
	}
	if r := routes(d); r != nil {
		o[optRoutes], o[optRoutesMS] = r, r
	}
	if d.TFTPServer != "" {
		o[optTFTP] = []byte(d.TFTPServer)
	}
	return o
}

func addrs(in []netip.Addr) []byte {
	var b []byte
	for _, a := range in {
		b = append(b, a.AsSlice()...)
	}
	return b
}

// routes encodes RFC 3442's option. Clients that see it ignore option 3, so
// the default route is repeated in it.
func routes(d dhcp.Scope) []byte {
	if len(d.Routes) == 0 {
		return nil
	}
	var b []byte
	def := d.Router.IsValid()
	add := func(p netip.Prefix, via netip.Addr) {
		b = append(b, byte(p.Bits()))
		b = append(b, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
		b = append(b, via.AsSlice()...)
		def = def && p.Bits() > 0
	}
	for _, r := range d.Routes {
		add(r.Destination, r.NextHop)
	}
	if def {
		add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), d.Router)
	}
	return b
}

func parse4(b []byte) (m *dhcpv4.DHCPv4, err error) {
	// The codec reads what any machine may send; a bug in it must not be
	// one machine's way to stop the service of all.
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("codec: %v", r)
		}
	}()
	if len(b) < headerLen {
		return nil, errors.New("too short")
	}
	return dhcpv4.FromBytes(b)
}

// request4 is one request being answered.
type request4 struct {
	s     *Server
	p     Packet
	m     *dhcpv4.DHCPv4
	typ   dhcpv4.MessageType
	mac   vnet.MAC
	cid   []byte
	relay netip.Addr // giaddr; invalid: none
	want  netip.Addr // option 50
	held  netip.Addr // ciaddr
	sid   netip.Addr // option 54

	scopes []*scope // that may serve it
	res    *dhcp.Reservation
	who    leasestore.Client // filled in by client
	out    Result
}

// Handle4 answers a datagram that came to the DHCPv4 server port.
func (s *Server) Handle4(p Packet) Result {
	m, err := parse4(p.Payload)
	if err != nil || m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != 6 {
		return Result{Drop: DropMalformed}
	}
	if m.OpCode != dhcpv4.OpcodeBootRequest {
		return Result{Drop: DropNotRequest}
	}
	opt := func(code uint8) []byte { return m.Options[code] }
	addr := func(b []byte) netip.Addr {
		a, ok := netip.AddrFromSlice(b)
		if !ok || !a.Is4() || a.IsUnspecified() {
			return netip.Addr{}
		}
		return a
	}
	if len(opt(optType)) != 1 {
		return Result{Drop: DropNotRequest} // BOOTP
	}
	r := &request4{
		s: s, p: p, m: m, typ: dhcpv4.MessageType(opt(optType)[0]), mac: vnet.MAC(m.ClientHWAddr), cid: opt(optClientID),
		relay: addr(m.GatewayIPAddr), want: addr(opt(optRequestedIP)), held: addr(m.ClientIPAddr), sid: addr(opt(optServerID)),
	}
	r.out.Request = strings.ToLower(r.typ.String())
	switch r.typ {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform:
	default:
		r.out.Request = ""
		return r.drop(DropNotRequest)
	}
	if !r.mac.IsUnicast() {
		return r.drop(DropMalformed)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if why := r.place(); why != "" {
		return r.drop(why)
	}
	r.res = s.find(r.mac, r.cid, func(x *dhcp.Reservation) []byte { return x.ClientID })
	if r.res != nil && s.remote(r.res) || r.res == nil && s.elsewhere(r.mac) {
		return r.drop(DropOtherHost)
	}
	switch r.typ {
	case dhcpv4.MessageTypeDiscover:
		return r.discover()
	case dhcpv4.MessageTypeRequest:
		return r.request()
	case dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease:
		return r.giveBack()
	}
	return r.inform()
}

func (r *request4) drop(why string) Result {
	r.out.Drop = why
	return r.out
}

// place finds the scopes of the client's link. A relay says which link by
// giaddr, or by the link selection sub-option (RFC 3527).
func (r *request4) place() (drop string) {
	if !r.relay.IsValid() {
		if r.mac != r.p.MAC {
			return DropSpoofed
		}
		for _, sc := range r.s.scopes4 {
			if sc.onLink {
				r.scopes = append(r.scopes, sc)
			}
		}
	} else {
		link := r.relay
		if b := linkSelection(r.m.Options[optRelayInfo]); b.IsValid() {
			link = b
		}
		known := false
		for _, sc := range r.s.scopes4 {
			if sc.relayedBy(r.relay) {
				known = true
				if sc.Subnet.Contains(link) {
					r.scopes = append(r.scopes, sc)
				}
			}
		}
		if !known {
			return DropRelay
		}
	}
	if len(r.scopes) == 0 {
		return DropNoScope
	}
	return ""
}

func linkSelection(b []byte) netip.Addr {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == 5 && b[1] == 4 {
			return netip.AddrFrom4([4]byte(b[2:6]))
		}
		b = b[2+int(b[1]):]
	}
	return netip.Addr{}
}

// reserved returns the client's address by its reservation: prefer, when that
// is one of its own, else the first that a scope has.
func (r *request4) reserved(prefer netip.Addr) (*scope, netip.Addr) {
	var sc *scope
	var ip netip.Addr
	for _, a := range r.res.IPs {
		if !a.Is4() || ip.IsValid() && a != prefer {
			continue
		}
		if i := slices.IndexFunc(r.scopes, func(sc *scope) bool { return sc.Contains(a) }); i >= 0 {
			sc, ip = r.scopes[i], a
		}
	}
	return sc, ip
}

func (r *request4) client() leasestore.Client {
	if r.who.Key != "" {
		return r.who
	}
	key := "h\x01" + string(r.mac[:])
	if len(r.cid) > 0 {
		key = "i" + string(r.cid)
	}
	r.who = leasestore.Client{Key: key, MAC: r.mac, ID: r.cid, Hostname: r.hostname()}
	return r.who
}

func (r *request4) hostname() string {
	if h := printable(r.m.Options[optHostname]); h != "" {
		return h
	}
	if f := r.m.Options[optFQDN]; len(f) > 3 && f[0]&4 == 0 {
		return printable(f[3:])
	} else if len(f) > 3 {
		return printable([]byte(unpackName(f[3:])))
	}
	return ""
}

func unpackName(b []byte) string {
	var parts []string
	for len(b) > 0 && b[0] > 0 && int(b[0]) < len(b) {
		parts = append(parts, string(b[1:1+int(b[0])]))
		b = b[1+int(b[0]):]
	}
	return strings.Join(parts, ".")
}

func (r *request4) discover() Result {
	var sc *scope
	var ip netip.Addr
	if r.res != nil {
		if sc, ip = r.reserved(r.want); sc == nil {
			return r.drop(DropNoAddress)
		}
	} else {
		why := DropUnknown
		for _, x := range r.scopes {
			if !r.s.pooled(x) {
				continue
			}
			why = DropNoAddress
			if a, ok := r.s.o.Store.Offer(r.s.pool(x), r.client(), r.want); ok {
				sc, ip = x, a
				break
			}
		}
		if sc == nil {
			return r.drop(why)
		}
	}
	if _, rapid := r.m.Options[optRapid]; rapid && sc.RapidCommit {
		return r.ack(sc, ip, true)
	}
	return r.reply(dhcpv4.MessageTypeOffer, sc, ip)
}

// request tells the four kinds apart as RFC 2131, 4.3.2, does.
func (r *request4) request() Result {
	if r.sid.IsValid() { // SELECTING
		r.scopes = slices.DeleteFunc(r.scopes, func(sc *scope) bool { return sc.ServerIP != r.sid })
		if len(r.scopes) == 0 {
			return r.drop(DropOtherServer)
		}
	}
	want := r.want
	if !want.IsValid() { // RENEWING, REBINDING
		want = r.held
	}
	if !want.IsValid() {
		return r.drop(DropMalformed)
	}
	if r.res != nil {
		if sc, ip := r.reserved(want); sc != nil && ip == want {
			return r.ack(sc, ip, false)
		}
		return r.nak(r.scopeOf(want), "not your address")
	}
	pooled := false
	for _, sc := range r.scopes {
		if !r.s.pooled(sc) {
			continue
		}
		pooled = true
		ip, bound, found := r.s.o.Store.Find(sc.ID, r.client().Key)
		switch {
		case r.sid.IsValid() && sc.Contains(want):
			return r.ack(sc, want, false)
		case found && ip == want && bound:
			return r.ack(sc, want, false)
		case found && bound:
			return r.nak(sc, "not your address")
		}
	}
	if sc := r.scopeOf(want); sc.NAKUnknown || r.sid.IsValid() && pooled {
		return r.nak(sc, "unknown client")
	}
	return r.drop(DropUnknown)
}

// scopeOf returns the scope of a, or the first.
func (r *request4) scopeOf(a netip.Addr) *scope {
	for _, sc := range r.scopes {
		if sc.Contains(a) {
			return sc
		}
	}
	return r.scopes[0]
}

func (r *request4) leaseOf(sc *scope, ip netip.Addr) dhcp.Lease {
	l := dhcp.Lease{ScopeID: sc.ID, MAC: r.mac, ClientID: r.cid, IP: ip, Hostname: r.hostname(), Expires: r.s.expires(sc.lease)}
	if r.res != nil {
		l.ReservationID = r.res.ID
	}
	return l
}

func (r *request4) ack(sc *scope, ip netip.Addr, rapid bool) Result {
	l := r.leaseOf(sc, ip)
	renewed := !r.sid.IsValid() && !rapid
	if r.res != nil {
		before := r.s.told(l)
		renewed = renewed && before
	} else {
		exp, ok := r.s.o.Store.Bind(r.s.pool(sc), r.client(), ip, sc.lease)
		if !ok {
			return r.nak(sc, "address is not free")
		}
		l.Expires = exp
		r.out.Durable = true
	}
	n := r.s.notice("lease", l)
	n.Renewed = renewed
	r.out.Notices = append(r.out.Notices, n)
	return r.reply(dhcpv4.MessageTypeAck, sc, ip)
}

func (r *request4) giveBack() Result {
	ip, kind := r.held, "release"
	if r.typ == dhcpv4.MessageTypeDecline {
		ip, kind = r.want, "decline"
	}
	sc := r.scopeOf(ip)
	switch {
	case !ip.IsValid() || !sc.Contains(ip):
		return r.drop(DropNoScope)
	case r.sid != sc.ServerIP:
		return r.drop(DropOtherServer)
	case r.res != nil && !slices.Contains(r.res.IPs, ip):
		return r.drop(DropNoAddress)
	case r.res != nil:
		r.s.forget(ip)
	case !r.s.pooled(sc):
		return r.drop(DropUnknown)
	default:
		end := r.s.o.Store.Release
		if kind == "decline" {
			end = r.s.o.Store.Decline
		}
		if !end(sc.ID, r.client().Key, ip) {
			return r.drop(DropNoAddress)
		}
		r.out.Durable = true
	}
	l := r.leaseOf(sc, ip)
	l.Expires = time.Time{}
	r.out.Notices = append(r.out.Notices, r.s.notice(kind, l))
	return r.out
}

func (r *request4) inform() Result {
	if !r.held.IsValid() {
		return r.drop(DropMalformed)
	}
	sc := r.scopeOf(r.held)
	if !sc.Subnet.Contains(r.held) {
		return r.drop(DropNoScope)
	}
	if r.res == nil && !r.s.pooled(sc) && !sc.NAKUnknown {
		return r.drop(DropUnknown)
	}
	return r.reply(dhcpv4.MessageTypeAck, sc, netip.Addr{})
}

func (r *request4) nak(sc *scope, text string) Result {
	ip := r.want
	if !ip.IsValid() {
		ip = r.held
	}
	l := r.leaseOf(sc, ip)
	l.Expires = time.Time{}
	r.out.Notices = append(r.out.Notices, r.s.notice("nak", l))
	o := dhcpv4.Options{optMessage: []byte(text)}
	return r.send(dhcpv4.MessageTypeNak, sc, netip.Addr{}, o, "", netip.Addr{})
}

// reply builds an OFFER or ACK; an invalid ip makes it the ACK of an INFORM,
// without lease times.
func (r *request4) reply(typ dhcpv4.MessageType, sc *scope, ip netip.Addr) Result {
	o := dhcpv4.Options{}
	if ip.IsValid() {
		if sc.lease < 0 {
			o[optLease] = []byte{255, 255, 255, 255}
		} else {
			o[optLease], o[optT1], o[optT2] = seconds(sc.lease), seconds(sc.t1), seconds(sc.t2)
		}
	}
	if r.typ == dhcpv4.MessageTypeDiscover && typ == dhcpv4.MessageTypeAck {
		o[optRapid] = nil
	}
	params := r.m.Options[optParams]

	// What there is to tell beside the scope's: the client's own goes first.
	own, always := r.own(sc)
	file, next := r.boot(sc)
	if file != "" && !sc.explicit[optBootFile] {
		own = append(own, dhcp.Option{Code: optBootFile, Data: []byte(file)})
		if len(file) > 127 {
			always = append(always, optBootFile) // the header has no room for it
		}
	}

	room := r.size() - headerLen - 1 - r.fixed(o)
	put := func(c uint16) {
		if _, have := o[uint8(c)]; have {
			return
		}
		b, there := sc.base[c]
		for _, x := range own {
			if x.Code == c {
				b, there = x.Data, true
				break
			}
		}
		n := len(b) + 2*(len(b)/255+1)
		if there && n <= room {
			room -= n
			o[uint8(c)] = b
		}
	}
	// In the order of what matters most, as far as it fits.
	for _, c := range []uint16{optMask, optRoutes, optMTU} {
		put(c)
	}
	for _, c := range params {
		put(uint16(c))
	}
	for _, c := range always {
		put(c)
	}
	for _, c := range sc.codes {
		if sc.explicit[c] || len(params) == 0 && c != optRoutesMS {
			put(c)
		}
	}
	if len(params) == 0 {
		for _, x := range own {
			put(x.Code)
		}
	}
	if len(file) > 127 {
		file = ""
	}
	return r.send(typ, sc, ip, o, file, next)
}

// own returns the options that are the client's own, and the codes of those
// that are sent asked for or not.
func (r *request4) own(sc *scope) (own []dhcp.Option, always []uint16) {
	if r.res != nil {
		for _, x := range r.res.Options {
			own = append(own, x)
			always = append(always, x.Code)
		}
		if r.res.Hostname != "" && !sc.explicit[optHostname] {
			own = append(own, dhcp.Option{Code: optHostname, Data: []byte(r.res.Hostname)})
		}
	}
	if b := r.fqdn(sc); b != nil && !sc.explicit[optFQDN] {
		own = append(own, dhcp.Option{Code: optFQDN, Data: b})
		always = append(always, optFQDN)
	}
	if b := r.m.Options[optUUID]; len(b) > 0 && len(r.m.Options[optArch]) > 0 {
		own = append(own, dhcp.Option{Code: optUUID, Data: b}) // PXE 2.1: the server returns it
		always = append(always, optUUID)
	}
	return own, always
}

// fixed counts the bytes that options take which are sent in any case.
func (r *request4) fixed(o dhcpv4.Options) int {
	n := 3 + 6 // type, server identifier
	for _, b := range o {
		n += 2 + len(b)
	}
	for _, c := range []uint8{optClientID, optRelayInfo} {
		if b, ok := r.m.Options[c]; ok {
			n += len(b) + 2*(len(b)/255+1)
		}
	}
	return n
}

// size is how many bytes of DHCP message the client takes. Option 57 counts
// the IP and UDP headers too, as clients and servers in use read it.
func (r *request4) size() int {
	n := minSize
	if b := r.m.Options[optMaxSize]; len(b) == 2 {
		n = min(max(int(binary.BigEndian.Uint16(b)), minSize), maxSize)
	}
	return n - ipUDPLen
}

func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}

// fqdn answers option 81 (RFC 4702): we update no DNS (N), and say so with O
// when the client wanted us to.
func (r *request4) fqdn(sc *scope) []byte {
	in := r.m.Options[optFQDN]
	if len(in) < 3 {
		return nil
	}
	name := ""
	if r.res != nil {
		name = fqdn(r.res.Hostname, sc.Domain)
	}
	if name == "" {
		name = fqdn(r.hostname(), sc.Domain)
	}
	flags := byte(8) | in[0]&4
	if in[0]&1 != 0 {
		flags |= 2
	}
	out := []byte{flags, 255, 255}
	if in[0]&4 != 0 {
		if strings.Contains(name, "..") || slices.ContainsFunc(strings.Split(name, "."), func(l string) bool { return len(l) > 63 }) {
			name = ""
		}
		if name == "" {
			return out
		}
		return append(out, packNames([]string{name}, false)...)
	}
	return append(out, name...)
}

// boot chooses the boot file and the address of its server (siaddr).
func (r *request4) boot(sc *scope) (file string, next netip.Addr) {
	_, ipxe := r.m.Options[optIPXE]
	ipxe = ipxe || strings.Contains(string(r.m.Options[optUserClass]), "iPXE")
	file = bootFile(sc.BootFiles, ipxe, r.m.Options[optArch])
	if a, err := netip.ParseAddr(sc.TFTPServer); err == nil && a.Is4() {
		next = a
	}
	return file, next
}

// bootFile chooses by the client's architectures, given as their option has them.
func bootFile(files map[uint16]string, ipxe bool, archs []byte) string {
	if f := files[dhcp.BootIPXE]; ipxe && f != "" {
		return f
	}
	for ; len(archs) >= 2; archs = archs[2:] {
		if f := files[binary.BigEndian.Uint16(archs)]; f != "" {
			return f
		}
	}
	return files[dhcp.BootDefault]
}

// send addresses the reply as RFC 2131, 4.1, says.
func (r *request4) send(typ dhcpv4.MessageType, sc *scope, ip netip.Addr, o dhcpv4.Options, file string, next netip.Addr) Result {
	o[optType] = []byte{byte(typ)}
	o[optServerID] = sc.ServerIP.AsSlice()
	// RFC 6842 and RFC 3046: both come back as they were.
	for _, c := range []uint8{optClientID, optRelayInfo} {
		if b, ok := r.m.Options[c]; ok {
			o[c] = b
		}
	}
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: r.m.HWType, TransactionID: r.m.TransactionID, Flags: r.m.Flags,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: r.m.GatewayIPAddr,
		ClientHWAddr: r.m.ClientHWAddr, BootFileName: file, Options: o,
	}
	if typ == dhcpv4.MessageTypeAck {
		m.ClientIPAddr = r.m.ClientIPAddr
	}
	if ip.IsValid() {
		m.YourIPAddr = ip.AsSlice()
	}
	if next.IsValid() {
		m.ServerIPAddr = next.AsSlice()
	}
	nak := typ == dhcpv4.MessageTypeNak
	dst := netip.AddrPortFrom(broadcast4, clientPort4)
	switch {
	case r.relay.IsValid():
		dst = netip.AddrPortFrom(r.relay, serverPort4)
		if nak {
			m.Flags |= 0x8000 // the relay must broadcast it
		}
	case nak:
	case r.held.IsValid():
		dst = netip.AddrPortFrom(r.held, clientPort4)
	case r.m.Flags&0x8000 != 0:
	case ip.IsValid():
		dst = netip.AddrPortFrom(ip, clientPort4)
	}
	r.out.Payload = m.ToBytes()
	r.out.Src = netip.AddrPortFrom(sc.ServerIP, serverPort4)
	r.out.Dst, r.out.MAC = dst, r.p.MAC
	r.out.Reply = strings.ToLower(typ.String())
	return r.out
}
