package sriov

import (
	"errors"
	"fmt"

	"github.com/vnet-go/vnet"
)

// VNICType is what a port gets. The words are Neutron's.
type VNICType string

// The kinds of ports.
const (
	Direct         VNICType = "direct"          // a VF
	MacVTap        VNICType = "macvtap"         // a macvtap device above a VF
	DirectPhysical VNICType = "direct-physical" // a whole PF: nothing is set on it, the machine does all
)

// Driver is what a function is bound to while a port has it.
type Driver string

// The drivers.
const (
	VFIO   Driver = "vfio-pci" // for machines
	Kernel Driver = "kernel"   // the function's own: a device on the host, for containers, or for a hypervisor that binds by itself
)

// VLAN is the tag that the card puts before the frames of a VF and takes off
// again. The zero value is none.
type VLAN struct {
	ID       int `json:"id"`       // 1 to 4094; 0: none
	Priority int `json:"priority"` // 0 to 7 (802.1p)
	// Service makes it a service tag (802.1ad, 0x88a8): the machine's own tags
	// travel inside (QinQ).
	Service bool `json:"service,omitempty"`
}

func (v VLAN) String() string {
	switch {
	case v == VLAN{}:
		return "none"
	case v.Service:
		return fmt.Sprintf("%d priority %d 802.1ad", v.ID, v.Priority)
	}
	return fmt.Sprintf("%d priority %d", v.ID, v.Priority)
}

// Port asks for a function of a device of a physical network.
type Port struct {
	ID              string   `json:"id"`
	VNICType        VNICType `json:"vnic_type"`
	PhysicalNetwork string   `json:"physical_network"`
	// Device must give it, as a ledger has decided (qos/placement); "": any of
	// the physical network.
	Device string   `json:"device,omitempty"`
	MAC    vnet.MAC `json:"mac"` // not of DirectPhysical
	VLAN   VLAN     `json:"vlan"`
	// PortSecurity has the card drop what the machine sends from another MAC
	// (spoof check). In switchdev mode the switch does that, not the card.
	PortSecurity bool `json:"port_security"`
	// SecurityGroups are wanted: refused with PortSecurity unless Offload.
	SecurityGroups bool `json:"security_groups,omitempty"`
	// Offload asks for a VF of a device in switchdev mode; without it, ports get
	// VFs of devices in legacy mode.
	Offload bool `json:"offload,omitempty"`
	// Trusted lets the machine change its MAC and be promiscuous.
	Trusted   bool      `json:"trusted,omitempty"`
	LinkState LinkState `json:"link_state,omitempty"` // "": Auto
	// MinKbps is guaranteed and MaxKbps the most that the VF sends, in kbit/s;
	// cards count in Mbit/s: see [Mbps]. 0: none.
	MinKbps int `json:"min_kbps,omitempty"`
	MaxKbps int `json:"max_kbps,omitempty"`
	// Driver is what the function is bound to; "": VFIO, and Kernel for MacVTap.
	Driver Driver `json:"driver,omitempty"`
}

// Mbps is kbit/s in the unit of cards: 0 stays 0, less than 1 Mbit/s is 1, the
// rest is rounded, as Neutron does.
func Mbps(kbps int) int {
	switch {
	case kbps <= 0:
		return 0
	case kbps < 1000:
		return 1
	}
	return (kbps + 500) / 1000
}

// Validate reports bad input as [*vnet.FieldError], joined.
func (p Port) Validate() error {
	errs := []error{vnet.CheckID("id", p.ID)}
	bad := func(field string, value any, reason string) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason})
	}
	if p.PhysicalNetwork == "" {
		bad("physical_network", "", "is empty")
	}
	if p.Device != "" {
		errs = append(errs, vnet.CheckID("device", p.Device))
	}
	switch p.VNICType {
	case Direct, MacVTap:
		if !p.MAC.IsUnicast() {
			bad("mac", p.MAC, "is no address of an interface")
		}
	case DirectPhysical:
		// The machine has the card whole, and with it all of these.
		for _, f := range []struct {
			name  string
			asked bool
		}{
			{"mac", !p.MAC.IsZero()}, {"vlan", p.VLAN != VLAN{}}, {"port_security", p.PortSecurity}, {"offload", p.Offload},
			{"trusted", p.Trusted}, {"link_state", p.LinkState != "" && p.LinkState != Auto}, {"min_kbps", p.MinKbps > 0}, {"max_kbps", p.MaxKbps > 0},
		} {
			if f.asked {
				bad(f.name, "", "cannot be set on a whole PF")
			}
		}
	default:
		bad("vnic_type", p.VNICType, "is none of direct, macvtap, direct-physical")
	}
	if p.VLAN.ID < 0 || p.VLAN.ID > 4094 {
		bad("vlan.id", p.VLAN.ID, "is not between 0 and 4094")
	}
	if p.VLAN.Priority < 0 || p.VLAN.Priority > 7 {
		bad("vlan.priority", p.VLAN.Priority, "is not between 0 and 7")
	}
	if p.VLAN.ID == 0 && (p.VLAN.Priority != 0 || p.VLAN.Service) {
		bad("vlan.id", 0, "is missing")
	}
	if p.SecurityGroups && p.PortSecurity && !p.Offload {
		bad("security_groups", true, "cannot hold on a VF: nothing on the host sees its packets; turn port security off, or ask for offload")
	}
	if p.Offload {
		if p.VNICType == MacVTap {
			bad("offload", true, "is not for macvtap")
		}
		if p.VLAN != (VLAN{}) {
			bad("vlan", p.VLAN, "is not the card's to set with offload: the overlay tags what comes from the representor")
		}
	}
	switch p.LinkState {
	case "", Auto, Enable, Disable:
	default:
		bad("link_state", p.LinkState, "is none of auto, enable, disable")
	}
	if p.MinKbps < 0 {
		bad("min_kbps", p.MinKbps, "is negative")
	}
	if p.MaxKbps < 0 || p.MaxKbps > 0 && p.MaxKbps < p.MinKbps {
		bad("max_kbps", p.MaxKbps, "is negative or less than min_kbps")
	}
	switch {
	case p.Driver != "" && p.Driver != VFIO && p.Driver != Kernel:
		bad("driver", p.Driver, `is neither "vfio-pci" nor "kernel"`)
	case p.Driver == VFIO && p.VNICType == MacVTap:
		bad("driver", p.Driver, "makes no device for macvtap")
	}
	return errors.Join(errs...)
}

// Canonical returns p with its defaults in words.
func (p Port) Canonical() Port {
	if p.LinkState == "" {
		p.LinkState = Auto
	}
	if p.Driver == "" {
		p.Driver = VFIO
		if p.VNICType == MacVTap {
			p.Driver = Kernel
		}
	}
	return p
}

// Settings are those that a canonical port wants of its VF.
func (p Port) Settings() Settings {
	return Settings{MAC: p.MAC, VLAN: p.VLAN, SpoofCheck: p.PortSecurity && !p.Offload, Trusted: p.Trusted, LinkState: p.LinkState,
		MinMbps: Mbps(p.MinKbps), MaxMbps: Mbps(p.MaxKbps)}
}

// SettingError: a driver has refused a setting. Err is the kernel's word.
// errors.Is says [vnet.ErrUnsupported] when the driver does not have it at all,
// and [vnet.ErrNotReady] when it would take it with the link up.
type SettingError struct {
	Device   string // id
	VF       int
	Field    string // of [Port]
	Value    string
	NotReady bool // the PF has no link
	Err      error
}

func (e *SettingError) Error() string {
	s := fmt.Sprintf("VF %d of device %s: %s %s: %v", e.VF, e.Device, e.Field, e.Value, e.Err)
	if e.NotReady {
		s += " (the PF has no link)"
	}
	return s
}

// Unwrap returns the kernel's error.
func (e *SettingError) Unwrap() error { return e.Err }

// Is makes errors.Is say what can be done about it.
func (e *SettingError) Is(target error) bool {
	switch target {
	case vnet.ErrUnsupported:
		return unsupported(e.Err)
	case vnet.ErrNotReady:
		return e.NotReady && !unsupported(e.Err)
	}
	return false
}
