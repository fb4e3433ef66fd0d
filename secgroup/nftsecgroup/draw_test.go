package nftsecgroup

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/secgroup"
)

// kernel is what writes make, without a kernel.
type kernel struct {
	chains map[string]nft.Chain
	sets   map[string]map[string]nft.Element
}

func (k *kernel) do(w write) {
	for _, s := range w.l.fixedSets() {
		if k.sets[s.Name] == nil {
			k.sets[s.Name] = map[string]nft.Element{}
		}
	}
	for _, s := range w.sets {
		if k.sets[s.Name] == nil {
			k.sets[s.Name] = map[string]nft.Element{}
		}
	}
	for _, e := range w.take {
		for _, x := range e.elems {
			delete(k.sets[e.set.Name], elementKey(x))
		}
	}
	for _, e := range w.add {
		for _, x := range e.elems {
			k.sets[e.set.Name][elementKey(x)] = x
		}
	}
	for _, c := range w.chains {
		k.chains[c.Name] = c
	}
	for _, c := range w.goneChain {
		delete(k.chains, c.Name)
	}
	for _, s := range w.goneSet {
		delete(k.sets, s.Name)
	}
}

func testFacts(s secgroup.State) *facts {
	f := newFacts(s, func(p secgroup.Port) bool { return p.Host == "" })
	for _, id := range []string{"p0", "p1", "p2", "p3"} {
		f.index[id] = uint32(id[1])
	}
	return f
}

var (
	testDevices  = nft.Set{Table: nft.Table{Family: nft.Bridge, Name: "vnet-t"}, Name: "devices", Key: []nft.Type{nft.TypeIfName}}
	testNetworks = nft.Set{Table: nft.Table{Family: nft.Inet, Name: "vnet-t"}, Name: "networks", Key: []nft.Type{nft.TypeIfName}}
	testLayout   = newLayout(testDevices, testNetworks, false)
)

func apply(k *kernel, f *facts, changes []change) {
	t := touch(f, changes)
	before := draw(testLayout, f, t)
	for _, c := range changes {
		if c.new != (object{}) {
			f.put(c.new)
		} else {
			f.drop(c.old)
		}
	}
	k.do(difference(testLayout, before, draw(testLayout, f, t)))
}

// whole is the ruleset of a state, made at once.
func whole(s secgroup.State) *kernel {
	k := &kernel{map[string]nft.Chain{}, map[string]map[string]nft.Element{}}
	f := testFacts(secgroup.State{})
	var changes []change
	for _, a := range s.AddressGroups {
		changes = append(changes, change{new: object{addressGroup: &a}})
	}
	for _, g := range s.Groups {
		changes = append(changes, change{new: object{group: &g}})
	}
	for _, p := range s.Ports {
		changes = append(changes, change{new: object{port: &p}})
	}
	apply(k, f, changes)
	return k
}

func drawPrefix(t *rapid.T, v4 bool) netip.Prefix {
	n := byte(rapid.IntRange(0, 7).Draw(t, "addr"))
	if v4 {
		p, _ := netip.AddrFrom4([4]byte{10, 0, 0, n}).Prefix(rapid.SampledFrom([]int{0, 24, 29, 30, 31, 32, 32}).Draw(t, "bits"))
		return p
	}
	p, _ := netip.AddrFrom16([16]byte{0x20, 1, 15: n}).Prefix(rapid.SampledFrom([]int{0, 64, 126, 128, 128}).Draw(t, "bits"))
	return p
}

func drawGroup(t *rapid.T, id string) secgroup.Group {
	g := secgroup.Group{ID: id, Stateless: rapid.IntRange(0, 3).Draw(t, "stateless") == 0}
	for i := range rapid.IntRange(0, 5).Draw(t, "rules") {
		r := secgroup.Rule{ID: fmt.Sprintf("r%d", i),
			Direction: rapid.SampledFrom([]secgroup.Direction{secgroup.Ingress, secgroup.Egress}).Draw(t, "direction"),
			Ethertype: rapid.SampledFrom([]secgroup.Ethertype{secgroup.IPv4, secgroup.IPv6}).Draw(t, "version")}
		r.Protocol = rapid.SampledFrom([]string{"", "tcp", "udp", "icmp", "gre"}).Draw(t, "protocol")
		if r.Protocol != "" && r.Protocol != "gre" && rapid.Bool().Draw(t, "ports") {
			n := uint16(rapid.IntRange(1, 9).Draw(t, "port"))
			r.PortMin, r.PortMax = &n, &n
		}
		switch rapid.IntRange(0, 3).Draw(t, "remote") {
		case 0:
			r.RemoteGroup = rapid.SampledFrom([]string{"g0", "g1", "g2"}).Draw(t, "group")
		case 1:
			r.RemoteAddressGroup = rapid.SampledFrom([]string{"a0", "a1"}).Draw(t, "address group")
		case 2:
			r.RemotePrefix = drawPrefix(t, r.Ethertype == secgroup.IPv4)
		}
		g.Rules = append(g.Rules, r)
	}
	return g.Canonical()
}

// TestWritesAddUp makes changes one by one and compares what was written with
// what the last state is drawn as at once.
func TestWritesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := &kernel{map[string]nft.Chain{}, map[string]map[string]nft.Element{}}
		f := testFacts(secgroup.State{})
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			var changes []change
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0, 1:
				g := drawGroup(t, rapid.SampledFrom([]string{"g0", "g1", "g2"}).Draw(t, "id"))
				changes = append(changes, change{object{group: f.Group(g.ID)}, object{group: &g}})
			case 2:
				a := secgroup.AddressGroup{ID: rapid.SampledFrom([]string{"a0", "a1"}).Draw(t, "id")}
				for range rapid.IntRange(0, 4).Draw(t, "prefixes") {
					a.Prefixes = append(a.Prefixes, drawPrefix(t, rapid.Bool().Draw(t, "v4")))
				}
				a = a.Canonical()
				changes = append(changes, change{object{addressGroup: f.AddressGroup(a.ID)}, object{addressGroup: &a}})
			case 3, 4:
				p := secgroup.Port{ID: fmt.Sprintf("p%d", rapid.IntRange(0, 3).Draw(t, "port")), NetworkID: rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "net"), MAC: vnet.MAC{2, 5: 1},
					Host: rapid.SampledFrom([]string{"", "", "far"}).Draw(t, "host")}
				if p.DisablePortSecurity = rapid.IntRange(0, 4).Draw(t, "off") == 0; !p.DisablePortSecurity {
					for _, g := range []string{"g0", "g1", "g2"} {
						if f.Group(g) != nil && rapid.Bool().Draw(t, g) {
							p.Groups = append(p.Groups, g)
						}
					}
					for range rapid.IntRange(0, 3).Draw(t, "pairs") {
						p.AllowedPairs = append(p.AllowedPairs, secgroup.AddressPair{Prefix: drawPrefix(t, rapid.Bool().Draw(t, "v4"))})
					}
				}
				if rapid.Bool().Draw(t, "fixed") {
					p.FixedIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 7).Draw(t, "ip"))})}
				}
				p = p.Canonical()
				changes = append(changes, change{object{port: f.Port(p.ID)}, object{port: &p}})
			case 5:
				if p := f.Port(fmt.Sprintf("p%d", rapid.IntRange(0, 3).Draw(t, "port"))); p != nil {
					changes = append(changes, change{old: object{port: p}})
				}
			case 6:
				if g := f.Group(rapid.SampledFrom([]string{"g0", "g1", "g2"}).Draw(t, "id")); g != nil && f.GroupInUse(g.ID) == nil {
					changes = append(changes, change{old: object{group: g}})
				} else if a := f.AddressGroup("a0"); a != nil && f.AddressGroupInUse("a0") == nil {
					changes = append(changes, change{old: object{addressGroup: a}})
				}
			}
			apply(k, f, changes)
		}
		want := whole(f.State())
		if !reflect.DeepEqual(sortedKeys(k.chains), sortedKeys(want.chains)) {
			t.Fatalf("chains %v, want %v", sortedKeys(k.chains), sortedKeys(want.chains))
		}
		for name := range want.chains {
			if !reflect.DeepEqual(k.chains[name], want.chains[name]) {
				t.Fatalf("chain %s: %v, want %v", name, k.chains[name], want.chains[name])
			}
		}
		if !reflect.DeepEqual(sortedKeys(k.sets), sortedKeys(want.sets)) {
			t.Fatalf("sets %v, want %v", sortedKeys(k.sets), sortedKeys(want.sets))
		}
		for name := range want.sets {
			if !reflect.DeepEqual(k.sets[name], want.sets[name]) {
				t.Fatalf("set %s: %v, want %v", name, k.sets[name], want.sets[name])
			}
			disjointSet(t, name, k.sets[name])
		}
	})
}

// disjointSet fails when two elements of a set overlap.
func disjointSet(t *rapid.T, name string, set map[string]nft.Element) {
	bounds := func(v any) (lo, hi string, ok bool) {
		switch v := v.(type) {
		case netip.Prefix:
			return string(v.Addr().AsSlice()), string(last(v)), true
		case netip.Addr:
			return string(v.AsSlice()), string(v.AsSlice()), true
		case uint16:
			return fmt.Sprintf("%05d", v), fmt.Sprintf("%05d", v), true
		case nft.Range:
			return fmt.Sprintf("%05d", v.From), fmt.Sprintf("%05d", v.To), true
		case nft.Any:
			return "", "\xff", true
		}
		s := fmt.Sprint(v)
		return s, s, true
	}
	keys := sortedKeys(set)
	for i, a := range keys {
		for _, b := range keys[:i] {
			overlap := true
			for c := range set[a].Key {
				alo, ahi, _ := bounds(set[a].Key[c])
				blo, bhi, _ := bounds(set[b].Key[c])
				overlap = overlap && alo <= bhi && blo <= ahi
			}
			if overlap {
				t.Fatalf("set %s: %v and %v overlap", name, set[a].Key, set[b].Key)
			}
		}
	}
}

func last(p netip.Prefix) []byte {
	b := slices.Clone(p.Addr().AsSlice())
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}
