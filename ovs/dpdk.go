package ovs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// vhostTypes leads from kinds of devices to types of interfaces (see
// ovs-vswitchd.conf.db(5), "type").
var vhostTypes = map[string]string{"vhostuser-client": "dpdkvhostuserclient", "vhostuser-server": "dpdkvhostuser"}

const optionSocket = "vhost-server-path"

// vhost is a name of 14 characters, as Neutron's begins.
func (m mark) vhost() string {
	h := m.sum("device")
	return ("vhu" + encoding.EncodeToString(h[:]))[:14]
}

// VhostName is the name in the switch of a port's vhost-user interface, and of
// its socket where the switch is the server.
func (s *Switch) VhostName(part vnet.Part, portID string) string {
	return s.portMark(part, portID).vhost()
}

// plugVhost is Plug of an interface that is no device of the kernel.
func (s *Switch) plugVhost(ctx context.Context, m mark, p Plug, kind string) (Plugged, error) {
	if p.Part == "" {
		return Plugged{}, &vnet.FieldError{Field: "plug", Reason: "needs a part"}
	}
	now, err := s.Settings(ctx)
	if err != nil {
		return Plugged{}, err
	}
	switch {
	case !s.Userspace():
		return Plugged{}, &vnet.UnsupportedError{Feature: p.Kind + " devices", Backend: "bridge " + s.o.Bridge, Need: "Options.DatapathType netdev"}
	case now.Version == "" || now.Initialized && !slices.Contains(now.InterfaceTypes, kind):
		return Plugged{}, &vnet.UnsupportedError{Feature: p.Kind + " devices", Backend: "this ovs-vswitchd", Need: "one that is built with DPDK"}
	case !now.Initialized:
		return Plugged{}, fmt.Errorf("port %s: DPDK is not initialised in ovs-vswitchd: %w", p.PortID, vnet.ErrNotReady)
	}
	n, ok := s.Number(kindPort, p.PortID)
	if !ok {
		return Plugged{}, fmt.Errorf("port %s on host %s: %w", p.PortID, s.o.Name, vnet.ErrNotFound)
	}
	name := s.VhostName(p.Part, p.PortID)
	st, err := s.db.Ready(ctx)
	if err != nil {
		return Plugged{}, err
	}
	if err := s.conflict(st.Begin(), m, p, name); err != nil {
		return Plugged{}, err
	}
	if i, ok := st.Row("Interface", m.uuid("Interface")).(*vswitchrow.Interface); ok && i.Options[optionSocket] != p.Socket {
		return Plugged{}, fmt.Errorf("port %s has socket %s: %w", p.PortID, i.Options[optionSocket], vnet.ErrConflict)
	}
	var options map[string]string
	if p.Socket != "" {
		options = map[string]string{optionSocket: p.Socket}
	}
	if err := s.iface(ctx, m, n, name, p.Kind, kind, options, p.MTU, p.MAC); err != nil {
		return Plugged{}, err
	}
	out, err := s.taken(ctx, m, n)
	if out.Socket == "" {
		out.Socket = filepath.Join(s.o.RunDir, now.Config["vhost-sock-dir"], name)
	}
	return out, err
}

// Settings is what the Open_vSwitch row says of the switch as a whole.
type Settings struct {
	Config         map[string]string // other_config
	Notes          map[string]string // external_ids
	Initialized    bool              // DPDK is
	Version        string            // of DPDK; "": the switch is built without
	InterfaceTypes []string
	// Process names the ovs-vswitchd that runs, another at each start; "" when none does.
	Process string
}

// Settings reads them.
func (s *Switch) Settings(ctx context.Context) (Settings, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	st, err := s.db.Ready(ctx)
	if err != nil {
		return Settings{}, err
	}
	x, err := settingsIn(st)
	x.Process = s.process(ctx)
	return x, err
}

func settingsIn(st *ovsdb.State) (Settings, error) {
	for _, r := range st.All("Open_vSwitch") {
		o := r.(*vswitchrow.OpenvSwitch)
		x := Settings{Config: maps.Clone(o.OtherConfig), Notes: maps.Clone(o.ExternalIDs), Initialized: o.DpdkInitialized, InterfaceTypes: slices.Clone(o.IfaceTypes)}
		if o.DpdkVersion != nil {
			x.Version = *o.DpdkVersion
		}
		return x, nil
	}
	return Settings{}, fmt.Errorf("row of Open_vSwitch: %w", vnet.ErrNotReady)
}

// SetSettings computes by f what the keys of other_config and external_ids
// are to be, and writes what differs in one transaction. f may be called
// several times; it changes the maps of the Settings it is given.
func (s *Switch) SetSettings(ctx context.Context, f func(*Settings) error) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := s.db.Ready(ctx); err != nil {
		return err
	}
	process := s.process(ctx)
	before := s.db.Stats().Operations
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		for _, r := range x.All("Open_vSwitch") {
			now := *r.(*vswitchrow.OpenvSwitch)
			v := Settings{Config: withKeys(now.OtherConfig, nil), Notes: withKeys(now.ExternalIDs, nil), Initialized: now.DpdkInitialized, InterfaceTypes: now.IfaceTypes, Process: process}
			if now.DpdkVersion != nil {
				v.Version = *now.DpdkVersion
			}
			if err := f(&v); err != nil {
				return err
			}
			now.OtherConfig, now.ExternalIDs = v.Config, v.Notes
			return x.Put(&now)
		}
		return fmt.Errorf("row of Open_vSwitch: %w", vnet.ErrNotReady)
	}, nil)
	s.writes.Add(s.db.Stats().Operations - before)
	return err
}

// WaitSettings returns when cond holds, or the context ends.
func (s *Switch) WaitSettings(ctx context.Context, cond func(Settings) bool) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.db.Wait(ctx, func(st *ovsdb.State) bool {
		x, err := settingsIn(st)
		return err == nil && cond(x)
	})
}

// process names the process behind the control socket, by its id (SO_PEERCRED,
// unix(7)) and the inode of the socket, which is new at each start.
func (s *Switch) process(ctx context.Context) string {
	path, err := s.controlPath()
	if err != nil {
		return ""
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return ""
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ""
	}
	name := ""
	_ = raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		if u, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && unix.Stat(path, &st) == nil {
			name = fmt.Sprintf("%d-%d-%d", u.Pid, st.Ino, st.Ctim.Nano())
		}
	})
	return name
}

// Ask calls a command of ovs-vswitchd that only reads, as ovs-appctl(8) does.
func (s *Switch) Ask(ctx context.Context, command string, args ...string) (string, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.control(ctx, command, args...)
}

// External is an interface of a type that is no device of the kernel's, in a
// bridge that is the operator's.
type External struct {
	Part    vnet.Part
	ID      string
	Bridge  string // exists, with datapath_type netdev
	Name    string // in the switch, up to 15 characters
	Type    string
	Options map[string]string
	Config  map[string]string // other_config
	MTU     int               // bytes; 0: as it is
	Error   string            // of ovs-vswitchd; read only
	Number  int               // OpenFlow port; read only
}

const kindExternal = "external"

// PutExternal makes the interface be as described; the same again writes nothing.
// A name that is another's is [vnet.ErrConflict]. It does not wait for ovs-vswitchd.
func (s *Switch) PutExternal(ctx context.Context, e External) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := s.db.Ready(ctx); err != nil {
		return err
	}
	m := mark{s.owner, e.Part, kindExternal, e.ID}
	before := s.db.Stats().Operations
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		var b vswitchrow.Bridge
		for _, r := range x.Lookup("Bridge", "name", e.Bridge) {
			b = *r.(*vswitchrow.Bridge)
		}
		switch {
		case b.UUID == "":
			return fmt.Errorf("bridge %s: %w", e.Bridge, vnet.ErrNotFound)
		case b.DatapathType != "netdev":
			return &vnet.UnsupportedError{Feature: "interfaces of type " + e.Type, Backend: "bridge " + e.Bridge, Need: "datapath_type netdev"}
		}
		for _, r := range x.Lookup("Interface", "name", e.Name) {
			if r.(*vswitchrow.Interface).UUID != m.uuid("Interface") {
				return fmt.Errorf("interface %s is in the switch already: %w", e.Name, vnet.ErrConflict)
			}
		}
		i := vswitchrow.Interface{UUID: m.uuid("Interface")}
		if have, ok := x.Row("Interface", i.UUID).(*vswitchrow.Interface); ok {
			i = *have
			if i.Name != e.Name {
				return fmt.Errorf("%s %s is interface %s: %w", e.Part, e.ID, i.Name, vnet.ErrConflict)
			}
		}
		for _, ref := range x.All("Bridge") {
			if o := ref.(*vswitchrow.Bridge); o.UUID != b.UUID && slices.Contains(o.Ports, m.uuid("Port")) {
				return fmt.Errorf("%s %s is in bridge %s: %w", e.Part, e.ID, o.Name, vnet.ErrConflict)
			}
		}
		i.Name, i.Type, i.Options, i.OtherConfig, i.ExternalIDs = e.Name, e.Type, e.Options, e.Config, m.into(nil)
		i.MTURequest = nil
		if e.MTU > 0 {
			i.MTURequest = &e.MTU
		}
		p := vswitchrow.Port{UUID: m.uuid("Port")}
		if have, ok := x.Row("Port", p.UUID).(*vswitchrow.Port); ok {
			p = *have
		}
		p.Name, p.Interfaces, p.ExternalIDs = e.Name, []string{i.UUID}, m.into(nil)
		if !slices.Contains(b.Ports, p.UUID) {
			b.Ports = append(slices.Clone(b.Ports), p.UUID)
		}
		return errors.Join(x.Put(&i, "options", "other_config"), x.Put(&p, "interfaces"), x.Put(&b))
	}, nil)
	s.writes.Add(s.db.Stats().Operations - before)
	return err
}

// DeleteExternal takes one out of the switch. One that is not there is no error.
func (s *Switch) DeleteExternal(ctx context.Context, part vnet.Part, id string) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	st, err := s.db.Ready(ctx)
	m := mark{s.owner, part, kindExternal, id}
	if err != nil || st.Row("Interface", m.uuid("Interface")) == nil {
		return err
	}
	before := s.db.Stats().Operations
	err = s.takeOut(ctx, m)
	s.writes.Add(s.db.Stats().Operations - before)
	return err
}

// Externals are those of a part, by id.
func (s *Switch) Externals(ctx context.Context, part vnet.Part) ([]External, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	st, err := s.db.Ready(ctx)
	if err != nil {
		return nil, err
	}
	return externalsIn(st, part), nil
}

// WaitExternal returns when ovs-vswitchd has taken an interface or said why not.
func (s *Switch) WaitExternal(ctx context.Context, part vnet.Part, id string) (e External, err error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	err = s.db.Wait(ctx, func(st *ovsdb.State) bool {
		for _, e = range externalsIn(st, part) {
			if e.ID == id {
				return e.Number > 0 || e.Error != ""
			}
		}
		return false
	})
	return e, err
}

func externalsIn(st *ovsdb.State, part vnet.Part) (out []External) {
	in := map[string]string{}
	for _, r := range st.All("Bridge") {
		for _, p := range r.(*vswitchrow.Bridge).Ports {
			in[p] = r.(*vswitchrow.Bridge).Name
		}
	}
	for _, r := range st.Group("Interface", "ours") {
		i := r.(*vswitchrow.Interface)
		m := markOf(i.ExternalIDs)
		if m.kind != kindExternal || m.part != part {
			continue
		}
		e := External{Part: part, ID: m.id, Bridge: in[m.uuid("Port")], Name: i.Name, Type: i.Type, Options: i.Options, Config: i.OtherConfig}
		if i.MTURequest != nil {
			e.MTU = *i.MTURequest
		}
		if i.Error != nil {
			e.Error = *i.Error
		}
		if i.Ofport != nil {
			e.Number = *i.Ofport
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b External) int { return strings.Compare(a.ID, b.ID) })
	return out
}
