package ovn

import (
	"maps"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
)

// Keys in external_ids of a QoS row of part qos that is about a gateway, from
// which the handle writes its match anew when the gateway's port is made, or
// gets another name.
const (
	KeyGateway      = "vnet:gateway"       // id of the gateway's port
	KeyGatewayMatch = "vnet:gateway-match" // the match, with [GatewayPort] for its name
)

// GatewayPort stands for the quoted name of a gateway's port in a
// [KeyGatewayMatch].
const GatewayPort = "$GATEWAY"

// GatewayMatch is a match with the name that the Logical_Switch_Port of a
// gateway has. That name is part router's, which changes it with the MAC, and
// may not be there yet: then it is one that no port ever has. The handle writes
// the matches of QoS rows that have [KeyGateway] and [KeyGatewayMatch] anew in the
// transaction that changes the name.
func GatewayMatch(r Reader, portID, match string) string {
	name := r.view().c.Name("gateway", portID)
	if p := Find[nbrow.LogicalSwitchPort](r, vnet.PartRouter, "port", portID); p != nil {
		name = p.Name
	}
	return strings.ReplaceAll(match, GatewayPort, strconv.Quote(name))
}

// rematch brings limits of a gateway to the name of its port, which has just
// been written. was is nil for a new row.
func (tx *Tx) rematch(was, now any) {
	n, ok := now.(*nbrow.LogicalSwitchPort)
	if !ok {
		return
	}
	m, _ := MarkOf(n.ExternalIDs)
	if old, stands := was.(*nbrow.LogicalSwitchPort); m.Part != vnet.PartRouter || stands && old.Name == n.Name {
		return
	}
	for _, q := range Own[nbrow.QoS](tx, vnet.PartQoS) {
		if q.ExternalIDs[KeyGateway] != m.ID {
			continue
		}
		now := *q
		now.ExternalIDs = maps.Clone(q.ExternalIDs)
		now.Match = GatewayMatch(tx, m.ID, q.ExternalIDs[KeyGatewayMatch])
		if now.Match == q.Match {
			continue
		}
		if err := tx.x.Put(&now); err != nil {
			tx.Fail(err)
		}
	}
}

// LimitID is the id in the mark of the QoS row of one direction of an object:
// "ID/egress" or "ID/ingress".
func LimitID(id, direction string) string { return id + "/" + direction }

// unlimit removes the limits of a port of the overlay with it.
func (tx *Tx) unlimit(row any) {
	p, ok := row.(*nbrow.LogicalSwitchPort)
	if !ok {
		return
	}
	m, _ := MarkOf(p.ExternalIDs)
	if m.Part != vnet.PartOverlay || m.Kind != "port" {
		return
	}
	for _, d := range []string{"egress", "ingress"} {
		if q := Find[nbrow.QoS](tx, vnet.PartQoS, "port", LimitID(m.ID, d)); q != nil {
			if err := tx.x.Delete("QoS", q.UUID); err != nil {
				tx.Fail(err)
			}
		}
	}
}
