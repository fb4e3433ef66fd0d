package ovnsecgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
)

// Kinds in the marks of our rows.
const (
	kindGroup     = "group"        // Port_Group GROUP
	kindACL       = "acl"          // ACL GROUP/MATCH, filter/NAME
	kindMembers   = "members"      // Address_Set GROUP/4, GROUP/6
	kindAddresses = "addressgroup" // Address_Set ADDRESSGROUP/4, ADDRESSGROUP/6
	kindFilter    = "filter"       // Port_Group "all" of all ports with port security
	kindMeter     = "meter"        // Meter "drops", Meter_Band "drops"
)

// Keys of external_ids.
const (
	keyGroup = "vnet:group"  // of a Port_Group: the group as JSON
	keyRules = "vnet:rules"  // of an ACL: the ids of the rules it carries
	keyPort  = ovn.KeyFilled // of a Logical_Switch_Port: the port as JSON; the handle opens ports that have it
)

// groupOf is the group that a row is of, or nil.
func groupOf(pg *nbrow.PortGroup) *secgroup.Group {
	if pg == nil {
		return nil
	}
	m, _ := ovn.MarkOf(pg.ExternalIDs)
	var g secgroup.Group
	if json.Unmarshal([]byte(pg.ExternalIDs[keyGroup]), &g) != nil {
		g = secgroup.Group{} // spoilt by someone: it differs from whatever is wanted
	}
	g.ID = m.ID
	return &g
}

func encode(x any) string {
	s, err := json.Marshal(x)
	if err != nil { // the types have nothing that fails
		return err.Error()
	}
	return string(s)
}

// portOf is what a row says the port was asked to be, or nil when it was not.
func portOf(id string, row *nbrow.LogicalSwitchPort) (*secgroup.Port, error) {
	text := row.ExternalIDs[keyPort]
	if text == "" {
		return nil, nil
	}
	var p secgroup.Port
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, fmt.Errorf("record of port %s in Logical_Switch_Port %s: %w", id, row.Name, err)
	}
	p.ID = id
	return &p, nil
}

// addressGroupOf reads an address group from its rows, or returns nil.
func addressGroupOf(r ovn.Reader, id string) *secgroup.AddressGroup {
	var a *secgroup.AddressGroup
	for _, fam := range []string{"4", "6"} {
		row := ovn.Find[nbrow.AddressSet](r, vnet.PartSecGroup, kindAddresses, id+"/"+fam)
		if row == nil {
			continue
		}
		if a == nil {
			a = &secgroup.AddressGroup{ID: id}
		}
		for _, s := range row.Addresses {
			if p, ok := parseAddress(s); ok {
				a.Prefixes = append(a.Prefixes, p)
			}
		}
	}
	if a == nil {
		return nil
	}
	c := a.Canonical()
	return &c
}

// stateOf is what was asked for, as the rows have it.
func stateOf(r ovn.Reader) (secgroup.State, error) {
	var s secgroup.State
	for m, pg := range ovn.Own[nbrow.PortGroup](r, vnet.PartSecGroup) {
		if m.Kind == kindGroup {
			s.Groups = append(s.Groups, *groupOf(pg))
		}
	}
	seen := ""
	for m := range ovn.Own[nbrow.AddressSet](r, vnet.PartSecGroup) { // ordered
		id, _, _ := strings.Cut(m.ID, "/")
		if m.Kind == kindAddresses && id != seen {
			seen = id
			s.AddressGroups = append(s.AddressGroups, *addressGroupOf(r, id))
		}
	}
	for m, row := range ovn.Own[nbrow.LogicalSwitchPort](r, vnet.PartOverlay) {
		if m.Kind != "port" {
			continue
		}
		p, err := portOf(m.ID, row)
		if err != nil {
			return s, err
		}
		if p != nil {
			s.Ports = append(s.Ports, *p)
		}
	}
	return s, nil
}

// writer computes what one submission writes.
type writer struct {
	tx *ovn.Tx
	o  options
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
		w.tx.Change(vnet.Change{Verb: vnet.Update, Part: vnet.PartSecGroup, Kind: kind, ID: id, Diff: diff, Impact: vnet.ImpactSome})
	}
}

func (w *writer) group(id string) *nbrow.PortGroup {
	return ovn.Find[nbrow.PortGroup](w.tx, vnet.PartSecGroup, kindGroup, id)
}

func (w *writer) port(id string) *nbrow.LogicalSwitchPort {
	return ovn.Find[nbrow.LogicalSwitchPort](w.tx, vnet.PartOverlay, "port", id)
}

func (w *writer) members(group, fam string) *nbrow.AddressSet {
	return ovn.Find[nbrow.AddressSet](w.tx, vnet.PartSecGroup, kindMembers, group+"/"+fam)
}

// ensureGroup writes the rows of a group but for its members.
func (w *writer) ensureGroup(g secgroup.Group) ([]ovn.Result, error) {
	c := w.tx.Conn()
	list, err := groupACLs(c, g)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", g.ID, err)
	}
	var out []ovn.Result
	for _, fam := range []string{"4", "6"} {
		out = append(out, ovn.Ensure(w.tx, kindMembers, g.ID+"/"+fam, &nbrow.AddressSet{Name: setName(c, kindMembers, g.ID, fam)}, "name"))
	}
	want := nbrow.PortGroup{Name: groupName(c, g.ID), ExternalIDs: map[string]string{keyGroup: encode(g)}}
	return append(out, w.portGroup(kindGroup, g.ID, want, list)...), nil
}

// portGroup writes a Port_Group and its ACLs, but for the ports.
func (w *writer) portGroup(kind, id string, want nbrow.PortGroup, list []acl) []ovn.Result {
	var out []ovn.Result
	for _, a := range list {
		r := ovn.Ensure(w.tx, kindACL, a.id, &a.row)
		out = append(out, r)
		want.ACLs = append(want.ACLs, r.UUID)
	}
	slices.Sort(want.ACLs)
	if cur := ovn.Find[nbrow.PortGroup](w.tx, vnet.PartSecGroup, kind, id); cur != nil {
		for _, uuid := range cur.ACLs {
			if _, keep := slices.BinarySearch(want.ACLs, uuid); keep {
				continue
			}
			if row := ovn.At[nbrow.ACL](w.tx, uuid); row != nil {
				if m, ours := ovn.MarkOf(row.ExternalIDs); ours && m.Part == vnet.PartSecGroup {
					out = append(out, w.tx.Delete(row))
				}
			}
		}
	}
	r := ovn.Ensure(w.tx, kind, id, &want, "name", "acls", "external_ids")
	if r.Verb == vnet.Update {
		w.tx.Guard(ovn.At[nbrow.PortGroup](w.tx, r.UUID), "external_ids") // rules of two writers must not add up
	}
	return append(out, r)
}

func (w *writer) deletePortGroup(kind, id string) []ovn.Result {
	pg := ovn.Find[nbrow.PortGroup](w.tx, vnet.PartSecGroup, kind, id)
	if pg == nil {
		return nil
	}
	w.tx.Guard(pg, "ports") // nobody may have joined meanwhile
	return []ovn.Result{w.tx.Delete(pg)}
}

func (w *writer) deleteGroup(id string) []ovn.Result {
	out := w.deletePortGroup(kindGroup, id)
	for _, fam := range []string{"4", "6"} {
		out = append(out, w.tx.Delete(w.members(id, fam)))
	}
	return out
}

// groupInUse returns [vnet.ErrInUse] naming who refers to the group.
func (w *writer) groupInUse(id string) error {
	var who []string
	for _, uuid := range w.group(id).Ports {
		if row := ovn.At[nbrow.LogicalSwitchPort](w.tx, uuid); row != nil {
			m, _ := ovn.MarkOf(row.ExternalIDs)
			who = append(who, "port "+m.ID)
		}
	}
	slices.Sort(who)
	return inUse(append(who, w.referrers(id, func(r secgroup.Rule) string { return r.RemoteGroup })...))
}

func (w *writer) addressGroupInUse(id string) error {
	return inUse(w.referrers(id, func(r secgroup.Rule) string { return r.RemoteAddressGroup }))
}

// referrers are the other groups with a rule whose remote is id.
func (w *writer) referrers(id string, remote func(secgroup.Rule) string) []string {
	var who []string
	quoted := encode(id)
	for m, pg := range ovn.Own[nbrow.PortGroup](w.tx, vnet.PartSecGroup) {
		if m.Kind != kindGroup || m.ID == id || !strings.Contains(pg.ExternalIDs[keyGroup], quoted) {
			continue
		}
		if slices.ContainsFunc(groupOf(pg).Rules, func(r secgroup.Rule) bool { return remote(r) == id }) {
			who = append(who, "group "+m.ID)
		}
	}
	return who
}

func inUse(who []string) error {
	if len(who) == 0 {
		return nil
	}
	if len(who) > 8 {
		who = append(who[:8], "...")
	}
	return fmt.Errorf("%w by %s", vnet.ErrInUse, strings.Join(who, ", "))
}

func (w *writer) ensureAddressGroup(a secgroup.AddressGroup) []ovn.Result {
	by := map[string][]string{}
	for _, p := range a.Prefixes {
		f := family(p.Addr())
		by[f] = append(by[f], addressText(p))
	}
	var out []ovn.Result
	for _, fam := range []string{"4", "6"} {
		out = append(out, ovn.Ensure(w.tx, kindAddresses, a.ID+"/"+fam, &nbrow.AddressSet{Name: setName(w.tx.Conn(), kindAddresses, a.ID, fam), Addresses: by[fam]}))
	}
	return out
}

func (w *writer) deleteAddressGroup(id string) []ovn.Result {
	var out []ovn.Result
	for _, fam := range []string{"4", "6"} {
		out = append(out, w.tx.Delete(ovn.Find[nbrow.AddressSet](w.tx, vnet.PartSecGroup, kindAddresses, id+"/"+fam)))
	}
	return out
}

// ensurePort writes what is in the port's own row.
func (w *writer) ensurePort(row *nbrow.LogicalSwitchPort, old *secgroup.Port, p secgroup.Port) []ovn.Result {
	r := ovn.Update(w.tx, row, &nbrow.LogicalSwitchPort{PortSecurity: portSecurity(p), ExternalIDs: map[string]string{keyPort: encode(p)}})
	if r.Verb != "" {
		w.tx.Guard(row, "external_ids") // what groups it leaves rests on that
	}
	out := []ovn.Result{r}
	return append(out, w.unknown(row, old != nil && unknown(*old), unknown(p)))
}

// unknown adds or removes the word in the addresses, of which we are told.
func (w *writer) unknown(row *nbrow.LogicalSwitchPort, was, is bool) ovn.Result {
	word := []string{"unknown"}
	switch {
	case is:
		return w.tx.Members(row, "addresses", word, nil)
	case was:
		return w.tx.Members(row, "addresses", nil, word)
	}
	return ovn.Result{}
}

// clearPort takes back what is in the port's own row; the handle closes the
// port if it was to be filtered.
func (w *writer) clearPort(row *nbrow.LogicalSwitchPort, old secgroup.Port) []ovn.Result {
	w.tx.Guard(row, "external_ids")
	return []ovn.Result{ovn.Update(w.tx, row, &nbrow.LogicalSwitchPort{}), w.unknown(row, unknown(old), false)}
}

// filtered changes who is in the group of all filtered ports, which is there
// while it has members.
func (w *writer) filtered(in, gone []string) []ovn.Result {
	var out []ovn.Result
	c := w.tx.Conn()
	if len(in) > 0 {
		if w.o.log != nil {
			band := ovn.Ensure(w.tx, kindMeter, "drops", &nbrow.MeterBand{Action: "drop", Rate: w.o.log.Rate, BurstSize: w.o.log.Burst})
			out = append(out, band, ovn.Ensure(w.tx, kindMeter, "drops", &nbrow.Meter{Name: w.o.log.meter, Unit: "pktps", Fair: new(true), Bands: []string{band.UUID}}))
		}
		name := c.Symbol(kindFilter, "all")
		out = append(out, w.portGroup(kindFilter, "all", nbrow.PortGroup{Name: name}, filterACLs(name, w.o))...)
	}
	pg := ovn.Find[nbrow.PortGroup](w.tx, vnet.PartSecGroup, kindFilter, "all")
	if pg == nil {
		return out
	}
	if r := w.tx.Members(pg, "ports", in, gone); r.Verb != "" {
		out = append(out, r)
	}
	if pg = ovn.At[nbrow.PortGroup](w.tx, pg.UUID); pg != nil && len(pg.Ports) == 0 {
		out = append(out, w.deletePortGroup(kindFilter, "all")...)
	}
	if w.o.log == nil || pg == nil || len(pg.Ports) == 0 {
		out = append(out, w.tx.Delete(ovn.Find[nbrow.Meter](w.tx, vnet.PartSecGroup, kindMeter, "drops")))
	}
	return out
}

// join changes what groups the port is in, and what their members are called
// by. Either of old and p may be nil.
func (w *writer) join(uuid string, old, p *secgroup.Port) []ovn.Result {
	var out []ovn.Result
	was, is := map[string]bool{}, map[string]bool{}
	var before, now map[string][]string
	if old != nil {
		before = addressesBy(*old)
		for _, g := range old.Groups {
			was[g] = true
		}
	}
	if p != nil {
		now = addressesBy(*p)
		for _, g := range p.Groups {
			is[g] = true
		}
	}
	for _, g := range slices.Sorted(maps.Keys(union(was, is))) {
		pg := w.group(g)
		if pg == nil {
			continue
		}
		if is[g] {
			out = append(out, w.tx.Members(pg, "ports", []string{uuid}, nil))
		} else {
			out = append(out, w.tx.Members(pg, "ports", nil, []string{uuid}))
		}
		for _, fam := range []string{"4", "6"} {
			var add, remove []string
			if is[g] {
				add = now[fam]
			}
			if was[g] {
				for _, a := range before[fam] {
					if !slices.Contains(add, a) {
						remove = append(remove, a)
					}
				}
			}
			remove = w.unshared(pg, uuid, remove)
			set := w.members(g, fam)
			if set == nil || len(add)+len(remove) == 0 {
				continue
			}
			r := w.tx.Members(set, "addresses", add, remove)
			// What stands already, because another port has it too, must not go
			// with that one at the same moment.
			if fresh := slices.DeleteFunc(slices.Clone(add), func(a string) bool { return was[g] && slices.Contains(before[fam], a) }); len(fresh) > 0 && countAdded(r) < len(fresh) {
				w.tx.Guard(set, "addresses")
			}
			out = append(out, r)
		}
	}
	return out
}

func countAdded(r ovn.Result) int {
	n := 0
	for _, d := range r.Diff {
		if strings.Contains(d, ": +") {
			n++
		}
	}
	return n
}

func union(a, b map[string]bool) map[string]bool {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// unshared leaves of addresses those that no other member of the group has.
func (w *writer) unshared(pg *nbrow.PortGroup, uuid string, addresses []string) []string {
	if len(addresses) == 0 {
		return nil
	}
	left := slices.Clone(addresses)
	for _, u := range pg.Ports {
		if len(left) == 0 {
			break
		}
		row := ovn.At[nbrow.LogicalSwitchPort](w.tx, u)
		if u == uuid || row == nil {
			continue
		}
		text := row.ExternalIDs[keyPort]
		if !slices.ContainsFunc(left, func(a string) bool { return strings.Contains(text, a) }) {
			continue
		}
		if p, err := portOf("", row); err == nil && p != nil {
			by := addressesBy(*p)
			kept := len(left)
			left = slices.DeleteFunc(left, func(a string) bool { return slices.Contains(by["4"], a) || slices.Contains(by["6"], a) })
			if len(left) < kept {
				w.tx.Guard(row, "external_ids") // or both leave, each for the other's sake leaving it
			}
		}
	}
	return left
}

// setMembers makes the address sets of a group be what its ports are called
// by, and, unless ports is nil, these its ports.
func (w *writer) setMembers(group string, ports map[string]secgroup.Port) []ovn.Result {
	pg := w.group(group)
	if pg == nil {
		return nil
	}
	var out []ovn.Result
	if ports != nil {
		add, remove := difference(pg.Ports, slices.Sorted(maps.Keys(ports)))
		if len(add)+len(remove) > 0 {
			out = append(out, w.tx.Members(pg, "ports", add, remove))
		}
	} else {
		ports = map[string]secgroup.Port{}
		for _, u := range pg.Ports {
			if row := ovn.At[nbrow.LogicalSwitchPort](w.tx, u); row != nil {
				if p, err := portOf("", row); err == nil && p != nil {
					ports[u] = *p
				}
			}
		}
	}
	want := map[string][]string{}
	for _, p := range ports {
		for fam, list := range addressesBy(p) {
			want[fam] = append(want[fam], list...)
		}
	}
	for _, fam := range []string{"4", "6"} {
		set := w.members(group, fam)
		if set == nil {
			continue
		}
		slices.Sort(want[fam])
		add, remove := difference(set.Addresses, slices.Compact(want[fam]))
		if len(add)+len(remove) > 0 {
			out = append(out, w.tx.Members(set, "addresses", add, remove))
		}
	}
	return out
}

// difference is what has to be added to was and removed from it to have want;
// want is sorted.
func difference(was, want []string) (add, remove []string) {
	was = slices.Clone(was)
	slices.Sort(was)
	for _, s := range want {
		if _, have := slices.BinarySearch(was, s); !have {
			add = append(add, s)
		}
	}
	for _, s := range was {
		if _, keep := slices.BinarySearch(want, s); !keep {
			remove = append(remove, s)
		}
	}
	return add, remove
}

// sweep takes addresses out of all groups that no port of them has any more.
func (w *writer) sweep() {
	for m := range ovn.Own[nbrow.PortGroup](w.tx, vnet.PartSecGroup) {
		if m.Kind == kindGroup {
			w.drifted("group", m.ID, w.setMembers(m.ID, nil))
		}
	}
}

// all makes s so and returns how many objects there were.
func (w *writer) all(s secgroup.State) (existing int, err error) {
	old, err := stateOf(w.tx)
	if err != nil {
		return 0, err
	}
	existing = len(old.Groups) + len(old.AddressGroups) + len(old.Ports)
	changes := map[string]bool{}
	for _, c := range secgroup.Diff(old, s) {
		changes[c.Kind+" "+c.ID] = true
		w.tx.Change(c)
	}
	drifted := func(kind, id string, r []ovn.Result) {
		if !changes[kind+" "+id] {
			w.drifted(kind, id, r)
		}
	}
	for _, a := range s.AddressGroups {
		drifted("addressgroup", a.ID, w.ensureAddressGroup(a))
	}
	for _, g := range s.Groups {
		r, err := w.ensureGroup(g)
		if err != nil {
			return existing, err
		}
		drifted("group", g.ID, r)
	}

	was := make(map[string]secgroup.Port, len(old.Ports))
	for _, p := range old.Ports {
		was[p.ID] = p
	}
	in := make(map[string]map[string]secgroup.Port, len(s.Groups)) // of each group, by the UUIDs of their rows
	for _, g := range s.Groups {
		in[g.ID] = map[string]secgroup.Port{}
	}
	touched := map[string]bool{} // groups whose members differ because ports do
	note := func(p *secgroup.Port) {
		if p != nil && changes["port "+p.ID] {
			for _, g := range p.Groups {
				touched[g] = true
			}
		}
	}
	var secured []string
	var missing []error
	for _, p := range s.Ports {
		row := w.port(p.ID)
		if row == nil {
			if len(missing) < 8 {
				missing = append(missing, noPort(p.ID))
			}
			continue
		}
		var o *secgroup.Port
		if q, had := was[p.ID]; had {
			o = &q
			delete(was, p.ID)
		}
		drifted("port", p.ID, w.ensurePort(row, o, p))
		note(o)
		note(&p)
		for _, g := range p.Groups {
			in[g][row.UUID] = p
		}
		if !p.DisablePortSecurity {
			secured = append(secured, row.UUID)
		}
	}
	if len(missing) > 0 {
		return existing, errors.Join(missing...)
	}
	for _, id := range slices.Sorted(maps.Keys(was)) {
		o := was[id]
		row := w.port(id)
		w.clearPort(row, o)
		note(&o)
	}
	slices.Sort(secured)
	var out []string
	if pg := ovn.Find[nbrow.PortGroup](w.tx, vnet.PartSecGroup, kindFilter, "all"); pg != nil {
		_, out = difference(pg.Ports, secured)
	}
	r := w.filtered(secured, out)
	if len(changes) == 0 {
		w.drifted("port", "(all)", r)
	}
	for _, g := range s.Groups {
		r := w.setMembers(g.ID, in[g.ID])
		if !touched[g.ID] {
			drifted("group", g.ID, r)
		}
	}

	keep := make(map[string]bool, len(s.Groups)+len(s.AddressGroups))
	for _, g := range s.Groups {
		keep["group "+g.ID] = true
	}
	for _, a := range s.AddressGroups {
		keep["addressgroup "+a.ID] = true
	}
	for _, g := range old.Groups {
		if !keep["group "+g.ID] {
			w.deleteGroup(g.ID)
		}
	}
	for _, a := range old.AddressGroups {
		if !keep["addressgroup "+a.ID] {
			w.deleteAddressGroup(a.ID)
		}
	}
	return existing, nil
}
