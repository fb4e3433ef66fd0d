package ovn

import (
	"context"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// vhostTypes leads from kinds of devices to types of interfaces (see
// ovs-vswitchd.conf.db(5), "type").
var vhostTypes = map[DeviceKind]string{DeviceVhostClient: "dpdkvhostuserclient", DeviceVhostServer: "dpdkvhostuser"}

const optionSocket = "vhost-server-path"

// VhostName is the name in the switch of a port's vhost-user interface, and of
// its socket where the switch is the server: 14 characters.
func (c *Chassis) VhostName(part vnet.Part, portID string) string {
	return "vhu" + c.DeviceName(part, portID)[1:12]
}

// plugVhost is Plug of an interface that is no device of the kernel.
func (c *Chassis) plugVhost(ctx context.Context, p Plug) (Plugged, error) {
	if p.Part == "" {
		return Plugged{}, &vnet.FieldError{Field: "plug", Reason: "needs a part"}
	}
	s, err := c.db.Ready(ctx)
	if err != nil {
		return Plugged{}, err
	}
	kind := vhostTypes[p.Kind]
	if !c.userspace() {
		return Plugged{}, &vnet.UnsupportedError{Feature: string(p.Kind) + " devices", Backend: "bridge " + config(s).Bridge, Need: "datapath_type netdev"}
	}
	for _, r := range s.All("Open_vSwitch") {
		o := r.(*vswitchrow.OpenvSwitch)
		switch {
		case o.DpdkVersion == nil || o.DpdkInitialized && !slices.Contains(o.IfaceTypes, kind):
			return Plugged{}, &vnet.UnsupportedError{Feature: string(p.Kind) + " devices", Backend: "this ovs-vswitchd", Need: "one that is built with DPDK"}
		case !o.DpdkInitialized:
			return Plugged{}, fmt.Errorf("port %s: DPDK is not initialised in ovs-vswitchd: %w", p.PortID, vnet.ErrNotReady)
		}
	}
	name := c.VhostName(p.Part, p.PortID)
	_, err = c.db.Commit(ctx, func(x *ovsdb.Tx) error {
		m := Mark{c.owner, p.Part, "port", p.PortID}
		was, there := x.Row("Interface", m.uuid("Interface")).(*vswitchrow.Interface)
		if there && (was.Type != kind || was.Options[optionSocket] != p.Socket) {
			return fmt.Errorf("port %s has %s device %s: %w", p.PortID, was.Type, was.Name, vnet.ErrConflict)
		}
		if err := c.plug(x, p, name); err != nil {
			return err
		}
		now := *x.Row("Interface", m.uuid("Interface")).(*vswitchrow.Interface)
		now.Type, now.Options = kind, map[string]string{}
		if was != nil {
			for k, v := range was.Options {
				now.Options[k] = v
			}
		}
		if p.Socket != "" {
			now.Options[optionSocket] = p.Socket
		}
		return x.Put(&now)
	}, nil)
	if err != nil {
		return Plugged{}, err
	}
	return c.plugged(c.db.State(), p.Part, p.PortID)
}
