package vnet

import (
	"fmt"
	"net"
	"net/netip"
)

// MAC is a 48-bit IEEE 802 address. The zero value means "none". It is
// comparable and marshals as text ("02:00:00:00:00:01").
type MAC [6]byte

// ParseMAC reads a MAC in any form [net.ParseMAC] knows, of 48 bits.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("%q is not a 48-bit MAC address", s)
	}
	return MAC(hw), nil
}

// MustParseMAC is [ParseMAC] for constants; it panics on a bad one.
func MustParseMAC(s string) MAC {
	m, err := ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// IsZero reports whether m is the zero value, "none".
func (m MAC) IsZero() bool { return m == MAC{} }

// IsUnicast reports whether m can be the address of an interface: not zero
// and without the group bit.
func (m MAC) IsUnicast() bool { return !m.IsZero() && m[0]&1 == 0 }

// HardwareAddr returns m as the type of package net.
func (m MAC) HardwareAddr() net.HardwareAddr { return net.HardwareAddr(m[:]) }

// EUI64 returns the address that stateless autoconfiguration makes of m in
// prefix, which must be an IPv6 /64 (RFC 4291, appendix A; RFC 4862).
func (m MAC) EUI64(prefix netip.Prefix) netip.Addr {
	a := prefix.Masked().Addr().As16()
	copy(a[8:], []byte{m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
	return netip.AddrFrom16(a)
}

// LinkLocal returns the IPv6 link-local address that an interface with this
// MAC gives itself (RFC 4291, section 2.5.6).
func (m MAC) LinkLocal() netip.Addr {
	return m.EUI64(netip.MustParsePrefix("fe80::/64"))
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText implements [encoding.TextMarshaler]. The zero value is "".
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return []byte{}, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *MAC) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = MAC{}
		return nil
	}
	v, err := ParseMAC(string(b))
	if err == nil {
		*m = v
	}
	return err
}
