package ovn

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
)

// The keys of external_ids that every row of ours has.
const (
	keyOwner = "vnet:owner"
	keyPart  = "vnet:part"
	keyKind  = "vnet:kind"
	keyID    = "vnet:id"
)

// Mark says whose a row is and what it is for. It stands in external_ids as
// vnet:owner, vnet:part, vnet:kind and vnet:id.
type Mark struct {
	Owner    vnet.Owner
	Part     vnet.Part
	Kind, ID string
}

// MarkOf reads the mark in external_ids; ok is false for a row of no owner.
func MarkOf(externalIDs map[string]string) (m Mark, ok bool) {
	m = Mark{vnet.Owner(externalIDs[keyOwner]), vnet.Part(externalIDs[keyPart]), externalIDs[keyKind], externalIDs[keyID]}
	return m, m.Owner != "" && m.Part != ""
}

// into adds the mark to external_ids.
func (m Mark) into(ext map[string]string) map[string]string {
	out := map[string]string{keyOwner: string(m.Owner), keyPart: string(m.Part), keyKind: m.Kind, keyID: m.ID}
	for k, v := range ext {
		out[k] = v
	}
	return out
}

// uuid is the UUID of the row with this mark in a table: version 8 of RFC 9562.
func (m Mark) uuid(table string) string {
	h := sha256.Sum256([]byte(strings.Join([]string{"vnet", string(m.Owner), string(m.Part), table, m.Kind, m.ID}, "\x00")))
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// PortName is the name of the Logical_Switch_Port of a port, and so the
// iface-id of the interface plugged at it: "OWNER/PORT". Owners have no
// slash, so names of two owners never meet.
func PortName(owner vnet.Owner, portID string) string { return string(owner) + "/" + portID }

// ParsePortName takes a PortName of this owner apart.
func ParsePortName(owner vnet.Owner, name string) (portID string, ok bool) {
	id, ok := strings.CutPrefix(name, string(owner)+"/")
	return id, ok && !strings.Contains(id, "/")
}

// PortName is [PortName] of the connection's owner.
func (c *Conn) PortName(portID string) string { return PortName(c.owner, portID) }

// Name is the name of any other row that needs one: "OWNER/KIND/ID". It is
// never a PortName. Logical_Router_Ports share their namespace with ports
// (Port_Binding.logical_port) and so have names of this form.
func (c *Conn) Name(kind, id string) string { return string(c.owner) + "/" + kind + "/" + id }

// Symbol is the name of a Port_Group or Address_Set, which matches refer to as
// @NAME and $NAME and which must be [a-zA-Z_.][a-zA-Z_.0-9]*:
// "vnet.OWNER.KIND.ID" with '_' written "__" and '-' written "_h". The kind must
// have no dot.
func (c *Conn) Symbol(kind, id string) string {
	esc := strings.NewReplacer("_", "__", "-", "_h")
	return "vnet." + esc.Replace(string(c.owner)) + "." + esc.Replace(kind) + "." + esc.Replace(id)
}
