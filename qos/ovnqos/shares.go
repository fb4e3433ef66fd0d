package ovnqos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
)

// SharesOptions of [NewShares].
type SharesOptions struct {
	// Devices are what leaves this host: by the name of the uplink (a physical
	// network's, or qos.Tunnelled) the device whose queue is shared out. That of
	// tunnels is the one that has the way to the other hosts; it may be the
	// bridge's own device where the physical one is a port of Open vSwitch.
	Devices map[string]string
	Netns   string        // path of the network namespace of ovs-vswitchd; "" for the caller's
	Every   time.Duration // how often the kernel is looked at; default 5 s
	Logger  *slog.Logger
}

// Shares shares out the uplinks of one host by HTB, as the central [Backend] has
// promised. It learns that from the Southbound, and writes nothing but queues
// of the devices that it was told of. It keeps no state: what it finds in the
// kernel it goes on with.
type Shares struct {
	c    *ovn.Conn
	host string
	o    SharesOptions
	ns   *netns.NS
	rt   *rtnl.Conn
	mu   sync.Mutex // one pass at a time
}

var _ qos.Runner = (*Shares)(nil)

// NewShares returns the shares of the chassis with that name (system-id) or
// hostname, read over c, which needs a Southbound only.
func NewShares(c *ovn.Conn, host string, o *SharesOptions) (*Shares, error) {
	switch {
	case c == nil:
		return nil, &vnet.FieldError{Field: "conn", Reason: "is nil"}
	case host == "":
		return nil, &vnet.FieldError{Field: "host", Reason: "is empty"}
	case o == nil || len(o.Devices) == 0:
		return nil, &vnet.FieldError{Field: "devices", Reason: "is empty"}
	}
	s := &Shares{c: c, host: host, o: *o}
	s.o.Devices = maps.Clone(o.Devices)
	seen := map[string]bool{}
	for name, dev := range s.o.Devices {
		if dev == "" || seen[dev] {
			return nil, &vnet.FieldError{Field: "devices[" + name + "]", Value: dev, Reason: "is empty or another uplink's"}
		}
		seen[dev] = true
	}
	if s.o.Every <= 0 {
		s.o.Every = 5 * time.Second
	}
	if s.o.Logger == nil {
		s.o.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.o.Netns == "" {
		s.ns, err = netns.Current()
	} else {
		s.ns, err = netns.Open(s.o.Netns)
	}
	if err != nil {
		return nil, fmt.Errorf("shares of uplinks: %w", err)
	}
	s.rt = rtnl.Open(s.ns)
	return s, nil
}

// Close lets go of the namespace. The shares stand.
func (s *Shares) Close() error { return errors.Join(s.rt.Close(), s.ns.Close()) }

// Minors of classes. Those of ports are their queue's number and one, as Open
// vSwitch has it; ovn-controller removes ones that it does not know, up to f000.
const (
	minorRoot   = rtnl.ShareRoot
	minorOthers = rtnl.ShareOthers
)

// share is what one uplink is to be: classes by minor, none when it is nobody's.
type share struct {
	dev     string
	classes map[uint16]rtnl.HTBClass
}

// Serve keeps the shares until ctx ends: after changes in the Southbound, and
// every few seconds, because ovn-controller removes the queues of the tunnels'
// device when it starts.
func (s *Shares) Serve(ctx context.Context) error {
	wake := make(chan struct{}, 1)
	go func() {
		for range s.c.Changes(ctx, "Port_Binding", "Meter", "Meter_Band", "Chassis") {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	tick := time.NewTicker(s.o.Every)
	defer tick.Stop()
	for {
		if err := s.Apply(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.WarnContext(ctx, "qos: shares of uplinks", "host", s.host, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}

// Apply makes the shares so, once. [vnet.ErrNotReady]: a port has no queue yet.
// [vnet.ErrConflict]: a device has a queueing discipline of somebody else's.
func (s *Shares) Apply(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.c.View(ctx)
	if err != nil {
		return err
	}
	shares, err := s.wanted(v)
	errs := []error{err}
	for _, name := range slices.Sorted(maps.Keys(shares)) {
		if err := s.apply(shares[name]); err != nil {
			errs = append(errs, fmt.Errorf("uplink %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// chassis is ours, or nil.
func (s *Shares) chassis(v *ovn.View) *sbrow.Chassis {
	for _, column := range []string{"name", "hostname"} {
		for _, c := range ovn.By[sbrow.Chassis](v, column, s.host) {
			return c
		}
	}
	return nil
}

// wanted reads what is promised on this host.
func (s *Shares) wanted(v *ovn.View) (map[string]share, error) {
	out := map[string]share{}
	for name, dev := range s.o.Devices {
		out[name] = share{dev: dev, classes: map[uint16]rtnl.HTBClass{}}
	}
	me := s.chassis(v)
	if me == nil {
		return nil, fmt.Errorf("chassis %s: %w", s.host, vnet.ErrNotFound)
	}
	total := map[string]uint64{} // bit/s
	for m := range ovn.All[sbrow.Meter](v) {
		id, ours := strings.CutPrefix(m.Name, s.c.Name(kindUplink, ""))
		host, name := uplinkName(id)
		if _, known := out[name]; !known || !ours || host != "" && host != me.Name && host != me.Hostname {
			continue
		}
		for _, uuid := range m.Bands {
			if b := ovn.At[sbrow.MeterBand](v, uuid); b != nil {
				total[name] = uint64(b.Rate) * 1000
			}
		}
	}
	var errs []error
	left := maps.Clone(total)
	for _, b := range ovn.By[sbrow.PortBinding](v, "chassis", me.UUID) {
		id, ours := ovn.ParsePortName(s.c.Owner(), b.LogicalPort)
		if !ours || b.ExternalIDs[keyPort] == "" {
			continue
		}
		var p qos.Port
		if json.Unmarshal([]byte(b.ExternalIDs[keyPort]), &p) != nil || p.Uplink == "" || total[p.Uplink] == 0 {
			continue
		}
		queue, err := strconv.ParseUint(b.Options["qdisc_queue_id"], 10, 16)
		if err != nil || queue == 0 || queue+1 >= minorOthers {
			errs = append(errs, fmt.Errorf("port %s: northd has given it no queue: %w", id, vnet.ErrNotReady))
			continue
		}
		minor, rate := uint16(queue)+1, uint64(p.Egress.MinKbps)*1000
		x := out[p.Uplink].classes
		// A port keeps its number when it moves, and may meet with another's.
		x[minor] = rtnl.HTBClass{Minor: minor, Parent: minorRoot, Rate: x[minor].Rate + rate, Ceil: total[p.Uplink]}
		left[p.Uplink] -= min(left[p.Uplink], rate)
	}
	for name, rate := range total {
		x := out[name].classes
		x[minorRoot] = rtnl.HTBClass{Minor: minorRoot, Rate: rate, Ceil: rate}
		x[minorOthers] = rtnl.HTBClass{Minor: minorOthers, Parent: minorRoot, Rate: max(left[name], rate/1000, 8000), Ceil: rate}
	}
	return out, errors.Join(errs...)
}

// apply brings a device to its share.
func (s *Shares) apply(x share) error {
	root, ok := x.classes[minorRoot]
	if !ok {
		return s.rt.UnshareDevice(x.dev)
	}
	delete(x.classes, minorRoot)
	return s.rt.ShareDevice(x.dev, root.Rate, x.classes)
}
