package main

import (
	"context"
	"errors"

	"github.com/vnet-go/vnet/dhcp/ovsdhcp"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/ovsmetadata"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos/ovsqos"
	"github.com/vnet-go/vnet/router/ovsrouter"
	"github.com/vnet-go/vnet/secgroup/ovssecgroup"
)

// wireOVS carries the host on its Open vSwitch.
func wireOVS(ctx context.Context, o hostOptions) (_ *subsystems, err error) {
	sw, err := ovs.Open(ctx, o.owner, &ovs.Options{Name: o.host, Database: o.vswitch, RunDir: o.rundir, Control: o.control, Bridge: o.bridge, DatapathType: o.datapath,
		PhysicalNetworks: o.physicalNetworks, TunnelIP: o.tunnelIP, Peers: o.peers, Netns: o.netns, Logger: o.log, Metrics: o.metrics})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			sw.Close()
		}
	}()
	// Metadata is answered in a namespace.
	h, err := linux.Open(ctx, o.owner, &linux.Options{Name: o.host, Netns: o.netns, NetnsDir: o.netnsDir, Logger: o.log, Metrics: o.metrics})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	ob, err1 := ovsoverlay.New(sw, nil)
	sb, err2 := ovssecgroup.New(sw, &ovssecgroup.Options{Metrics: o.metrics})
	rb, err3 := ovsrouter.New(sw, nil)
	db, err4 := ovsdhcp.New(sw, &ovsdhcp.Options{Leases: o.leases, Metrics: o.metrics})
	mb, err5 := ovsmetadata.New(sw, h, &ovsmetadata.Options{Instances: o.instances, Metrics: o.metrics, Server: metadata.ServerOptions{Tokens: o.tokens}})
	qb, err6 := ovsqos.New(sw, nil)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	s, err := services(ob, sb, qb, rb, db, mb)
	if err != nil {
		return nil, err
	}
	s.watch = sw.Watch
	s.cleanup = func(ctx context.Context) error { return errors.Join(sw.Cleanup(ctx), h.Cleanup(ctx)) }
	s.close = func() error { return errors.Join(h.Close(), sw.Close()) }
	return s, nil
}
