package linux

import (
	"context"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sysctl"
)

// Features is what this kernel can do, found by trying in a namespace made for
// it and gone afterwards.
type Features struct {
	VLAN            bool // IEEE 802.1Q devices
	VXLAN           bool // VXLAN devices
	BridgeConntrack bool // connection tracking in nftables' family bridge
	BrNetfilter     bool // bridged packets are seen by family inet
	BridgeMeta      bool // meta ibrname and obrname in family bridge
	// Missing says for each field that is false, by its name, what would
	// provide it.
	Missing map[string]string
}

// Features returns what the kernel can do. It is found out once a process.
func (h *Host) Features() Features {
	h.featuresOnce.Do(func() {
		f, err := probe(context.Background())
		if err != nil {
			h.o.Logger.Warn("kernel features could not be tried", "error", err)
		}
		h.features = f
	})
	return h.features
}

// probe tries every feature in a namespace of its own.
func probe(ctx context.Context) (Features, error) {
	f := Features{Missing: map[string]string{}}
	needs := map[string]string{
		"VLAN":            "kernel module 8021q",
		"VXLAN":           "kernel module vxlan",
		"BridgeConntrack": "kernel module nf_conntrack_bridge",
		"BrNetfilter":     "kernel module br_netfilter",
		"BridgeMeta":      "kernel module nft_meta_bridge",
	}
	ns, err := netns.New()
	if err != nil {
		return Features{Missing: needs}, err
	}
	defer ns.Close()
	l := rtnl.Open(ns)
	defer l.Close()
	c := nft.Open(ns)
	defer c.Close()
	if err := l.AddLink(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "br0"}}); err != nil {
		return Features{Missing: needs}, err
	}
	br, err := l.Link("br0")
	if err != nil {
		return Features{Missing: needs}, err
	}
	rule := func(s ...nft.Stmt) error {
		t := nft.Table{Family: nft.Bridge, Name: "probe"}
		return c.Do(ctx, func(tx *nft.Tx) error {
			tx.Chain(nft.Chain{Table: t, Name: "c", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Prerouting}, Rules: []nft.Rule{s}})
			return nil
		})
	}
	for _, p := range []struct {
		name string
		has  *bool
		try  func() error
	}{
		{"VLAN", &f.VLAN, func() error {
			return l.AddLink(&rtnl.Vlan{LinkAttrs: rtnl.LinkAttrs{Name: "vlan0", ParentIndex: br.Index}, VlanId: 2})
		}},
		{"VXLAN", &f.VXLAN, func() error {
			return l.AddLink(&rtnl.Vxlan{LinkAttrs: rtnl.LinkAttrs{Name: "vxlan0"}, VxlanId: 1, Port: 4789})
		}},
		{"BridgeConntrack", &f.BridgeConntrack, func() error { return rule(nft.CtState.Any(nft.StateNew), nft.Accept()) }},
		{"BridgeMeta", &f.BridgeMeta, func() error { return rule(nft.IBrName.Eq("br0"), nft.Accept()) }},
		{"BrNetfilter", &f.BrNetfilter, func() error {
			_, err := sysctl.Tree{NS: ns}.Get("net/bridge/bridge-nf-call-iptables")
			return err
		}},
	} {
		if err := p.try(); err != nil {
			f.Missing[p.name] = needs[p.name]
		} else {
			*p.has = true
		}
	}
	return f, nil
}

// Unsupported is the error of a backend that needs a feature this kernel
// lacks: feature is what was asked for, field the name in [Features].
func (h *Host) Unsupported(backend, feature, field string) error {
	return &vnet.UnsupportedError{Feature: feature, Backend: backend, Need: h.Features().Missing[field]}
}
