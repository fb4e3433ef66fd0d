package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/ovsdhcp"
	"github.com/vnet-go/vnet/dpdk"
	"github.com/vnet-go/vnet/dpdk/ovsdpdk"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/ovsmetadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovsqos"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovssecgroup"
)

// wireOVS carries a host on its Open vSwitch.
func wireOVS(ctx context.Context, o SiteOptions) (_ *Subsystems, err error) {
	sw, err := ovs.Open(ctx, o.Owner, &ovs.Options{Name: o.Name, Database: o.OVS.Database, RunDir: o.OVS.RunDir, Control: o.OVS.Control, DatapathType: "netdev",
		PhysicalNetworks: o.PhysicalNetworks, TunnelIP: o.TunnelIP, Peers: o.Peers, Netns: o.Netns, Logger: o.Log})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			sw.Close()
		}
	}()
	h, err := linux.Open(ctx, o.Owner, &linux.Options{Name: o.Name, Netns: o.Netns, Logger: o.Log}) // metadata is answered in a namespace
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	ob, err1 := ovsoverlay.New(sw, &ovsoverlay.Options{UnderlayMTU: o.UnderlayMTU})
	sb, err2 := ovssecgroup.New(sw, nil)
	rb, err3 := ovsrouter.New(sw, nil)
	db, err4 := ovsdhcp.New(sw, nil)
	mb, err5 := ovsmetadata.New(sw, h, &ovsmetadata.Options{Instances: o.Instances})
	qb, err6 := ovsqos.New(sw, nil)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	trace := func(ctx context.Context, portID, flow string) (string, error) {
		if portID == "" {
			return sw.Trace(ctx, flow)
		}
		n, ok := sw.Number("port", portID)
		if !ok {
			return "", fmt.Errorf("port %q on host %q: %w", portID, o.Name, vnet.ErrNotFound)
		}
		return sw.Trace(ctx, fmt.Sprintf("in_port=%d,%s", n, flow))
	}
	s := &Subsystems{peers: sw.SetPeers, settled: rb.Settled, trace: trace, Close: func() error { return errors.Join(h.Close(), sw.Close()) }}
	s.Overlay, err1 = overlay.New(ob, nil)
	s.SecGroup, err2 = secgroup.New(sb, nil)
	s.Router, err3 = router.New(rb, nil)
	s.DHCP, err4 = dhcp.New(db, nil)
	s.Metadata, err5 = metadata.New(mb, nil)
	s.QoS, err6 = qos.New(qb, nil)
	if o.DPDK != nil {
		b, err := ovsdpdk.New(sw, nil)
		if err == nil {
			s.dpdk = *o.DPDK
			s.DPDK, err = dpdk.New(b)
		}
		err6 = errors.Join(err6, err)
	}
	return s, errors.Join(err1, err2, err3, err4, err5, err6)
}

// onRestart calls again when a host's switch has been started anew, until ctx
// ends: its flows are gone, and nothing passes until all is synced.
func (s *Subsystems) onRestart(ctx context.Context, log *slog.Logger, again func(context.Context) error) {
	for e := range s.Overlay.Watch(ctx) {
		if e.Part != vnet.PartHost || e.Kind != ovs.EventRestarted {
			continue
		}
		log.Info("the switch has been started anew")
		if err := again(ctx); err != nil {
			log.Error("sync after a restart of the switch", "err", err)
		}
	}
}

// limitsOVS are where the routers of this platform do otherwise than the model says.
func limitsOVS() []router.Limit {
	return new(ovsrouter.Backend).Features(context.Background()).Limits
}
