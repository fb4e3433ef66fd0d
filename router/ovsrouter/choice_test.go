package ovsrouter

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
)

func TestChoose(t *testing.T) {
	set := func(hs ...string) func(string) bool {
		return func(h string) bool {
			for _, x := range hs {
				if x == h {
					return true
				}
			}
			return false
		}
	}
	for _, c := range []struct {
		name       string
		self, at   string
		up, steady []string
		want       string
	}{
		{"the one to prefer", "x", "", []string{"a", "b"}, []string{"a", "b"}, "a"},
		{"is gone", "x", "a", []string{"b"}, []string{"b"}, "b"},
		{"is back, but only just", "x", "b", []string{"a", "b"}, []string{"b"}, "b"},
		{"is back", "x", "b", []string{"a", "b"}, []string{"a", "b"}, "a"},
		{"is back, and the other gone", "x", "b", []string{"a"}, nil, "a"},
		{"an unsteady one stays", "x", "a", []string{"a", "b"}, []string{"b"}, "a"},
		{"the third", "x", "a", []string{"c"}, []string{"c"}, "c"},
		{"nobody", "x", "a", nil, nil, ""},
		{"here, after a start", "a", "", []string{"a"}, nil, ""},
		{"elsewhere, after a start", "a", "", []string{"a", "b"}, nil, "b"},
		{"here, in time", "a", "b", []string{"a", "b"}, []string{"a", "b"}, "a"},
		{"here, as all others are gone", "b", "a", []string{"b"}, []string{"b"}, "b"},
	} {
		require.Equal(t, c.want, choose([]string{"a", "b", "c"}, c.self, c.at, set(c.up...), set(c.steady...)), c.name)
	}
	require.Empty(t, candidates(router.Router{Gateway: &router.Gateway{Hosts: []string{"a"}}}))
	require.Empty(t, candidates(router.Router{}))
}

// seeing is a judge at work, second by second.
type seeing struct {
	t *testing.T
	j judge
	n time.Time
}

func see(t *testing.T, self string, homes map[string]bool, rows map[string]bool) *seeing {
	s := &seeing{t: t, j: judge{self: self}, n: time.Unix(1000, 0)}
	s.j.start(s.n, probes(rows), true, homes)
	return s
}

func probes(rows map[string]bool) map[string]ovs.Probe {
	out := map[string]ovs.Probe{}
	for h, up := range rows {
		out[h] = ovs.Probe{Up: up}
	}
	return out
}

func (s *seeing) after(d time.Duration, rows map[string]bool) *seeing {
	s.n = s.n.Add(d)
	s.j.observe(s.n, probes(rows), rows != nil)
	return s
}

func (s *seeing) home(at, want string) {
	s.t.Helper()
	require.Equal(s.t, want, s.j.choose([]string{"a", "b"}, at))
}

type rows = map[string]bool

func TestJudge(t *testing.T) {
	const s = time.Second
	both, none := rows{"a": true, "b": true}, rows{"a": false, "b": false}

	// A host without a gateway.
	x := see(t, "c", rows{"a": true}, both)
	x.home("a", "a")
	x.after(s, rows{"a": false, "b": true}).home("a", "b")
	x.after(s, both).home("b", "b")
	x.after(holdDown-s, both).home("b", "b")
	x.after(s, rows{"a": false, "b": true}).home("b", "b") // it flaps
	x.after(s, both).home("b", "b")
	x.after(holdDown, both).home("b", "a")
	x.after(s, none).home("a", "")
	x.after(s, rows{"a": false, "b": true}).home("", "b")

	// All is new: nobody has been seen, and the first is taken to be there, until
	// it should have been.
	x = see(t, "b", nil, nil)
	x.home("", "a")
	x.after(s, rows{"a": false, "c": false}).home("", "a")
	x.after(s, rows{"a": false, "c": true}).home("a", "a")
	x.after(innocence, rows{"a": false, "c": true}).home("a", "b")
	x = see(t, "c", nil, nil)
	x.after(s, none).home("", "a")
	x.after(s, both).home("a", "a")

	// Its own host: cut off from all at once, it lets go, and comes back late.
	peers := rows{"b": true, "c": true}
	x = see(t, "a", rows{"a": true}, peers)
	x.home("a", "a")
	x.after(s, rows{"b": false, "c": true}).home("a", "a")
	x.after(s, rows{"b": false, "c": false}).home("a", "")
	x.after(time.Minute, rows{"b": false, "c": false}).home("", "")
	x.after(s, peers).home("", "b")
	x.after(holdDown, peers).home("b", "a")
	// One by one they may all go.
	x.after(s, rows{"b": false, "c": true}).home("a", "a")
	x.after(time.Minute, rows{"b": false, "c": false}).home("a", "a")
	// With one peer nobody can say who is cut off.
	x = see(t, "b", rows{"a": true}, rows{"a": true})
	x.after(s, rows{"a": false}).home("a", "b")

	// Its switch is started anew.
	x = see(t, "a", rows{"a": true}, peers)
	x.after(s, nil)
	x.after(s, rows{"b": false, "c": false}).home("", "")
	x.after(s, peers).home("", "b")
	x.after(holdDown, peers).home("b", "a")

	// A process starts: with what stands, it is as it was.
	see(t, "a", rows{"b": true}, peers).after(s, peers).home("a", "a")
	see(t, "b", rows{"a": true}, rows{"a": true, "c": true}).home("a", "a")
	see(t, "c", rows{"b": true}, rows{"a": false, "b": true}).home("b", "b")
	x = see(t, "a", rows{"": true}, rows{"b": false, "c": false}) // cut off, and it stays so
	x.after(time.Minute, rows{"b": false, "c": false}).home("", "")
	x = see(t, "a", nil, rows{"b": false, "c": false}) // after a restart of the host
	x.home("", "")
	x.after(s, peers).home("", "b")
	x.after(holdDown, peers).home("b", "a")
}
