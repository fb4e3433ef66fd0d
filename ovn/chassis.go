package ovn

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/vif"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// ChassisOptions of [OpenChassis]. Zero values are the defaults; nil will do.
type ChassisOptions struct {
	// Netns is the path of the network namespace that ovs-vswitchd runs in;
	// "" for the caller's.
	Netns     string
	TLS       *tls.Config   // for "ssl:" endpoints, as in [Options]
	Timeout   time.Duration // of calls whose context has no deadline; default 30 s
	Keepalive time.Duration // as in [Options]
	Logger    *slog.Logger
}

// Chassis is the Open vSwitch of one host, for one owner: the host's half of
// plugging. Its methods may be called from several goroutines.
type Chassis struct {
	owner vnet.Owner
	o     ChassisOptions
	db    *ovsdb.Client
	ns    *netns.NS
	rt    *rtnl.Conn
}

// ChassisConfig is what Open_vSwitch.external_ids tell ovn-controller
// (ovn-controller(8)), and what the switch can do.
type ChassisConfig struct {
	SystemID       string // the chassis' name in OVN
	Hostname       string
	Remote         string // of the Southbound
	Bridge         string // the integration bridge; "br-int" unless said otherwise
	EncapTypes     []string
	EncapIPs       []netip.Addr
	BridgeMappings map[string]string // physical network to bridge
	CMSOptions     []string
	DatapathType   string // of the integration bridge: "" or "system" is the kernel's, "netdev" userspace
	OVSVersion     string
}

// DeviceKind is what is plugged; the values are those of overlay.DeviceKind.
type DeviceKind string

// The device kinds.
const (
	DeviceExisting DeviceKind = "existing" // the caller's, by name
	DeviceVeth     DeviceKind = "veth"     // Plug makes a pair; the far end goes to Netns
	DeviceTap      DeviceKind = "tap"      // Plug makes a persistent tap
	// DeviceVhostClient and DeviceVhostServer are vhost-user, by the switch's role.
	DeviceVhostClient DeviceKind = "vhostuser-client"
	DeviceVhostServer DeviceKind = "vhostuser-server"
)

// Plug is one device at one port of this host.
type Plug struct {
	Part   vnet.Part // who plugs
	PortID string    // the interface's iface-id is PortName(owner, PortID)
	Kind   DeviceKind
	// Name is the name of the existing device, or what the far end of the pair
	// is called in Netns; for a tap nothing.
	Name  string
	Netns string   // path; for a pair
	MAC   vnet.MAC // of the far end, and attached-mac of the interface
	MTU   int      // bytes; 0: as it is
	// Socket is where the VMM listens, for DeviceVhostClient.
	Socket string
}

// Plugged is a device of ours at a port, as the switch has it.
type Plugged struct {
	Part      vnet.Part
	PortID    string
	Kind      DeviceKind
	Device    string // on the host
	OFPort    int    // 0 while ovs-vswitchd has none
	Installed bool   // ovn-controller has installed the port's flows
	Error     string // of ovs-vswitchd, e.g. that the device has gone
	// Socket is that of a DeviceVhostClient; a DeviceVhostServer's is named like
	// the device, in the folder that ovs-vswitchd makes sockets in.
	Socket string
}

// OpenChassis connects to the local Open_vSwitch database ("unix:PATH" as a
// rule) and returns when it has been read.
func OpenChassis(ctx context.Context, owner vnet.Owner, endpoint string, o *ChassisOptions) (*Chassis, error) {
	if err := owner.Validate(); err != nil {
		return nil, err
	}
	c := &Chassis{owner: owner}
	if o != nil {
		c.o = *o
	}
	if c.o.Timeout <= 0 {
		c.o.Timeout = 30 * time.Second
	}
	if c.o.Logger == nil {
		c.o.Logger = slog.New(slog.DiscardHandler)
	}
	spec, err := vswitchSpec()
	if err != nil {
		return nil, err
	}
	spec.Group = func(ext map[string]string) string {
		if ext[keyOwner] != string(owner) {
			return ""
		}
		return "ours"
	}
	if c.o.Netns == "" {
		c.ns, err = netns.Current()
	} else {
		c.ns, err = netns.Open(c.o.Netns)
	}
	if err != nil {
		return nil, fmt.Errorf("open chassis: %w", err)
	}
	c.rt = rtnl.Open(c.ns)
	c.db, err = ovsdb.NewClient(spec, []string{endpoint}, &ovsdb.Options{TLS: c.o.TLS, Keepalive: c.o.Keepalive, Logger: c.o.Logger})
	if err == nil {
		bctx, cancel := c.bound(ctx)
		defer cancel()
		_, err = c.db.Ready(bctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func vswitchSpec() (ovsdb.Spec, error) {
	m, err := vswitchrow.FullDatabaseModel()
	return ovsdb.Spec{
		Model:    m,
		Tables:   []string{"Open_vSwitch", "Bridge", "Port", "Interface"},
		Sentinel: "Open_vSwitch",
		Index:    map[string][]string{"Bridge": {"name"}, "Port": {"name"}, "Interface": {"name"}},
		Only: map[string][]string{
			"Open_vSwitch": {"bridges", "external_ids", "other_config", "dpdk_initialized", "dpdk_version", "ovs_version", "iface_types", "datapath_types", "next_cfg", "cur_cfg"},
			"Bridge":       {"name", "ports", "datapath_type", "external_ids", "fail_mode"},
			"Port":         {"name", "interfaces", "external_ids", "other_config"},
			"Interface":    {"name", "type", "options", "external_ids", "ofport", "error", "mtu", "mtu_request", "mac_in_use", "link_state"},
		},
	}, err
}

// Close lets go of the database. What is plugged stays.
func (c *Chassis) Close() error {
	if c.db != nil {
		c.db.Close()
	}
	if c.rt != nil {
		c.rt.Close()
	}
	if c.ns != nil {
		c.ns.Close()
	}
	return nil
}

// Owner is whose interfaces this handle makes and sees.
func (c *Chassis) Owner() vnet.Owner { return c.owner }

func (c *Chassis) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.o.Timeout)
}

// Health says whether the local database has been read whole.
func (c *Chassis) Health(ctx context.Context) vnet.Health {
	s := c.db.Status()
	h := vnet.Health{Complete: s.Complete, Since: s.Since}
	if !s.Complete {
		h.Detail = c.db.Err().Error()
		if !s.Lost.IsZero() {
			h.Lag = time.Since(s.Lost)
		}
	}
	return h
}

// Config reads the chassis' configuration.
func (c *Chassis) Config(ctx context.Context) (ChassisConfig, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	s, err := c.db.Ready(ctx)
	if err != nil {
		return ChassisConfig{}, err
	}
	return config(s), nil
}

func config(s *ovsdb.State) ChassisConfig {
	var out ChassisConfig
	for _, r := range s.All("Open_vSwitch") {
		o := r.(*vswitchrow.OpenvSwitch)
		x := o.ExternalIDs
		// Several chassis may share a database: "KEY-SYSTEM-ID" then wins (ovn-controller(8)).
		get := func(key string) string {
			if v, ok := x[key+"-"+x["system-id"]]; ok {
				return v
			}
			return x[key]
		}
		list := func(key string) []string {
			return strings.FieldsFunc(get(key), func(r rune) bool { return r == ',' || r == ' ' })
		}
		out = ChassisConfig{SystemID: x["system-id"], Hostname: get("hostname"), Remote: get("ovn-remote"), Bridge: get("ovn-bridge"),
			EncapTypes: list("ovn-encap-type"), CMSOptions: list("ovn-cms-options"), BridgeMappings: map[string]string{}}
		if out.Bridge == "" {
			out.Bridge = "br-int"
		}
		for _, a := range list("ovn-encap-ip") {
			if ip, err := netip.ParseAddr(a); err == nil {
				out.EncapIPs = append(out.EncapIPs, ip)
			}
		}
		for _, m := range list("ovn-bridge-mappings") {
			if p, b, ok := strings.Cut(m, ":"); ok {
				out.BridgeMappings[p] = b
			}
		}
		if o.OVSVersion != nil {
			out.OVSVersion = *o.OVSVersion
		}
	}
	for _, r := range s.Lookup("Bridge", "name", out.Bridge) {
		out.DatapathType = r.(*vswitchrow.Bridge).DatapathType
	}
	return out
}

var deviceEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// DeviceName is the name on the host of a pair or tap that Plug makes: 15
// characters.
func (c *Chassis) DeviceName(part vnet.Part, portID string) string {
	h := sha256.Sum256([]byte(string(c.owner) + "\x00" + string(part) + "\x00" + portID))
	return ("o" + deviceEncoding.EncodeToString(h[:]))[:15]
}

// alias signs a device of ours on the host.
func (c *Chassis) alias(part vnet.Part, kind DeviceKind, portID string) string {
	return strings.Join([]string{"vnet", string(c.owner), string(part), string(kind), portID}, ":")
}

const (
	keyDevice = "vnet:device" // kind of device, in external_ids of the interface
)

// Plug makes the device, if it is to be made, and puts it into the integration
// bridge as an interface of the port. The same again changes nothing. Another
// device at the port is [vnet.ErrConflict]. It does not wait for the port to
// work: see [Chassis.WaitInstalled].
func (c *Chassis) Plug(ctx context.Context, p Plug) (Plugged, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	if err := vnet.CheckID("port_id", p.PortID); err != nil {
		return Plugged{}, err
	}
	if vhostTypes[p.Kind] != "" {
		return c.plugVhost(ctx, p)
	}
	dev := c.DeviceName(p.Part, p.PortID)
	if p.Kind == DeviceExisting {
		dev = p.Name
	}
	if dev == "" || p.Part == "" {
		return Plugged{}, &vnet.FieldError{Field: "plug", Reason: "needs a part and the name of a device"}
	}
	s, err := c.db.Ready(ctx)
	if err != nil {
		return Plugged{}, err
	}
	if err := c.conflict(s.Begin(), p, dev); err != nil {
		return Plugged{}, err
	}
	if err := c.retire(ctx, s, p, dev); err != nil {
		return Plugged{}, err
	}
	made, err := c.makeDevice(p, dev)
	if err != nil {
		return Plugged{}, err
	}
	_, err = c.db.Commit(ctx, func(x *ovsdb.Tx) error { return c.plug(x, p, dev) }, nil)
	if err != nil {
		if made {
			c.rt.DelLink(dev)
		}
		return Plugged{}, err
	}
	return c.plugged(c.db.State(), p.Part, p.PortID)
}

// retire returns when the switch knows no interface of a device that is to be
// made anew: one that reappears under the same name while the switch has not
// seen it go may stay without a socket for ever.
func (c *Chassis) retire(ctx context.Context, s *ovsdb.State, p Plug, dev string) error {
	if p.Kind == DeviceExisting {
		return nil
	}
	if _, err := c.rt.Link(dev); !errors.Is(err, vnet.ErrNotFound) {
		return err
	}
	if _, err := c.plugged(s, p.Part, p.PortID); err == nil {
		m := Mark{c.owner, p.Part, "port", p.PortID}
		_, err := c.db.Commit(ctx, func(x *ovsdb.Tx) error { return takeOut(x, m) }, nil)
		if err != nil {
			return err
		}
	}
	// One that does not answer does not run, and opens all devices when it starts.
	answer, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := c.db.Wait(answer, func(s *ovsdb.State) bool {
		for _, r := range s.All("Open_vSwitch") {
			return r.(*vswitchrow.OpenvSwitch).CurCfg >= r.(*vswitchrow.OpenvSwitch).NextCfg
		}
		return false
	})
	if err != nil && answer.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// takeOut removes an interface, and asks the switch to say when it has.
func takeOut(x *ovsdb.Tx, m Mark) error {
	if x.Row("Port", m.uuid("Port")) == nil && x.Row("Interface", m.uuid("Interface")) == nil {
		return nil
	}
	errs := []error{x.Delete("Port", m.uuid("Port")), x.Delete("Interface", m.uuid("Interface"))}
	for _, r := range x.All("Open_vSwitch") {
		now := *r.(*vswitchrow.OpenvSwitch)
		now.NextCfg++
		errs = append(errs, x.Put(&now))
	}
	return errors.Join(errs...)
}

// ifaceID is what ovn-controller looks for.
func (c *Chassis) ifaceID(portID string) string { return PortName(c.owner, portID) }

// conflict refuses what stands in the way of a device at a port.
func (c *Chassis) conflict(x *ovsdb.Tx, p Plug, dev string) error {
	for _, r := range x.Group("Interface", "ours") {
		i := r.(*vswitchrow.Interface)
		if i.ExternalIDs["iface-id"] == c.ifaceID(p.PortID) && i.Name != dev {
			return fmt.Errorf("port %s has device %s: %w", p.PortID, i.Name, vnet.ErrConflict)
		}
	}
	for _, r := range x.Lookup("Interface", "name", dev) {
		i := r.(*vswitchrow.Interface)
		m, ok := MarkOf(i.ExternalIDs)
		if !ok || m.Owner != c.owner || m.Part != p.Part || m.ID != p.PortID {
			return fmt.Errorf("device %s is an interface of the switch already, with iface-id %q: %w", dev, i.ExternalIDs["iface-id"], vnet.ErrConflict)
		}
	}
	return nil
}

// plug writes the rows.
func (c *Chassis) plug(x *ovsdb.Tx, p Plug, dev string) error {
	if err := c.conflict(x, p, dev); err != nil {
		return err
	}
	br := c.bridge(x)
	if br == nil {
		return fmt.Errorf("integration bridge %s: %w", config(x.Base()).Bridge, vnet.ErrNotFound)
	}
	m := Mark{c.owner, p.Part, "port", p.PortID}
	ext := m.into(map[string]string{"iface-id": c.ifaceID(p.PortID), keyDevice: string(p.Kind)})
	if !p.MAC.IsZero() {
		ext["attached-mac"] = p.MAC.String()
	}
	in := &vswitchrow.Interface{UUID: m.uuid("Interface"), Name: dev, ExternalIDs: ext}
	if p.MTU > 0 && p.Kind != DeviceExisting {
		in.MTURequest = &p.MTU
	}
	if was, ok := x.Row("Interface", in.UUID).(*vswitchrow.Interface); ok {
		now := *was
		now.ExternalIDs = map[string]string{}
		for k, v := range was.ExternalIDs { // ovn-installed and what else ovn-controller writes
			now.ExternalIDs[k] = v
		}
		for k, v := range ext {
			now.ExternalIDs[k] = v
		}
		if in.MTURequest != nil {
			now.MTURequest = in.MTURequest
		}
		in = &now
	}
	port := &vswitchrow.Port{UUID: m.uuid("Port"), Name: dev, Interfaces: []string{in.UUID}, ExternalIDs: m.into(nil)}
	if was, ok := x.Row("Port", port.UUID).(*vswitchrow.Port); ok {
		now := *was
		now.Interfaces = port.Interfaces
		port = &now
	}
	if err := errors.Join(x.Put(in), x.Put(port)); err != nil {
		return err
	}
	return x.Member("Bridge", br.UUID, "ports", []string{port.UUID}, nil)
}

func (c *Chassis) bridge(x *ovsdb.Tx) *vswitchrow.Bridge {
	for _, r := range x.Lookup("Bridge", "name", config(x.Base()).Bridge) {
		return r.(*vswitchrow.Bridge)
	}
	return nil
}

// Unplug takes the device of a port, that this part has plugged, out of the
// switch and removes it if Plug made it. A port without device is no error.
func (c *Chassis) Unplug(ctx context.Context, part vnet.Part, portID string) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	s, err := c.db.Ready(ctx)
	if err != nil {
		return err
	}
	was, err := c.plugged(s, part, portID)
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
		return err
	}
	m := Mark{c.owner, part, "port", portID}
	_, err = c.db.Commit(ctx, func(x *ovsdb.Tx) error { return takeOut(x, m) }, nil)
	if err != nil || was.Kind == DeviceExisting || vhostTypes[was.Kind] != "" {
		return err
	}
	dev := c.DeviceName(part, portID)
	l, err := c.rt.Link(dev)
	switch {
	case errors.Is(err, vnet.ErrNotFound):
		return nil
	case err != nil:
		return err
	case !c.made(l, part, portID):
		return nil
	}
	return c.rt.DelLink(dev)
}

// made reports whether a device bears the sign of one that Plug made.
func (c *Chassis) made(l rtnl.Link, part vnet.Part, portID string) bool {
	return l.Alias == c.alias(part, DeviceVeth, portID) || l.Alias == c.alias(part, DeviceTap, portID)
}

// plugged is the interface of a port, or [vnet.ErrNotFound].
func (c *Chassis) plugged(s *ovsdb.State, part vnet.Part, portID string) (Plugged, error) {
	m := Mark{c.owner, part, "port", portID}
	i, ok := s.Row("Interface", m.uuid("Interface")).(*vswitchrow.Interface)
	if !ok {
		return Plugged{}, fmt.Errorf("no device at port %s on this host: %w", portID, vnet.ErrNotFound)
	}
	return asPlugged(i), nil
}

func asPlugged(i *vswitchrow.Interface) Plugged {
	m, _ := MarkOf(i.ExternalIDs)
	p := Plugged{Part: m.Part, PortID: m.ID, Kind: DeviceKind(i.ExternalIDs[keyDevice]), Device: i.Name, Installed: i.ExternalIDs["ovn-installed"] == "true"}
	if i.Ofport != nil && *i.Ofport > 0 {
		p.OFPort = *i.Ofport
	}
	if i.Error != nil {
		p.Error = *i.Error
	}
	p.Socket = i.Options[optionSocket]
	return p
}

// Plugged returns the devices that this owner has plugged on this host, by
// part and port.
func (c *Chassis) Plugged(ctx context.Context) ([]Plugged, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	s, err := c.db.Ready(ctx)
	if err != nil {
		return nil, err
	}
	var out []Plugged
	for _, r := range s.Group("Interface", "ours") {
		out = append(out, asPlugged(r.(*vswitchrow.Interface)))
	}
	slices.SortFunc(out, func(a, b Plugged) int {
		return slices.Compare([]string{string(a.Part), a.PortID}, []string{string(b.Part), b.PortID})
	})
	return out, nil
}

// WaitInstalled waits until ovn-controller has installed the flows of a port
// (Interface.external_ids:ovn-installed), or returns [vnet.ErrNotReady] with
// what is missing when ctx ends.
func (c *Chassis) WaitInstalled(ctx context.Context, part vnet.Part, portID string) (Plugged, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	var p Plugged
	var found error
	err := c.db.Wait(ctx, func(s *ovsdb.State) bool {
		p, found = c.plugged(s, part, portID)
		return found == nil && p.Installed && p.OFPort > 0
	})
	switch {
	case err == nil:
		return p, nil
	case c.db.Err() != nil:
		return p, fmt.Errorf("port %s: %w: %w", portID, c.db.Err(), err)
	case found != nil:
		return p, fmt.Errorf("%w: %w", found, err)
	case p.Error != "":
		return p, fmt.Errorf("port %s: ovs-vswitchd says of device %s: %s: %w: %w", portID, p.Device, p.Error, vnet.ErrNotReady, err)
	case p.OFPort == 0:
		return p, fmt.Errorf("port %s: ovs-vswitchd has not taken device %s: %w: %w", portID, p.Device, vnet.ErrNotReady, err)
	}
	return p, fmt.Errorf("port %s: ovn-controller has not installed its flows: %w: %w", portID, vnet.ErrNotReady, err)
}

// Changes yields at once, and whenever what is plugged on this host, or the
// configuration, has changed, or the connection has come or gone.
func (c *Chassis) Changes(ctx context.Context) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		wake, stop := c.db.Watch("Interface", "Open_vSwitch", "Bridge")
		defer stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.db.Stopped():
				return
			case <-wake:
			}
			if ctx.Err() != nil || !yield(struct{}{}) {
				return
			}
		}
	}
}

// makeDevice makes what is asked for, or finds it made; made says which.
func (c *Chassis) makeDevice(p Plug, dev string) (made bool, err error) {
	return vif.Make(c.ns, c.rt, vif.Spec{Name: dev, Alias: c.alias(p.Part, p.Kind, p.PortID), Kind: string(p.Kind), Far: p.Name, Netns: p.Netns,
		MAC: p.MAC, MTU: p.MTU, Userspace: c.userspace()})
}

// userspace reports whether the integration bridge is of the userspace datapath.
func (c *Chassis) userspace() bool { return config(c.db.State()).DatapathType == "netdev" }
