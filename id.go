package vnet

import (
	"fmt"
	"strings"
)

// Owner names one application instance (one control plane) on a host or in a
// database. Everything this module makes outside the process carries it, and
// nothing that carries another owner, or none, is ever touched. Two instances
// with different owners live side by side.
//
// An owner is 1 to 16 lower-case letters, digits and hyphens, and begins with
// a letter: it becomes part of kernel names, which are short.
type Owner string

// Validate reports why o cannot be used as an owner, as a [*FieldError].
func (o Owner) Validate() error {
	if o == "" {
		return &FieldError{Field: "owner", Reason: "is empty"}
	}
	if len(o) > 16 {
		return &FieldError{Field: "owner", Value: string(o), Reason: "is longer than 16 characters"}
	}
	for i, r := range string(o) {
		switch {
		case r >= 'a' && r <= 'z':
		case i > 0 && (r >= '0' && r <= '9' || r == '-'):
		default:
			return &FieldError{Field: "owner", Value: string(o), Reason: "must be lower-case letters, digits and hyphens, beginning with a letter"}
		}
	}
	return nil
}

// Part names the subsystem that made an object. One subsystem's Sync sees
// only its own part: overlay never removes the router's switch port.
type Part string

// The parts of this module.
const (
	PartHost     Part = "host" // the platform handle itself
	PartOverlay  Part = "overlay"
	PartRouter   Part = "router"
	PartDHCP     Part = "dhcp"
	PartMetadata Part = "metadata"
	PartSecGroup Part = "secgroup"
	PartQoS      Part = "qos"
	PartSRIOV    Part = "sriov"
	PartDPDK     Part = "dpdk"
)

// CheckID reports, as a [*FieldError] for field, why id cannot name an
// object. An id is 1 to 64 characters of A-Z a-z 0-9 . _ and -, and does not
// begin with a dot or a hyphen; a UUID is one. The application chooses ids;
// they are unique per kind of object and owner.
func CheckID(field, id string) error {
	switch {
	case id == "":
		return &FieldError{Field: field, Reason: "is empty"}
	case len(id) > 64:
		return &FieldError{Field: field, Value: id, Reason: "is longer than 64 characters"}
	case id[0] == '.' || id[0] == '-':
		return &FieldError{Field: field, Value: id, Reason: "begins with a dot or a hyphen"}
	}
	if i := strings.IndexFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}); i >= 0 {
		return &FieldError{Field: field, Value: id, Reason: fmt.Sprintf("has a character at offset %d that is not a letter, digit, '.', '_' or '-'", i)}
	}
	return nil
}
