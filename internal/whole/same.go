package whole

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/reach/reachtest"
)

// Same makes worlds that are the same on all platforms, one from the other:
// number n is drawn from seed n. A world that fails is not drawn again, smaller,
// but the next ones are tried from nothing.
func Same(t *testing.T, h Harness) {
	h = h.withDefaults()
	c := clouds(t, h, 1)[0]
	gen := rapid.Custom(func(t *rapid.T) turn {
		return draw(t, reachtest.Want{Hosts: 2, Segments: []overlay.SegmentType{overlay.VXLAN}, Routers: true, Groups: true, Shared: true})
	})
	var before []turn
	seed, failed := h.Seed, 0
	for ; seed < h.Seed+h.Worlds || c.compared < h.Packets; seed++ {
		x := gen.Example(seed)
		x.w = c.here(x.w)
		c.ear.forget()
		err := c.play(x)
		if err == nil {
			before = []turn{x}
			continue
		}
		t.Errorf("seed %d: %v%s", seed, err, story(append(before, x)))
		if failed++; failed == 5 {
			t.Fatal("and so on")
		}
		if err := c.become(reach.World{}); err != nil {
			t.Fatal(err)
		}
		before = nil
	}
	t.Logf("%s: %d worlds (-seed %d), %d packets compared with the judge, %d matched; %s", t.Name(), seed-h.Seed, h.Seed, c.compared, c.matched, c.tally)
}

// String says what has not been looked at.
func (t tally) String() string {
	if len(t.left) == 0 {
		return "nothing left out"
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(t.left)) {
		out = append(out, fmt.Sprintf("%s %d", k, t.left[k]))
	}
	return "left out: " + strings.Join(out, ", ")
}
