package vnet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
)

func TestOwner(t *testing.T) {
	for o, want := range map[vnet.Owner]string{
		"a":                 "",
		"cloud-1":           "",
		"":                  "owner is empty",
		"1a":                `owner "1a" must be`,
		"Cloud":             `owner "Cloud" must be`,
		"a.b":               `owner "a.b" must be`,
		"abcdefghijklmnopq": "longer than 16",
	} {
		err := o.Validate()
		if want == "" {
			require.NoError(t, err, o)
		} else {
			require.ErrorContains(t, err, want, o)
		}
	}
}

func TestCheckID(t *testing.T) {
	require.NoError(t, vnet.CheckID("id", "0b9b7c1e-5a3c-4f7e-9b1e-2f7f1f1b2c3d"))
	for id, want := range map[string]string{
		"":                      "is empty",
		".":                     "begins with",
		"-x":                    "begins with",
		"a/b":                   "offset 1",
		"é":                     "offset 0",
		strings.Repeat("a", 65): "longer than 64",
	} {
		err := vnet.CheckID("network_id", id)
		require.ErrorContains(t, err, want)
		var f *vnet.FieldError
		require.ErrorAs(t, err, &f)
		require.Equal(t, "network_id", f.Field)
	}
}

func TestMAC(t *testing.T) {
	m := vnet.MustParseMAC("FA:16:3E:00:00:01")
	require.Equal(t, "fa:16:3e:00:00:01", m.String())
	// RFC 4291, appendix A: the universal/local bit is inverted.
	require.Equal(t, netip.MustParseAddr("fe80::f816:3eff:fe00:1"), m.LinkLocal())
	require.Equal(t, netip.MustParseAddr("2001:db8::f816:3eff:fe00:1"), m.EUI64(netip.MustParsePrefix("2001:db8::/64")))
	require.True(t, m.IsUnicast())
	require.False(t, vnet.MAC{1}.IsUnicast())
	require.False(t, vnet.MAC{}.IsUnicast())
	var back struct{ A, B vnet.MAC }
	back.A = m
	b, err := json.Marshal(back)
	require.NoError(t, err)
	require.JSONEq(t, `{"A":"fa:16:3e:00:00:01","B":""}`, string(b))
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, m, back.A)
	for _, bad := range []string{"x", "00:00:00:00:00:00:00:01", "02-00"} {
		_, err := vnet.ParseMAC(bad)
		require.Error(t, err, bad)
	}
}

func TestErrors(t *testing.T) {
	err := error(&vnet.OpError{Op: "ensure", Kind: "network", ID: "n1", Err: &vnet.UnsupportedError{Feature: "VLAN segments", Backend: "linuxoverlay", Need: "kernel module 8021q"}})
	require.ErrorIs(t, err, vnet.ErrUnsupported)
	require.EqualError(t, err, `ensure network "n1": VLAN segments not supported by linuxoverlay (needs kernel module 8021q)`)

	in := vnet.In("networks[2]", errors.Join(
		&vnet.FieldError{Field: "segment.id", Value: "0", Reason: "must be 1 to 4094"},
		vnet.In("subnets", &vnet.FieldError{Field: "[0].cidr", Reason: "is missing"}),
	))
	require.EqualError(t, in, "networks[2].segment.id \"0\" must be 1 to 4094\nnetworks[2].subnets[0].cidr is missing")
	require.NoError(t, vnet.In("x", nil))
	require.Equal(t, vnet.ErrNotFound, vnet.In("x", vnet.ErrNotFound))
}

func TestBudget(t *testing.T) {
	plan := func(n int) (p vnet.Plan) {
		for i := range n {
			p.Changes = append(p.Changes, vnet.Change{Verb: vnet.Delete, Kind: "port", ID: fmt.Sprint(i)})
		}
		return p
	}
	require.NoError(t, vnet.SyncOptions{}.Check(plan(10), 10), "ten are always allowed")
	require.NoError(t, vnet.SyncOptions{}.Check(plan(50), 100))
	err := vnet.SyncOptions{}.Check(plan(51), 100)
	require.ErrorIs(t, err, vnet.ErrBudget)
	require.ErrorContains(t, err, "would delete 51 of 100 objects, 50 allowed: port 0, ")
	require.NoError(t, vnet.SyncOptions{Force: true}.Check(plan(51), 100))
	require.NoError(t, vnet.SyncOptions{DeleteShare: 1}.Check(plan(100), 100))
	require.Error(t, vnet.SyncOptions{DeleteShare: 0.01}.Check(plan(11), 100))
}

func TestExplanation(t *testing.T) {
	var e vnet.Explanation
	e.Text = "port p1"
	e.Add("device tap0").Add("bridge n1")
	e.Add("sets")
	require.Equal(t, "port p1\n  device tap0\n    bridge n1\n  sets\n", e.String())
}

func ExamplePlan() {
	p := vnet.Plan{Changes: []vnet.Change{
		{Verb: vnet.Create, Part: vnet.PartOverlay, Kind: "network", ID: "blue", Impact: vnet.ImpactNone},
		{Verb: vnet.Update, Part: vnet.PartSecGroup, Kind: "group", ID: "web", Impact: vnet.ImpactSome, Diff: []string{"rule ssh: gone"}},
	}}
	fmt.Print(p)
	// Output:
	// + overlay network blue
	// ~ secgroup group web  (impact: some)
	//       rule ssh: gone
	// 1 to create, 1 to update, 0 to delete
}

func ExampleFieldError() {
	err := vnet.CheckID("network_id", "a/b")
	var f *vnet.FieldError
	fmt.Println(errors.As(err, &f), f.Field)
	fmt.Println(err)
	// Output:
	// true network_id
	// network_id "a/b" has a character at offset 1 that is not a letter, digit, '.', '_' or '-'
}

func TestCompare(t *testing.T) {
	type object struct{ id, v string }
	diff := func(a, b *object) (vnet.Change, bool) {
		o := a
		if b != nil {
			o = b
		}
		c := vnet.NewChange(vnet.PartOverlay, "object", o.id, a != nil, b != nil)
		if a != nil && b != nil {
			c.Differ("v", a.v, b.v, vnet.ImpactSome)
			return c, len(c.Diff) > 0
		}
		return c, true
	}
	changes, gone := vnet.Compare([]object{{"a", "1"}, {"b", "1"}, {"c", "1"}}, []object{{"b", "2"}, {"c", "1"}, {"d", "1"}}, func(o object) string { return o.id }, diff)
	require.Equal(t, []vnet.Change{
		{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "object", ID: "b", Diff: []string{"v: 1 -> 2"}, Impact: vnet.ImpactSome},
		{Verb: vnet.Create, Part: vnet.PartOverlay, Kind: "object", ID: "d", Impact: vnet.ImpactNone},
	}, changes)
	require.Equal(t, []vnet.Change{{Verb: vnet.Delete, Part: vnet.PartOverlay, Kind: "object", ID: "a", Impact: vnet.ImpactObject}}, gone)
}
