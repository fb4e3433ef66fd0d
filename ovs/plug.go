package ovs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/vif"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// Plug is one device at one port of this host.
type Plug struct {
	Part   vnet.Part // who plugs
	PortID string    // has a number ([Tx.PortNumber])
	Kind   string    // "existing", "veth", "tap", "vhostuser-client" or "vhostuser-server", as overlay.DeviceKind
	// Name is the name of the existing device, or what the far end of the pair
	// is called in Netns; for a tap nothing.
	Name  string
	Netns string   // path; for a pair
	MAC   vnet.MAC // of the far end
	MTU   int      // bytes; 0: as it is
	// Socket is where the VMM listens, for "vhostuser-client".
	Socket string
}

// Plugged is a device of ours at a port, as the switch has it.
type Plugged struct {
	Part   vnet.Part
	PortID string
	Kind   string
	Device string // on the host
	Number uint16 // 0 while ovs-vswitchd has not taken it
	Up     bool   // its link
	Error  string // of ovs-vswitchd
	Socket string // of vhost-user
}

func (s *Switch) portMark(part vnet.Part, portID string) mark {
	return mark{s.owner, part, kindPort, portID}
}

// DeviceName is the name on the host of a pair or tap that Plug makes.
func (s *Switch) DeviceName(part vnet.Part, portID string) string {
	return s.portMark(part, portID).device()
}

// alias signs a device of ours on the host.
func (s *Switch) alias(part vnet.Part, kind, portID string) string {
	return strings.Join([]string{"vnet", string(s.owner), string(part), kind, portID}, ":")
}

// Plug makes the device, if it is to be made, puts it into the bridge with the
// port's number, and waits until the switch has taken it. The same again
// changes nothing. Another device at the port is [vnet.ErrConflict]; a port
// that nobody has ensured is [vnet.ErrNotFound].
func (s *Switch) Plug(ctx context.Context, p Plug) (Plugged, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := vnet.CheckID("port_id", p.PortID); err != nil {
		return Plugged{}, err
	}
	m := s.portMark(p.Part, p.PortID)
	dev := m.device()
	if vhost := vhostTypes[p.Kind]; vhost != "" {
		return s.plugVhost(ctx, m, p, vhost)
	}
	if p.Kind == vif.Existing {
		dev = p.Name
	}
	if dev == "" || p.Part == "" {
		return Plugged{}, &vnet.FieldError{Field: "plug", Reason: "needs a part and the name of a device"}
	}
	st, err := s.db.Ready(ctx)
	if err != nil {
		return Plugged{}, err
	}
	n, ok := s.Number(kindPort, p.PortID)
	if !ok {
		return Plugged{}, fmt.Errorf("port %s on host %s: %w", p.PortID, s.o.Name, vnet.ErrNotFound)
	}
	if err := s.conflict(st.Begin(), m, p, dev); err != nil {
		return Plugged{}, err
	}
	if err := s.retire(ctx, st, m, p, dev); err != nil {
		return Plugged{}, err
	}
	made, err := vif.Make(s.ns, s.rt, vif.Spec{Name: dev, Alias: s.alias(p.Part, p.Kind, p.PortID), Kind: p.Kind, Far: p.Name, Netns: p.Netns,
		MAC: p.MAC, MTU: p.MTU, Userspace: s.Userspace()})
	if err != nil {
		return Plugged{}, err
	}
	if err := s.iface(ctx, m, n, dev, p.Kind, "", nil, p.MTU, p.MAC); err != nil {
		if made {
			s.rt.DelLink(dev)
		}
		return Plugged{}, err
	}
	return s.taken(ctx, m, n)
}

// conflict refuses what stands in the way of a device at a port.
func (s *Switch) conflict(x *ovsdb.Tx, m mark, p Plug, dev string) error {
	if i, ok := x.Row("Interface", m.uuid("Interface")).(*vswitchrow.Interface); ok && (i.Name != dev || i.ExternalIDs[keyDevice] != p.Kind) {
		return fmt.Errorf("port %s has %s device %s: %w", p.PortID, i.ExternalIDs[keyDevice], i.Name, vnet.ErrConflict)
	}
	for _, r := range x.Lookup("Interface", "name", dev) {
		if i := r.(*vswitchrow.Interface); i.UUID != m.uuid("Interface") {
			return fmt.Errorf("device %s is in the switch already, for port %q of owner %q: %w", dev, i.ExternalIDs[keyID], i.ExternalIDs[keyOwner], vnet.ErrConflict)
		}
	}
	return nil
}

// retire returns when the switch knows no interface of a device that is to be
// made anew: one that reappears under the same name while the switch has not
// seen it go may stay without a socket for ever.
func (s *Switch) retire(ctx context.Context, st *ovsdb.State, m mark, p Plug, dev string) error {
	if p.Kind == vif.Existing { // its number may have been another's
		if st.Row("Interface", m.uuid("Interface")) != nil {
			return nil
		}
		return s.caughtUp(ctx)
	}
	if _, err := s.rt.Link(dev); !errors.Is(err, vnet.ErrNotFound) {
		return err
	}
	if st.Row("Interface", m.uuid("Interface")) != nil {
		if err := s.takeOut(ctx, m); err != nil {
			return err
		}
	}
	return s.caughtUp(ctx)
}

// caughtUp waits until ovs-vswitchd has done what it was asked. One that does
// not answer does not run, and opens all devices when it starts.
func (s *Switch) caughtUp(ctx context.Context) error {
	answer, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := s.db.Wait(answer, func(st *ovsdb.State) bool {
		for _, r := range st.All("Open_vSwitch") {
			return r.(*vswitchrow.OpenvSwitch).CurCfg >= r.(*vswitchrow.OpenvSwitch).NextCfg
		}
		return false
	})
	if err != nil && answer.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// takeOut removes an interface and its port, and asks the switch to say when it has.
func (s *Switch) takeOut(ctx context.Context, m mark) error {
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
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
	}, nil)
	return err
}

// iface writes an interface and its port into our bridge.
func (s *Switch) iface(ctx context.Context, m mark, n uint16, name, device, kind string, options map[string]string, mtu int, mac vnet.MAC) error {
	if err := s.ensureBridge(ctx); err != nil { // the database may be new
		return err
	}
	bridge := s.bridgeMark().uuid("Bridge")
	before := s.db.Stats().Operations
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		for _, r := range x.Lookup("Interface", "name", name) {
			if r.(*vswitchrow.Interface).UUID != m.uuid("Interface") {
				return fmt.Errorf("device %s is in the switch already: %w", name, vnet.ErrConflict)
			}
		}
		more := map[string]string{keyDevice: device}
		if m.kind == kindPort {
			more["iface-id"], more["iface-status"] = m.id, "active"
			if !mac.IsZero() {
				more["attached-mac"] = mac.String()
			}
		}
		i := vswitchrow.Interface{UUID: m.uuid("Interface")}
		if have, ok := x.Row("Interface", i.UUID).(*vswitchrow.Interface); ok {
			i = *have
		}
		i.Name, i.Type, i.Options = name, kind, options
		i.ExternalIDs = m.into(more)
		i.MTURequest = nil
		if mtu > 0 {
			i.MTURequest = &mtu
		}
		request := int(n)
		i.OfportRequest = &request
		port := vswitchrow.Port{UUID: m.uuid("Port")}
		if have, ok := x.Row("Port", port.UUID).(*vswitchrow.Port); ok {
			port = *have
		}
		port.Name, port.Interfaces, port.ExternalIDs = name, []string{i.UUID}, m.into(nil)
		b := *x.Row("Bridge", bridge).(*vswitchrow.Bridge)
		if !slices.Contains(b.Ports, port.UUID) {
			b.Ports = append(slices.Clone(b.Ports), port.UUID)
		}
		return errors.Join(x.Put(&i, "options", "external_ids"), x.Put(&port, "interfaces", "external_ids"), x.Put(&b))
	}, nil)
	s.writes.Add(s.db.Stats().Operations - before)
	return err
}

// taken waits until ovs-vswitchd has an interface under its number.
func (s *Switch) taken(ctx context.Context, m mark, n uint16) (Plugged, error) {
	var p Plugged
	var wrong error
	err := s.db.Wait(ctx, func(st *ovsdb.State) bool {
		i, ok := st.Row("Interface", m.uuid("Interface")).(*vswitchrow.Interface)
		if !ok {
			wrong = fmt.Errorf("%s %s was taken out of the switch again: %w", m.kind, m.id, vnet.ErrNotFound)
			return true
		}
		p, wrong = asPlugged(i), nil
		switch {
		case p.Error != "":
			wrong = fmt.Errorf("%s %s: ovs-vswitchd says of %s: %s: %w", m.kind, m.id, p.Device, p.Error, vnet.ErrConflict)
			return true
		case p.Number != 0 && p.Number != n:
			wrong = fmt.Errorf("%s %s: %s has OpenFlow port %d, and %d is taken by what is not ours: %w", m.kind, m.id, p.Device, p.Number, n, vnet.ErrConflict)
			return true
		}
		return p.Number == n
	})
	if err != nil {
		return p, fmt.Errorf("%s %s: ovs-vswitchd has not taken %s: %w: %w", m.kind, m.id, p.Device, vnet.ErrNotReady, err)
	}
	return p, wrong
}

func asPlugged(i *vswitchrow.Interface) Plugged {
	m := markOf(i.ExternalIDs)
	p := Plugged{Part: m.part, PortID: m.id, Kind: i.ExternalIDs[keyDevice], Device: i.Name, Up: i.LinkState != nil && *i.LinkState == vswitchrow.InterfaceLinkStateUp}
	if i.Ofport != nil && *i.Ofport > 0 {
		p.Number = uint16(*i.Ofport)
	}
	if i.Error != nil {
		p.Error = *i.Error
	}
	p.Socket = i.Options[optionSocket]
	return p
}

// Unplug takes the device of a port, that this part has plugged, out of the
// switch and removes it if Plug made it. A port without device is no error.
func (s *Switch) Unplug(ctx context.Context, part vnet.Part, portID string) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	st, err := s.db.Ready(ctx)
	if err != nil {
		return err
	}
	m := s.portMark(part, portID)
	i, ok := st.Row("Interface", m.uuid("Interface")).(*vswitchrow.Interface)
	if err := s.takeOut(ctx, m); err != nil || ok && (i.ExternalIDs[keyDevice] == vif.Existing || vhostTypes[i.ExternalIDs[keyDevice]] != "") {
		return err
	}
	l, err := s.rt.Link(m.device())
	switch {
	case errors.Is(err, vnet.ErrNotFound):
		return nil
	case err != nil:
		return err
	case !s.made(l, part, portID):
		return nil
	}
	return s.rt.DelLink(m.device())
}

// made reports whether a device bears the sign of one that Plug made, or none
// yet: its name is one that only this owner computes.
func (s *Switch) made(l rtnl.Link, part vnet.Part, portID string) bool {
	return l.Alias == "" || l.Alias == s.alias(part, vif.Veth, portID) || l.Alias == s.alias(part, vif.Tap, portID)
}

// Plugged returns the devices that this owner has plugged, by part and port;
// also those that are not in the switch (Number 0), because a process was killed
// while it plugged or unplugged them.
func (s *Switch) Plugged(ctx context.Context) ([]Plugged, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	st, err := s.db.Ready(ctx)
	if err != nil {
		return nil, err
	}
	out := pluggedIn(st)
	links, err := s.rt.Links()
	for _, l := range links {
		f := strings.SplitN(l.Alias, ":", 5)
		if len(f) != 5 || f[0] != "vnet" || f[1] != string(s.owner) || f[3] != vif.Veth && f[3] != vif.Tap {
			continue
		}
		m := s.portMark(vnet.Part(f[2]), f[4])
		if l.Name == m.device() && st.Row("Interface", m.uuid("Interface")) == nil {
			out = append(out, Plugged{Part: m.part, PortID: m.id, Kind: f[3], Device: l.Name})
		}
	}
	return out, err
}

func pluggedIn(st *ovsdb.State) []Plugged {
	var out []Plugged
	for _, r := range st.Group("Interface", "ours") {
		if i := r.(*vswitchrow.Interface); i.ExternalIDs[keyKind] == kindPort {
			out = append(out, asPlugged(i))
		}
	}
	slices.SortFunc(out, func(a, b Plugged) int {
		return slices.Compare([]string{string(a.Part), a.PortID}, []string{string(b.Part), b.PortID})
	})
	return out
}

// TunnelKind is an encapsulation.
type TunnelKind string

// The encapsulations.
const (
	VXLAN  TunnelKind = "vxlan"  // RFC 7348
	Geneve TunnelKind = "geneve" // RFC 8926
)

// Tunnel returns the OpenFlow port through which tunnels of a kind go, to
// wherever flows say (tun_dst, tun_id), and from where they come. It makes the
// port when the submission is committed. Without a TunnelIP it is
// [vnet.ErrUnsupported].
func (tx *Tx) Tunnel(k TunnelKind) uint16 {
	s := tx.v.s
	udp := s.o.VXLANPort
	switch k {
	case VXLAN:
	case Geneve:
		udp = s.o.GenevePort
	default:
		tx.fail(&vnet.FieldError{Field: "tunnel", Value: string(k), Reason: "is no encapsulation"})
		return 0
	}
	if !s.o.TunnelIP.IsValid() {
		tx.fail(&vnet.UnsupportedError{Feature: string(k) + " segments", Backend: "host " + s.o.Name, Need: "Options.TunnelIP"})
		return 0
	}
	number := tx.number(kindTunnel, string(k))
	m := mark{s.owner, vnet.PartHost, kindTunnel, string(k)}
	tx.device(m, number, string(k), map[string]string{"remote_ip": "flow", "key": "flow", "local_ip": s.o.TunnelIP.String(), "dst_port": strconv.Itoa(int(udp))})
	return number
}

func tunnelNumber(k TunnelKind) uint16 {
	if k == Geneve {
		return pipeline.GenevePort
	}
	return pipeline.VXLANPort
}

// device has an interface of the switch's own made before the flows.
func (tx *Tx) device(m mark, n uint16, kind string, options map[string]string) {
	s := tx.v.s
	st := s.db.State()
	if i, ok := st.Row("Interface", m.uuid("Interface")).(*vswitchrow.Interface); ok && i.Type == kind && same(i.Options, options) &&
		i.Ofport != nil && *i.Ofport == int(n) {
		return
	}
	tx.v.devices = append(tx.v.devices, func(ctx context.Context) error {
		if err := s.iface(ctx, m, n, m.device(), m.kind, kind, options, 0, vnet.MAC{}); err != nil {
			return err
		}
		_, err := s.taken(ctx, m, n)
		if err != nil && m.kind == kindTunnel && errors.Is(err, vnet.ErrConflict) {
			err = fmt.Errorf("%w (another owner's tunnels on this switch need another UDP port)", err)
		}
		return err
	})
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return false
		}
	}
	return true
}

// Patch returns the OpenFlow port that leads to a physical network. It makes
// the patch when the submission is committed. A physical network that this
// host has not is [vnet.ErrNotFound].
func (tx *Tx) Patch(physicalNetwork string) uint16 {
	s := tx.v.s
	bridge, ok := s.o.PhysicalNetworks[physicalNetwork]
	if !ok {
		tx.fail(fmt.Errorf("physical network %s on host %s: %w", physicalNetwork, s.o.Name, vnet.ErrNotFound))
		return 0
	}
	number := pipeline.PatchPort + tx.number(kindPatch, physicalNetwork)
	m := mark{s.owner, vnet.PartHost, kindPatch, physicalNetwork}
	peer := mark{s.owner, vnet.PartHost, kindPeer, physicalNetwork}
	tx.v.devices = append(tx.v.devices, func(ctx context.Context) error { return s.peer(ctx, bridge, peer, m.device()) })
	tx.device(m, number, "patch", map[string]string{"peer": peer.device()})
	return number
}

// kindPeer is the end of a patch in the operator's bridge.
const kindPeer = "peer"

// prune removes the tunnels and patches that no part uses any more.
func (s *Switch) prune(ctx context.Context) error {
	id := s.bridgeMark().uuid("Bridge")
	idle := func(x *ovsdb.Tx) (out []mark) {
		b, ok := x.Row("Bridge", id).(*vswitchrow.Bridge)
		if !ok {
			return nil
		}
		for _, r := range x.Group("Interface", "ours") {
			m := markOf(r.(*vswitchrow.Interface).ExternalIDs)
			k := numbered{m.kind, m.id}
			switch m.kind {
			case kindPeer:
				k.kind = kindPatch
			case kindPatch, kindTunnel:
			default:
				continue
			}
			if _, used := b.ExternalIDs[k.key()]; m.part == vnet.PartHost && !used {
				out = append(out, m)
			}
		}
		return out
	}
	before := s.db.Stats().Operations
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		marks := idle(x)
		if len(marks) == 0 {
			return nil
		}
		var errs []error
		for _, m := range marks {
			errs = append(errs, x.Delete("Port", m.uuid("Port")), x.Delete("Interface", m.uuid("Interface")))
		}
		// Nobody may begin to use them at the same time, who sees them stand.
		b := *x.Row("Bridge", id).(*vswitchrow.Bridge)
		b.ExternalIDs = withKeys(b.ExternalIDs, map[string]string{keyVersion: rand.Text()})
		return errors.Join(append(errs, x.Guard("Bridge", id, "external_ids"), x.Put(&b))...)
	}, nil)
	s.writes.Add(s.db.Stats().Operations - before)
	return err
}

// HasPhysical reports whether this host has a physical network.
func (s *Switch) HasPhysical(physicalNetwork string) bool {
	_, ok := s.o.PhysicalNetworks[physicalNetwork]
	return ok
}

// peer writes the other end of a patch, into the operator's bridge.
func (s *Switch) peer(ctx context.Context, bridge string, m mark, to string) error {
	before := s.db.Stats().Operations
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		var b vswitchrow.Bridge
		for _, r := range x.Lookup("Bridge", "name", bridge) {
			b = *r.(*vswitchrow.Bridge)
		}
		if b.UUID == "" {
			return fmt.Errorf("bridge %s of physical network %s: %w", bridge, m.id, vnet.ErrNotFound)
		}
		i := vswitchrow.Interface{UUID: m.uuid("Interface")}
		if have, ok := x.Row("Interface", i.UUID).(*vswitchrow.Interface); ok {
			i = *have
		}
		i.Name, i.Type, i.Options, i.ExternalIDs = m.device(), "patch", map[string]string{"peer": to}, m.into(nil)
		p := vswitchrow.Port{UUID: m.uuid("Port")}
		if have, ok := x.Row("Port", p.UUID).(*vswitchrow.Port); ok {
			p = *have
		}
		p.Name, p.Interfaces, p.ExternalIDs = i.Name, []string{i.UUID}, m.into(nil)
		if !slices.Contains(b.Ports, p.UUID) {
			b.Ports = append(slices.Clone(b.Ports), p.UUID)
		}
		return errors.Join(x.Put(&i, "options"), x.Put(&p, "interfaces"), x.Put(&b))
	}, nil)
	s.writes.Add(s.db.Stats().Operations - before)
	return err
}
