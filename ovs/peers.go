package ovs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// Peers are watched by ovs-vswitchd itself, with BFD (RFC 5880) between tunnel
// ends: a tunnel port of its own for each, which carries nothing else. Its
// key is 0, that of no network, and what comes with another one comes in by
// the port of all tunnels, as ever. No flow knows these ports.

const kindProbe = "probe"

// bfd is what BFD is told, in milliseconds; three in a row that do not come are
// the end (ovs-vswitchd.conf.db(5)).
func bfd() map[string]string {
	return map[string]string{"enable": "true", "min_rx": "1000", "min_tx": "100"}
}

// Probe is what the switch knows of a peer that it watches.
type Probe struct {
	// Up says that the peer's switch answers, hears this one, and does not hold
	// back ([Switch.HoldBack]).
	Up bool
}

// SetPeers says which peers there are, in place of Options.Peers. Who is
// watched does not change by that, but by [Tx.Probe].
func (s *Switch) SetPeers(all map[string]netip.Addr) {
	all = maps.Clone(all)
	s.peers.Store(&all)
}

// Peer is the tunnel end of a peer; this host itself is none.
func (s *Switch) Peer(host string) (netip.Addr, bool) {
	a, ok := (*s.peers.Load())[host]
	return a, ok && host != s.o.Name && a.IsValid()
}

// Peers are the names of all peers, in order.
func (s *Switch) Peers() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(*s.peers.Load())), func(h string) bool { _, ok := s.Peer(h); return !ok })
}

func (s *Switch) probeMark(host string) mark {
	return mark{s.owner, vnet.PartHost, kindProbe, host}
}

// Probes are the peers that are watched. Not live: the switch does not run, so
// nothing is known of them, and none is Up.
func (s *Switch) Probes() (all map[string]Probe, live bool) {
	s.mu.Lock()
	live = s.conn != nil
	s.mu.Unlock()
	st := s.db.State()
	all = map[string]Probe{}
	for _, h := range s.Peers() {
		if i, ok := st.Row("Interface", s.probeMark(h).uuid("Interface")).(*vswitchrow.Interface); ok {
			all[h] = Probe{Up: live && i.BFDStatus["forwarding"] == "true"}
		}
	}
	return all, live
}

// Probe has the switch watch these peers, and no others, when the submission
// stands: each by a tunnel port of its own, whose other end must do the same.
// A host that is no peer is [vnet.ErrNotFound].
func (tx *Tx) Probe(hosts ...string) {
	s := tx.v.s
	want := map[string]netip.Addr{}
	for _, h := range hosts {
		a, ok := s.Peer(h)
		switch {
		case !ok:
			tx.fail(fmt.Errorf("tunnel end of host %s: %w", h, vnet.ErrNotFound))
			return
		case !s.o.TunnelIP.IsValid():
			tx.fail(&vnet.UnsupportedError{Feature: "watching host " + h, Backend: "host " + s.o.Name, Need: "Options.TunnelIP"})
			return
		}
		want[h] = a
	}
	st := s.db.State()
	if x := st.Begin(); s.probe(x, want) == nil && len(x.Ops()) == 0 {
		return
	}
	tx.After(func(ctx context.Context) error {
		before := s.db.Stats().Operations
		_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error { return s.probe(x, want) }, nil)
		s.writes.Add(s.db.Stats().Operations - before)
		return err
	})
}

// HoldBack has the switch tell those who watch it that it is not to be counted
// on (a concatenated path that is down, RFC 5880, 4.1), until it is called with
// false, or a submission with [Tx.Probe] stands: to them it is not Up.
func (s *Switch) HoldBack(ctx context.Context, hold bool) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	before := s.db.Stats().Operations
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		var errs []error
		for _, h := range s.Peers() {
			if have, ok := x.Row("Interface", s.probeMark(h).uuid("Interface")).(*vswitchrow.Interface); ok {
				i := *have
				if i.BFD = bfd(); hold {
					i.BFD["cpath_down"] = "true"
				}
				errs = append(errs, x.Put(&i, "bfd"))
			}
		}
		return errors.Join(errs...)
	}, nil)
	s.writes.Add(s.db.Stats().Operations - before)
	return err
}

// probe makes the ports to watch peers by, and removes those of others.
func (s *Switch) probe(x *ovsdb.Tx, want map[string]netip.Addr) error {
	taken := map[int]bool{}
	var gone []mark
	for _, r := range x.Group("Interface", "ours") {
		i := r.(*vswitchrow.Interface)
		if i.ExternalIDs[keyKind] != kindProbe {
			continue
		}
		if m := markOf(i.ExternalIDs); !want[m.id].IsValid() {
			gone = append(gone, m)
		} else if i.OfportRequest != nil {
			taken[*i.OfportRequest] = true
		}
	}
	var errs []error
	for _, m := range gone {
		errs = append(errs, x.Delete("Port", m.uuid("Port")), x.Delete("Interface", m.uuid("Interface")))
	}
	b, ok := x.Row("Bridge", s.bridgeMark().uuid("Bridge")).(*vswitchrow.Bridge)
	if !ok {
		return errors.Join(append(errs, fmt.Errorf("bridge %s has gone: %w", s.o.Bridge, vnet.ErrNotFound))...)
	}
	now := *b
	for _, h := range slices.Sorted(maps.Keys(want)) {
		m := s.probeMark(h)
		i := vswitchrow.Interface{UUID: m.uuid("Interface")}
		if have, ok := x.Row("Interface", i.UUID).(*vswitchrow.Interface); ok {
			i = *have
		} else {
			n := pipeline.ProbePort
			for taken[n] {
				n++
			}
			taken[n] = true
			i.OfportRequest = &n
		}
		i.Name, i.Type, i.ExternalIDs, i.BFD = m.device(), string(VXLAN), m.into(nil), bfd()
		i.Options = map[string]string{"remote_ip": want[h].String(), "local_ip": s.o.TunnelIP.String(), "dst_port": strconv.Itoa(int(s.o.VXLANPort))}
		p := vswitchrow.Port{UUID: m.uuid("Port")}
		if have, ok := x.Row("Port", p.UUID).(*vswitchrow.Port); ok {
			p = *have
		}
		p.Name, p.Interfaces, p.ExternalIDs = i.Name, []string{i.UUID}, m.into(nil)
		if !slices.Contains(now.Ports, p.UUID) {
			now.Ports = append(slices.Clone(now.Ports), p.UUID)
		}
		errs = append(errs, x.Put(&i, "options", "external_ids", "bfd"), x.Put(&p, "interfaces", "external_ids"))
	}
	return errors.Join(append(errs, x.Put(&now))...)
}
