// Package pktio sends and receives whole Ethernet frames on a device of a
// namespace (AF_PACKET), and makes the frames that announce addresses.
package pktio

import (
	"context"
	"net/netip"

	"github.com/vnet-go/vnet"
)

// Doer enters a network namespace.
type Doer interface{ Do(func() error) error }

// EtherTypes for [Options.EtherTypes].
const (
	IPv4 uint16 = 0x0800
	ARP  uint16 = 0x0806
	IPv6 uint16 = 0x86dd
	All  uint16 = 0x0003
)

// Filter says which frames a socket gets; the kernel drops the others. The
// zero value: all.
type Filter struct {
	EtherType uint16   // zero: all
	IPProto   uint8    // with EtherType IPv4 or IPv6 and no extension headers; zero: all
	DstPorts  []uint16 // with IPProto 17 or 6; empty: all
}

// Options of a socket.
type Options struct {
	Filters   []Filter // a frame that one of them lets through is received; empty: all
	Outgoing  bool     // also receive what this host sends on the device
	RcvBuffer int      // bytes; default 4 MiB
	Promisc   bool
}

// Conn is an AF_PACKET socket bound to one device. It stays in its namespace
// wherever it is used from.
type Conn struct{}

// Open opens a socket on a device in the namespace. The device's MAC and index
// are read at the same time.
func Open(ns Doer, device string, o *Options) (*Conn, error) { return nil, nil }

// Close ends pending reads.
func (c *Conn) Close() error { return nil }

// MAC is the device's address when the socket was opened.
func (c *Conn) MAC() vnet.MAC { return vnet.MAC{} }

// Index is the device's index.
func (c *Conn) Index() int { return 0 }

// Send puts a frame on the device.
func (c *Conn) Send(frame []byte) error { return nil }

// Receive waits for a frame and reads it into buf. It ends with ctx, or with
// net.ErrClosed. The checksum of a frame from this host may be unfilled.
func (c *Conn) Receive(ctx context.Context, buf []byte) (n int, err error) { return 0, nil }

// Dropped is how many frames the kernel dropped because the reader was slow,
// since the last call.
func (c *Conn) Dropped() uint64 { return 0 }

// GratuitousARP is the broadcast that tells everybody that ip is at mac (RFC
// 5227, section 1.1: an ARP Announcement).
func GratuitousARP(mac vnet.MAC, ip netip.Addr) []byte { return nil }

// ARPReply answers a request of target for ip.
func ARPReply(mac vnet.MAC, ip netip.Addr, targetMAC vnet.MAC, targetIP netip.Addr) []byte {
	return nil
}

// ARPMessage is an ARP packet for IPv4 over Ethernet (RFC 826).
type ARPMessage struct {
	Op                   uint16 // 1 request, 2 reply
	SenderMAC, TargetMAC vnet.MAC
	SenderIP, TargetIP   netip.Addr
}

// ParseARP reads the ARP message of a frame.
func ParseARP(frame []byte) (ARPMessage, bool) { return ARPMessage{}, false }

// UnsolicitedNA is the neighbour advertisement to all nodes that tells that ip
// is at mac, with the override flag (RFC 4861, section 7.2.6).
func UnsolicitedNA(mac vnet.MAC, ip netip.Addr, router bool) []byte { return nil }

// Announce returns the frame that announces ip at mac, for its family.
func Announce(mac vnet.MAC, ip netip.Addr, router bool) []byte { return nil }
