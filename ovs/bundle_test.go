package ovs_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
)

// refused is a flow that is well formed and that the switch does not take.
func refused() of.Flow {
	return of.Flow{Table: pipeline.L2, Priority: 77, Match: of.Any(of.Reg(pipeline.RegNetwork).Is(7)), Actions: []of.Action{of.Meter{ID: 77}}}
}

func TestARefusedFlow(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1"})[0]
	s := open(t, sw, vnet.Owner(l.Owner("")), ovs.Options{})
	ctx := t.Context()
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, wired("a", "b")))
	before, numbers, writes := dump(sw, s), numbersIn(t, sw), s.Writes()
	many := func(bad int, ran *bool) func(tx *ovs.Tx) error {
		return func(tx *ovs.Tx) error {
			tx.Delete("port", "a")
			for i := range 1000 {
				flows := []of.Flow{{Table: pipeline.L2, Priority: 5, Match: of.Any(of.Reg(1).Is(uint64(tx.NetworkNumber(fmt.Sprint("x", i)))))}}
				if i == bad {
					flows = append(flows, refused(), of.Flow{Table: pipeline.Flood, Priority: 1})
				}
				tx.Put("thing", fmt.Sprint(i), nil, flows...)
			}
			tx.After(func(context.Context) error { *ran = true; return nil })
			return nil
		}
	}
	ran := false
	err := s.Submit(ctx, vnet.PartOverlay, many(500, &ran))
	require.ErrorContains(t, err, "overlay thing 500")
	var fe *of.FlowError
	require.ErrorAs(t, err, &fe)
	f := refused()
	f.Cookie = s.Cookie(vnet.PartOverlay, "thing", "500")
	require.True(t, fe.Mod.Flow.Equal(&f), "%s", fe.Mod.Flow)
	require.ErrorContains(t, err, f.String())
	require.False(t, ran)
	require.Equal(t, before, dump(sw, s))
	require.Equal(t, numbers, numbersIn(t, sw), "what was claimed for it is given back")

	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, many(-1, &ran)))
	require.True(t, ran)
	require.Len(t, dump(sw, s), len(before)-2+2000)
	require.Greater(t, s.Writes(), writes)
}

// TestMoreThanOneBundle has a change that is too large for one: what is new
// comes first, and an error says that a part of it stands.
func TestMoreThanOneBundle(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1"})[0]
	s := open(t, sw, vnet.Owner(l.Owner("")), ovs.Options{})
	ctx := t.Context()
	// The object that is written last has the highest cookie.
	last := "z0"
	for i := range 50 {
		if id := fmt.Sprint("z", i); s.Cookie(vnet.PartOverlay, "thing", id) > s.Cookie(vnet.PartOverlay, "thing", last) {
			last = id
		}
	}
	var ids []string
	for i := 0; len(ids) < 26; i++ {
		if id := fmt.Sprint("x", i); s.Cookie(vnet.PartOverlay, "thing", id) < s.Cookie(vnet.PartOverlay, "thing", last) {
			ids = append(ids, id)
		}
	}
	state := func(flows ...of.Flow) func(tx *ovs.Tx) error {
		return func(tx *ovs.Tx) error {
			tx.All()
			tx.Delete("thing", "old")
			for i, id := range ids {
				var fs []of.Flow
				for j := range 1000 {
					fs = append(fs, of.Flow{Table: pipeline.L2, Priority: 5, Match: of.Any(of.Reg(1).Is(uint64(1000*i + j)))})
				}
				tx.Put("thing", id, nil, fs...)
			}
			tx.Put("thing", last, nil, flows...)
			return nil
		}
	}
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error {
		tx.Put("thing", "old", nil, of.Flow{Table: pipeline.L2, Priority: 5, Match: of.Any(of.Reg(1).Is(uint64(99999)))})
		return nil
	}))
	before := len(dump(sw, s))
	err := s.Submit(ctx, vnet.PartOverlay, state(refused()))
	require.ErrorContains(t, err, "overlay thing "+last)
	require.ErrorContains(t, err, "a part of the change stands")
	require.ErrorContains(t, err, strings.TrimSpace(refused().String()[strings.Index(refused().String(), "table="):]))
	require.Len(t, dump(sw, s), before+25000, "a bundle, and what was to go is there")
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, state()))
	require.Len(t, dump(sw, s), before-2+26*1001+1)
	w := s.Writes()
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, state()))
	require.Equal(t, w, s.Writes())
}
