package ovs

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// Options of [Open]. Zero values are the defaults; nil will do.
type Options struct {
	Name     string // of the host, as in Port.Host; default: the host's name
	Database string // endpoint; default unix:/var/run/openvswitch/db.sock
	RunDir   string // where the bridges' management sockets are; default: the folder of the database's socket
	// Control is ovs-vswitchd's control socket; default: ovs-vswitchd.PID.ctl in RunDir.
	Control string
	Bridge  string // name of the integration bridge, up to 15 characters; default: one computed from the owner
	// DatapathType is "system" (the kernel's) or "netdev" (userspace); "": the
	// kernel's where it has the module.
	DatapathType string
	// PhysicalNetworks leads from a physical network to a bridge of the same
	// switch, which is the operator's: a patch port is put into it.
	PhysicalNetworks map[string]string
	TunnelIP         netip.Addr // this host's end of tunnels; the zero value: there are none
	// Peers are the hosts that routers are shared with, by name, with their ends
	// of tunnels ([Tx.Probe]); this host itself may be among them.
	Peers      map[string]netip.Addr
	VXLANPort  uint16 // UDP; default 4789
	GenevePort uint16 // UDP; default 6081
	Netns      string // path of the network namespace that ovs-vswitchd runs in; "" for the caller's
	Timeout    time.Duration
	Logger     *slog.Logger
	Metrics    prometheus.Registerer // nil: none
}

// Switch is a bridge of one host, for one owner. Its methods may be called
// from several goroutines.
type Switch struct {
	owner vnet.Owner
	o     Options
	db    *ovsdb.Client
	ns    *netns.NS
	rt    *rtnl.Conn
	end   context.CancelFunc
	ended chan struct{}

	writing sync.Mutex // one submission at a time
	writes  atomic.Uint64
	peers   atomic.Pointer[map[string]netip.Addr]
	metrics metrics
	book    book

	mu       sync.Mutex
	conn     *of.Conn // nil while there is none
	news     chan struct{}
	lost     error
	since    time.Time
	life     string                // of the switch, as its base record says; "": not yet seen
	restarts uint64                // lives seen to end
	wrote    map[vnet.Part]written // what parts did through this handle
	watchers map[chan struct{}]struct{}
	gone     bool // by Cleanup
}

// written is in which life of the switch a part last wrote what it wants there:
// all of it, if it ever did.
type written struct {
	restarts uint64
	all      bool
}

// Open connects to the switch, makes the bridge if it is not there, and
// returns when both stand. A bridge of that name that is another's is
// [vnet.ErrConflict].
func Open(ctx context.Context, owner vnet.Owner, o *Options) (*Switch, error) {
	if err := owner.Validate(); err != nil {
		return nil, err
	}
	s := &Switch{owner: owner, ended: make(chan struct{}), news: make(chan struct{}), since: time.Now(),
		book:  book{bridges: map[string]page{}, next: map[string]uint16{}},
		wrote: map[vnet.Part]written{}, watchers: map[chan struct{}]struct{}{}}
	if o != nil {
		s.o = *o
	}
	if err := s.defaults(); err != nil {
		return nil, err
	}
	s.SetPeers(s.o.Peers)
	if err := s.metrics.register(s.o.Metrics); err != nil {
		return nil, err
	}
	spec, err := databaseSpec(owner)
	if err != nil {
		return nil, err
	}
	if s.o.Netns == "" {
		s.ns, err = netns.Current()
	} else {
		s.ns, err = netns.Open(s.o.Netns)
	}
	if err != nil {
		return nil, fmt.Errorf("open switch: %w", err)
	}
	s.rt = rtnl.Open(s.ns)
	run, end := context.WithCancel(context.WithoutCancel(ctx))
	s.end = end
	s.db, err = ovsdb.NewClient(spec, []string{s.o.Database}, &ovsdb.Options{Logger: s.o.Logger})
	if err != nil {
		close(s.ended)
		s.Close()
		return nil, err
	}
	go s.connect(run)
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.ensureBridge(ctx); err != nil {
		s.Close()
		return nil, err
	}
	if _, err := s.ready(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Switch) defaults() error {
	if s.o.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		s.o.Name = name
	}
	s.o.Database = cmp.Or(s.o.Database, "unix:/var/run/openvswitch/db.sock")
	if s.o.RunDir == "" {
		path, ok := strings.CutPrefix(s.o.Database, "unix:")
		if !ok {
			return &vnet.FieldError{Field: "run_dir", Reason: "is needed where the database is not reached by a unix socket"}
		}
		s.o.RunDir = filepath.Dir(path)
	}
	if s.o.Bridge == "" {
		s.o.Bridge = mark{owner: s.owner, part: vnet.PartHost, kind: "bridge"}.device()
	}
	if len(s.o.Bridge) > 15 {
		return &vnet.FieldError{Field: "bridge", Value: s.o.Bridge, Reason: "is longer than 15 characters"}
	}
	switch s.o.DatapathType {
	case "":
		s.o.DatapathType = "netdev"
		if _, err := os.Stat("/sys/module/openvswitch"); err == nil {
			s.o.DatapathType = "system"
		}
	case "system", "netdev":
	default:
		return &vnet.FieldError{Field: "datapath_type", Value: s.o.DatapathType, Reason: `must be "system" or "netdev"`}
	}
	s.o.VXLANPort, s.o.GenevePort = cmp.Or(s.o.VXLANPort, 4789), cmp.Or(s.o.GenevePort, 6081)
	if s.o.Timeout <= 0 {
		s.o.Timeout = 30 * time.Second
	}
	if s.o.Logger == nil {
		s.o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func databaseSpec(owner vnet.Owner) (ovsdb.Spec, error) {
	m, err := vswitchrow.FullDatabaseModel()
	return ovsdb.Spec{
		Model:    m,
		Tables:   []string{"Open_vSwitch", "Bridge", "Port", "Interface", "QoS", "Queue"},
		Sentinel: "Open_vSwitch",
		Index:    map[string][]string{"Bridge": {"name"}, "Port": {"name"}, "Interface": {"name"}},
		Only: map[string][]string{
			"Open_vSwitch": {"bridges", "other_config", "external_ids", "dpdk_initialized", "dpdk_version", "ovs_version", "iface_types", "datapath_types", "next_cfg", "cur_cfg"},
			"Bridge":       {"name", "ports", "datapath_type", "external_ids", "other_config", "fail_mode", "protocols"},
			"Port":         {"name", "interfaces", "external_ids", "qos"},
			"QoS":          {"type", "queues", "other_config", "external_ids"},
			"Queue":        {"other_config", "external_ids"},
			"Interface":    {"name", "type", "options", "other_config", "external_ids", "ofport", "ofport_request", "error", "mtu_request", "link_state", "bfd", "bfd_status"},
		},
		Group: func(ext map[string]string) string {
			if ext[keyOwner] != string(owner) {
				return ""
			}
			return "ours"
		},
	}, err
}

// Close lets go of the switch. What was made stays.
func (s *Switch) Close() error {
	s.end()
	if s.db != nil {
		s.db.Close()
	}
	<-s.ended
	if s.rt != nil {
		s.rt.Close()
	}
	if s.ns != nil {
		s.ns.Close()
	}
	s.metrics.unregister(s.o.Metrics)
	return nil
}

// Name is the host's, as in Port.Host.
func (s *Switch) Name() string { return s.o.Name }

// Owner is whose objects this handle makes and sees.
func (s *Switch) Owner() vnet.Owner { return s.owner }

// Bridge is the name of the integration bridge.
func (s *Switch) Bridge() string { return s.o.Bridge }

// Options are those in use, with the defaults filled in.
func (s *Switch) Options() Options { return s.o }

// Logger is where backends log to.
func (s *Switch) Logger() *slog.Logger { return s.o.Logger }

// Userspace reports whether the datapath is ovs-vswitchd's own.
func (s *Switch) Userspace() bool { return s.o.DatapathType == "netdev" }

// RTNL changes devices of the namespace of ovs-vswitchd.
func (s *Switch) RTNL() *rtnl.Conn { return s.rt }

// Writes counts changes of flows and rows that have been written.
func (s *Switch) Writes() uint64 { return s.writes.Load() }

func (s *Switch) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.o.Timeout)
}

func (s *Switch) bridgeMark() mark { return mark{s.owner, vnet.PartHost, "bridge", ""} }

// ensureBridge makes the bridge's row be as it must.
func (s *Switch) ensureBridge(ctx context.Context) error {
	if _, err := s.db.Ready(ctx); err != nil {
		return err
	}
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		m := s.bridgeMark()
		id := m.uuid("Bridge")
		for _, r := range x.Lookup("Bridge", "name", s.o.Bridge) {
			if b := r.(*vswitchrow.Bridge); b.UUID != id {
				return fmt.Errorf("bridge %s is of owner %q: %w", s.o.Bridge, b.ExternalIDs[keyOwner], vnet.ErrConflict)
			}
		}
		b := vswitchrow.Bridge{UUID: id, Name: s.o.Bridge, ExternalIDs: m.into(nil)}
		if have, ok := x.Row("Bridge", id).(*vswitchrow.Bridge); ok {
			if have.Name != s.o.Bridge {
				return fmt.Errorf("owner %s has bridge %s on this host: %w", s.owner, have.Name, vnet.ErrConflict)
			}
			b = *have
		}
		if b.ExternalIDs[keyVersion] == "" {
			b.ExternalIDs = withKeys(b.ExternalIDs, map[string]string{keyVersion: rand.Text()})
		}
		secure := vswitchrow.BridgeFailModeSecure
		b.FailMode = &secure
		b.DatapathType = s.o.DatapathType
		b.Protocols = []vswitchrow.BridgeProtocols{vswitchrow.BridgeProtocolsOpenflow10, vswitchrow.BridgeProtocolsOpenflow13, vswitchrow.BridgeProtocolsOpenflow14, vswitchrow.BridgeProtocolsOpenflow15}
		b.OtherConfig = withKeys(b.OtherConfig, map[string]string{"disable-in-band": "true"})
		if err := x.Put(&b); err != nil {
			return err
		}
		for _, r := range x.All("Open_vSwitch") {
			root := *r.(*vswitchrow.OpenvSwitch)
			if !slices.Contains(root.Bridges, id) {
				root.Bridges = append(slices.Clone(root.Bridges), id)
				return x.Put(&root)
			}
		}
		return nil
	}, nil)
	return err
}

func withKeys(m, more map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k] = v
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

// connect keeps an OpenFlow connection to the bridge.
func (s *Switch) connect(ctx context.Context) {
	defer close(s.ended)
	delay := 10 * time.Millisecond
	removed := false // it has been told that the bridge has gone
	for ctx.Err() == nil {
		c, err := of.Dial(ctx, "unix", filepath.Join(s.o.RunDir, s.o.Bridge+".mgmt"), &of.Options{Logger: s.o.Logger})
		if err == nil {
			if err = s.greet(ctx, c); err != nil {
				c.Close()
			}
		}
		if err != nil {
			s.mu.Lock()
			s.lost = err
			if s.life != "" && !s.gone && !removed && s.missing() {
				s.o.Logger.Warn("the bridge has been removed", "bridge", s.o.Bridge)
				removed = true
				s.restarted()
			}
			s.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
			delay = min(2*delay, time.Second)
			continue
		}
		delay, removed = 10*time.Millisecond, false
		s.set(c, nil)
		select {
		case <-ctx.Done():
		case <-c.Done():
		}
		s.set(nil, cmp.Or(c.Err(), errors.New("the connection ended")))
		c.Close()
	}
}

func (s *Switch) set(c *of.Conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.lost, s.since = c, err, time.Now()
	close(s.news)
	s.news = make(chan struct{})
}

// greet makes the base of the pipeline stand. Its record is drawn by lot when
// the switch is found empty, so that every handle knows a life of the switch
// from the one before, whichever of them came first.
func (s *Switch) greet(ctx context.Context, c *of.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	if err := c.SetControllerID(ctx, ControllerID); err != nil {
		return err
	}
	v := s.view(ctx, c)
	if err := v.base(); err != nil {
		return err
	}
	if err := v.bundle(ctx, nil); err != nil {
		return err
	}
	// Another handle may have done the same at the same time.
	tx := &Tx{v: s.view(ctx, c), part: vnet.PartHost}
	o, ok := tx.Get("base", "base")
	if tx.err != nil || !ok {
		return cmp.Or(tx.err, errors.New("the base flows have gone again"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.life != "" && s.life != string(o.Record)
	s.life = string(o.Record)
	if again {
		s.o.Logger.Warn("the switch has been restarted: its flows are gone", "bridge", s.o.Bridge)
		s.restarted()
	}
	return nil
}

// base has the base flows stand, and their record, which stays as it is.
func (v *view) base() error {
	tx := &Tx{v: v, part: vnet.PartHost}
	life := []byte(rand.Text())
	if o, ok := tx.Get("base", "base"); ok && len(o.Record) == len(life) {
		life = o.Record
	}
	tx.Put("base", "base", life, baseFlows()...)
	return tx.err
}

// restarted tells all who watch. s.mu is held.
func (s *Switch) restarted() {
	s.restarts++
	for w := range s.watchers {
		select {
		case w <- struct{}{}:
		default: // it has not looked since the last time
		}
	}
}

// stale reports whether a part that wrote to the switch has not done so since
// it was restarted. s.mu is held.
func (s *Switch) stale() bool {
	for _, w := range s.wrote {
		if w.restarts != s.restarts {
			return true
		}
	}
	return false
}

// stands takes down that a part's submission stands in the switch.
func (v *view) stands(part vnet.Part, all bool) {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := v.objects[s.Cookie(vnet.PartHost, "base", "base")]; e != nil && e.changed && s.conn == v.conn {
		s.life = string(e.want.Record) // somebody had removed the flows
	}
	w, known := s.wrote[part]
	if s.conn != v.conn || known && w.all && !all {
		return
	}
	s.wrote[part] = written{s.restarts, all || w.all}
}

// missing reports whether the database has no row of the bridge.
func (s *Switch) missing() bool {
	return s.db.Status().Complete && s.db.State().Row("Bridge", s.bridgeMark().uuid("Bridge")) == nil
}

// baseFlows are what a table does that no part has filled.
func baseFlows() []of.Flow {
	on := func(table, next uint8) of.Flow {
		return of.Flow{Table: table, Actions: []of.Action{of.Goto(next)}}
	}
	closed := func(table uint8, flag uint32) of.Flow {
		return of.Flow{Table: table, Priority: 1, Match: of.Match{of.Reg(pipeline.RegFlags).Masked(uint64(flag), uint64(flag))}}
	}
	return []of.Flow{
		on(pipeline.Gate, pipeline.PortSecurity), closed(pipeline.PortSecurity, pipeline.Filtered), on(pipeline.PortSecurity, pipeline.DHCP),
		on(pipeline.DHCP, pipeline.Metadata), on(pipeline.Metadata, pipeline.Responder), on(pipeline.Responder, pipeline.RouterLocal),
		on(pipeline.RouterLocal, pipeline.RouterAdmission), on(pipeline.RouterAdmission, pipeline.L2),
		closed(pipeline.ToPort, pipeline.OutFiltered), on(pipeline.ToPort, pipeline.Deliver),
		{Table: pipeline.Deliver, Actions: []of.Action{of.OutputReg{Src: of.Reg(pipeline.RegOut).All()}}},
	}
}

// ready waits for the OpenFlow connection.
func (s *Switch) ready(ctx context.Context) (*of.Conn, error) {
	for {
		s.mu.Lock()
		c, news, lost := s.conn, s.news, s.lost
		s.mu.Unlock()
		if c != nil && c.Err() == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("bridge %s: %w: %w: %w", s.o.Bridge, vnet.ErrNotReady, ctx.Err(), cmp.Or(lost, errors.New("not connected")))
		case <-s.ended:
			return nil, of.ErrClosed
		case <-news:
		}
	}
}

// Health says whether both connections stand.
func (s *Switch) Health(context.Context) vnet.Health {
	st := s.db.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := vnet.Health{Complete: st.Complete && s.conn != nil, Since: s.since}
	switch {
	case !st.Complete:
		h.Since = st.Since
		h.Detail = s.db.Err().Error()
	case s.conn == nil:
		h.Detail = fmt.Sprintf("bridge %s: %v", s.o.Bridge, s.lost)
	}
	if !h.Complete {
		h.Lag = time.Since(h.Since)
	}
	return h
}
