package placement

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/vnet-go/vnet"
)

// Memory is a [Store] in memory. The zero value is empty and ready.
type Memory struct {
	mu        sync.RWMutex
	providers map[string]*node
	names     map[string]string // name -> id
	hosts     map[string]*node  // roots
	order     []*node           // hosts, sorted by id
	consumers map[string]*Allocation
	users     map[string]map[string]bool // provider -> consumers
}

// node is a provider in its tree.
type node struct {
	Provider
	parent   *node
	children []*node
	tree     []*node // of a host: all of it, itself first
	used     Resources
	slots    []slot // its inventories, as the search looks at them
}

// slot is one inventory of a provider.
type slot struct {
	class          Class
	inv            Inventory
	capacity, used int64
}

// slot returns that of a class, or nil.
func (n *node) slot(k Class) *slot {
	for i := range n.slots {
		if n.slots[i].class == k {
			return &n.slots[i]
		}
	}
	return nil
}

// reslot makes the slots anew.
func (n *node) reslot() {
	n.slots = n.slots[:0]
	for k, i := range n.Inventories {
		n.slots = append(n.slots, slot{k, i, i.Capacity(), n.used[k]})
	}
}

func (n *node) root() *node {
	for n.parent != nil {
		n = n.parent
	}
	return n
}

// above reports whether n is o, or above it.
func (n *node) above(o *node) bool {
	for ; o != nil; o = o.parent {
		if o == n {
			return true
		}
	}
	return false
}

func (m *Memory) init() {
	if m.providers == nil {
		m.providers, m.names, m.hosts = map[string]*node{}, map[string]string{}, map[string]*node{}
		m.consumers, m.users = map[string]*Allocation{}, map[string]map[string]bool{}
	}
}

// regrow lists the tree of a host anew.
func (m *Memory) regrow(host *node) {
	host.tree = host.tree[:0]
	var walk func(n *node)
	walk = func(n *node) {
		host.tree = append(host.tree, n)
		for _, c := range n.children {
			walk(c)
		}
	}
	walk(host)
}

func (m *Memory) setHost(n *node, is bool) {
	at, found := slices.BinarySearchFunc(m.order, n.ID, func(a *node, id string) int { return strings.Compare(a.ID, id) })
	switch {
	case is && !found:
		m.order = slices.Insert(m.order, at, n)
		m.hosts[n.ID] = n
	case !is && found:
		m.order = slices.Delete(m.order, at, at+1)
		delete(m.hosts, n.ID)
	}
}

// checkProvider says why p cannot be put.
func (m *Memory) checkProvider(p Provider, shrink bool) error {
	old := m.providers[p.ID]
	switch {
	case old == nil && p.Generation != 0:
		return fmt.Errorf("provider %s is gone: %w", p.ID, vnet.ErrConflict)
	case old != nil && p.Generation != old.Generation:
		return fmt.Errorf("provider %s is of generation %d, not %d: %w", p.ID, old.Generation, p.Generation, vnet.ErrConflict)
	}
	if id, ok := m.names[p.Name]; ok && id != p.ID {
		return fmt.Errorf("provider %s: %q is the name of %s: %w", p.ID, p.Name, id, vnet.ErrConflict)
	}
	if p.Parent != "" {
		parent := m.providers[p.Parent]
		if parent == nil {
			return fmt.Errorf("provider %s: its parent %s: %w", p.ID, p.Parent, vnet.ErrNotFound)
		}
		if old != nil && old.above(parent) {
			return fmt.Errorf("provider %s: its parent %s is below it: %w", p.ID, p.Parent, vnet.ErrConflict)
		}
	}
	if old != nil && !shrink {
		for k, n := range old.used {
			if c := p.Inventories[k].Capacity(); n > c {
				return fmt.Errorf("provider %s: %d of %s is promised, to %s, and there would be %d: %w", p.ID, n, k, strings.Join(m.usersOf(p.ID), ", "), c, vnet.ErrInUse)
			}
		}
	}
	return nil
}

func (m *Memory) usersOf(id string) []string {
	all := slices.Sorted(maps.Keys(m.users[id]))
	if len(all) > 5 {
		all = append(all[:5], "others")
	}
	return all
}

// putProvider does what was checked.
func (m *Memory) putProvider(p Provider) Provider {
	n := m.providers[p.ID]
	p = p.Clone()
	slices.Sort(p.Traits)
	p.Traits = slices.Compact(p.Traits)
	if n == nil {
		n = &node{used: Resources{}}
		m.providers[p.ID] = n
	} else {
		delete(m.names, n.Name)
		p.Generation = n.Generation
		if n.parent != nil {
			n.parent.children = slices.DeleteFunc(n.parent.children, func(c *node) bool { return c == n })
			m.regrow(n.parent.root())
		}
	}
	p.Generation++
	n.Provider, n.parent = p, m.providers[p.Parent]
	n.reslot()
	m.names[p.Name] = p.ID
	if n.parent != nil {
		n.parent.children = append(n.parent.children, n)
		slices.SortFunc(n.parent.children, func(a, b *node) int { return strings.Compare(a.ID, b.ID) })
	}
	m.setHost(n, n.parent == nil)
	m.regrow(n.root())
	return n.Provider.Clone()
}

// PutProvider implements [Store].
func (m *Memory) PutProvider(ctx context.Context, p Provider, shrink bool) (Provider, error) {
	if err := ctx.Err(); err != nil {
		return Provider{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.init()
	if err := m.checkProvider(p, shrink); err != nil {
		return Provider{}, err
	}
	return m.putProvider(p), nil
}

func (m *Memory) checkDelete(id string) error {
	n := m.providers[id]
	switch {
	case n == nil:
	case len(n.children) > 0:
		return fmt.Errorf("provider %s has %s below it: %w", id, n.children[0].ID, vnet.ErrInUse)
	case len(m.users[id]) > 0:
		return fmt.Errorf("provider %s is used by %s: %w", id, strings.Join(m.usersOf(id), ", "), vnet.ErrInUse)
	}
	return nil
}

func (m *Memory) deleteProvider(id string) {
	n := m.providers[id]
	if n == nil {
		return
	}
	delete(m.providers, id)
	delete(m.names, n.Name)
	delete(m.users, id)
	if n.parent == nil {
		m.setHost(n, false)
		return
	}
	n.parent.children = slices.DeleteFunc(n.parent.children, func(c *node) bool { return c == n })
	m.regrow(n.parent.root())
}

// DeleteProvider implements [Store].
func (m *Memory) DeleteProvider(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkDelete(id); err != nil {
		return err
	}
	m.deleteProvider(id)
	return nil
}

// Provider implements [Store].
func (m *Memory) Provider(ctx context.Context, id string) (Provider, error) {
	if err := ctx.Err(); err != nil {
		return Provider{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.providers[id]
	if n == nil {
		return Provider{}, fmt.Errorf("provider %s: %w", id, vnet.ErrNotFound)
	}
	return n.Provider.Clone(), nil
}

// Providers implements [Store].
func (m *Memory) Providers(ctx context.Context, host string) ([]Provider, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []Provider
	if host != "" {
		if h := m.hosts[host]; h != nil {
			for _, n := range h.tree {
				out = append(out, n.Provider.Clone())
			}
		}
	} else {
		for _, n := range m.providers {
			out = append(out, n.Provider.Clone())
		}
	}
	slices.SortFunc(out, func(a, b Provider) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Usage implements [Store].
func (m *Memory) Usage(ctx context.Context, id string) (Resources, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.providers[id]
	if n == nil {
		return nil, fmt.Errorf("provider %s: %w", id, vnet.ErrNotFound)
	}
	return maps.Clone(n.used), nil
}

// Allocation implements [Store].
func (m *Memory) Allocation(ctx context.Context, consumer string) (Allocation, error) {
	if err := ctx.Err(); err != nil {
		return Allocation{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if a := m.consumers[consumer]; a != nil {
		return a.Clone(), nil
	}
	return Allocation{Consumer: consumer}, nil
}

// checkAllocate says why allocations cannot be replaced by these.
func (m *Memory) checkAllocate(all []Allocation) error {
	delta := map[string]Resources{}
	grows := map[string]map[Class]bool{}
	seen := map[string]bool{}
	add := func(parts map[string]Resources, sign int64) {
		for p, r := range parts {
			if delta[p] == nil {
				delta[p], grows[p] = Resources{}, map[Class]bool{}
			}
			for k, n := range r {
				delta[p][k] += sign * n
				grows[p][k] = grows[p][k] || sign > 0
			}
		}
	}
	for _, a := range all {
		if seen[a.Consumer] {
			return &vnet.FieldError{Field: "consumer", Value: a.Consumer, Reason: "is there twice"}
		}
		seen[a.Consumer] = true
		old := m.consumers[a.Consumer]
		if g := generation(old); g != a.Generation {
			return fmt.Errorf("what %s has is of generation %d, not %d: %w", a.Consumer, g, a.Generation, vnet.ErrConflict)
		}
		if old != nil {
			add(old.Parts, -1)
		}
		for p, r := range a.Parts {
			n := m.providers[p]
			if n == nil {
				return fmt.Errorf("provider %s: %w", p, vnet.ErrNotFound)
			}
			for k, x := range r {
				i, ok := n.Inventories[k]
				if !ok {
					return fmt.Errorf("%s of provider %s: %w", k, p, vnet.ErrNotFound)
				}
				if !i.fits(x) {
					return fmt.Errorf("%d of %s is not what provider %s gives at once: %w", x, k, p, vnet.ErrConflict)
				}
			}
		}
		add(a.Parts, 1)
	}
	for p, r := range delta {
		for k, d := range r {
			n := m.providers[p]
			if c := n.Inventories[k].Capacity(); grows[p][k] && d > 0 && n.used[k]+d > c {
				return fmt.Errorf("provider %s has %d of %s left, and %d more is asked for: %w", p, max(c-n.used[k], 0), k, d, vnet.ErrConflict)
			}
		}
	}
	return nil
}

func generation(a *Allocation) uint64 {
	if a == nil {
		return 0
	}
	return a.Generation
}

// allocate does what was checked.
func (m *Memory) allocate(all []Allocation) {
	touched := map[string]bool{}
	apply := func(consumer string, parts map[string]Resources, sign int64) {
		for p, r := range parts {
			touched[p] = true
			n := m.providers[p]
			for k, x := range r {
				if n.used[k] += sign * x; n.used[k] == 0 {
					delete(n.used, k)
				}
				if i := n.slot(k); i != nil {
					i.used = n.used[k]
				}
			}
			if sign > 0 {
				if m.users[p] == nil {
					m.users[p] = map[string]bool{}
				}
				m.users[p][consumer] = true
			} else {
				delete(m.users[p], consumer)
			}
		}
	}
	for _, a := range all {
		if old := m.consumers[a.Consumer]; old != nil {
			apply(a.Consumer, old.Parts, -1)
			delete(m.consumers, a.Consumer)
		}
		if len(a.Parts) > 0 {
			a = a.Clone()
			a.Generation++
			m.consumers[a.Consumer] = &a
			apply(a.Consumer, a.Parts, 1)
		}
	}
	for p := range touched {
		m.providers[p].Generation++
	}
}

// Allocate implements [Store].
func (m *Memory) Allocate(ctx context.Context, all ...Allocation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.init()
	if err := m.checkAllocate(all); err != nil {
		return err
	}
	m.allocate(all)
	return nil
}

// perHost bounds how many ways to meet a request on one host are looked at.
const perHost = 4

// Candidates implements [Store].
func (m *Memory) Candidates(ctx context.Context, r Request, policy Policy, limit int) ([]Candidate, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	hosts := m.order
	if len(r.Hosts) > 0 {
		hosts = nil
		for _, id := range r.Hosts {
			if h := m.hosts[id]; h != nil {
				hosts = append(hosts, h)
			}
		}
	}
	var best []Candidate
	var search search
	for i, h := range hosts {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for _, c := range search.onHost(h, r, policy, func(load float64) bool {
			return len(best) < limit || policy.mayPrecede(load, best[limit-1].Load)
		}) {
			if len(best) == limit && policy.Compare(c, best[limit-1]) >= 0 {
				continue
			}
			at, _ := slices.BinarySearchFunc(best, c, policy.Compare)
			best = slices.Insert(best, at, c)
			best = best[:min(len(best), limit)]
		}
	}
	return best, nil
}

// mayPrecede reports whether what has one load may come before what has another.
func (p Policy) mayPrecede(load, other float64) bool {
	if p == Pack {
		return load >= other
	}
	return load <= other
}

// search keeps its memory from one host to the next.
type search struct {
	fit    [][]*node // by group
	chosen []*node
}

// onHost are the best ways to meet a request on one host, of those whose load is wanted.
func (s *search) onHost(h *node, r Request, policy Policy, wanted func(load float64) bool) []Candidate {
	if s.fit == nil {
		s.fit, s.chosen = make([][]*node, len(r.Groups)), make([]*node, len(r.Groups))
	}
	for i := range r.Groups {
		s.fit[i] = s.fit[i][:0]
		for _, n := range h.tree {
			if n.gives(&r.Groups[i]) {
				s.fit[i] = append(s.fit[i], n)
			}
		}
		if len(s.fit[i]) == 0 {
			return nil
		}
	}
	var out []Candidate
	var choose func(i int)
	choose = func(i int) {
		if i < len(r.Groups) {
			for _, n := range s.fit[i] {
				s.chosen[i] = n
				choose(i + 1)
			}
			return
		}
		load, ok := loadOf(r, s.chosen)
		if !ok || !wanted(load) {
			return
		}
		c := Candidate{Host: h.ID, Providers: make(map[string]string, len(s.chosen)), Load: load}
		for k, n := range s.chosen {
			c.Providers[r.Groups[k].ID] = n.ID
		}
		at, _ := slices.BinarySearchFunc(out, c, policy.Compare)
		out = slices.Insert(out, at, c)
		out = out[:min(len(out), perHost)]
	}
	choose(0)
	return out
}

// gives reports whether a provider could give a group by itself.
func (n *node) gives(g *Group) bool {
	if len(g.Required) > len(n.Traits) {
		return false
	}
	for _, t := range g.Required {
		if !slices.Contains(n.Traits, t) {
			return false
		}
	}
	for _, t := range g.Forbidden {
		if slices.Contains(n.Traits, t) {
			return false
		}
	}
	for k, x := range g.Resources {
		if i := n.slot(k); i == nil || !i.inv.fits(x) || i.used+x > i.capacity {
			return false
		}
	}
	return true
}

// loadOf is the load of what has been chosen; ok is false when it cannot be so together.
func loadOf(r Request, chosen []*node) (load float64, ok bool) {
	at := func(id string) *node {
		return chosen[slices.IndexFunc(r.Groups, func(g Group) bool { return g.ID == id })]
	}
	for _, list := range r.SameSubtree {
		if !slices.ContainsFunc(list, func(top string) bool {
			return !slices.ContainsFunc(list, func(id string) bool { return !at(top).above(at(id)) })
		}) {
			return 0, false
		}
	}
	for i, n := range chosen {
		for k := range r.Groups[i].Resources {
			of := n.slot(k)
			total := of.used
			for j, o := range chosen {
				if o == n {
					total += r.Groups[j].Resources[k]
				}
			}
			if total > of.capacity {
				return 0, false
			}
			load = max(load, float64(total)/float64(of.capacity))
		}
	}
	return load, true
}
