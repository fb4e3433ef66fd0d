package reachtest_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/reach/reachtest"
	"github.com/vnet-go/vnet/secgroup"
)

func wants(t *rapid.T) reachtest.Want {
	return reachtest.Want{Hosts: rapid.IntRange(1, 3).Draw(t, "hosts"), Routers: rapid.Bool().Draw(t, "routers"), Groups: rapid.Bool().Draw(t, "groups"),
		Shared: rapid.Bool().Draw(t, "shared"), Transit: rapid.Bool().Draw(t, "transit"), Metadata: rapid.Bool().Draw(t, "metadata")}
}

func model(t *rapid.T, w reach.World) *reach.Model {
	m, err := reach.New(w)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// answered reports whether an answer comes back.
func answered(m *reach.Model, k reach.Packet) bool {
	_, _, ok := m.Connect(k)
	return ok
}

// What is drawn is valid, and every packet of it has a fate with a reason.
func TestEveryPacketHasAFate(t *testing.T) {
	arrived, all := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := reachtest.World(t, wants(t))
		m := model(t, w)
		for range 10 {
			v := m.Send(reachtest.Packet(t, w))
			if all++; v.OK() {
				arrived++
			}
			if !v.OK() && len(v.Drops) == 0 {
				t.Fatal("neither arrives nor is dropped")
			}
		}
	})
	if arrived*20 < all || arrived*20 > all*19 {
		t.Errorf("%d of %d packets arrive: too one-sided to tell backends apart", arrived, all)
	}
}

// Rules allow and never forbid: with a stateful rule less, nothing more arrives.
func TestRemovingARuleOpensNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := wants(t)
		want.Groups = true
		w := reachtest.World(t, want)
		before := model(t, w)
		i := rapid.IntRange(0, len(w.SecGroup.Groups)-1).Draw(t, "group")
		g := &w.SecGroup.Groups[i]
		if len(g.Rules) == 0 {
			return
		}
		less := w
		less.SecGroup = w.SecGroup.Clone()
		j := rapid.IntRange(0, len(g.Rules)-1).Draw(t, "rule")
		less.SecGroup.Groups[i].Rules = slices.Delete(less.SecGroup.Groups[i].Rules, j, j+1)
		after := model(t, less)
		for range 10 {
			k := reachtest.Packet(t, w)
			if after.Send(k).OK() && !before.Send(k).OK() {
				t.Fatalf("%s passes only without rule %s of group %s", k, g.Rules[j].ID, g.ID)
			}
		}
	})
}

// A connection between ports whose groups are stateful needs rules for its
// first packet only: where no port on the way judges packets by themselves and
// both ends route to each other directly, an answer comes.
func TestAnswersOfStatefulPortsCome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := wants(t)
		want.Routers = false
		w := reachtest.World(t, want)
		for i := range w.SecGroup.Groups {
			w.SecGroup.Groups[i].Stateless = false
		}
		m := model(t, w)
		for range 10 {
			k := reachtest.Packet(t, w)
			k.Src, k.SrcMAC = reach.Packet{}.Src, vnet.MAC{} // from its own address
			if v := m.Send(k); v.OK() && !answered(m, k) {
				t.Fatalf("%s arrives and is not answered: %s", k, v.Explain())
			}
		}
	})
}

// Networks without a common router do not meet, whatever their addresses.
func TestTenantsStayApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := wants(t)
		want.Routers = false
		w := reachtest.World(t, want)
		m := model(t, w)
		network := map[string]string{}
		for _, p := range w.Overlay.Ports {
			network[p.ID] = p.NetworkID
		}
		for range 10 {
			k := reachtest.Packet(t, w)
			for _, a := range m.Send(k).Arrivals {
				if a.Kind == "port" && network[a.ID] != network[k.From] {
					t.Fatalf("%s went to %s on network %s", k, a.ID, network[a.ID])
				}
			}
		}
	})
}

// A tenant more changes nothing for those that are there, though it has the
// same addresses and is in no group of theirs.
func TestAnotherTenantChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := reachtest.World(t, wants(t))
		before := model(t, w)
		var packets []reach.Packet
		var was []string
		for range 10 {
			k := reachtest.Packet(t, w)
			packets = append(packets, k)
			was = append(was, before.Send(k).Explain().String())
		}
		w.Overlay = w.Overlay.Clone()
		w.SecGroup = w.SecGroup.Clone()
		n := w.Overlay.Networks[len(w.Overlay.Networks)-1].Clone()
		n.ID, n.Segment = "other", overlay.Segment{Type: overlay.VXLAN, ID: 999}
		w.Overlay.Networks = append(w.Overlay.Networks, n)
		p := w.Overlay.Ports[0].Clone()
		p.ID, p.NetworkID, p.FixedIPs = "other", n.ID, nil
		w.Overlay.Ports = append(w.Overlay.Ports, p)
		w.SecGroup.Groups = append(w.SecGroup.Groups, secgroup.DefaultGroup("other"))
		w.SecGroup.Ports = append(w.SecGroup.Ports, secgroup.Port{ID: "other", NetworkID: n.ID, MAC: p.MAC, Groups: []string{"other"}})
		after := model(t, w)
		for i, k := range packets {
			if now := after.Send(k).Explain().String(); now != was[i] {
				t.Fatalf("%s: was\n%s\nand is\n%s", k, was[i], now)
			}
		}
	})
}
