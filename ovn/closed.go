package ovn

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
)

// Keys in external_ids of a Logical_Switch_Port of part overlay, from which
// the handle knows whether the port is closed.
const (
	// KeyFiltered is "true" on a port that is to pass nothing while it is not
	// filled. Part overlay writes it.
	KeyFiltered = "vnet:filtered"
	// KeyFilled is there, with any text, while the port is filled. Part secgroup
	// writes it.
	KeyFilled = "vnet:secgroup:port"
	// keyClosed is "true" on a port that is disabled only because it is closed.
	keyClosed = "vnet:handle:closed"
)

// Closed reports whether a port passes nothing because it is filtered and not
// filled. ACLs could not do that: neighbour discovery, router advertisements
// and MLD pass them all (ovn-northd(8), "Ingress Table: from-lport ACL
// evaluation"), so such a port is disabled. The handle does that in the
// transaction that makes the port, and enables it in the one that fills it, if
// part overlay wants it enabled.
func Closed(p *nbrow.LogicalSwitchPort) bool {
	_, filled := p.ExternalIDs[KeyFilled]
	return p.ExternalIDs[KeyFiltered] == "true" && !filled
}

// close disables a row that is about to be written if it is a closed port, and
// gives it back what part overlay wants when it is closed no more. was is nil
// for a new row; asked says that the part has said whether it is to be enabled.
func (tx *Tx) close(was, now any, asked bool, diff, whole []string) (d, w []string) {
	n, ok := now.(*nbrow.LogicalSwitchPort)
	if !ok {
		return diff, whole
	}
	if m, _ := MarkOf(n.ExternalIDs); m.Part != vnet.PartOverlay {
		return diff, whole
	}
	old, stands := was.(*nbrow.LogicalSwitchPort)
	if !stands {
		old = &nbrow.LogicalSwitchPort{}
	}
	closed, marked := Closed(n), old.ExternalIDs[keyClosed] == "true"
	if !closed && !marked {
		return diff, whole
	}
	wanted := n.Enabled == nil || *n.Enabled
	if !asked {
		wanted = wanted || marked
	}
	enabled, mark := wanted && !closed, wanted && closed
	isEnabled := old.Enabled == nil || *old.Enabled
	diff = slices.DeleteFunc(diff, func(s string) bool { return strings.HasPrefix(s, "enabled: ") })
	whole = slices.DeleteFunc(whole, func(s string) bool { return s == "enabled" })
	if mark != marked {
		ids := maps.Clone(n.ExternalIDs)
		if mark {
			ids[keyClosed] = "true"
		} else {
			delete(ids, keyClosed)
		}
		n.ExternalIDs = ids
		diff = append(diff, fmt.Sprintf("external_ids:%s: %t -> %t", keyClosed, marked, mark))
	}
	if n.Enabled = &enabled; stands && enabled == isEnabled {
		n.Enabled = old.Enabled
	} else {
		diff, whole = append(diff, fmt.Sprintf("enabled: %t -> %t", isEnabled, enabled)), append(whole, "enabled")
	}
	if stands && len(diff) > 0 { // the other part may be about to change its mind
		tx.Guard(old, "external_ids", "enabled")
	}
	return diff, whole
}
