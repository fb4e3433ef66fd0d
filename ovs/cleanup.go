package ovs

import (
	"context"
	"errors"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// Cleanup removes all that this owner has on the switch: the bridge with all
// flows, patches, tunnels, and the devices that Plug made. The handle is of no
// use afterwards but to be closed.
func (s *Switch) Cleanup(ctx context.Context) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		var errs []error
		mine := map[string]bool{}
		for u := range x.Group("QoS", "ours") {
			mine[u] = true
		}
		for _, r := range x.All("Port") { // also an operator's
			if p := *r.(*vswitchrow.Port); p.QOS != nil && mine[*p.QOS] {
				p.QOS = nil
				errs = append(errs, x.Put(&p))
			}
		}
		for _, table := range []string{"Interface", "Port", "Bridge", "QoS", "Queue"} {
			var ids []string
			for u := range x.Group(table, "ours") {
				ids = append(ids, u)
			}
			for _, u := range ids {
				errs = append(errs, x.Delete(table, u))
			}
		}
		for _, r := range x.All("Open_vSwitch") {
			now := *r.(*vswitchrow.OpenvSwitch)
			now.NextCfg++
			errs = append(errs, x.Put(&now))
		}
		return errors.Join(errs...)
	}, nil)
	if err != nil {
		return err
	}
	links, err := s.rt.Links()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		f := strings.SplitN(l.Alias, ":", 5)
		if len(f) == 5 && f[0] == "vnet" && f[1] == string(s.owner) && strings.HasPrefix(l.Name, "v") && l.Name == (mark{s.owner, vnet.Part(f[2]), kindPort, f[4]}).device() {
			errs = append(errs, s.rt.DelLink(l.Name))
		}
	}
	return errors.Join(errs...)
}

func (s *Switch) cleaned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}
