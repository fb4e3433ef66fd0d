package ovssecgroup

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/internal/book"
)

// Kinds of objects on the switch. The first three are of the contract; the
// others are made of them.
const (
	kindGroup        = "group"
	kindAddressGroup = "addressgroup"
	kindPort         = "port"
	kindRemote       = "remote"  // a group or address group that rules refer to
	kindAddress      = "address" // an address or prefix that belongs to remotes
	kindNumbers      = "numbers" // which numbers groups and remotes have
	kindBase         = "base"    // what all ports share
	kindPiece        = "piece"   // of a record too large for one
)

// store is where objects stand: a record and flows for each.
type store interface {
	get(kind, id string) (record []byte, ok bool)
	list(kind string, f func(id string, record []byte))
	put(kind, id string, record []byte, flows []of.Flow)
	drop(kind, id string)
	// portNumber claims the port's number.
	portNumber(id string) uint16
	freePortNumber(id string)
	local(host string) bool
}

type groupRecord struct {
	N     uint32         `json:"n"`
	Group secgroup.Group `json:"g"`
}

// remoteRecord counts the groups whose rules refer to a remote, by direction
// and version: [refOf] is the index.
type remoteRecord struct {
	N    uint32 `json:"n"`
	Refs [4]int `json:"r"`
}

func refOf(d secgroup.Direction, e secgroup.Ethertype) int {
	i := 0
	if d == secgroup.Egress {
		i = 1
	}
	if e == secgroup.IPv6 {
		i += 2
	}
	return i
}

// dirs are the directions in which it is referred to, in one version.
func (r remoteRecord) dirs(v6 bool) uint8 {
	i := 0
	if v6 {
		i = 2
	}
	var d uint8
	if r.Refs[i] > 0 {
		d |= refIngress
	}
	if r.Refs[i+1] > 0 {
		d |= refEgress
	}
	return d
}

// remoteID names a group or address group as a remote; "" is none.
func remoteID(r secgroup.Remote) string {
	switch {
	case r.Group != "":
		return "group/" + r.Group
	case r.AddressGroup != "":
		return "addressgroup/" + r.AddressGroup
	}
	return ""
}

// references are the remotes that a group refers to, and how.
func references(g *secgroup.Group) map[string][4]bool {
	out := map[string][4]bool{}
	if g == nil {
		return out
	}
	for _, m := range matchesOf(*g) {
		if id := remoteID(m.Remote); id != "" {
			refs := out[id]
			refs[refOf(m.Direction, m.Ethertype)] = true
			out[id] = refs
		}
	}
	return out
}

// ledger changes one object at a time, and with it what hangs on it. It is
// used for one submission.
type ledger struct {
	st  store
	err error
	// whole is all that stands, read when it is first needed and kept from then.
	whole *book.Book
	codec codec
}

func (l *ledger) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

func read[T any](l *ledger, kind, id string) *T {
	record, ok := l.st.get(kind, id)
	if !ok {
		return nil
	}
	return parse[T](l, kind, id, record)
}

func parse[T any](l *ledger, kind, id string, record []byte) *T {
	var x T
	text, err := l.decode(kind, id, record)
	if err == nil {
		err = json.Unmarshal(text, &x)
	}
	if err != nil {
		l.fail(fmt.Errorf("record of %s %s: %w", kind, id, err))
		return nil
	}
	return &x
}

// write makes an object be as given.
func (l *ledger) write(kind, id string, record any, flows []of.Flow) {
	text, err := json.Marshal(record)
	if err == nil {
		text, err = l.encode(kind, id, text)
	}
	if err != nil {
		l.fail(fmt.Errorf("record of %s %s: %w", kind, id, err))
		return
	}
	l.st.put(kind, id, text, flows)
}

// drop removes an object.
func (l *ledger) drop(kind, id string) {
	old, _ := l.st.get(kind, id)
	for i := range pieces(old) {
		l.st.drop(kindPiece, pieceID(kind, id, i))
	}
	l.st.drop(kind, id)
}

// all is the book of all that stands.
func (l *ledger) all() *book.Book {
	if l.whole != nil {
		return l.whole
	}
	b := book.New(secgroup.State{})
	l.st.list(kindAddressGroup, func(id string, record []byte) {
		if a := parse[secgroup.AddressGroup](l, kindAddressGroup, id, record); a != nil {
			b.PutAddressGroup(*a)
		}
	})
	l.st.list(kindGroup, func(id string, record []byte) {
		if g := parse[groupRecord](l, kindGroup, id, record); g != nil {
			b.PutGroup(g.Group)
		}
	})
	l.st.list(kindPort, func(id string, record []byte) {
		if p := parse[secgroup.Port](l, kindPort, id, record); p != nil {
			b.PutPort(*p)
		}
	})
	l.whole = b
	return b
}

func (l *ledger) group(id string) *secgroup.Group {
	if r := read[groupRecord](l, kindGroup, id); r != nil {
		return &r.Group
	}
	return nil
}

func (l *ledger) addressGroup(id string) *secgroup.AddressGroup {
	return read[secgroup.AddressGroup](l, kindAddressGroup, id)
}

func (l *ledger) port(id string) *secgroup.Port { return read[secgroup.Port](l, kindPort, id) }

func (l *ledger) remote(id string) *remoteRecord { return read[remoteRecord](l, kindRemote, id) }

// number is that of a remote that is referred to.
func (l *ledger) number(remote string) uint32 {
	r := l.remote(remote)
	if r == nil {
		l.fail(fmt.Errorf("remote %s has no number", remote))
		return 0
	}
	return r.N
}

// Numbers in use, as disjoint ranges in order.
type ranges [][2]uint32

func (r ranges) take() (uint32, ranges) {
	if len(r) == 0 || r[0][0] > 1 {
		r = append(ranges{{1, 1}}, r...)
	} else {
		r = slices.Clone(r)
		r[0][1]++
	}
	n := r[0][1]
	if len(r) > 1 && r[1][0] == n+1 {
		r[1][0] = r[0][0]
		r = r[1:]
	}
	return n, r
}

func (r ranges) give(n uint32) ranges {
	var out ranges
	for _, x := range r {
		if n < x[0] || n > x[1] {
			out = append(out, x)
			continue
		}
		if x[0] < n {
			out = append(out, [2]uint32{x[0], n - 1})
		}
		if n < x[1] {
			out = append(out, [2]uint32{n + 1, x[1]})
		}
	}
	return out
}

func (l *ledger) take() uint32 {
	var used ranges
	if r := read[ranges](l, kindNumbers, kindNumbers); r != nil {
		used = *r
	}
	n, used := used.take()
	l.write(kindNumbers, kindNumbers, used, nil)
	return n
}

func (l *ledger) give(n uint32) {
	r := read[ranges](l, kindNumbers, kindNumbers)
	if r == nil {
		return
	}
	if left := r.give(n); len(left) > 0 {
		l.write(kindNumbers, kindNumbers, left, nil)
	} else {
		l.drop(kindNumbers, kindNumbers)
	}
}

// base puts up what all ports share.
func (l *ledger) base() { l.st.put(kindBase, kindBase, nil, baseFlows()) }

// setGroup makes a group as described.
func (l *ledger) setGroup(g secgroup.Group) {
	old := read[groupRecord](l, kindGroup, g.ID)
	now := groupRecord{Group: g}
	var was *secgroup.Group
	if old != nil {
		now.N, was = old.N, &old.Group
	} else {
		now.N = l.take()
	}
	before, after := references(was), references(&g)
	for _, id := range slices.Sorted(maps.Keys(after)) {
		l.refer(id, before[id], after[id])
	}
	if flows, err := groupFlows(g, now.N, l.number); err != nil {
		l.fail(err)
	} else {
		l.write(kindGroup, g.ID, now, flows)
	}
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if _, stays := after[id]; !stays {
			l.refer(id, before[id], [4]bool{})
		}
	}
	if l.whole != nil {
		l.whole.PutGroup(g)
	}
}

func (l *ledger) dropGroup(id string) {
	old := read[groupRecord](l, kindGroup, id)
	if old == nil {
		return
	}
	l.drop(kindGroup, id)
	refs := references(&old.Group)
	for _, r := range slices.Sorted(maps.Keys(refs)) {
		l.refer(r, refs[r], [4]bool{})
	}
	l.give(old.N)
	if l.whole != nil {
		l.whole.DropGroup(id)
	}
}

// refer changes how one group refers to a remote.
func (l *ledger) refer(id string, before, after [4]bool) {
	if before == after {
		return
	}
	r := l.remote(id)
	if r == nil {
		r = &remoteRecord{N: l.take()}
	}
	was := *r
	for i := range r.Refs {
		if after[i] {
			r.Refs[i]++
		}
		if before[i] {
			r.Refs[i]--
		}
	}
	if r.Refs == [4]int{} {
		l.drop(kindRemote, id)
		l.give(r.N)
	} else {
		l.write(kindRemote, id, r, nil)
	}
	for _, v6 := range []bool{false, true} {
		dirs := r.dirs(v6)
		if dirs == was.dirs(v6) {
			continue
		}
		for p, n := range l.members(id) {
			if p.Addr().Is6() == v6 {
				l.place(p, belongs{N: r.N, Count: n, Dirs: dirs})
			}
		}
	}
}

// members are the addresses that a remote stands for, each with how many ports
// are called by it.
func (l *ledger) members(remote string) map[netip.Prefix]int {
	out := map[netip.Prefix]int{}
	kind, id, _ := strings.Cut(remote, "/")
	if kind == kindAddressGroup {
		if a := l.addressGroup(id); a != nil {
			for _, p := range a.Prefixes {
				out[p] = 1
			}
		}
		return out
	}
	for p, n := range l.all().MemberCounts(id) {
		out[p] = n
	}
	return out
}

// place says how an address belongs to a remote; in no direction, or for no
// port, is not at all.
func (l *ledger) place(p netip.Prefix, b belongs) {
	list := l.address(p)
	i := slices.IndexFunc(list, func(o belongs) bool { return o.N == b.N })
	switch gone := b.Dirs == 0 || b.Count <= 0; {
	case gone && i < 0:
		return
	case gone:
		list = slices.Delete(list, i, i+1)
	case i >= 0:
		list[i] = b
	default:
		list = append(list, b)
		slices.SortFunc(list, func(a, b belongs) int { return cmp.Compare(a.N, b.N) })
	}
	if len(list) == 0 {
		l.drop(kindAddress, p.String())
		return
	}
	l.write(kindAddress, p.String(), list, addressFlows(p, list))
}

func (l *ledger) address(p netip.Prefix) []belongs {
	if list := read[[]belongs](l, kindAddress, p.String()); list != nil {
		return *list
	}
	return nil
}

// join changes by how many ports of a remote an address is used.
func (l *ledger) join(p netip.Prefix, r *remoteRecord, n int) {
	dirs := r.dirs(p.Addr().Is6())
	if dirs == 0 || n == 0 {
		return
	}
	for _, b := range l.address(p) {
		if b.N == r.N {
			n += b.Count
		}
	}
	l.place(p, belongs{N: r.N, Count: n, Dirs: dirs})
}

func (l *ledger) setAddressGroup(a secgroup.AddressGroup) {
	var was []netip.Prefix
	if old := l.addressGroup(a.ID); old != nil {
		was = old.Prefixes
	}
	l.write(kindAddressGroup, a.ID, a, nil)
	l.list(a.ID, was, a.Prefixes)
	if l.whole != nil {
		l.whole.PutAddressGroup(a)
	}
}

func (l *ledger) dropAddressGroup(id string) {
	old := l.addressGroup(id)
	if old == nil {
		return
	}
	l.drop(kindAddressGroup, id)
	l.list(id, old.Prefixes, nil)
	if l.whole != nil {
		l.whole.DropAddressGroup(id)
	}
}

// list changes what prefixes an address group has.
func (l *ledger) list(id string, was, now []netip.Prefix) {
	r := l.remote(remoteID(secgroup.Remote{AddressGroup: id}))
	if r == nil {
		return
	}
	change := map[netip.Prefix]int{}
	for _, p := range now {
		change[p]++
	}
	for _, p := range was {
		change[p]--
	}
	for _, p := range sortedPrefixes(change) {
		l.join(p, r, change[p])
	}
}

func sortedPrefixes(m map[netip.Prefix]int) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
}

// setPort makes a port as described; its groups must stand.
func (l *ledger) setPort(p secgroup.Port) {
	var flows []of.Flow
	if l.st.local(p.Host) {
		var groups []uint32
		for _, g := range p.Groups {
			r := read[groupRecord](l, kindGroup, g)
			if r == nil {
				l.fail(fmt.Errorf("security group %q: %w", g, vnet.ErrNotFound))
				return
			}
			groups = append(groups, r.N)
		}
		flows = portFlows(p, l.st.portNumber(p.ID), groups)
	} else {
		l.st.freePortNumber(p.ID)
		for _, g := range p.Groups {
			if _, ok := l.st.get(kindGroup, g); !ok {
				l.fail(fmt.Errorf("security group %q: %w", g, vnet.ErrNotFound))
				return
			}
		}
	}
	old := l.port(p.ID)
	l.write(kindPort, p.ID, p, flows)
	l.called(old, &p)
	if l.whole != nil {
		l.whole.PutPort(p)
	}
}

func (l *ledger) dropPort(id string) {
	old := l.port(id)
	if old == nil {
		return
	}
	l.drop(kindPort, id)
	l.called(old, nil)
	if l.whole != nil {
		l.whole.DropPort(id)
	}
}

// called changes what a port is called by in its groups.
func (l *ledger) called(old, now *secgroup.Port) {
	change := map[string]map[netip.Prefix]int{}
	count := func(p *secgroup.Port, n int) {
		if p == nil {
			return
		}
		for _, g := range p.Groups {
			if change[g] == nil {
				change[g] = map[netip.Prefix]int{}
			}
			for _, a := range p.Addresses() {
				change[g][a] += n
			}
		}
	}
	count(old, -1)
	count(now, 1)
	for _, g := range slices.Sorted(maps.Keys(change)) {
		var r *remoteRecord
		for _, p := range sortedPrefixes(change[g]) {
			if change[g][p] == 0 {
				continue
			}
			if r == nil {
				if r = l.remote(remoteID(secgroup.Remote{Group: g})); r == nil {
					break
				}
			}
			l.join(p, r, change[g][p])
		}
	}
}

// groupInUse is [vnet.ErrInUse] when something refers to the group.
func (l *ledger) groupInUse(id string) error { return l.all().GroupInUse(id) }

func (l *ledger) addressGroupInUse(id string) error {
	if l.remote(remoteID(secgroup.Remote{AddressGroup: id})) == nil {
		return nil
	}
	return l.all().AddressGroupInUse(id)
}

// make makes the difference between what stands and s.
func (l *ledger) make(s secgroup.State, changes []vnet.Change) {
	groups, ags, ports := map[string]secgroup.Group{}, map[string]secgroup.AddressGroup{}, map[string]secgroup.Port{}
	for _, g := range s.Groups {
		groups[g.ID] = g
	}
	for _, a := range s.AddressGroups {
		ags[a.ID] = a
	}
	for _, p := range s.Ports {
		ports[p.ID] = p
	}
	for _, c := range changes {
		gone := c.Verb == vnet.Delete
		switch c.Kind {
		case kindGroup:
			if gone {
				l.dropGroup(c.ID)
			} else {
				l.setGroup(groups[c.ID])
			}
		case kindAddressGroup:
			if gone {
				l.dropAddressGroup(c.ID)
			} else {
				l.setAddressGroup(ags[c.ID])
			}
		case kindPort:
			if gone {
				l.dropPort(c.ID)
			} else {
				l.setPort(ports[c.ID])
			}
		}
	}
}

// repair draws anew all that is recorded, so that flows that somebody took
// away or changed, or that another version made, are as they should be.
func (l *ledger) repair() {
	l.base()
	type entry struct {
		id     string
		record []byte
	}
	each := func(kind string, f func(id string, record []byte)) {
		var list []entry
		l.st.list(kind, func(id string, record []byte) { list = append(list, entry{id, record}) })
		for _, e := range list {
			f(e.id, e.record)
		}
	}
	number := map[string]uint32{}
	each(kindRemote, func(id string, record []byte) {
		if r := parse[remoteRecord](l, kindRemote, id, record); r != nil {
			number[id] = r.N
			l.write(kindRemote, id, r, nil)
		}
	})
	groups := map[string]uint32{}
	each(kindGroup, func(id string, record []byte) {
		if g := parse[groupRecord](l, kindGroup, id, record); g != nil {
			groups[id] = g.N
			flows, err := groupFlows(g.Group, g.N, func(r string) uint32 { return number[r] })
			if err != nil {
				l.fail(err)
				return
			}
			l.write(kindGroup, id, g, flows)
		}
	})
	each(kindAddress, func(id string, record []byte) {
		p, err := netip.ParsePrefix(id)
		if err != nil {
			l.fail(fmt.Errorf("record of address %s: %w", id, err))
			return
		}
		if list := parse[[]belongs](l, kindAddress, id, record); list != nil {
			l.write(kindAddress, id, *list, addressFlows(p, *list))
		}
	})
	each(kindPort, func(id string, record []byte) {
		p := parse[secgroup.Port](l, kindPort, id, record)
		if p == nil || !l.st.local(p.Host) {
			return
		}
		var of []uint32
		for _, g := range p.Groups {
			of = append(of, groups[g])
		}
		l.write(kindPort, id, *p, portFlows(*p, l.st.portNumber(p.ID), of))
	})
}
