package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/ovndhcp"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/ovnmetadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovnqos"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovnrouter"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovnsecgroup"
)

// dialOVN connects to the databases. What is written is waited for until every
// hypervisor has it.
func dialOVN(ctx context.Context, o SiteOptions) (*ovn.Conn, error) {
	return ovn.Dial(ctx, o.Owner, []string{o.OVN.Northbound}, &ovn.Options{Southbound: []string{o.OVN.Southbound},
		Wait: ovn.WaitHypervisors, Timeout: 30 * time.Second, Logger: o.Log})
}

// wireOVN carries a cloud on OVN: everything is written once, for all hosts.
func wireOVN(ctx context.Context, o SiteOptions) (_ *Subsystems, err error) {
	c, err := dialOVN(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	ob, err1 := ovnoverlay.New(c, &ovnoverlay.Options{UnderlayMTU: o.UnderlayMTU})
	sb, err2 := ovnsecgroup.New(c, nil)
	rb, err3 := ovnrouter.New(c, nil)
	db, err4 := ovndhcp.New(c, nil)
	mb, err5 := ovnmetadata.New(c, nil)
	qb, err6 := ovnqos.New(c, &ovnqos.Options{Shares: true, Meters: func(ctx context.Context) (all []ovnqos.Meter, err error) {
		for _, b := range o.Bridges {
			m, err := ovnqos.Meters(ctx, b)
			if err != nil {
				return nil, err
			}
			all = append(all, m...)
		}
		return all, nil
	}})
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	s := &Subsystems{Holds: all, Close: c.Close}
	s.Overlay, err1 = overlay.New(ob, nil)
	s.SecGroup, err2 = secgroup.New(sb, nil)
	s.Router, err3 = router.New(rb, nil)
	s.DHCP, err4 = dhcp.New(db, nil)
	s.Metadata, err5 = metadata.New(mb, nil)
	s.QoS, err6 = qos.New(qb, nil)
	return s, errors.Join(err1, err2, err3, err4, err5, err6)
}

// wireChassis opens one hypervisor: it plugs, serves metadata, and
// keeps what ports were promised.
func wireChassis(ctx context.Context, o SiteOptions) (_ *Subsystems, err error) {
	s := &Subsystems{Holds: nothing}
	var closers []func() error
	s.Close = func() error {
		var errs []error
		for _, f := range slices.Backward(closers) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	c, err := dialOVN(ctx, o)
	if err != nil {
		return nil, err
	}
	closers = append(closers, c.Close)
	ch, err := ovn.OpenChassis(ctx, o.Owner, o.OVN.Vswitch, &ovn.ChassisOptions{Netns: o.Netns, Logger: o.Log})
	if err != nil {
		return nil, err
	}
	closers = append(closers, ch.Close)
	h, err := linux.Open(ctx, o.Owner, &linux.Options{Name: o.Name, Netns: o.Netns, Logger: o.Log})
	if err != nil {
		return nil, err
	}
	closers = append(closers, h.Close)
	p, err1 := ovnoverlay.NewPlugger(c, ch)
	b, err2 := ovnoverlay.New(c, nil)
	a, err3 := ovnmetadata.NewAgent(c, ch, h, &ovnmetadata.AgentOptions{Instances: o.Instances, Logger: o.Log})
	q, err4 := ovnqos.NewShares(c, o.Name, &ovnqos.SharesOptions{Devices: o.Uplinks, Netns: o.Netns, Logger: o.Log})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	closers = append(closers, q.Close)
	s.Serve = func(ctx context.Context) error {
		var wg sync.WaitGroup
		var err1, err2, err3 error
		ctx, cancel := context.WithCancel(ctx)
		wg.Go(func() { defer cancel(); err1 = a.Serve(ctx) })
		wg.Go(func() { defer cancel(); err3 = q.Serve(ctx) })
		wg.Go(func() {
			defer cancel()
			err2 = p.Serve(ctx, &ovnoverlay.ServeOptions{Grace: 3 * time.Second, Logger: o.Log})
		})
		wg.Wait()
		return errors.Join(err1, err2, err3)
	}
	s.Overlay, err = overlay.New(b, &overlay.Options{Plugger: p})
	return s, err
}

// limitsOVN are where OVN's routers do otherwise than the model says.
func limitsOVN() []router.Limit {
	return new(ovnrouter.Backend).Features(context.Background()).Limits
}
