package ovn

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/sbrow"
)

// Options of [Dial]. Zero values are the defaults; nil will do.
type Options struct {
	// Southbound are endpoints of the Southbound database, which is only read:
	// for chassis, bindings and port events. None: what needs it is refused
	// with [vnet.ErrUnsupported].
	Southbound []string
	// TLS for "ssl:" endpoints: the client's certificates and the CA. Without
	// ServerName the server's chain is verified but not its name, as Open
	// vSwitch's own clients do; set ServerName to have both.
	TLS *tls.Config
	// Timeout bounds a call whose context has no deadline. Default 30 s.
	Timeout time.Duration
	// Wait is what calls wait for that do not say so by [WithWait].
	Wait Wait
	// Keepalive is after how long a silence a server is asked for an echo;
	// after three times that it is given up. Default 5 s.
	Keepalive time.Duration
	// Lazy lets Dial return before the databases have been reached.
	Lazy bool
	// Logger gets what a person may want to know later. Default: none.
	Logger *slog.Logger
	// Metrics gets the connection's counts (vnet_ovn_...), until Close. A second
	// connection of the same owner cannot have the same registry. Default: none.
	Metrics prometheus.Registerer
}

// Conn is a connection to the Northbound, and the Southbound if asked for, of
// one OVN installation, for one owner. Its methods may be called from several
// goroutines. It reconnects for ever, until Close.
type Conn struct {
	owner vnet.Owner
	o     Options
	nb    *ovsdb.Client // nil without Northbound endpoints
	sb    *ovsdb.Client // nil without Southbound endpoints

	metrics *metrics
	lag     lag
	cancel  context.CancelFunc // ends what runs beside
	beside  sync.WaitGroup
}

// Dial connects for an owner and returns when the databases have been read
// whole, or with the reason why not when ctx, or Options.Timeout, ends.
// Endpoints are "tcp:HOST:PORT", "ssl:HOST:PORT" or "unix:PATH": all members of
// a RAFT cluster; the leader is found and followed. Without Northbound endpoints
// the connection is one for reading the Southbound, as an agent on a host needs it.
func Dial(ctx context.Context, owner vnet.Owner, northbound []string, o *Options) (*Conn, error) {
	if err := owner.Validate(); err != nil {
		return nil, err
	}
	c := &Conn{owner: owner}
	if o != nil {
		c.o = *o
	}
	if c.o.Timeout <= 0 {
		c.o.Timeout = 30 * time.Second
	}
	if c.o.Logger == nil {
		c.o.Logger = slog.New(slog.DiscardHandler)
	}
	if len(northbound)+len(c.o.Southbound) == 0 {
		return nil, &vnet.FieldError{Field: "northbound", Reason: "has no endpoint"}
	}
	group := func(ext map[string]string) string {
		if ext[keyOwner] != string(owner) {
			return ""
		}
		return ext[keyPart]
	}
	co := &ovsdb.Options{TLS: c.o.TLS, Keepalive: c.o.Keepalive, Logger: c.o.Logger}
	var err error
	if len(northbound) > 0 {
		spec, err := northSpec()
		if err != nil {
			return nil, err
		}
		spec.Group = group
		if c.nb, err = ovsdb.NewClient(spec, northbound, co); err != nil {
			return nil, vnet.In("northbound", err)
		}
	}
	if len(c.o.Southbound) > 0 {
		spec, serr := southSpec()
		if err = serr; err == nil {
			any := *co
			any.AnyMember = true
			c.sb, err = ovsdb.NewClient(spec, c.o.Southbound, &any)
		}
		if err != nil {
			c.Close()
			return nil, vnet.In("southbound", err)
		}
	}
	if c.metrics, err = newMetrics(c.o.Metrics, c); err != nil {
		c.Close()
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if c.nb != nil && c.sb != nil {
		ctx, cancel := context.WithCancel(context.Background())
		c.cancel = cancel
		c.beside.Go(func() { c.lag.watch(ctx, c) })
	}
	if !c.o.Lazy {
		ctx, cancel := c.bound(ctx)
		defer cancel()
		if err := c.ready(ctx); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// northTables are the tables in which backends make rows.
var northTables = []string{
	"Logical_Switch", "Logical_Switch_Port", "Logical_Router", "Logical_Router_Port",
	"Logical_Router_Static_Route", "Logical_Router_Policy", "NAT", "Load_Balancer", "Load_Balancer_Health_Check",
	"Port_Group", "Address_Set", "ACL", "DHCP_Options", "DNS", "Gateway_Chassis", "HA_Chassis",
	"HA_Chassis_Group", "BFD", "Meter", "Meter_Band", "QoS",
}

func northSpec() (ovsdb.Spec, error) {
	m, err := nbrow.FullDatabaseModel()
	return ovsdb.Spec{
		Model:    m,
		Tables:   append([]string{"NB_Global"}, northTables...),
		Sentinel: "NB_Global",
		Index: map[string][]string{"Logical_Switch": {"name"}, "Logical_Switch_Port": {"name"}, "Logical_Router": {"name"},
			"Logical_Router_Port": {"name"}, "Port_Group": {"name"}, "Address_Set": {"name"}, "HA_Chassis_Group": {"name"},
			"Load_Balancer": {"name"}, "Meter": {"name"}, "Gateway_Chassis": {"name"},
			"NAT": {"external_ip", "logical_ip"}},
	}, err
}

func southSpec() (ovsdb.Spec, error) {
	m, err := sbrow.FullDatabaseModel()
	return ovsdb.Spec{
		Model:    m,
		Tables:   []string{"SB_Global", "Chassis", "Chassis_Private", "Encap", "Port_Binding", "Datapath_Binding", "Meter", "Meter_Band"},
		Asked:    []string{"Logical_Flow"},
		Sentinel: "SB_Global",
		Index: map[string][]string{"Chassis": {"name", "hostname"}, "Chassis_Private": {"name"}, "Port_Binding": {"logical_port", "chassis", "datapath"},
			"Encap": {"chassis_name"}, "Meter": {"name"}},
		Only: map[string][]string{
			"SB_Global": {"nb_cfg", "options"},
			"Port_Binding": {"logical_port", "type", "chassis", "additional_chassis", "requested_chassis", "up", "datapath", "external_ids",
				"mac", "options", "tunnel_key", "virtual_parent"},
		},
	}, err
}

// Close ends the connections and every wait.
func (c *Conn) Close() error {
	c.metrics.close()
	if c.cancel != nil {
		c.cancel()
	}
	if c.nb != nil {
		c.nb.Close()
	}
	if c.sb != nil {
		c.sb.Close()
	}
	c.beside.Wait()
	return nil
}

// Conn returns c.
func (c *Conn) Conn() *Conn { return c }

// Owner is whose rows this connection makes and lists.
func (c *Conn) Owner() vnet.Owner { return c.owner }

// Logger is the application's, or one that discards.
func (c *Conn) Logger() *slog.Logger { return c.o.Logger }

// bound gives ctx the default time when it has no deadline.
func (c *Conn) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.o.Timeout)
}

// ready waits until all databases have been read whole.
func (c *Conn) ready(ctx context.Context) error {
	for _, k := range []*ovsdb.Client{c.nb, c.sb} {
		if k != nil {
			if _, err := k.Ready(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// View waits until the databases have been read whole and returns them as they
// are. When ctx ends before, the error wraps [vnet.ErrNotReady] and says what
// is unknown.
func (c *Conn) View(ctx context.Context) (*View, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	if err := c.ready(ctx); err != nil {
		return nil, err
	}
	v := &View{c: c}
	if c.nb != nil {
		v.nb = c.nb.State()
	}
	if c.sb != nil {
		v.sb = c.sb.State()
	}
	return v, nil
}

// Has reports whether the servers have a column of a table (or, with an empty
// column, the table), as far as they have been reached.
func (c *Conn) Has(table, column string) bool {
	return c.nb != nil && c.nb.State().Has(table, column) || c.sb != nil && c.sb.State().Has(table, column)
}

// Need returns a [*vnet.UnsupportedError] that names feature when the servers
// lack a column that it needs, and [vnet.ErrNotReady] when that is not known.
func (c *Conn) Need(feature, table, column string) error {
	if c.Has(table, column) {
		return nil
	}
	for _, k := range []*ovsdb.Client{c.nb, c.sb} {
		if k != nil && k.State().SchemaVersion() == "" {
			return fmt.Errorf("%s: %w", feature, k.Err())
		}
	}
	what := "column " + table + "." + column
	if column == "" {
		what = "table " + table
	}
	return &vnet.UnsupportedError{Feature: feature, Backend: "this OVN", Need: what}
}

// Flows asks the Southbound for the logical flows that ovn-northd has made of a
// row of the Northbound (an ACL, a NAT, a port): those that name the row as
// their origin, which not all do (external_ids:stage-hint in ovn-sb(5)). They
// are ordered as packets meet them.
func (c *Conn) Flows(ctx context.Context, uuid string) ([]*sbrow.LogicalFlow, error) {
	if len(uuid) < 8 {
		return nil, &vnet.FieldError{Field: "uuid", Value: uuid, Reason: "is no UUID"}
	}
	return c.flows(ctx, "stage-hint", uuid[:8])
}

// FlowsAt asks the Southbound for all logical flows of a stage, such as
// "ls_in_qos_meter" (external_ids:stage-name in ovn-sb(5)), of whatever origin.
func (c *Conn) FlowsAt(ctx context.Context, stage string) ([]*sbrow.LogicalFlow, error) {
	return c.flows(ctx, "stage-name", stage)
}

func (c *Conn) flows(ctx context.Context, key, value string) ([]*sbrow.LogicalFlow, error) {
	if c.sb == nil {
		return nil, &vnet.UnsupportedError{Feature: "looking into the Southbound", Backend: "this connection", Need: "Options.Southbound"}
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	rows, err := c.sb.Select(ctx, "Logical_Flow", "external_ids", map[string]string{key: value})
	if err != nil {
		return nil, err
	}
	var out []*sbrow.LogicalFlow
	for _, r := range rows {
		out = append(out, r.(*sbrow.LogicalFlow))
	}
	slices.SortFunc(out, func(a, b *sbrow.LogicalFlow) int {
		return cmp.Or(cmp.Compare(a.Pipeline, b.Pipeline), cmp.Compare(a.TableID, b.TableID), cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Match, b.Match))
	})
	return out, nil
}

// Health says whether the databases have been read whole and how old the view
// may be. Lag is the longest of: how long a lost server has been away, how
// long one has been silent beyond a keepalive, and, with a Southbound, for how
// long northd has been behind the Northbound.
func (c *Conn) Health(ctx context.Context) vnet.Health {
	h := vnet.Health{Complete: true}
	for _, k := range []*ovsdb.Client{c.nb, c.sb} {
		if k == nil {
			continue
		}
		s := k.Status()
		if s.Since.After(h.Since) {
			h.Since = s.Since
		}
		note := func(what string) {
			if h.Detail != "" {
				h.Detail += "; "
			}
			h.Detail += what
		}
		switch {
		case !s.Complete:
			h.Complete = false
			if !s.Lost.IsZero() {
				h.Lag = max(h.Lag, time.Since(s.Lost))
			}
			note(k.Err().Error())
		case s.Follower:
			note(fmt.Sprintf("%s: read from a follower, %s", k.Database(), s.Endpoint))
		}
		if s.Quiet > k.Keepalive() {
			h.Lag = max(h.Lag, s.Quiet)
		}
	}
	if c.nb != nil && c.sb != nil && h.Complete {
		if behind, age := c.lag.now(); behind > 0 {
			h.Lag = max(h.Lag, age)
			if age > time.Second {
				if h.Detail != "" {
					h.Detail += "; "
				}
				h.Detail += fmt.Sprintf("the Southbound lacks %d changes, the oldest made %s ago", behind, age.Round(time.Second))
			}
		}
	}
	return h
}

// lag is how far the Southbound is behind the Northbound. Only numbered changes
// count: those that somebody, of any owner, waits for.
type lag struct {
	mu sync.Mutex
	// missing are numbers that the Northbound has reached and the Southbound has
	// not, and when that was seen; the oldest first.
	missing []missing
	newest  int
}

type missing struct {
	n    int
	seen time.Time
}

// watch follows both databases until ctx ends.
func (l *lag) watch(ctx context.Context, c *Conn) {
	for range c.Changes(ctx, "NB_Global", "SB_Global") {
		nb, sb := -1, -1
		for _, r := range c.nb.State().All("NB_Global") {
			nb = r.(*nbrow.NBGlobal).NbCfg
		}
		for _, r := range c.sb.State().All("SB_Global") {
			sb = r.(*sbrow.SBGlobal).NbCfg
		}
		l.mu.Lock()
		if nb < l.newest { // begun again
			l.missing = nil
		}
		if nb > sb && (nb != l.newest || len(l.missing) == 0) {
			l.missing = append(l.missing, missing{nb, time.Now()})
		}
		l.newest = nb
		l.missing = slices.DeleteFunc(l.missing, func(m missing) bool { return m.n <= sb })
		if len(l.missing) > 1000 { // the oldest counts
			l.missing = slices.Delete(l.missing, 1, 500)
		}
		l.mu.Unlock()
	}
}

// now says how many changes are missing, and since when the oldest is.
func (l *lag) now() (int, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.missing) == 0 {
		return 0, 0
	}
	return l.newest - l.missing[0].n + 1, time.Since(l.missing[0].seen)
}

// north is the Northbound client, or why there is none.
func (c *Conn) north() (*ovsdb.Client, error) {
	if c.nb == nil {
		return nil, errors.New("this connection has no Northbound endpoints")
	}
	return c.nb, nil
}
