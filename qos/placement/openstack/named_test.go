package openstack_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"

	"github.com/vnet-go/vnet/qos/placement"
)

// named lets the suite use the ids that it likes with a store that takes UUIDs:
// short ones as hexadecimal digits, which keeps their order.
type named struct {
	s    placement.Store
	mu   *sync.Mutex
	back map[string]string
}

func (n named) to(id string) string {
	if id == "" {
		return ""
	}
	b := make([]byte, 16)
	if len(id) <= 16 {
		copy(b, id)
	} else {
		h := sha256.Sum256([]byte(id))
		copy(b, h[:])
	}
	x := hex.EncodeToString(b)
	u := strings.Join([]string{x[:8], x[8:12], x[12:16], x[16:20], x[20:]}, "-")
	n.mu.Lock()
	defer n.mu.Unlock()
	n.back[u] = id
	return u
}

func (n named) from(u string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if id, ok := n.back[u]; ok {
		return id
	}
	return u
}

func (n named) provider(p placement.Provider) placement.Provider {
	p.ID, p.Parent = n.from(p.ID), n.from(p.Parent)
	return p
}

func (n named) parts(in map[string]placement.Resources, f func(string) string) map[string]placement.Resources {
	if in == nil {
		return nil
	}
	out := map[string]placement.Resources{}
	for p, r := range in {
		out[f(p)] = r
	}
	return out
}

func (n named) PutProvider(ctx context.Context, p placement.Provider, shrink bool) (placement.Provider, error) {
	p.ID, p.Parent = n.to(p.ID), n.to(p.Parent)
	out, err := n.s.PutProvider(ctx, p, shrink)
	return n.provider(out), err
}

func (n named) DeleteProvider(ctx context.Context, id string) error {
	return n.s.DeleteProvider(ctx, n.to(id))
}

func (n named) Provider(ctx context.Context, id string) (placement.Provider, error) {
	p, err := n.s.Provider(ctx, n.to(id))
	return n.provider(p), err
}

func (n named) Providers(ctx context.Context, host string) ([]placement.Provider, error) {
	all, err := n.s.Providers(ctx, n.to(host))
	for i := range all {
		all[i] = n.provider(all[i])
	}
	return all, err
}

func (n named) Usage(ctx context.Context, id string) (placement.Resources, error) {
	return n.s.Usage(ctx, n.to(id))
}

func (n named) Candidates(ctx context.Context, r placement.Request, p placement.Policy, limit int) ([]placement.Candidate, error) {
	var hosts []string
	for _, h := range r.Hosts {
		hosts = append(hosts, n.to(h))
	}
	r.Hosts = hosts
	all, err := n.s.Candidates(ctx, r, p, limit)
	for i := range all {
		all[i].Host = n.from(all[i].Host)
		for g, p := range all[i].Providers {
			all[i].Providers[g] = n.from(p)
		}
	}
	return all, err
}

func (n named) Allocation(ctx context.Context, id string) (placement.Allocation, error) {
	a, err := n.s.Allocation(ctx, n.to(id))
	a.Consumer, a.Parts = id, n.parts(a.Parts, n.from)
	return a, err
}

func (n named) Allocate(ctx context.Context, all ...placement.Allocation) error {
	var out []placement.Allocation
	for _, a := range all {
		a.Consumer, a.Parts = n.to(a.Consumer), n.parts(a.Parts, n.to)
		out = append(out, a)
	}
	if err := n.s.Allocate(ctx, out...); err != nil {
		return fmt.Errorf("%v: %w", all, err)
	}
	return nil
}
