package main

import (
	"context"
	"errors"

	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/linuxdhcp"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/linuxmetadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/tcqos"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/linuxrouter"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/nftsecgroup"
)

// wireLinux carries a host on the Linux kernel alone.
func wireLinux(ctx context.Context, o SiteOptions) (_ *Subsystems, err error) {
	h, err := linux.Open(ctx, o.Owner, &linux.Options{Name: o.Name, Netns: o.Netns, PhysicalNetworks: o.PhysicalNetworks,
		TunnelIP: o.TunnelIP, Logger: o.Log})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	ob, err1 := linuxoverlay.New(h, nil)
	sb, err2 := nftsecgroup.New(h, nil)
	rb, err3 := linuxrouter.New(h, nil)
	db, err4 := linuxdhcp.New(h, nil)
	mb, err5 := linuxmetadata.New(h, &linuxmetadata.Options{Instances: o.Instances})
	qb, err6 := tcqos.New(h, nil)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	s := &Subsystems{Close: h.Close}
	s.Overlay, err1 = overlay.New(ob, nil)
	s.SecGroup, err2 = secgroup.New(sb, nil)
	s.Router, err3 = router.New(rb, nil)
	s.DHCP, err4 = dhcp.New(db, nil)
	s.Metadata, err5 = metadata.New(mb, nil)
	s.QoS, err6 = qos.New(qb, nil)
	return s, errors.Join(err1, err2, err3, err4, err5, err6)
}
