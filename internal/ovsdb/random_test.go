package ovsdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
)

// dump is a state as text.
func dump(s interface {
	Row(table, uuid string) any
	Parents(table, uuid string) []Ref
	Lookup(table, column, value string) []any
}, all func(table string) map[string]any) string {
	out := map[string]any{}
	for _, t := range []string{"Logical_Switch", "Logical_Switch_Port", "Port_Group", "ACL", "DHCP_Options"} {
		out[t] = all(t)
	}
	for i := range 8 {
		out[fmt.Sprint("parents of port ", i)] = s.Parents("Logical_Switch_Port", id(10+i))
		n := []string{}
		for _, r := range s.Lookup("Logical_Switch", "name", fmt.Sprint("n", i)) {
			n = append(n, r.(*nbrow.LogicalSwitch).UUID)
		}
		slices.Sort(n)
		out[fmt.Sprint("named ", i)] = n
	}
	j, _ := json.MarshalIndent(out, "", " ")
	return string(j)
}

// TestRandom: two clients change rows at random. What a transaction says will
// be is what the server has then, and what both clients and a new one see.
func TestRandom(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	clients := []*Client{open(t, nil, srv.Endpoint()), open(t, nil, srv.Endpoint())}
	words := []string{"a", "b", "c", "d"}
	rapid.Check(t, func(r *rapid.T) {
		set := func(name string) []string { return rapid.SliceOfN(rapid.SampledFrom(words), 0, 4).Draw(r, name) }
		dict := func(name string) map[string]string {
			return rapid.MapOfN(rapid.SampledFrom(words), rapid.SampledFrom(words), 0, 3).Draw(r, name)
		}
		opt := func(name string) *string {
			if rapid.Bool().Draw(r, name) {
				return new(rapid.SampledFrom(words).Draw(r, name))
			}
			return nil
		}
		for range rapid.IntRange(1, 6).Draw(r, "transactions") {
			c := clients[rapid.IntRange(0, 1).Draw(r, "client")]
			// Drawn before, because the function may be called again.
			type step struct {
				what, n, m int
				set        []string
				dict       map[string]string
				opt        *string
			}
			var steps []step
			for range rapid.IntRange(1, 8).Draw(r, "steps") {
				steps = append(steps, step{rapid.IntRange(0, 6).Draw(r, "what"), rapid.IntRange(0, 7).Draw(r, "n"), rapid.IntRange(0, 2).Draw(r, "m"),
					set("set"), dict("dict"), opt("opt")})
			}
			rollback := rapid.IntRange(0, len(steps)).Draw(r, "rollback")
			var predicted string
			_, err := c.Commit(t.Context(), func(x *Tx) error {
				do := func(s step) error {
					sw, port := id(s.m), id(10+s.n)
					if x.Row("Logical_Switch", sw) == nil && s.what != 5 {
						if err := x.Put(&nbrow.LogicalSwitch{UUID: sw, Name: fmt.Sprint("n", s.m)}); err != nil {
							return err
						}
					}
					switch s.what {
					case 0: // a port, wherever it was, is on this switch
						p := &nbrow.LogicalSwitchPort{UUID: port, Name: port, Addresses: s.set, Options: s.dict, ParentName: s.opt, ExternalIDs: map[string]string{"g": "x"}}
						if err := x.Put(p); err != nil {
							return err
						}
						for _, ref := range x.Parents("Logical_Switch_Port", port) {
							if err := x.Member(ref.Table, ref.UUID, ref.Column, nil, []string{port}); err != nil {
								return err
							}
						}
						return x.Member("Logical_Switch", sw, "ports", []string{port}, nil)
					case 1:
						return x.Delete("Logical_Switch_Port", port)
					case 2: // a group with a rule of its own
						acl := id(100 + s.m)
						return errors.Join(x.Put(&nbrow.ACL{UUID: acl, Action: "drop", Direction: "to-lport", Match: fmt.Sprint(s.n), Options: s.dict, Name: s.opt}),
							x.Put(&nbrow.PortGroup{UUID: id(200 + s.m), Name: fmt.Sprint("g", s.m), ACLs: []string{acl}}))
					case 3:
						return errors.Join(x.Delete("Port_Group", id(200+s.m)), x.Delete("ACL", id(100+s.m)))
					case 4:
						w := *x.Row("Logical_Switch", sw).(*nbrow.LogicalSwitch)
						w.OtherConfig, w.Name = s.dict, fmt.Sprint("n", s.n)
						return x.Put(&w)
					case 5: // with its ports
						w, ok := x.Row("Logical_Switch", sw).(*nbrow.LogicalSwitch)
						if !ok {
							return nil
						}
						for _, p := range w.Ports {
							if err := x.Delete("Logical_Switch_Port", p); err != nil {
								return err
							}
						}
						return x.Delete("Logical_Switch", sw)
					default:
						return x.Put(&nbrow.DHCPOptions{UUID: id(300 + s.m), Cidr: "x", Options: s.dict})
					}
				}
				for i, s := range steps {
					mark := x.Mark()
					if err := do(s); err != nil {
						return err
					}
					if i == rollback {
						x.Rollback(mark)
					}
				}
				predicted = dump(x, func(table string) map[string]any { return maps.Collect(x.All(table)) })
				return nil
			}, nil)
			if err != nil {
				r.Fatal(err)
			}
			all := func(s *State) string {
				return dump(s, func(table string) map[string]any { return maps.Collect(s.All(table)) })
			}
			normal := func(s string) string { // an empty set is none
				var v any
				json.Unmarshal([]byte(s), &v)
				var walk func(v any) any
				walk = func(v any) any {
					switch x := v.(type) {
					case map[string]any:
						for k := range x {
							if x[k] = walk(x[k]); x[k] == nil {
								delete(x, k)
							}
						}
						if len(x) == 0 {
							return nil
						}
					case []any:
						if len(x) == 0 {
							return nil
						}
					}
					return v
				}
				j, _ := json.MarshalIndent(walk(v), "", " ")
				return string(j)
			}
			require.Equal(r, normal(all(c.State())), normal(predicted), "what was said will be")
			want := all(c.State())
			for _, o := range clients {
				if err := o.Wait(ctx(t), func(s *State) bool { return all(s) == want }); err != nil {
					r.Fatalf("the other client has\n%s\nand this one\n%s", all(o.State()), want)
				}
			}
			s, err := open(t, nil, srv.Endpoint()).Ready(ctx(t))
			require.NoError(r, err)
			require.Equal(r, all(s), want, "what a new client reads")
		}
	})
}

func TestPmap(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		seed := maphash.MakeSeed()
		var m *pmap[int]
		want := map[string]int{}
		type version struct {
			m    *pmap[int]
			want map[string]int
		}
		var old []version
		for range rapid.IntRange(0, 10).Draw(r, "edits") {
			e := edit(seed, m)
			for range rapid.IntRange(0, 20).Draw(r, "changes") {
				k, v := fmt.Sprint(rapid.IntRange(0, 30).Draw(r, "k")), rapid.Int().Draw(r, "v")
				if v%3 == 0 {
					e.del(k)
					delete(want, k)
				} else {
					e.set(k, v)
					want[k] = v
				}
			}
			m = e.m
			old = append(old, version{m, maps.Clone(want)})
		}
		for _, o := range old {
			require.Equal(r, o.want, maps.Collect(o.m.all()))
			require.Equal(r, len(o.want), o.m.len())
			for k, v := range o.want {
				got, ok := o.m.get(seed, k)
				require.True(r, ok)
				require.Equal(r, v, got)
			}
		}
	})
}
