package ovs_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/ovs"
)

// numbersIn are the numbers in the database, by owner, kind and id.
func numbersIn(t require.TestingT, sw *lab.Switch) map[[3]string]string {
	var out struct{ Data [][]any }
	require.NoError(t, json.Unmarshal([]byte(sw.Vsctl("--format=json", "--columns=external_ids", "list", "Bridge")), &out))
	all := map[[3]string]string{}
	for _, row := range out.Data {
		ext := map[string]string{}
		for _, p := range row[0].([]any)[1].([]any) {
			ext[p.([]any)[0].(string)] = p.([]any)[1].(string)
		}
		for k, v := range ext {
			if rest, ok := strings.CutPrefix(k, "vnet:number:"); ok {
				kind, id, _ := strings.Cut(rest, ":")
				all[[3]string{ext["vnet:owner"], kind, id}] = v
			}
		}
	}
	return all
}

// TestNumbersAmongProcesses has several processes of two owners claim and give
// back numbers at the same time, and be restarted.
func TestNumbersAmongProcesses(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1"})[0]
	owners := []vnet.Owner{vnet.Owner(l.Owner("")), vnet.Owner(l.Owner("y"))}
	kinds := []string{"port", "network", "router"}
	parts := []vnet.Part{vnet.PartOverlay, vnet.PartRouter, vnet.PartSecGroup}
	var handles []*ovs.Switch
	for i := range 5 {
		handles = append(handles, open(t, sw, owners[i%2], ovs.Options{}))
	}
	number := func(tx *ovs.Tx, kind, id string) uint16 {
		switch kind {
		case "port":
			return tx.PortNumber(id)
		case "network":
			return tx.NetworkNumber(id)
		}
		return tx.RouterNumber(id)
	}
	type holder struct {
		owner    vnet.Owner
		part     vnet.Part
		kind, id string
	}
	rapid.Check(t, func(rt *rapid.T) {
		held := map[holder]uint16{} // and what each was told
		for i := range owners {
			for _, p := range parts {
				require.NoError(rt, handles[i].Submit(t.Context(), p, func(tx *ovs.Tx) error { tx.All(); return nil }))
			}
		}
		require.Empty(rt, numbersIn(rt, sw))
		for range rapid.IntRange(1, 4).Draw(rt, "steps") {
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				i := rapid.IntRange(0, len(handles)-1).Draw(rt, "who")
				require.NoError(rt, handles[i].Close())
				handles[i] = open(t, sw, owners[i%2], ovs.Options{})
			}
			// Each does something at the same time; no two the same part's.
			var wg sync.WaitGroup
			var mu sync.Mutex
			busy := map[string]bool{}
			for i, h := range handles {
				part := rapid.SampledFrom(parts).Draw(rt, "part")
				if busy[fmt.Sprint(i%2, part)] {
					continue
				}
				busy[fmt.Sprint(i%2, part)] = true
				all := rapid.IntRange(0, 4).Draw(rt, "sync") == 0
				var claim, release []holder
				for range rapid.IntRange(1, 4).Draw(rt, "n") {
					x := holder{owners[i%2], part, rapid.SampledFrom(kinds).Draw(rt, "kind"), strconv.Itoa(rapid.IntRange(0, 3).Draw(rt, "id"))}
					switch {
					case slices.Contains(claim, x) || slices.Contains(release, x):
					case all || rapid.Bool().Draw(rt, "claim"):
						claim = append(claim, x)
					default:
						release = append(release, x)
					}
				}
				wg.Go(func() {
					got := map[holder]uint16{}
					err := h.Submit(t.Context(), part, func(tx *ovs.Tx) error {
						if all {
							tx.All()
						}
						for _, x := range release {
							tx.Release(x.kind, x.id)
						}
						for _, x := range claim {
							got[x] = number(tx, x.kind, x.id)
						}
						return nil
					})
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						rt.Errorf("%s: %v", part, err)
					}
					maps.DeleteFunc(held, func(x holder, _ uint16) bool {
						return x.owner == owners[i%2] && x.part == part && (all || slices.Contains(release, x))
					})
					maps.Copy(held, got)
				})
			}
			wg.Wait()

			want := map[[3]string][]string{}
			for x := range held {
				k := [3]string{string(x.owner), x.kind, x.id}
				want[k] = append(want[k], string(x.part))
			}
			have := numbersIn(rt, sw)
			require.Len(rt, have, len(want), "%v\n%v", have, want)
			taken := map[string][3]string{}
			for k, v := range have {
				f := strings.Fields(v)
				slices.Sort(want[k])
				require.Equal(rt, want[k], f[1:], "%v", k)
				whose := k[1] + " " + f[0]
				require.NotContains(rt, taken, whose, "twice: %v and %v", k, taken[whose])
				taken[whose] = k
			}
			for x, n := range held {
				require.Equal(rt, strconv.Itoa(int(n)), strings.Fields(have[[3]string{string(x.owner), x.kind, x.id}])[0], "%v was told another", x)
			}
		}
	})
}

// TestNumbersGoRound checks that a number is not given again at once, and that
// the last one is given too.
func TestNumbersGoRound(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1"})[0]
	s := open(t, sw, vnet.Owner(l.Owner("")), ovs.Options{})
	ctx := t.Context()
	var n, m uint16
	one := func(n *uint16) func(*ovs.Tx) error {
		return func(tx *ovs.Tx) error { *n = tx.RouterNumber("r"); return nil }
	}
	require.NoError(t, s.Submit(ctx, vnet.PartRouter, one(&n)))
	require.NoError(t, s.Submit(ctx, vnet.PartRouter, func(tx *ovs.Tx) error { tx.Release("router", "r"); return nil }))
	require.NoError(t, s.Submit(ctx, vnet.PartRouter, one(&m)))
	require.NotEqual(t, n, m)

	const most = 0x1fff
	many := func(n int) func(*ovs.Tx) error {
		return func(tx *ovs.Tx) error {
			for i := range n {
				tx.RouterNumber(fmt.Sprint("x", i))
			}
			return nil
		}
	}
	require.NoError(t, s.Submit(ctx, vnet.PartRouter, many(most-1)))
	before := s.Writes()
	require.ErrorIs(t, s.Submit(ctx, vnet.PartRouter, many(most)), vnet.ErrConflict)
	require.Equal(t, before, s.Writes())
	require.NoError(t, s.Submit(ctx, vnet.PartRouter, func(tx *ovs.Tx) error { tx.Release("router", "x17"); return nil }))
	require.NoError(t, s.Submit(ctx, vnet.PartRouter, one(&m)))
	require.NoError(t, s.Submit(ctx, vnet.PartRouter, func(tx *ovs.Tx) error { tx.RouterNumber("new"); return nil }))
	require.Len(t, numbersIn(t, sw), most)
}
