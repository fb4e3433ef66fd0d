package main

import (
	"context"
	"errors"

	"github.com/vnet-go/vnet/dhcp/linuxdhcp"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/linuxmetadata"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
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
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	s, err := services(ob, sb, rb, db, mb)
	if err != nil {
		return nil, err
	}
	s.cleanup, s.close = h.Cleanup, h.Close
	return s, nil
}
