// Package vif makes the devices that are put into a bridge of Open vSwitch for
// ports: pairs whose far end is a machine's, taps, or what the caller made.
package vif

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sysctl"
)

// The kinds of devices; the values are those of overlay.DeviceKind.
const (
	Existing = "existing"
	Veth     = "veth"
	Tap      = "tap"
)

// Spec is a device.
type Spec struct {
	Name  string // on the host
	Alias string // our sign on it; existing ones get none
	Kind  string
	// Far is what the far end of a pair is called in Netns; "" for eth0.
	Far       string
	Netns     string // path
	MAC       vnet.MAC
	MTU       int  // bytes; 0: as it is
	Userspace bool // the switch takes frames from it that must have their checksums
}

// Make makes what is asked for in the namespace ns, or finds it made; made
// says which.
func Make(ns *netns.NS, rt *rtnl.Conn, s Spec) (made bool, err error) {
	l, err := rt.Link(s.Name)
	there := err == nil
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
		return false, err
	}
	if s.Kind == Existing {
		if !there {
			return false, fmt.Errorf("device %s: %w", s.Name, vnet.ErrNotFound)
		}
		return false, errors.Join(apart(ns, s.Name), rt.SetUp(s.Name))
	}
	if there && l.Alias == "" && (l.Kind == "veth" || l.Kind == "tun") {
		// Made, and we were killed before it was signed: only this owner computes
		// its name. How much else of it had been done nobody knows.
		if err := rt.DelLink(s.Name); err != nil {
			return false, err
		}
		there = false
	}
	if there {
		if l.Alias != s.Alias {
			return false, fmt.Errorf("device %s is %q: %w", s.Name, l.Alias, vnet.ErrConflict)
		}
		if s.Kind == Veth {
			if err := s.farEnd(l); err != nil {
				return false, err
			}
		}
	} else {
		switch s.Kind {
		case Veth:
			far, err := netns.Open(s.Netns)
			if err != nil {
				return false, err
			}
			defer far.Close()
			name := cmp.Or(s.Far, "eth0")
			if err := rt.AddVeth(s.Name, name, far, vnet.MAC{}, s.MAC, cmp.Or(s.MTU, 1500)); err != nil {
				return false, err
			}
			if s.Userspace {
				if err := far.Do(func() error { return rtnl.NoChecksumOffload(name) }); err != nil {
					rt.DelLink(s.Name)
					return false, err
				}
			}
		case Tap:
			if err := rt.AddLink(&rtnl.Tuntap{LinkAttrs: rtnl.LinkAttrs{Name: s.Name, MTU: s.MTU}, Mode: rtnl.TapMode}); err != nil {
				return false, err
			}
		default:
			return false, &vnet.FieldError{Field: "kind", Value: s.Kind, Reason: "is no kind of device"}
		}
	}
	err = rt.SetAlias(s.Name, s.Alias)
	if err == nil && s.MTU > 0 {
		err = rt.SetMTU(s.Name, s.MTU)
	}
	if err == nil {
		err = apart(ns, s.Name)
	}
	if err == nil {
		err = rt.SetUp(s.Name)
	}
	if err != nil && !there {
		rt.DelLink(s.Name)
	}
	return !there, err
}

// apart keeps the host's own IP stack off a device: with the userspace
// datapath the kernel hears what the switch hears, and would answer.
func apart(ns *netns.NS, dev string) error {
	for _, kv := range []sysctl.KV{{Key: "net/ipv6/conf/" + dev + "/disable_ipv6", Value: "1"}, {Key: "net/ipv4/conf/" + dev + "/arp_ignore", Value: "8"}} {
		_, err := sysctl.Tree{NS: ns}.Set(kv)
		if err != nil && !errors.Is(err, vnet.ErrNotFound) { // a kernel or an MTU without IPv6
			return err
		}
	}
	return nil
}

// farEnd checks that the far end of a pair is where it is asked for, and gives
// it the MAC and MTU.
func (s Spec) farEnd(l rtnl.Link) error {
	name := cmp.Or(s.Far, "eth0")
	ns, err := netns.Open(s.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	rt := rtnl.Open(ns)
	defer rt.Close()
	far, err := rt.Link(name)
	if errors.Is(err, vnet.ErrNotFound) || err == nil && (far.Peer != l.Index || l.Peer != far.Index) {
		return fmt.Errorf("the far end of device %s is not %s in %s: %w", l.Name, name, s.Netns, vnet.ErrConflict)
	}
	if err == nil && !s.MAC.IsZero() {
		err = rt.SetMAC(name, s.MAC)
	}
	if err == nil && s.MTU > 0 {
		err = rt.SetMTU(name, s.MTU)
	}
	return err
}
