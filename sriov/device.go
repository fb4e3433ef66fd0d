package sriov

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
)

// Mode is how a card's own switch works (devlink's eswitch mode).
type Mode string

// The modes.
const (
	Legacy    Mode = "legacy"    // by MAC and VLAN
	Switchdev Mode = "switchdev" // as the host says, through representors
)

// Function is what a PF and a VF have in common: a PCI function.
type Function struct {
	PCI        string `json:"pci"`     // "0000:01:00.0"
	Vendor     string `json:"vendor"`  // "8086"
	Product    string `json:"product"` // "10c9"
	Driver     string `json:"driver"`  // bound driver, as "igb"; "": none
	NUMANode   int    `json:"numa_node"`
	IOMMUGroup int    `json:"iommu_group"` // -1: no IOMMU
	// Netdev is the name of its device on the host; "" when the driver makes
	// none, or when it is in another namespace.
	Netdev string `json:"netdev,omitempty"`
}

// PF is a physical function as it stands.
type PF struct {
	Function
	MAC      vnet.MAC `json:"mac"`
	Up       bool     `json:"up"`        // set up
	Carrier  bool     `json:"carrier"`   // and has a link
	TotalVFs int      `json:"total_vfs"` // the most that it can have
	Mode     Mode     `json:"mode"`
	VFs      []VF     `json:"vfs"` // by index
	// Device and PhysicalNetwork are of the [Device] that this is, if it is one
	// of this owner.
	Device          string `json:"device,omitempty"`
	PhysicalNetwork string `json:"physical_network,omitempty"`
	// Port is who has the whole PF; see [VF.Port].
	Port  string     `json:"port,omitempty"`
	Owner vnet.Owner `json:"owner,omitempty"` // of Port
}

// VF is a virtual function as it stands. Its settings are those that the PF's
// driver tells.
type VF struct {
	Function
	Index int `json:"index"`
	Settings
	// Port is who has it, of whichever owner; "": nobody.
	Port        string     `json:"port,omitempty"`
	Owner       vnet.Owner `json:"owner,omitempty"`
	Excluded    bool       `json:"excluded,omitempty"`    // not given to ports
	Representor string     `json:"representor,omitempty"` // switchdev: its device on the host
}

// Settings are what a PF's driver holds for a VF.
type Settings struct {
	MAC        vnet.MAC  `json:"mac"` // zero: the VF may choose
	VLAN       VLAN      `json:"vlan"`
	SpoofCheck bool      `json:"spoof_check"`
	Trusted    bool      `json:"trusted"`
	LinkState  LinkState `json:"link_state"`
	MinMbps    int       `json:"min_mbps"`
	MaxMbps    int       `json:"max_mbps"` // 0: no limit
}

// LinkState is what a VF sees of its link.
type LinkState string

// The link states.
const (
	Auto    LinkState = "auto"    // as the PF's
	Enable  LinkState = "enable"  // up, so that VFs of a PF without link talk to one another
	Disable LinkState = "disable" // down: nothing passes
)

// Device is a PF as it is wanted.
type Device struct {
	ID string `json:"id"`
	// PF is the name of its device or its PCI address. A PF that is passed to a
	// machine has no name, but is found by its record.
	PF              string   `json:"pf"`
	PhysicalNetwork string   `json:"physical_network"`
	VFs             int      `json:"vfs"`               // 0: for [DirectPhysical]
	Mode            Mode     `json:"mode,omitempty"`    // "": [Legacy]
	Exclude         []string `json:"exclude,omitempty"` // PCI addresses of VFs that no port gets
}

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)

// IsPCI reports whether s is a PCI address as sysfs writes it: "0000:01:10.0".
func IsPCI(s string) bool { return pciAddress.MatchString(s) }

// Validate reports bad input as [*vnet.FieldError], joined.
func (d Device) Validate() error {
	errs := []error{vnet.CheckID("id", d.ID)}
	bad := func(field string, value any, reason string) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason})
	}
	if !IsPCI(d.PF) && (d.PF == "" || len(d.PF) > 15 || d.PF == "." || d.PF == ".." || strings.ContainsAny(d.PF, "/: \t\n")) {
		bad("pf", d.PF, "is neither the name of a device nor a PCI address")
	}
	if d.PhysicalNetwork == "" {
		bad("physical_network", "", "is empty")
	}
	if d.VFs < 0 || d.VFs > 65535 {
		bad("vfs", d.VFs, "is not between 0 and 65535")
	}
	if d.Mode != "" && d.Mode != Legacy && d.Mode != Switchdev {
		bad("mode", d.Mode, `is neither "legacy" nor "switchdev"`)
	}
	for i, x := range d.Exclude {
		if !IsPCI(x) || slices.Index(d.Exclude, x) != i {
			bad(fmt.Sprintf("exclude[%d]", i), x, "is no PCI address, or is there twice")
		}
	}
	return errors.Join(errs...)
}

// Canonical returns d with its defaults in words.
func (d Device) Canonical() Device {
	if d.Mode == "" {
		d.Mode = Legacy
	}
	d.Exclude = slices.Clone(d.Exclude)
	slices.Sort(d.Exclude)
	return d
}
