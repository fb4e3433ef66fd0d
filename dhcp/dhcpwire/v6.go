package dhcpwire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

const (
	serverPort6, clientPort6 uint16 = 547, 546
	maxDUID                         = 130 // RFC 8415, 11.1
	maxRelays                       = 8   // HOP_COUNT_LIMIT of RFC 8415, 7.6
	maxIAs                          = 4   // pool addresses a message may ask for
	infinite                        = math.MaxUint32 * time.Second
)

// Option codes of RFC 8415 and those that came after.
const (
	opt6ClientID   = dhcpv6.OptionClientID
	opt6ServerID   = dhcpv6.OptionServerID
	opt6Preference = dhcpv6.OptionPreference
	opt6Rapid      = dhcpv6.OptionRapidCommit
	opt6DNS        = 23
	opt6Search     = 24
	opt6SNTP       = 31
	opt6FQDN       = 39
	opt6NTP        = 56
	opt6BootURL    = 59
)

// options6 makes the options of a scope's fields.
func options6(d dhcp.Scope) map[uint16][]byte {
	o := map[uint16][]byte{}
	if len(d.DNS) > 0 {
		o[opt6DNS] = addrs(d.DNS)
	}
	search := d.SearchDomain
	if len(search) == 0 && d.Domain != "" {
		search = []string{d.Domain}
	}
	if len(search) > 0 {
		o[opt6Search] = packNames(search, false) // RFC 3646, 4: must not be compressed
	}
	if len(d.NTP) > 0 {
		o[opt6SNTP] = addrs(d.NTP)
		var b []byte
		for _, a := range d.NTP {
			b = append(b, 0, 1, 0, 16) // NTP_SUBOPTION_SRV_ADDR
			b = append(b, a.AsSlice()...)
		}
		o[opt6NTP] = b
	}
	return o
}

func parse6(b []byte) (m dhcpv6.DHCPv6, err error) {
	defer func() { // as in parse4
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("codec: %v", r)
		}
	}()
	if len(b) < dhcpv6.MessageHeaderSize {
		return nil, errors.New("too short")
	}
	return dhcpv6.FromBytes(b)
}

type request6 struct {
	s      *Server
	p      Packet
	relays []*dhcpv6.RelayMessage // outermost first
	m      *dhcpv6.Message
	duid   []byte
	sid    []byte
	mac    vnet.MAC
	scopes []*scope
	main   *scope // whose options are told
	res    *dhcp.Reservation
	out    Result
}

// Handle6 answers a datagram that came to the DHCPv6 server port.
func (s *Server) Handle6(p Packet) Result {
	d, err := parse6(p.Payload)
	if err != nil {
		return Result{Drop: DropMalformed}
	}
	r := &request6{s: s, p: p}
	for d != nil && d.IsRelay() {
		rm := d.(*dhcpv6.RelayMessage)
		if rm.MessageType != dhcpv6.MessageTypeRelayForward {
			return Result{Drop: DropNotRequest}
		}
		if r.relays = append(r.relays, rm); len(r.relays) > maxRelays {
			return Result{Drop: DropMalformed}
		}
		d = rm.Options.RelayMessage()
	}
	m, ok := d.(*dhcpv6.Message)
	if !ok {
		return Result{Drop: DropMalformed}
	}
	r.m = m
	if id := m.Options.ClientID(); id != nil {
		r.duid = id.ToBytes()
	}
	if id := m.Options.ServerID(); id != nil {
		r.sid = id.ToBytes()
	}
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind,
		dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeInformationRequest:
	default:
		return Result{Drop: DropNotRequest}
	}
	r.out.Request = strings.ToLower(m.MessageType.String())
	// RFC 8415, 16: which messages name the client and the server.
	if len(r.duid) > maxDUID || len(r.duid) == 0 && m.MessageType != dhcpv6.MessageTypeInformationRequest {
		return r.drop(DropMalformed)
	}
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		if r.sid != nil {
			return r.drop(DropMalformed)
		}
	case dhcpv6.MessageTypeInformationRequest:
		if r.sid != nil && string(r.sid) != string(s.o.DUID) {
			return r.drop(DropOtherServer)
		}
	default:
		if r.sid == nil {
			return r.drop(DropMalformed)
		}
		if string(r.sid) != string(s.o.DUID) {
			return r.drop(DropOtherServer)
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if why := r.place(); why != "" {
		return r.drop(why)
	}
	r.res = s.find(r.mac, r.duid, func(x *dhcp.Reservation) []byte { return x.DUID })
	if r.res != nil && s.remote(r.res) || r.res == nil && s.elsewhere(r.mac) {
		return r.drop(DropOtherHost)
	}
	r.main = r.scopes[0]
	if r.res != nil {
		for _, sc := range r.scopes {
			if slices.ContainsFunc(r.res.IPs, sc.Contains) {
				r.main = sc
				break
			}
		}
	}
	if m.MessageType == dhcpv6.MessageTypeInformationRequest {
		return r.information()
	}
	if r.res == nil && !slices.ContainsFunc(r.scopes, func(sc *scope) bool { return s.pooled(sc) || sc.NAKUnknown }) {
		return r.drop(DropUnknown)
	}
	switch m.MessageType {
	case dhcpv6.MessageTypeConfirm:
		return r.confirm()
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		return r.giveBack()
	}
	return r.assign()
}

func (r *request6) drop(why string) Result {
	r.out.Drop = why
	return r.out
}

// place finds the scopes of the client's link, and the client's MAC. A relay
// says which link by its link-address, the innermost that is set, and who by
// option 79 or the peer-address.
func (r *request6) place() (drop string) {
	r.mac = r.p.MAC
	if len(r.relays) == 0 {
		r.scopes = slices.DeleteFunc(slices.Clone(r.s.scopes6), func(sc *scope) bool { return !sc.onLink })
	} else {
		link := netip.Addr{}
		for _, rm := range r.relays {
			if a, ok := netip.AddrFromSlice(rm.LinkAddr); ok && !a.IsUnspecified() && !a.IsLinkLocalUnicast() {
				link = a
			}
		}
		known := false
		for _, sc := range r.s.scopes6 {
			if sc.relayedBy(r.p.Src.Addr()) {
				known = true
				if !link.IsValid() || sc.Subnet.Contains(link) {
					r.scopes = append(r.scopes, sc)
				}
			}
		}
		if !known {
			return DropRelay
		}
		r.mac = r.relayedMAC()
	}
	if len(r.scopes) == 0 {
		return DropNoScope
	}
	return ""
}

func (r *request6) relayedMAC() vnet.MAC {
	inner := r.relays[len(r.relays)-1]
	if t, hw := inner.Options.ClientLinkLayerAddress(); t == iana.HWTypeEthernet && len(hw) == 6 {
		return vnet.MAC(hw)
	}
	if p := inner.PeerAddr; len(p) == 16 && p[11] == 0xff && p[12] == 0xfe {
		return vnet.MAC{p[8] ^ 2, p[9], p[10], p[13], p[14], p[15]}
	}
	// DUID-LLT and DUID-LL on Ethernet (RFC 8415, 11.2 and 11.4).
	switch d := r.duid; {
	case len(d) == 14 && d[0] == 0 && d[1] == 1 && d[2] == 0 && d[3] == 1:
		return vnet.MAC(d[8:14])
	case len(d) == 10 && d[0] == 0 && d[1] == 3 && d[2] == 0 && d[3] == 1:
		return vnet.MAC(d[4:10])
	}
	return vnet.MAC{}
}

func (r *request6) hostname() string {
	if f := r.m.Options.FQDN(); f != nil && f.DomainName != nil && len(f.DomainName.Labels) > 0 {
		return printable([]byte(f.DomainName.Labels[0]))
	}
	return ""
}

func (r *request6) client(iaid [4]byte) leasestore.Client {
	return leasestore.Client{
		Key: "d" + string(iaid[:]) + string(r.duid), MAC: r.mac, ID: r.duid,
		IAID: binary.BigEndian.Uint32(iaid[:]), Hostname: r.hostname(),
	}
}

func (r *request6) leaseOf(sc *scope, iaid [4]byte, ip netip.Addr) dhcp.Lease {
	l := dhcp.Lease{
		ScopeID: sc.ID, MAC: r.mac, ClientID: r.duid, IAID: binary.BigEndian.Uint32(iaid[:]), IP: ip,
		Hostname: r.hostname(), Expires: r.s.expires(sc.lease),
	}
	if r.res != nil {
		l.ReservationID = r.res.ID
	}
	return l
}

type held6 struct {
	sc *scope
	ip netip.Addr
}

// addresses returns what the identity association gets. A reservation's
// addresses all go to the first one of the message.
func (r *request6) addresses(ia *dhcpv6.OptIANA, i int, commit bool) []held6 {
	var out []held6
	if r.res != nil {
		for _, ip := range r.res.IPs {
			for _, sc := range r.scopes {
				if i == 0 && sc.Mode != dhcp.Stateless && sc.Contains(ip) {
					out = append(out, held6{sc, ip})
				}
			}
		}
		return out
	}
	if i >= maxIAs {
		return nil
	}
	want := netip.Addr{}
	if a := ia.Options.OneAddress(); a != nil {
		want, _ = netip.AddrFromSlice(a.IPv6Addr)
	}
	for _, sc := range r.scopes {
		if !r.s.pooled(sc) {
			continue
		}
		c := r.client(ia.IaId)
		renewing := r.m.MessageType == dhcpv6.MessageTypeRenew || r.m.MessageType == dhcpv6.MessageTypeRebind
		if renewing {
			if ip, bound, ok := r.s.o.Store.Find(sc.ID, c.Key); ok && bound {
				out = append(out, held6{sc, ip})
				break
			}
			continue
		}
		if ip, ok := r.s.o.Store.Offer(r.s.pool(sc), c, want); ok {
			out = append(out, held6{sc, ip})
			break
		}
	}
	if commit {
		out = slices.DeleteFunc(out, func(h held6) bool {
			_, ok := r.s.o.Store.Bind(r.s.pool(h.sc), r.client(ia.IaId), h.ip, h.sc.lease)
			r.out.Durable = r.out.Durable || ok
			return !ok
		})
	}
	return out
}

func life(d time.Duration) time.Duration {
	if d < 0 {
		return infinite
	}
	return d
}

func status(code iana.StatusCode) dhcpv6.Option {
	return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: code.String()}
}

func (r *request6) onLink(a net.IP) bool {
	ip, ok := netip.AddrFromSlice(a)
	return ok && slices.ContainsFunc(r.scopes, func(sc *scope) bool { return sc.Subnet.Contains(ip) })
}

// assign answers SOLICIT, REQUEST, RENEW and REBIND (RFC 8415, 18.3.1 to 18.3.5).
func (r *request6) assign() Result {
	t := r.m.MessageType
	rapid := t == dhcpv6.MessageTypeSolicit && r.main.RapidCommit && r.m.Options.GetOne(opt6Rapid) != nil
	commit := t != dhcpv6.MessageTypeSolicit || rapid
	var opts dhcpv6.Options
	nothing := true
	for i, ia := range r.m.Options.IANA() {
		out := &dhcpv6.OptIANA{IaId: ia.IaId}
		asked := ia.Options.Addresses()
		if t == dhcpv6.MessageTypeRequest && slices.ContainsFunc(asked, func(a *dhcpv6.OptIAAddress) bool { return !r.onLink(a.IPv6Addr) }) {
			out.Options.Add(status(iana.StatusNotOnLink))
			opts.Add(out)
			nothing = false
			r.nak(ia.IaId, asked)
			continue
		}
		got := r.addresses(ia, i, commit)
		for _, h := range got {
			nothing = false
			r.main = h.sc
			valid := life(h.sc.lease)
			out.T1, out.T2 = life(h.sc.t1), life(h.sc.t2)
			out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: h.ip.AsSlice(), PreferredLifetime: valid, ValidLifetime: valid})
			if commit {
				l := r.leaseOf(h.sc, ia.IaId, h.ip)
				n := r.s.notice("lease", l)
				if r.res != nil {
					n.Renewed = r.s.told(l)
				}
				n.Renewed = (n.Renewed || r.res == nil) && (t == dhcpv6.MessageTypeRenew || t == dhcpv6.MessageTypeRebind)
				r.out.Notices = append(r.out.Notices, n)
			}
		}
		if t == dhcpv6.MessageTypeRenew || t == dhcpv6.MessageTypeRebind {
			// What is not the client's any more ends now.
			for _, a := range asked {
				ip, _ := netip.AddrFromSlice(a.IPv6Addr)
				if !slices.ContainsFunc(got, func(h held6) bool { return h.ip == ip }) && (len(got) > 0 || t == dhcpv6.MessageTypeRebind) {
					out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr})
					nothing = false
					r.nak(ia.IaId, []*dhcpv6.OptIAAddress{a})
				}
			}
			if len(got) == 0 && t == dhcpv6.MessageTypeRenew {
				out.Options.Add(status(iana.StatusNoBinding))
				nothing = false
			}
		} else if len(got) == 0 {
			out.Options.Add(status(iana.StatusNoAddrsAvail))
		}
		opts.Add(out)
	}
	// Temporary addresses and prefixes are not given.
	for _, ia := range r.m.Options.IATA() {
		out := &dhcpv6.OptIATA{IaId: ia.IaId}
		out.Options.Add(status(iana.StatusNoAddrsAvail))
		opts.Add(out)
	}
	for _, ia := range r.m.Options.IAPD() {
		out := &dhcpv6.OptIAPD{IaId: ia.IaId}
		out.Options.Add(status(iana.StatusNoPrefixAvail))
		opts.Add(out)
	}
	if nothing && (r.res == nil || t == dhcpv6.MessageTypeRebind) {
		return r.drop(DropNoAddress)
	}
	typ := dhcpv6.MessageTypeReply
	switch {
	case rapid && !nothing:
		opts.Add(&dhcpv6.OptionGeneric{OptionCode: opt6Rapid})
	case t == dhcpv6.MessageTypeSolicit:
		typ = dhcpv6.MessageTypeAdvertise
		if r.res != nil {
			// We know the client, so it need not wait for other servers (18.2.1).
			opts.Add(&dhcpv6.OptionGeneric{OptionCode: opt6Preference, OptionData: []byte{255}})
		}
	}
	return r.reply(typ, opts, true)
}

func (r *request6) nak(iaid [4]byte, asked []*dhcpv6.OptIAAddress) {
	for _, a := range asked {
		ip, _ := netip.AddrFromSlice(a.IPv6Addr)
		l := r.leaseOf(r.main, iaid, ip)
		l.Expires = time.Time{}
		r.out.Notices = append(r.out.Notices, r.s.notice("nak", l))
	}
}

// confirm says whether the addresses fit the link (18.3.3); not whose they are.
func (r *request6) confirm() Result {
	n, code := 0, iana.StatusSuccess
	for _, ia := range r.m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			n++
			if !r.onLink(a.IPv6Addr) {
				code = iana.StatusNotOnLink
			}
		}
	}
	if n == 0 {
		return r.drop(DropMalformed)
	}
	return r.reply(dhcpv6.MessageTypeReply, dhcpv6.Options{status(code)}, false)
}

// giveBack answers RELEASE and DECLINE (18.3.7, 18.3.8).
func (r *request6) giveBack() Result {
	kind := "release"
	if r.m.MessageType == dhcpv6.MessageTypeDecline {
		kind = "decline"
	}
	opts := dhcpv6.Options{status(iana.StatusSuccess)}
	for _, ia := range r.m.Options.IANA() {
		mine := 0
		for _, a := range ia.Options.Addresses() {
			ip, ok := netip.AddrFromSlice(a.IPv6Addr)
			i := slices.IndexFunc(r.scopes, func(sc *scope) bool { return sc.Contains(ip) })
			if !ok || i < 0 {
				continue
			}
			sc := r.scopes[i]
			switch {
			case r.res != nil:
				if !slices.Contains(r.res.IPs, ip) {
					continue
				}
				r.s.forget(ip)
			case r.s.pooled(sc):
				end := r.s.o.Store.Release
				if kind == "decline" {
					end = r.s.o.Store.Decline
				}
				if !end(sc.ID, r.client(ia.IaId).Key, ip) {
					continue
				}
				r.out.Durable = true
			default:
				continue
			}
			mine++
			l := r.leaseOf(sc, ia.IaId, ip)
			l.Expires = time.Time{}
			r.out.Notices = append(r.out.Notices, r.s.notice(kind, l))
		}
		if mine == 0 {
			out := &dhcpv6.OptIANA{IaId: ia.IaId}
			out.Options.Add(status(iana.StatusNoBinding))
			opts.Add(out)
		}
	}
	return r.reply(dhcpv6.MessageTypeReply, opts, false)
}

// information answers INFORMATION-REQUEST (18.3.6): to known clients, and to
// all where the scope keeps nothing of its clients anyway.
func (r *request6) information() Result {
	if len(r.m.Options.IANA()) > 0 || len(r.m.Options.IATA()) > 0 || len(r.m.Options.IAPD()) > 0 {
		return r.drop(DropMalformed) // 16.12
	}
	if r.res == nil {
		i := slices.IndexFunc(r.scopes, func(sc *scope) bool { return sc.Mode == dhcp.Stateless || r.s.pooled(sc) || sc.NAKUnknown })
		if i < 0 {
			return r.drop(DropUnknown)
		}
		r.main = r.scopes[i]
	}
	return r.reply(dhcpv6.MessageTypeReply, nil, true)
}

// configuration returns the options that the client asked for.
func (r *request6) configuration() dhcpv6.Options {
	sc := r.main
	oro := r.m.Options.RequestedOptions()
	wants := func(code uint16) bool {
		if len(oro) == 0 {
			return code == opt6DNS || code == opt6Search
		}
		return slices.Contains(oro, dhcpv6.OptionCode(code))
	}
	data := make(map[uint16][]byte, len(sc.base)+2)
	for c, b := range sc.base {
		if sc.explicit[c] || wants(c) {
			data[c] = b
		}
	}
	if arch := r.archs(); wants(opt6BootURL) || len(arch) > 0 {
		if url := r.bootURL(arch); url != "" {
			data[opt6BootURL] = []byte(url)
		}
	}
	if b := r.fqdn(); b != nil {
		data[opt6FQDN] = b
	}
	if r.res != nil {
		for _, o := range r.res.Options6 {
			data[o.Code] = o.Data
		}
	}
	var out dhcpv6.Options
	for _, c := range slices.Sorted(maps.Keys(data)) {
		out.Add(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionCode(c), OptionData: data[c]})
	}
	return out
}

func (r *request6) archs() []byte {
	var b []byte
	for _, a := range r.m.Options.ArchTypes() {
		b = binary.BigEndian.AppendUint16(b, uint16(a))
	}
	return b
}

func (r *request6) bootURL(archs []byte) string {
	ipxe := slices.ContainsFunc(r.m.Options.UserClasses(), func(c []byte) bool { return string(c) == "iPXE" })
	f := bootFile(r.main.BootFiles, ipxe, archs)
	if f == "" || strings.Contains(f, "://") || r.main.TFTPServer == "" {
		return f
	}
	host := r.main.TFTPServer
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	return "tftp://" + host + "/" + strings.TrimPrefix(f, "/")
}

// fqdn answers option 39 (RFC 4704, 6): we update no DNS.
func (r *request6) fqdn() []byte {
	in := r.m.Options.FQDN()
	if in == nil {
		return nil
	}
	name := ""
	if r.res != nil {
		name = fqdn(r.res.Hostname, r.main.Domain)
	}
	if name == "" {
		if name = fqdn(r.hostname(), r.main.Domain); slices.ContainsFunc(strings.Split(name, "."), func(l string) bool { return l == "" || len(l) > 63 }) {
			name = ""
		}
	}
	flags := byte(4)
	if in.Flags&1 != 0 {
		flags |= 2
	}
	if name == "" {
		return []byte{flags}
	}
	return append([]byte{flags}, packNames([]string{name}, false)...)
}

func (r *request6) reply(typ dhcpv6.MessageType, opts dhcpv6.Options, config bool) Result {
	m := &dhcpv6.Message{MessageType: typ, TransactionID: r.m.TransactionID}
	if r.duid != nil {
		m.Options.Add(&dhcpv6.OptionGeneric{OptionCode: opt6ClientID, OptionData: r.duid})
	}
	m.Options.Add(&dhcpv6.OptionGeneric{OptionCode: opt6ServerID, OptionData: r.s.o.DUID})
	for _, o := range opts {
		m.Options.Add(o)
	}
	if config {
		for _, o := range r.configuration() {
			m.Options.Add(o)
		}
	}
	b := m.ToBytes()
	port := clientPort6
	for _, rm := range slices.Backward(r.relays) {
		// RFC 8415, 19.3: same hop count, addresses and interface id.
		out := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayReply, HopCount: rm.HopCount, LinkAddr: rm.LinkAddr, PeerAddr: rm.PeerAddr}
		if id := rm.Options.GetOne(dhcpv6.OptionInterfaceID); id != nil {
			out.Options.Add(id)
		}
		out.Options.Add(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRelayMsg, OptionData: b})
		b = out.ToBytes()
		port = serverPort6
	}
	r.out.Payload = b
	r.out.Src = netip.AddrPortFrom(r.s.o.LinkLocal, serverPort6)
	r.out.Dst = netip.AddrPortFrom(r.p.Src.Addr(), port)
	r.out.MAC = r.p.MAC
	r.out.Reply = strings.ToLower(typ.String())
	return r.out
}
