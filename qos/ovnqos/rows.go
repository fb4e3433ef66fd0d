package ovnqos

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
)

// Kinds in the marks of our rows of QoS, whose ids are [ovn.LimitID].
const (
	kindPort     = "port"
	kindGateway  = "gateway"
	kindFloating = "floatingip"
)

// kindUplink is that of a Meter and its Meter_Band: HOST/NAME. No flow uses it:
// northd brings it to the Southbound, where hosts read it.
const kindUplink = "uplink"

// keyAsked, in external_ids of our rows, is what was asked for, as JSON. That
// of a port stands in its Logical_Switch_Port, and goes with it.
const (
	keyAsked    = "vnet:asked"
	keyPort     = "vnet:qos:port"
	keyPromised = "vnet:promised" // of an uplink's Meter: the sum in kbit/s, so that two who promise at once meet
)

// Priorities of rows: of those of one switch and direction that match, one acts.
const (
	priority         = 2002
	priorityFloating = 2003
)

func directions() []qos.Direction { return []qos.Direction{qos.Egress, qos.Ingress} }

// limit is the row of one direction, or nil when nothing is asked of it.
func limit(s qos.Shape, d qos.Direction, match string, prio int) *nbrow.QoS {
	l := s.Way(d)
	row := &nbrow.QoS{Direction: nbrow.QoSDirectionToLport, Match: match, Priority: prio}
	if d == qos.Egress {
		row.Direction = nbrow.QoSDirectionFromLport
		if s.DSCP != nil {
			row.Action = map[string]int{nbrow.QoSActionDSCP: int(*s.DSCP)}
		}
	}
	if l.Kbps > 0 {
		row.Bandwidth = map[string]int{nbrow.QoSBandwidthRate: int(l.Kbps), nbrow.QoSBandwidthBurst: int(l.Burst())}
	}
	if len(row.Action)+len(row.Bandwidth) == 0 {
		return nil
	}
	return row
}

// end is the condition that a packet enters or leaves a switch by a port.
func end(d qos.Direction, quoted string) string {
	if d == qos.Egress {
		return "inport == " + quoted
	}
	return "outport == " + quoted
}

// packets leaves out ARP: a limit that is used up must not cost a machine its
// neighbours, and ovs-vswitchd 3.1 does not survive meters before some of the
// answers that flows make (see the package's comment).
const packets = " && ip"

func portRow(n namer, p qos.Port, d qos.Direction) *nbrow.QoS {
	return limit(p.Shape, d, end(d, strconv.Quote(n.PortName(p.ID)))+packets, priority)
}

// namer makes names as ovn.Conn does.
type namer interface {
	Name(kind, id string) string
	PortName(portID string) string
}

// resident is the condition that this is the gateway's host.
func resident(n namer, gatewayPort string) string {
	return "is_chassis_resident(" + strconv.Quote("cr-"+n.Name("router-port", gatewayPort)) + ")"
}

func gatewayRow(n namer, g qos.Gateway, d qos.Direction) *nbrow.QoS {
	row := limit(g.Shape, d, end(d, ovn.GatewayPort)+packets+" && "+resident(n, g.PortID), priority)
	return atGateway(row, g.PortID, g)
}

func floatingRow(n namer, f qos.FloatingIP, d qos.Direction) *nbrow.QoS {
	match := end(d, ovn.GatewayPort) + " && ip4."
	if d == qos.Egress {
		match += "src == " + f.FloatingIP.String()
	} else {
		match += "dst == " + f.FloatingIP.String()
	}
	if f.FixedPortID != "" {
		// It is translated at one of them.
		match += " && (" + resident(n, f.PortID) + " || is_chassis_resident(" + strconv.Quote(n.PortName(f.FixedPortID)) + "))"
	}
	return atGateway(limit(f.Shape, d, match, priorityFloating), f.PortID, f)
}

// atGateway lets the handle write the match.
func atGateway(row *nbrow.QoS, portID string, what any) *nbrow.QoS {
	if row != nil {
		row.ExternalIDs = map[string]string{keyAsked: encode(what), ovn.KeyGateway: portID, ovn.KeyGatewayMatch: row.Match}
	}
	return row
}

func encode(x any) string {
	s, err := json.Marshal(x)
	if err != nil { // the types have nothing that fails
		return err.Error()
	}
	return string(s)
}

// portOf is what a row says the port was asked to be, or nil when it was not.
func portOf(row *nbrow.LogicalSwitchPort) *qos.Port {
	if row == nil || row.ExternalIDs[keyPort] == "" {
		return nil
	}
	m, _ := ovn.MarkOf(row.ExternalIDs)
	p := qos.Port{}
	if json.Unmarshal([]byte(row.ExternalIDs[keyPort]), &p) != nil {
		p = qos.Port{} // spoilt by someone: it differs from whatever is wanted
	}
	p.ID = m.ID
	return &p
}

// asked is the gateway or floating IP that rows are of, or nil.
func asked[T any](r ovn.Reader, kind, id string) *T {
	for _, d := range directions() {
		if q := ovn.Find[nbrow.QoS](r, vnet.PartQoS, kind, ovn.LimitID(id, string(d))); q != nil {
			x := new(T)
			if json.Unmarshal([]byte(q.ExternalIDs[keyAsked]), x) != nil {
				x = new(T)
			}
			return x
		}
	}
	return nil
}

// uplinkOf is the uplink that a row is of, or nil.
func uplinkOf(row *nbrow.Meter) *qos.Uplink {
	if row == nil {
		return nil
	}
	m, _ := ovn.MarkOf(row.ExternalIDs)
	u := qos.Uplink{}
	if json.Unmarshal([]byte(row.ExternalIDs[keyAsked]), &u) != nil {
		u = qos.Uplink{}
	}
	u.Host, u.Name = uplinkName(m.ID)
	return &u
}

func uplinkID(u qos.Uplink) string { return u.Host + "/" + u.Name }

// uplinkName takes an uplinkID apart: names have no slash.
func uplinkName(id string) (host, name string) {
	i := strings.LastIndexByte(id, '/')
	return id[:max(i, 0)], id[i+1:]
}

// stateOf is what was asked for, as the rows have it.
func stateOf(r ovn.Reader) (s qos.State) {
	for m, row := range ovn.Own[nbrow.LogicalSwitchPort](r, vnet.PartOverlay) {
		if p := portOf(row); p != nil && m.Kind == "port" {
			s.Ports = append(s.Ports, *p)
		}
	}
	for m, row := range ovn.Own[nbrow.Meter](r, vnet.PartQoS) {
		if m.Kind == kindUplink {
			s.Uplinks = append(s.Uplinks, *uplinkOf(row))
		}
	}
	seen := ""
	for m := range ovn.Own[nbrow.QoS](r, vnet.PartQoS) { // ordered
		id := object(m)
		if m.Kind+" "+id == seen {
			continue
		}
		seen = m.Kind + " " + id
		switch m.Kind {
		case kindGateway:
			g := asked[qos.Gateway](r, m.Kind, id)
			g.RouterID = id
			s.Gateways = append(s.Gateways, *g)
		case kindFloating:
			f := asked[qos.FloatingIP](r, m.Kind, id)
			f.ID = id
			s.FloatingIPs = append(s.FloatingIPs, *f)
		}
	}
	return s
}

// object is the id of what a row of ours limits.
func object(m ovn.Mark) string {
	for _, d := range directions() {
		if n := len(m.ID) - len(d) - 1; n > 0 && m.ID[n:] == "/"+string(d) {
			return m.ID[:n]
		}
	}
	return m.ID
}

// writer computes what one submission writes.
type writer struct {
	tx *ovn.Tx
	// Rows that are to come to and go from switches, by the UUIDs of these. They
	// do so all at once: each step looks at all that a switch has.
	in, out map[string][]string
	gone    []*nbrow.QoS
}

// do calls f and writes what it has left for the end.
func (w *writer) do(f func(w *writer) error) error {
	w.in, w.out = map[string][]string{}, map[string][]string{}
	if err := f(w); err != nil {
		return err
	}
	uuids := maps.Clone(w.in)
	maps.Copy(uuids, w.out)
	for _, uuid := range slices.Sorted(maps.Keys(uuids)) {
		if sw := ovn.At[nbrow.LogicalSwitch](w.tx, uuid); sw != nil {
			w.tx.Members(sw, "qos_rules", w.in[uuid], w.out[uuid])
		}
	}
	for _, q := range w.gone {
		w.tx.Delete(q)
	}
	return nil
}

// remove lets a row go, if there is one.
func (w *writer) remove(q *nbrow.QoS) ovn.Result {
	if q == nil {
		return ovn.Result{}
	}
	if sw := ovn.Holder[nbrow.LogicalSwitch](w.tx, q); sw != nil {
		w.out[sw.UUID] = append(w.out[sw.UUID], q.UUID)
	}
	w.gone = append(w.gone, q)
	return ovn.Result{UUID: q.UUID, Verb: vnet.Delete}
}

// tell adds what was asked, or what had drifted, to the plan.
func (w *writer) tell(kind, id string, results []ovn.Result, asked *vnet.Change) {
	if asked != nil {
		w.tx.Change(*asked)
		return
	}
	w.drifted(kind, id, results)
}

// drifted tells of rows that were not as we had made them.
func (w *writer) drifted(kind, id string, results []ovn.Result) {
	var diff []string
	for _, r := range results {
		switch r.Verb {
		case vnet.Create:
			diff = append(diff, "row "+r.UUID+": new")
		case vnet.Delete:
			diff = append(diff, "row "+r.UUID+": gone")
		case vnet.Update:
			diff = append(diff, r.Diff...)
		}
	}
	if len(diff) > 0 {
		w.tx.Change(vnet.Change{Verb: vnet.Update, Part: vnet.PartQoS, Kind: kind, ID: id, Diff: diff, Impact: vnet.ImpactSome})
	}
}

func (w *writer) port(id string) *nbrow.LogicalSwitchPort {
	return ovn.Find[nbrow.LogicalSwitchPort](w.tx, vnet.PartOverlay, "port", id)
}

func (w *writer) find(kind, id string, d qos.Direction) *nbrow.QoS {
	return ovn.Find[nbrow.QoS](w.tx, vnet.PartQoS, kind, ovn.LimitID(id, string(d)))
}

// put makes the row of a direction be as given on a switch; nil is none.
func (w *writer) put(sw *nbrow.LogicalSwitch, kind, id string, d qos.Direction, row *nbrow.QoS) []ovn.Result {
	if row == nil {
		return []ovn.Result{w.remove(w.find(kind, id, d))}
	}
	r := ovn.Ensure(w.tx, kind, ovn.LimitID(id, string(d)), row)
	out := []ovn.Result{r}
	switch was := ovn.Holder[nbrow.LogicalSwitch](w.tx, w.find(kind, id, d)); {
	case was == nil:
		w.in[sw.UUID] = append(w.in[sw.UUID], r.UUID)
	case was.UUID != sw.UUID:
		out = append(out, w.tx.Hold(sw, "qos_rules", r.UUID))
	}
	return out
}

func (w *writer) ensurePort(p qos.Port) ([]ovn.Result, error) {
	row := w.port(p.ID)
	if row == nil {
		return nil, noPort(p.ID)
	}
	sw := ovn.Holder[nbrow.LogicalSwitch](w.tx, row)
	if sw == nil {
		return nil, noPort(p.ID)
	}
	want := &nbrow.LogicalSwitchPort{ExternalIDs: map[string]string{keyPort: encode(p)}}
	if p.Uplink != "" {
		// That it is there makes northd give the port a queue; OVN reads an int.
		want.Options = map[string]string{"qos_min_rate": strconv.FormatUint(min(uint64(p.Egress.MinKbps)*1000, math.MaxInt32), 10)}
	}
	out := []ovn.Result{ovn.Update(w.tx, row, want)}
	for _, d := range directions() {
		out = append(out, w.put(sw, kindPort, p.ID, d, portRow(w.tx.Conn(), p, d))...)
	}
	return out, nil
}

func (w *writer) deletePort(id string) []ovn.Result {
	return append(w.deleteRows(kindPort, id), w.forget(id))
}

// forget takes back what is in the port's own row.
func (w *writer) forget(id string) ovn.Result {
	row := w.port(id)
	if row == nil || row.ExternalIDs[keyPort] == "" {
		return ovn.Result{}
	}
	return ovn.Update(w.tx, row, &nbrow.LogicalSwitchPort{})
}

func (w *writer) meter(u qos.Uplink) *nbrow.Meter {
	return ovn.Find[nbrow.Meter](w.tx, vnet.PartQoS, kindUplink, uplinkID(u))
}

// ensureUplink writes an uplink of which some of these ports have shares.
func (w *writer) ensureUplink(u qos.Uplink, ports []qos.Port) []ovn.Result {
	sum := uint64(0)
	for _, p := range ports {
		if p.Uplink == u.Name && p.Host == u.Host {
			sum += uint64(p.Egress.MinKbps)
		}
	}
	id := uplinkID(u)
	if row := w.meter(u); row != nil && row.ExternalIDs[keyPromised] != strconv.FormatUint(sum, 10) {
		w.tx.Guard(row, "external_ids")
	}
	band := ovn.Ensure(w.tx, kindUplink, id, &nbrow.MeterBand{Action: "drop", Rate: int(u.Kbps)})
	return []ovn.Result{band, ovn.Ensure(w.tx, kindUplink, id, &nbrow.Meter{Name: w.tx.Conn().Name(kindUplink, id), Unit: "kbps", Bands: []string{band.UUID},
		ExternalIDs: map[string]string{keyAsked: encode(u), keyPromised: strconv.FormatUint(sum, 10)}})}
}

// promised checks and notes what uplinks have promised after one port has
// changed from old to now, either of which may be nil.
func (w *writer) promised(old, now *qos.Port) error {
	touched := map[string]bool{}
	for _, p := range []*qos.Port{old, now} {
		if p != nil && p.Uplink != "" {
			touched[uplinkID(qos.Uplink{Host: p.Host, Name: p.Uplink})] = true
		}
	}
	if len(touched) == 0 {
		return nil
	}
	s := stateOf(w.tx)
	if err := qos.CheckGuarantees(s); err != nil && now != nil {
		return err
	}
	for _, u := range s.Uplinks {
		if touched[uplinkID(u)] {
			w.ensureUplink(u, s.Ports)
		}
	}
	return nil
}

func (w *writer) deleteRows(kind, id string) (out []ovn.Result) {
	for _, d := range directions() {
		out = append(out, w.remove(w.find(kind, id, d)))
	}
	return out
}

// external is the switch of an external network.
func (w *writer) external(networkID string) (*nbrow.LogicalSwitch, error) {
	sw := ovn.Find[nbrow.LogicalSwitch](w.tx, vnet.PartOverlay, "network", networkID)
	if sw == nil {
		return nil, noNetwork(networkID)
	}
	return sw, nil
}

func (w *writer) ensureGateway(g qos.Gateway) ([]ovn.Result, error) {
	sw, err := w.external(g.NetworkID)
	if err != nil {
		return nil, err
	}
	var out []ovn.Result
	for _, d := range directions() {
		out = append(out, w.put(sw, kindGateway, g.RouterID, d, w.named(g.PortID, gatewayRow(w.tx.Conn(), g, d)))...)
	}
	w.guard(g.PortID, out)
	return out, nil
}

func (w *writer) ensureFloatingIP(f qos.FloatingIP) ([]ovn.Result, error) {
	sw, err := w.external(f.NetworkID)
	if err != nil {
		return nil, err
	}
	var out []ovn.Result
	for _, d := range directions() {
		out = append(out, w.put(sw, kindFloating, f.ID, d, w.named(f.PortID, floatingRow(w.tx.Conn(), f, d)))...)
	}
	w.guard(f.PortID, out)
	return out, nil
}

// named puts the name that the gateway's port has into a row's match.
func (w *writer) named(portID string, row *nbrow.QoS) *nbrow.QoS {
	if row != nil {
		row.Match = ovn.GatewayMatch(w.tx, portID, row.Match)
	}
	return row
}

// guard lets the commit be computed anew if results rest on a name that the
// gateway's port has no longer.
func (w *writer) guard(portID string, results []ovn.Result) {
	port := ovn.Find[nbrow.LogicalSwitchPort](w.tx, vnet.PartRouter, "port", portID)
	if port != nil && slices.ContainsFunc(results, func(r ovn.Result) bool { return r.Verb != "" }) {
		w.tx.Guard(port, "name")
	}
}

// all makes s so and returns how many objects there were.
func (w *writer) all(s qos.State) (existing int, err error) {
	old := stateOf(w.tx)
	existing = len(old.Ports) + len(old.Gateways) + len(old.FloatingIPs) + len(old.Uplinks)
	changes := map[string]bool{}
	for _, c := range qos.Diff(old, s) {
		changes[c.Kind+" "+c.ID] = true
		w.tx.Change(c)
	}
	keep := map[string]bool{}
	var errs []error
	made := func(kind, id string, r []ovn.Result, err error) {
		keep[kind+" "+id] = true
		if err != nil {
			if len(errs) < 8 {
				errs = append(errs, err)
			}
			return
		}
		if !changes[kind+" "+id] {
			w.drifted(kind, id, r)
		}
	}
	for _, u := range s.Uplinks {
		made(kindUplink, u.Name, w.ensureUplink(u, s.Ports), nil)
		keep[kindUplink+" "+uplinkID(u)] = true
	}
	for _, p := range s.Ports {
		r, err := w.ensurePort(p)
		made(kindPort, p.ID, r, err)
	}
	for _, g := range s.Gateways {
		r, err := w.ensureGateway(g)
		made(kindGateway, g.RouterID, r, err)
	}
	for _, f := range s.FloatingIPs {
		r, err := w.ensureFloatingIP(f)
		made(kindFloating, f.ID, r, err)
	}
	if len(errs) > 0 {
		return existing, errors.Join(errs...)
	}
	for _, p := range old.Ports {
		if !keep[kindPort+" "+p.ID] {
			w.forget(p.ID)
		}
	}
	for m, row := range ovn.Own[nbrow.Meter](w.tx, vnet.PartQoS) {
		if !keep[m.Kind+" "+m.ID] {
			w.tx.Delete(row)
		}
	}
	for m, row := range ovn.Own[nbrow.QoS](w.tx, vnet.PartQoS) {
		if id := object(m); !keep[m.Kind+" "+id] {
			r := w.remove(row)
			if !changes[m.Kind+" "+id] {
				w.drifted(m.Kind, id, []ovn.Result{r})
			}
		}
	}
	return existing, nil
}

func describe(q *nbrow.QoS) string {
	s := fmt.Sprintf("QoS %s: %s %d %s", q.UUID, q.Direction, q.Priority, q.Match)
	if r, ok := q.Bandwidth["rate"]; ok {
		s += fmt.Sprintf(", %d kbit/s with a burst of %d kbit", r, q.Bandwidth["burst"])
	}
	if d, ok := q.Action["dscp"]; ok {
		s += fmt.Sprintf(", DSCP %d", d)
	}
	return s
}
