package ovnoverlay

import (
	"context"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/ovn"
)

// Plugger is the [overlay.Plugger] of one host. It reads ports from the
// Northbound, or from the Southbound when its connection has only that (waiting
// some seconds for a port that ovn-northd may not have copied yet), and writes
// only to the host's own Open vSwitch. Methods may be called from several
// goroutines.
type Plugger struct {
	c  *ovn.Conn
	ch *ovn.Chassis
}

var (
	_ overlay.Plugger = (*Plugger)(nil)
	_ overlay.Pruner  = (*Plugger)(nil)
)

// NewPlugger returns the plugger of the host that ch is.
func NewPlugger(c *ovn.Conn, ch *ovn.Chassis) (*Plugger, error) {
	switch {
	case c == nil:
		return nil, &vnet.FieldError{Field: "conn", Reason: "is nil"}
	case ch == nil:
		return nil, &vnet.FieldError{Field: "chassis", Reason: "is nil"}
	case c.Owner() != ch.Owner():
		return nil, &vnet.FieldError{Field: "chassis", Value: string(ch.Owner()), Reason: fmt.Sprintf("is opened for another owner than the connection, %s", c.Owner())}
	}
	return &Plugger{c, ch}, nil
}

// Plug implements [overlay.Plugger]. It returns when ovn-controller has
// installed the port's flows.
func (p *Plugger) Plug(ctx context.Context, a overlay.Attachment) (d overlay.Device, err error) {
	w, err := p.find(ctx, a.PortID)
	if err != nil {
		return d, err
	}
	if w.host != "" {
		cfg, err := p.ch.Config(ctx)
		if err != nil {
			return d, err
		}
		if w.host != cfg.SystemID && w.host != cfg.Hostname {
			return d, fmt.Errorf("port %s is of host %s, and this is %s: %w", a.PortID, w.host, cfg.SystemID, vnet.ErrConflict)
		}
	}
	kind := map[overlay.DeviceKind]ovn.DeviceKind{overlay.Existing: ovn.DeviceExisting, overlay.Veth: ovn.DeviceVeth, overlay.Tap: ovn.DeviceTap,
		overlay.VhostUserClient: ovn.DeviceVhostClient, overlay.VhostUserServer: ovn.DeviceVhostServer}[a.Kind]
	plugged, err := p.ch.Plug(ctx, ovn.Plug{Part: vnet.PartOverlay, PortID: a.PortID, Kind: kind, Name: a.Name, Netns: a.Netns, Socket: a.Socket, MAC: w.mac, MTU: w.mtu})
	if err != nil {
		return d, err
	}
	if plugged, err = p.ch.WaitInstalled(ctx, vnet.PartOverlay, a.PortID); err != nil {
		return d, err
	}
	return overlay.Device{Name: plugged.Device, MTU: w.mtu, Socket: plugged.Socket}, nil
}

// Unplug implements [overlay.Plugger].
func (p *Plugger) Unplug(ctx context.Context, portID string) error {
	return p.ch.Unplug(ctx, vnet.PartOverlay, portID)
}

// Prune implements [overlay.Pruner].
func (p *Plugger) Prune(ctx context.Context, ports []overlay.Port) error {
	cfg, err := p.ch.Config(ctx)
	if err != nil {
		return err
	}
	plugged, err := p.ch.Plugged(ctx)
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, x := range ports {
		here[x.ID] = slices.Contains([]string{"", cfg.SystemID, cfg.Hostname}, x.Host)
	}
	for _, x := range plugged {
		if x.Part == vnet.PartOverlay && !here[x.PortID] {
			if err := p.ch.Unplug(ctx, vnet.PartOverlay, x.PortID); err != nil {
				return err
			}
		}
	}
	return nil
}
