package dhcpwire

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
)

// What a fuzzed request may lead to: no panic, and a reply that parses,
// belongs to the request, and goes to whom the request came from.

func FuzzV4(f *testing.F) {
	for _, p := range []Packet{
		msg4(macA, discover, prl(1, 3, 6, 12, 15, 26, 28, 42, 119, 121, 249), opt(optClientID, 1, 2), opt(optFQDN, append([]byte{5, 0, 0}, "\x03foo\x00"...)...)),
		msg4(macA, request, sid("192.0.2.2"), want("192.0.2.10"), opt(optMaxSize, 5, 220)),
		msg4(macA, request, ciaddr("192.0.2.9")),
		msg4(macA, discover, giaddr("192.0.2.254"), opt(optRelayInfo, 5, 4, 192, 0, 2, 1), opt(optArch, 0, 7), opt(optIPXE, 1)),
		msg4(macA, inform, ciaddr("192.0.2.10")),
		msg4(macA, decline, sid("192.0.2.2"), want("192.0.2.10")),
		msg4(macA, release, sid("192.0.2.2"), ciaddr("192.0.2.10")),
	} {
		f.Add(p.Payload)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := server(t, true, withPool, withRelay, func(sc *dhcp.Scope) {
			sc.NAKUnknown, sc.RapidCommit = true, true
			sc.BootFiles = map[uint16]string{7: "grub.efi", dhcp.BootDefault: "x"}
			sc.TFTPServer = "192.0.2.5"
		})
		p := Packet{MAC: macA, Src: netip.MustParseAddrPort("0.0.0.0:68"), Payload: b}
		if len(b) >= 34 {
			p.MAC = vnet.MAC(b[28:34])
		}
		r := s.Handle4(p)
		if r.Payload == nil {
			return
		}
		req, err := dhcpv4.FromBytes(b)
		if err != nil {
			t.Fatalf("replied to what does not parse: %v", err)
		}
		m, err := dhcpv4.FromBytes(r.Payload)
		switch {
		case err != nil:
			t.Fatalf("reply does not parse: %v", err)
		case m.TransactionID != req.TransactionID || m.ClientHWAddr.String() != req.ClientHWAddr.String() || m.OpCode != dhcpv4.OpcodeBootReply:
			t.Fatalf("reply is not of the request: %s", m.Summary())
		case r.MAC != p.MAC || !r.Dst.IsValid() || r.Src.Port() != 67:
			t.Fatalf("reply goes from %s to %s at %s", r.Src, r.Dst, r.MAC)
		case len(r.Payload) > maxSize-ipUDPLen && len(req.Options[optRelayInfo])+len(req.Options[optClientID]) < 600:
			t.Fatalf("reply of %d bytes", len(r.Payload))
		}
	})
}

func FuzzV6(f *testing.F) {
	for _, p := range []Packet{
		msg6(macA, dhcpv6.MessageTypeSolicit, iana6(1), oro(23, 24, 56, 31, 59), raw6(14), raw6(61, 0, 7), raw6(39, 1, 3, 'f', 'o', 'o', 0)),
		msg6(macA, dhcpv6.MessageTypeRequest, iana6(1, "2001:db8::10"), iana6(2), ours()),
		msg6(macA, dhcpv6.MessageTypeRenew, iana6(1, "2001:db8::11"), ours()),
		msg6(macA, dhcpv6.MessageTypeRebind, iana6(1, "2001:db8::11")),
		msg6(macA, dhcpv6.MessageTypeConfirm, iana6(1, "2001:db8:7::10")),
		msg6(macA, dhcpv6.MessageTypeRelease, iana6(1, "2001:db8::10"), ours()),
		msg6(macA, dhcpv6.MessageTypeDecline, iana6(1, "2001:db8::10"), ours()),
		msg6(macA, dhcpv6.MessageTypeInformationRequest, oro(23)),
		relayed(msg6(macA, dhcpv6.MessageTypeSolicit, iana6(1)), 3, "2001:db8::ff"),
	} {
		f.Add(p.Payload)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := server6(t, pool6, func(sc *dhcp.Scope) {
			sc.NAKUnknown, sc.RapidCommit = true, true
			sc.Relays = []netip.Prefix{prefix("2001:db8:ff::1/128")}
			sc.BootFiles = map[uint16]string{7: "grub.efi", dhcp.BootDefault: "x"}
		})
		for _, mac := range []vnet.MAC{macA, macX} {
			p := Packet{MAC: mac, Src: netip.MustParseAddrPort("[2001:db8:ff::1]:547"), Payload: b}
			r := s.Handle6(p)
			if r.Payload == nil {
				continue
			}
			req, err := dhcpv6.FromBytes(b)
			if err != nil {
				t.Fatalf("replied to what does not parse: %v", err)
			}
			d, err := dhcpv6.FromBytes(r.Payload)
			if err != nil {
				t.Fatalf("reply does not parse: %v", err)
			}
			in, _ := req.GetInnerMessage()
			m, err := d.GetInnerMessage()
			switch {
			case err != nil:
				t.Fatal(err)
			case m.TransactionID != in.TransactionID || d.IsRelay() != req.IsRelay():
				t.Fatalf("reply is not of the request: %s", m.Summary())
			case r.MAC != mac || r.Dst.Addr() != p.Src.Addr() || r.Src.Port() != 547:
				t.Fatalf("reply goes from %s to %s at %s", r.Src, r.Dst, r.MAC)
			}
		}
	})
}
