package main

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp/linuxdhcp"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/linuxmetadata"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/qos/tcqos"
	"github.com/vnet-go/vnet/router/linuxrouter"
	"github.com/vnet-go/vnet/secgroup/nftsecgroup"
)

// wireLinux carries the host on the Linux kernel alone.
func wireLinux(ctx context.Context, o hostOptions) (_ *subsystems, err error) {
	h, err := linux.Open(ctx, o.owner, &linux.Options{Name: o.host, Netns: o.netns, NetnsDir: o.netnsDir,
		PhysicalNetworks: o.physicalNetworks, TunnelIP: o.tunnelIP, Logger: o.log, Metrics: o.metrics})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	ob, err1 := linuxoverlay.New(h, nil)
	sb, err2 := nftsecgroup.New(h, &nftsecgroup.Options{Metrics: o.metrics})
	rb, err3 := linuxrouter.New(h, nil)
	db, err4 := linuxdhcp.New(h, &linuxdhcp.Options{Leases: o.leases, Metrics: o.metrics})
	mb, err5 := linuxmetadata.New(h, &linuxmetadata.Options{Instances: o.instances, Metrics: o.metrics,
		Server: metadata.ServerOptions{Tokens: o.tokens}})
	qb, err6 := tcqos.New(h, nil)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	s, err := services(ob, sb, qb, rb, db, mb)
	if err != nil {
		return nil, err
	}
	s.watch, s.cleanup, s.close = watchLinks(h), h.Cleanup, h.Close
	return s, nil
}

// watchLinks tells when a device of ours goes, or goes down, and when one that
// is a physical network comes or goes.
func watchLinks(h *linux.Host) func(context.Context) iter.Seq[vnet.Event] {
	physical := map[string]bool{}
	for _, dev := range h.Options().PhysicalNetworks {
		physical[dev] = true
	}
	return func(ctx context.Context) iter.Seq[vnet.Event] {
		return func(yield func(vnet.Event) bool) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			up := map[int]bool{} // of ours and physical ones, by index
			err := h.NS().RTNL().Watch(ctx, func(e rtnl.LinkEvent) {
				_, kind, id, ours := h.ParseAlias(e.Link.Alias)
				was, known := up[e.Link.Index]
				ev := vnet.Event{Time: time.Now(), Part: vnet.PartHost, ID: id, Detail: map[string]string{"device": e.Link.Name, "kind": kind}}
				switch {
				case e.Resync:
					clear(up)
					ev = vnet.Event{Time: ev.Time, Part: vnet.PartHost, Kind: vnet.EventLost}
				case !ours && !physical[e.Link.Name]:
					return
				case e.Gone:
					delete(up, e.Link.Index)
					ev.Kind = "link-lost"
				default:
					up[e.Link.Index] = e.Link.Up
					if known && was && !e.Link.Up {
						ev.Kind = "link-down"
					} else if !known && !ours {
						ev.Kind = "link-found"
					}
				}
				if ev.Kind != "" && ctx.Err() == nil && !yield(ev) {
					cancel()
				}
			})
			if err != nil {
				h.Logger().Warn("watching devices ended", "err", err)
			}
		}
	}
}
