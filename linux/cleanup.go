package linux

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// Cleanup removes everything of this owner on this host: namespaces, devices,
// tables, tracked connections. It needs no live objects: it is what `down`
// calls after a crash. Devices that the caller made are let go of, not
// removed. It goes on after an error and returns all of them joined.
func (h *Host) Cleanup(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var errs []error
	fail := func(what string, err error) {
		if err != nil && !errors.Is(err, vnet.ErrNotFound) { // what went by itself is gone
			errs = append(errs, fmt.Errorf("clean up %s: %w", what, err))
		}
	}
	// What the registries say is needed below; they go last.
	ports, err := h.ports.List(ctx)
	fail("ports", err)
	zones, err := h.zones.List(ctx)
	fail("zones", err)
	nets, err := h.nets.List(ctx)
	fail("networks", err)
	uplinks, err := h.elements(ctx, h.UplinksSet())
	fail("uplinks", err)

	names, err := h.ownNamespaces(ctx)
	fail("namespaces", err)
	for _, n := range names {
		fail(n, h.DeleteNamespace(ctx, n))
	}

	// A device that was made and not yet marked when we died is known by its
	// name, which only this owner computes.
	computed := map[string]bool{}
	for kind := 'a'; kind <= 'z'; kind++ {
		for _, p := range ports {
			computed[h.LinkName(string(kind), p.ID)] = true
		}
		for _, id := range nets {
			computed[h.LinkName(string(kind), id)] = true
		}
	}
	l := h.ns.rtnl
	links, err := l.Links()
	fail("devices", err)
	for _, x := range links {
		_, kind, _, ours := h.ParseAlias(x.Alias)
		switch {
		case ours && kind == AliasExisting, !ours && h.hasAltName(x):
			fail(x.Name, h.letGo(x))
		case ours, x.Alias == "" && computed[x.Name] && x.Kind != "":
			fail(x.Name, l.DelLink(x.Name))
		}
	}
	for _, e := range uplinks {
		dev := e.Key[0].(string)
		fail(dev, l.DelRoot(dev))
	}
	mine := map[uint16]bool{}
	for _, z := range zones {
		mine[z] = true
	}
	if len(mine) > 0 {
		_, err = h.ns.DeleteConntrack(ctx, func(f rtnl.Flow) bool { return mine[f.Zone] })
		fail("connections", err)
	}
	fail("nftables", h.ns.nft.Do(ctx, func(tx *nft.Tx) error {
		tx.DeleteTable(h.BridgeTable())
		tx.DeleteTable(h.InetTable())
		return nil
	}))
	return errors.Join(errs...)
}

func (h *Host) hasAltName(x rtnl.Link) bool { _, ok := h.PortOf(x); return ok }

// letGo takes our marks off a device of the caller's.
func (h *Host) letGo(x rtnl.Link) error {
	l := h.ns.rtnl
	errs := []error{l.DelTBF(x.Name, LimitMajor), l.DelIntake(x.Name)}
	if x.Master != 0 {
		errs = append(errs, l.SetMaster(x.Name, ""))
	}
	for _, a := range x.AltNames {
		if strings.HasPrefix(a, "vnet:"+string(h.owner)+":") {
			errs = append(errs, l.DelAltName(x.Name, a))
		}
	}
	if _, _, _, ours := h.ParseAlias(x.Alias); ours {
		errs = append(errs, l.SetAlias(x.Name, ""))
	}
	return errors.Join(errs...)
}
