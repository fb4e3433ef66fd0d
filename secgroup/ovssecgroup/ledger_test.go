package ovssecgroup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/secgroup"
)

// shelf is a store in memory. It counts what a switch would be told.
type shelf struct {
	t       require.TestingT
	objects map[string]*shelved
	writes  int // flows added, changed or deleted, records too
	numbers map[string]uint16
}

type shelved struct {
	kind, id string
	record   []byte
	flows    map[of.FlowKey]of.Flow
}

func newShelf(t require.TestingT) *shelf {
	return &shelf{t: t, objects: map[string]*shelved{}, numbers: map[string]uint16{}}
}

func (s *shelf) get(kind, id string) ([]byte, bool) {
	if o := s.objects[kind+" "+id]; o != nil {
		return o.record, true
	}
	return nil, false
}

func (s *shelf) list(kind string, f func(id string, record []byte)) {
	for _, k := range slices.Sorted(maps.Keys(s.objects)) {
		if o := s.objects[k]; o.kind == kind {
			f(o.id, o.record)
		}
	}
}

func (s *shelf) put(kind, id string, record []byte, flows []of.Flow) {
	was := s.objects[kind+" "+id]
	now := &shelved{kind, id, record, map[of.FlowKey]of.Flow{}}
	if was == nil {
		was = &shelved{}
		s.writes++
	} else if !bytes.Equal(was.record, record) {
		s.writes++
	}
	for _, f := range flows {
		require.NoError(s.t, f.Validate())
		if other, twice := now.flows[f.Key()]; twice {
			require.Fail(s.t, "two flows of one match", "%s and %s", other.String(), f.String())
		}
		now.flows[f.Key()] = f
		if o, had := was.flows[f.Key()]; !had || !o.Equal(&f) {
			s.writes++
		}
	}
	for k := range was.flows {
		if _, stays := now.flows[k]; !stays {
			s.writes++
		}
	}
	s.objects[kind+" "+id] = now
}

func (s *shelf) drop(kind, id string) {
	if o := s.objects[kind+" "+id]; o != nil {
		s.writes += 1 + len(o.flows)
		delete(s.objects, kind+" "+id)
	}
}

func (s *shelf) portNumber(id string) uint16 {
	if s.numbers[id] == 0 {
		s.numbers[id] = uint16(len(s.numbers) + 1)
	}
	return s.numbers[id]
}

func (s *shelf) freePortNumber(string) {}

func (s *shelf) local(host string) bool { return host == "" || host == "here" }

// do runs f as one submission and returns how much was written.
func (s *shelf) do(f func(l *ledger)) int {
	before := s.writes
	l := &ledger{st: s}
	f(l)
	require.NoError(s.t, l.err)
	return s.writes - before
}

func (s *shelf) text() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s.objects)) {
		o := s.objects[k]
		fmt.Fprintf(&b, "%s\n", k)
		if o.record != nil {
			fmt.Fprintf(&b, "  record: %s\n", o.record)
		}
		var lines []string
		for _, f := range o.flows {
			lines = append(lines, flowText(f))
		}
		slices.Sort(lines)
		for _, line := range lines {
			b.WriteString("  " + line + "\n")
		}
	}
	return b.String()
}

// check compares what hangs on the objects of the contract with what they say.
func (s *shelf) check() {
	l := &ledger{st: s}
	b := l.all()
	refs := map[string][4]int{}
	s.list(kindGroup, func(id string, _ []byte) {
		for r, how := range references(b.Group(id)) {
			n := refs[r]
			for i, yes := range how {
				if yes {
					n[i]++
				}
			}
			refs[r] = n
		}
	})
	used := map[uint32]string{}
	use := func(n uint32, by string) {
		require.Empty(s.t, used[n], "number %d of %s is also that of", n, by)
		require.NotZero(s.t, n)
		used[n] = by
	}
	want := map[netip.Prefix]map[uint32]belongs{}
	s.list(kindRemote, func(id string, record []byte) {
		var r remoteRecord
		require.NoError(s.t, json.Unmarshal(record, &r))
		use(r.N, id)
		require.Equal(s.t, refs[id], r.Refs, id)
		delete(refs, id)
		for p, n := range l.members(id) {
			if d := r.dirs(p.Addr().Is6()); d != 0 {
				if want[p] == nil {
					want[p] = map[uint32]belongs{}
				}
				want[p][r.N] = belongs{r.N, n, d}
			}
		}
	})
	require.Empty(s.t, refs, "remotes without a record")
	s.list(kindGroup, func(id string, record []byte) {
		var g groupRecord
		require.NoError(s.t, json.Unmarshal(record, &g))
		use(g.N, id)
	})
	s.list(kindAddress, func(id string, record []byte) {
		var list []belongs
		require.NoError(s.t, json.Unmarshal(record, &list))
		got := map[uint32]belongs{}
		for _, b := range list {
			got[b.N] = b
		}
		p := netip.MustParsePrefix(id)
		require.Equal(s.t, want[p], got, id)
		delete(want, p)
	})
	require.Empty(s.t, want, "addresses without a record")
	n := 0
	if r := read[ranges](l, kindNumbers, kindNumbers); r != nil {
		for _, x := range *r {
			for i := x[0]; i <= x[1]; i++ {
				require.NotEmpty(s.t, used[i], "number %d is nobody's", i)
				n++
			}
		}
	}
	require.Len(s.t, used, n)
}

func drawRule(t *rapid.T, id string) secgroup.Rule {
	r := secgroup.Rule{ID: id,
		Direction: rapid.SampledFrom([]secgroup.Direction{secgroup.Ingress, secgroup.Egress}).Draw(t, "direction"),
		Ethertype: rapid.SampledFrom([]secgroup.Ethertype{secgroup.IPv4, secgroup.IPv6}).Draw(t, "version"),
		Protocol:  rapid.SampledFrom([]string{"", "tcp", "icmp", "47"}).Draw(t, "protocol")}
	if r.Protocol == "tcp" && rapid.Bool().Draw(t, "ports") {
		r.PortMin = new(uint16(rapid.IntRange(1, 9).Draw(t, "lo")))
		r.PortMax = new(*r.PortMin + uint16(rapid.IntRange(0, 3).Draw(t, "more")))
	}
	if r.Protocol == "icmp" && rapid.Bool().Draw(t, "type") {
		r.PortMin = new(uint16(rapid.IntRange(7, 9).Draw(t, "type")))
		if rapid.Bool().Draw(t, "code") {
			r.PortMax = new(uint16(rapid.IntRange(0, 1).Draw(t, "code")))
		}
	}
	switch rapid.IntRange(0, 3).Draw(t, "remote") {
	case 1:
		r.RemoteGroup = rapid.SampledFrom([]string{"g0", "g1", "g2", "none"}).Draw(t, "group")
	case 2:
		r.RemoteAddressGroup = rapid.SampledFrom([]string{"a0", "a1"}).Draw(t, "address group")
	case 3:
		v6 := r.Ethertype == secgroup.IPv6
		r.RemotePrefix = drawPrefix(t, &v6)
	}
	return r
}

func drawPrefix(t *rapid.T, v6 *bool) netip.Prefix {
	yes := v6 != nil && *v6
	if v6 == nil {
		yes = rapid.Bool().Draw(t, "v6")
	}
	n, bits := byte(rapid.IntRange(0, 3).Draw(t, "address")), rapid.IntRange(0, 2).Draw(t, "bits")
	a := netip.AddrFrom4([4]byte{10, 0, 0, n})
	if yes {
		a = netip.AddrFrom16([16]byte{0x20, 1, 15: n})
	}
	return netip.PrefixFrom(a, a.BitLen()-bits).Masked()
}

// TestLedger compares, as objects come, change and go, what is written with
// what has to stand, and one change after another with all at once.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newShelf(t)
		s.do(func(l *ledger) { l.base() })
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			var f func(l *ledger)
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1:
				g := secgroup.Group{ID: rapid.SampledFrom([]string{"g0", "g1", "g2"}).Draw(t, "id"), Stateless: rapid.Bool().Draw(t, "stateless")}
				for i := range rapid.IntRange(0, 4).Draw(t, "rules") {
					g.Rules = append(g.Rules, drawRule(t, fmt.Sprint("r", i)))
				}
				f = func(l *ledger) { l.setGroup(g.Canonical()) }
			case 2:
				a := secgroup.AddressGroup{ID: rapid.SampledFrom([]string{"a0", "a1"}).Draw(t, "id")}
				for range rapid.IntRange(0, 3).Draw(t, "prefixes") {
					a.Prefixes = append(a.Prefixes, drawPrefix(t, nil))
				}
				f = func(l *ledger) { l.setAddressGroup(a.Canonical()) }
			case 3, 4:
				p := secgroup.Port{ID: fmt.Sprint("p", rapid.IntRange(0, 3).Draw(t, "id")), NetworkID: "net", MAC: [6]byte{2, 1},
					Host: rapid.SampledFrom([]string{"here", "far"}).Draw(t, "host")}
				p.FixedIPs = []netip.Addr{drawPrefix(t, nil).Addr()}
				if rapid.Bool().Draw(t, "pair") {
					p.AllowedPairs = []secgroup.AddressPair{{Prefix: drawPrefix(t, nil)}, {Prefix: drawPrefix(t, nil)}}
				}
				s.list(kindGroup, func(id string, _ []byte) {
					if rapid.Bool().Draw(t, "in "+id) {
						p.Groups = append(p.Groups, id)
					}
				})
				f = func(l *ledger) { l.setPort(p.Canonical()) }
			case 5:
				switch id := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "id")); rapid.IntRange(0, 2).Draw(t, "kind") {
				case 0:
					f = func(l *ledger) {
						if l.groupInUse("g"+id) == nil {
							l.dropGroup("g" + id)
						}
					}
				case 1:
					f = func(l *ledger) {
						if l.addressGroupInUse("a"+id) == nil {
							l.dropAddressGroup("a" + id)
						}
					}
				case 2:
					f = func(l *ledger) { l.dropPort("p" + id) }
				}
			}
			s.do(f)
			s.check()
			require.Zero(t, s.do(f), "the same once more")
		}
		require.Zero(t, s.do(func(l *ledger) { l.repair() }), "nothing to repair")
		// All at once, and to nothing.
		want := (&ledger{st: s}).all().State()
		z := newShelf(t)
		z.numbers = s.numbers
		z.do(func(l *ledger) { l.make(want, secgroup.Diff(l.all().State(), want)) })
		z.check()
		require.Equal(t, want, (&ledger{st: z}).all().State())
		z.do(func(l *ledger) { l.make(secgroup.State{}, secgroup.Diff(l.all().State(), secgroup.State{})) })
		require.Empty(t, z.objects)
	})
}

func testPort(n int, host string, groups ...string) secgroup.Port {
	return secgroup.Port{ID: fmt.Sprintf("port-%06d", n), NetworkID: "net", MAC: [6]byte{2, 0x5e, 1, byte(n >> 16), byte(n >> 8), byte(n)},
		FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})},
		Groups:   groups, Host: host}.Canonical()
}

// TestCosts counts what one change writes where much stands.
func TestCosts(t *testing.T) {
	s := newShelf(t)
	s.do(func(l *ledger) {
		l.base()
		l.setGroup(secgroup.DefaultGroup("default").Canonical())
		for i := range 10000 {
			l.setPort(testPort(i+1, "far", "default"))
		}
		l.setPort(testPort(20000, "here", "default"))
	})
	n := s.do(func(l *ledger) { l.setPort(testPort(30000, "far", "default")) })
	require.Equal(t, 1+2*2, n, "a member of another host: its record, and a flow and a record for each address")
	require.Equal(t, n, s.do(func(l *ledger) { l.dropPort(testPort(30000, "far").ID) }))
	g := secgroup.DefaultGroup("default")
	g.Rules = append(g.Rules, secgroup.Rule{ID: "ssh", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: new(uint16(22)), PortMax: new(uint16(22))})
	require.Equal(t, 2, s.do(func(l *ledger) { l.setGroup(g.Canonical()) }), "a rule more: its flow and the group's record")
	require.Equal(t, 2, s.do(func(l *ledger) { l.setGroup(secgroup.DefaultGroup("default").Canonical()) }))
	more := testPort(20000, "here", "default")
	more.FixedIPs = append(more.FixedIPs, netip.MustParseAddr("10.9.9.9"))
	require.Equal(t, 1+2+2, s.do(func(l *ledger) { l.setPort(more.Canonical()) }), "an address more: two flows of port security, the member, and records")
	require.Zero(t, s.do(func(l *ledger) { l.repair() }))
}

// TestLongRecords cuts what is too long for one flow into pieces, and puts it
// together again.
func TestLongRecords(t *testing.T) {
	s := newShelf(t)
	long := secgroup.AddressGroup{ID: "long"}
	for i := range 40000 {
		long.Prefixes = append(long.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i * 7), byte(i >> 8), byte(i), byte(i * i)}), 32))
	}
	long = long.Canonical()
	s.do(func(l *ledger) { l.setAddressGroup(long) })
	for _, o := range s.objects {
		require.Less(t, len(o.record), 50<<10, o.kind+" "+o.id)
	}
	require.Greater(t, len(s.objects), 1)
	got := (&ledger{st: s}).addressGroup("long")
	require.True(t, got.Equal(long))
	require.Zero(t, s.do(func(l *ledger) { l.setAddressGroup(long) }))
	long.Prefixes = long.Prefixes[:3000]
	s.do(func(l *ledger) { l.setAddressGroup(long) })
	require.Len(t, s.objects, 1)
	s.do(func(l *ledger) { l.dropAddressGroup("long") })
	require.Empty(t, s.objects)
}
