package nft

import "fmt"

// Family is the address family of a table.
type Family uint8

// The families, by the kernel's numbers (NFPROTO_*).
const (
	Inet   Family = 1 // IPv4 and IPv6
	IP     Family = 2
	ARP    Family = 3
	Bridge Family = 7
	IP6    Family = 10
)

func (f Family) String() string {
	switch f {
	case Inet:
		return "inet"
	case IP:
		return "ip"
	case ARP:
		return "arp"
	case Bridge:
		return "bridge"
	case IP6:
		return "ip6"
	}
	return fmt.Sprintf("family %d", uint8(f))
}

// Table names a table.
type Table struct {
	Family Family
	Name   string
}

func (t Table) String() string { return t.Family.String() + " " + t.Name }

// Type is the type of one component of a set's key or data.
type Type uint8

// The types. In parentheses: the Go type of a value, and its size.
const (
	TypeIfName    Type = iota + 1 // device name (string, 16 bytes)
	TypeMark                      // packet or connection mark (uint32, host order)
	TypeIPv4                      // (netip.Addr)
	TypeIPv6                      // (netip.Addr)
	TypeMAC                       // (vnet.MAC)
	TypePort                      // transport port (uint16)
	TypeProto                     // IP protocol (uint8)
	TypeEtherType                 // (uint16)
	TypeZone                      // conntrack zone (uint16, host order)
	TypeICMP                      // ICMP type (uint8)
	TypeICMPCode                  // ICMP code (uint8)
	TypeICMP6                     // ICMPv6 type (uint8)
	TypeICMP6Code                 // ICMPv6 code (uint8)
	TypeARPOp                     // ARP operation (uint16)
	TypeVerdict                   // data of a verdict map (Verdict); alone
	TypePktType                   // packet type (uint8), see PktHost
)

// Range is an inclusive range of values of one type, as a component of a key
// in an interval set: Range{From: uint16(80), To: uint16(90)}. A netip.Prefix
// is a range too.
type Range struct{ From, To any }

// Element is an element of a set, map or verdict map.
type Element struct {
	// Key has one value per component of the set's key, of the Go type named
	// beside the [Type]; in interval sets also a netip.Prefix, a [Range], or
	// [Any].
	Key []any
	// Data has one value per component of a map's data, or one [Verdict].
	Data []any
	// Comment is kept beside the element, at most 127 bytes. An element that
	// differs in nothing else is not written again.
	Comment string
}

// Key returns an element of a set.
func Key(components ...any) Element { return Element{Key: components} }

// To returns the element with data, for maps.
func (e Element) To(data ...any) Element { e.Data = data; return e }

// Any stands for all values of a component in an interval set.
type Any struct{}

// Set is a set, or with Data a map, or with Data TypeVerdict a verdict map. A
// value of it is only a description; [Tx.Set] makes it stand.
type Set struct {
	Table Table
	Name  string
	Key   []Type
	Data  []Type // nil for a set
	// Interval: components of keys may be ranges and prefixes. Elements must
	// not overlap (see [Disjoint]).
	Interval bool
}

// IsMap reports whether the set's elements have data.
func (s Set) IsMap() bool { return len(s.Data) > 0 }

// Hook attaches a base chain.
type Hook struct {
	Type     ChainType
	Hook     HookPoint
	Priority int32
	Drop     bool // policy drop instead of accept
}

// ChainType is the type of a base chain.
type ChainType string

// The chain types.
const (
	Filter ChainType = "filter"
	NAT    ChainType = "nat"
	Route  ChainType = "route"
)

// HookPoint is where a base chain hooks in; the numbers are the kernel's and
// are the same in families inet, ip, ip6 and bridge.
type HookPoint uint32

// The hooks.
const (
	Prerouting  HookPoint = 0
	Input       HookPoint = 1
	Forward     HookPoint = 2
	Output      HookPoint = 3
	Postrouting HookPoint = 4
)

func (h HookPoint) String() string {
	return [...]string{"prerouting", "input", "forward", "output", "postrouting"}[h]
}

// Chain is a chain with all its rules.
type Chain struct {
	Table Table
	Name  string
	Base  *Hook // nil: a chain to jump to
	Rules []Rule
}
