package nft_test

import (
	"fmt"
	"net/netip"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nft"
)

// TestRandomTransactions compares sets with plain maps through random
// transactions, some of which fail, and asks a new connection each time.
func TestRandomTransactions(t *testing.T) {
	l := lab.New(t)
	ns := l.NS("a")
	sets := []nft.Set{
		{Table: inet, Name: "exact", Key: []nft.Type{nft.TypeIPv4}, Data: []nft.Type{nft.TypeMark}},
		{Table: inet, Name: "ranges", Key: []nft.Type{nft.TypeIPv4}, Data: []nft.Type{nft.TypeMark}, Interval: true},
		{Table: inet, Name: "pairs", Key: []nft.Type{nft.TypePort, nft.TypeIPv4}, Data: []nft.Type{nft.TypeMark}, Interval: true},
	}
	ip := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, byte(n)}) }
	// Seven addresses of eight, up to the last of all; the forms of a block exclude each other.
	key := func(set, block int, wide bool) []any {
		lo, hi := ip(block*8+1), ip(block*8+7)
		switch {
		case set == 0:
			return []any{lo}
		case set == 1 && wide:
			return []any{nft.Range{From: lo, To: hi}}
		case set == 1:
			return []any{lo}
		case wide:
			return []any{nft.Range{From: uint16(block * 100), To: uint16(block*100 + 99)}, prefix("0.0.0.0/0")}
		}
		return []any{uint16(block * 100), nft.Range{From: lo, To: hi}}
	}
	text := func(e nft.Element) string { return fmt.Sprint(e.Key, e.Data) }
	rapid.Check(t, func(t *rapid.T) {
		c := nft.Open(ns)
		defer c.Close()
		if err := c.Do(t.Context(), func(tx *nft.Tx) error {
			tx.DeleteTable(inet)
			for _, s := range sets {
				tx.Set(s)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		model := make([]map[string]nft.Element, len(sets)) // by key's text
		for i := range model {
			model[i] = map[string]nft.Element{}
		}
		for range rapid.IntRange(1, 6).Draw(t, "transactions") {
			fail := rapid.IntRange(0, 4).Draw(t, "fail") == 0
			next := make([]map[string]nft.Element, len(sets))
			for i := range model {
				next[i] = map[string]nft.Element{}
				for k, v := range model[i] {
					next[i][k] = v
				}
			}
			err := c.Do(t.Context(), func(tx *nft.Tx) error {
				for range rapid.IntRange(0, 12).Draw(t, "operations") {
					i := rapid.IntRange(0, len(sets)-1).Draw(t, "set")
					s, block := sets[i], rapid.IntRange(0, 31).Draw(t, "block")
					e := nft.Key(key(i, block, rapid.Bool().Draw(t, "wide"))...).To(uint32(rapid.IntRange(0, 2).Draw(t, "data")))
					at := fmt.Sprint(e.Key)
					switch rapid.SampledFrom([]string{"add", "add", "add", "remove", "fill"}).Draw(t, "operation") {
					case "add":
						for _, wide := range []bool{false, true} { // the other form of the block goes
							other := nft.Key(key(i, block, wide)...)
							if k := fmt.Sprint(other.Key); k != at {
								tx.Remove(s, other)
								delete(next[i], k)
							}
						}
						tx.Add(s, e)
						next[i][at] = e
					case "remove":
						tx.Remove(s, e)
						delete(next[i], at)
					case "fill":
						tx.Fill(s, e)
						next[i] = map[string]nft.Element{at: e}
					}
				}
				if fail {
					tx.Chain(rule(nft.Jump("nowhere")))
				}
				return nil
			})
			if fail != (err != nil) {
				t.Fatalf("failed: %v, error %v", fail, err)
			}
			if !fail {
				model = next
			}
			fresh := nft.Open(ns)
			for i, s := range sets {
				var want []string
				for _, e := range model[i] {
					want = append(want, text(e))
				}
				sort.Strings(want)
				for _, c := range []*nft.Conn{c, fresh} {
					list, err := c.Elements(t.Context(), s)
					if err != nil {
						t.Fatal(err)
					}
					var got []string
					for _, e := range list {
						got = append(got, text(e))
					}
					sort.Strings(got)
					require.Equal(t, want, got, s.Name)
				}
			}
			fresh.Close()
		}
	})
}
