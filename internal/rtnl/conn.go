package rtnl

import (
	"context"
	"errors"
	"net/netip"

	"github.com/vnet-go/vnet"
)

// Namespace enters a network namespace and lends its open file.
type Namespace interface {
	Do(func() error) error
	WithFd(func(fd int) error) error
}

var errLater = errors.New("rtnl: being built")

// Conn is rtnetlink of one namespace. Its methods may be called from several
// goroutines.
type Conn struct{}

// Open returns a connection in the namespace. Its sockets are opened when first
// used.
func Open(ns Namespace) *Conn { return &Conn{} }

// Close closes it.
func (c *Conn) Close() error { return nil }

// Writes is the number of requests sent that change something.
func (c *Conn) Writes() uint64 { return 0 }

// Links returns all devices.
func (c *Conn) Links() ([]Link, error) { return nil, errLater }

// Ports returns the devices that are ports of the bridge.
func (c *Conn) Ports(bridge string) ([]Link, error) { return nil, errLater }

// Link returns a device by its name or one of its alternative names.
func (c *Conn) Link(name string) (Link, error) { return Link{}, errLater }

// LinkByIndex returns a device by its index.
func (c *Conn) LinkByIndex(index int) (Link, error) { return Link{}, errLater }

// AddLink makes a device. What stands under its name already is
// [vnet.ErrConflict].
func (c *Conn) AddLink(s Spec) error { return errLater }

// AddVeth makes a pair in one step: a in this namespace, b in ns (nil: this
// one) with the MAC and MTU given (zero: the kernel's choice).
func (c *Conn) AddVeth(a, b string, ns Namespace, mac, peerMAC vnet.MAC, mtu int) error {
	return errLater
}

// DelLink removes a device; one that is gone is no error.
func (c *Conn) DelLink(name string) error { return errLater }

// SetUp sets a device up.
func (c *Conn) SetUp(name string) error { return errLater }

// SetDown sets a device down.
func (c *Conn) SetDown(name string) error { return errLater }

// SetMTU sets the MTU in bytes.
func (c *Conn) SetMTU(name string, mtu int) error { return errLater }

// SetMAC sets the hardware address.
func (c *Conn) SetMAC(name string, m vnet.MAC) error { return errLater }

// SetMaster makes a device a port of a bridge; master "" takes it out.
func (c *Conn) SetMaster(name, master string) error { return errLater }

// SetAlias sets the alias, at most 255 bytes; "" removes it.
func (c *Conn) SetAlias(name, alias string) error { return errLater }

// AddAltName gives a device another name, at most 127 bytes. One it has
// already is no error; one that another device has is [vnet.ErrConflict].
func (c *Conn) AddAltName(name, alt string) error { return errLater }

// DelAltName takes a name away.
func (c *Conn) DelAltName(name, alt string) error { return errLater }

// Rename changes a device's name; it must be down on older kernels.
func (c *Conn) Rename(name, to string) error { return errLater }

// MoveTo moves a device to another namespace, under a new name if to is not "".
func (c *Conn) MoveTo(name string, ns Namespace, to string) error { return errLater }

// SetPort sets what a bridge does with its port.
func (c *Conn) SetPort(name string, p Port) error { return errLater }

// SetBridge sets options of a bridge.
func (c *Conn) SetMulticastSnooping(bridge string, on bool) error { return errLater }

// Addrs returns the addresses of a device; "" for all devices.
func (c *Conn) Addrs(dev string) ([]Addr, error) { return nil, errLater }

// AddAddr gives a device an address; one it has is no error.
func (c *Conn) AddAddr(dev string, a Addr) error { return errLater }

// DelAddr takes an address away; one that is gone is no error.
func (c *Conn) DelAddr(dev string, p netip.Prefix) error { return errLater }

// Routes returns the routes of a table (zero: main), both families, without
// the kernel's own local and multicast ones.
func (c *Conn) Routes(table int) ([]Route, error) { return nil, errLater }

// SetRoute adds a route or replaces the one with the same destination, table
// and metric.
func (c *Conn) SetRoute(r Route) error { return errLater }

// DelRoute removes a route; one that is gone is no error.
func (c *Conn) DelRoute(r Route) error { return errLater }

// RouteTo returns the route that packets to dst take.
func (c *Conn) RouteTo(dst netip.Addr) (Route, error) { return Route{}, errLater }

// Rules returns the policy routing rules of both families.
func (c *Conn) Rules() ([]Rule, error) { return nil, errLater }

// AddRule adds a rule; one that stands is no error.
func (c *Conn) AddRule(r Rule) error { return errLater }

// DelRule removes a rule; one that is gone is no error.
func (c *Conn) DelRule(r Rule) error { return errLater }

// Neighs returns the ARP and ND entries of a device, without proxy entries.
func (c *Conn) Neighs(dev string) ([]Neigh, error) { return nil, errLater }

// ProxyNeighs returns the proxy entries of a device.
func (c *Conn) ProxyNeighs(dev string) ([]Neigh, error) { return nil, errLater }

// SetNeigh adds or replaces an entry.
func (c *Conn) SetNeigh(n Neigh) error { return errLater }

// DelNeigh removes an entry; one that is gone is no error.
func (c *Conn) DelNeigh(n Neigh) error { return errLater }

// FDBs returns the forwarding entries of a device: with a bridge those of all
// its ports.
func (c *Conn) FDBs(dev string) ([]FDB, error) { return nil, errLater }

// SetFDB adds or replaces a forwarding entry.
func (c *Conn) SetFDB(f FDB) error { return errLater }

// AppendFDB adds a further destination to a MAC of a vxlan device (the
// head-end list is the MAC 00:00:00:00:00:00); one that stands is no error.
func (c *Conn) AppendFDB(f FDB) error { return errLater }

// DelFDB removes a forwarding entry (with Dst: that destination); one that is
// gone is no error.
func (c *Conn) DelFDB(f FDB) error { return errLater }

// Flows calls f with every tracked connection, of both families, until it
// returns false.
func (c *Conn) Flows(ctx context.Context, f func(Flow) bool) error { return errLater }

// DeleteFlows ends the tracked connections that match says, exactly (by the
// whole tuple and zone), and returns how many.
func (c *Conn) DeleteFlows(ctx context.Context, match func(Flow) bool) (int, error) {
	return 0, errLater
}

// Watch calls f with every change of a device until ctx ends, on one
// goroutine. First it calls f with every device that stands. When the kernel
// had to drop events f gets one with Resync, followed by every device again.
func (c *Conn) Watch(ctx context.Context, f func(LinkEvent)) error { return errLater }
