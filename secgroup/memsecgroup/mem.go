package memsecgroup

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/internal/book"
)

// Kernel is where a [Backend] keeps what it was told: the stand-in for a
// platform. Several backends over one Kernel see the same, as after a restart.
// The zero value is empty and ready.
type Kernel struct {
	mu     sync.Mutex
	book   *book.Book
	writes int
}

// Writes is how many objects have been created, changed or deleted so far.
func (k *Kernel) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// State is what stands.
func (k *Kernel) State() secgroup.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.get().State()
}

func (k *Kernel) get() *book.Book {
	if k.book == nil {
		k.book = book.New(secgroup.State{})
	}
	return k.book
}

// Backend is an in-memory [secgroup.Backend].
type Backend struct {
	k     *Kernel
	since time.Time
}

var (
	_ secgroup.Backend         = (*Backend)(nil)
	_ secgroup.Explainer       = (*Backend)(nil)
	_ secgroup.PacketExplainer = (*Backend)(nil)
)

// New returns a backend over k; nil is a new Kernel of its own.
func New(k *Kernel) *Backend {
	if k == nil {
		k = new(Kernel)
	}
	return &Backend{k: k, since: time.Now()}
}

// Kernel returns what the backend keeps its state in.
func (b *Backend) Kernel() *Kernel { return b.k }

// do runs f on the book unless ctx has ended; f returns how many objects it
// changed.
func (b *Backend) do(ctx context.Context, f func(k *book.Book) (int, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.k.mu.Lock()
	defer b.k.mu.Unlock()
	n, err := f(b.k.get())
	b.k.writes += n
	return err
}

// EnsureGroup implements [secgroup.Backend].
func (b *Backend) EnsureGroup(ctx context.Context, g secgroup.Group) error {
	return b.do(ctx, func(k *book.Book) (int, error) {
		if _, differs := secgroup.DiffGroup(k.Group(g.ID), &g); !differs {
			return 0, nil
		}
		k.PutGroup(g.Canonical())
		return 1, nil
	})
}

// DeleteGroup implements [secgroup.Backend].
func (b *Backend) DeleteGroup(ctx context.Context, id string) error {
	return b.do(ctx, func(k *book.Book) (int, error) {
		if k.Group(id) == nil {
			return 0, nil
		}
		if err := k.GroupInUse(id); err != nil {
			return 0, err
		}
		k.DropGroup(id)
		return 1, nil
	})
}

// EnsureAddressGroup implements [secgroup.Backend].
func (b *Backend) EnsureAddressGroup(ctx context.Context, a secgroup.AddressGroup) error {
	return b.do(ctx, func(k *book.Book) (int, error) {
		a = a.Canonical()
		if _, differs := secgroup.DiffAddressGroup(k.AddressGroup(a.ID), &a); !differs {
			return 0, nil
		}
		k.PutAddressGroup(a)
		return 1, nil
	})
}

// DeleteAddressGroup implements [secgroup.Backend].
func (b *Backend) DeleteAddressGroup(ctx context.Context, id string) error {
	return b.do(ctx, func(k *book.Book) (int, error) {
		if k.AddressGroup(id) == nil {
			return 0, nil
		}
		if err := k.AddressGroupInUse(id); err != nil {
			return 0, err
		}
		k.DropAddressGroup(id)
		return 1, nil
	})
}

// EnsurePort implements [secgroup.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p secgroup.Port) error {
	return b.do(ctx, func(k *book.Book) (int, error) {
		if err := k.CheckPort(p); err != nil {
			return 0, err
		}
		p = p.Canonical()
		if _, differs := secgroup.DiffPort(k.Port(p.ID), &p); !differs {
			return 0, nil
		}
		k.PutPort(p)
		return 1, nil
	})
}

// DeletePort implements [secgroup.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.do(ctx, func(k *book.Book) (int, error) {
		if k.Port(id) == nil {
			return 0, nil
		}
		k.DropPort(id)
		return 1, nil
	})
}

// Sync implements [secgroup.Backend].
func (b *Backend) Sync(ctx context.Context, s secgroup.State, o vnet.SyncOptions) error {
	return b.do(ctx, func(k *book.Book) (int, error) {
		plan := vnet.Plan{Changes: secgroup.Diff(k.State(), s)}
		if err := o.Check(plan, k.Len()); err != nil {
			return 0, err
		}
		b.k.book = book.New(s.Canonical())
		return len(plan.Changes), nil
	})
}

// Plan implements [secgroup.Backend].
func (b *Backend) Plan(ctx context.Context, s secgroup.State) (p vnet.Plan, err error) {
	err = b.do(ctx, func(k *book.Book) (int, error) {
		p.Changes = secgroup.Diff(k.State(), s)
		return 0, nil
	})
	return p, err
}

// Health implements [secgroup.Backend]: memory is always complete.
func (b *Backend) Health(context.Context) vnet.Health {
	return vnet.Health{Complete: true, Since: b.since, Detail: "in memory"}
}

// Features implements [secgroup.Backend].
func (b *Backend) Features(context.Context) secgroup.Features {
	return secgroup.Features{Stateless: true, Tracking: "none: memory carries no packets"}
}

// Explain implements [secgroup.Explainer].
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = b.do(ctx, func(k *book.Book) (int, error) {
		x, err = explain(k, kind, id)
		return 0, err
	})
	return x, err
}

func explain(k *book.Book, kind, id string) (vnet.Explanation, error) {
	x := vnet.Explanation{Text: kind + " " + id}
	missing := fmt.Errorf("%s %q: %w", kind, id, vnet.ErrNotFound)
	switch kind {
	case "port":
		p := k.Port(id)
		if p == nil {
			return x, missing
		}
		if p.DisablePortSecurity {
			x.Add("port security is off: anything passes")
		}
		for _, o := range p.Own() {
			x.Add("may send from " + o.Prefix.String() + " at " + o.MAC.String())
		}
		for _, g := range p.Groups {
			of := x.Add("group " + g)
			for _, m := range k.Matches(g) {
				of.Add(m.String())
			}
		}
	case "group":
		if k.Group(id) == nil {
			return x, missing
		}
		for _, m := range k.Matches(id) {
			x.Add(m.String())
		}
		for _, p := range k.PortsIn(id) {
			x.Add("member port " + p)
		}
	case "rule":
		group, rule, _ := strings.Cut(id, "/")
		g := k.Group(group)
		if g == nil {
			return x, missing
		}
		for _, r := range g.Rules {
			if r.ID == rule {
				x.Add(r.Match().String())
				return x, nil
			}
		}
		return x, missing
	case "addressgroup":
		a := k.AddressGroup(id)
		if a == nil {
			return x, missing
		}
		for _, p := range a.Prefixes {
			x.Add(p.String())
		}
	}
	return x, nil
}

// ExplainPacket implements [secgroup.PacketExplainer].
func (b *Backend) ExplainPacket(ctx context.Context, portID string, q secgroup.Packet) (x vnet.Explanation, err error) {
	err = b.do(ctx, func(k *book.Book) (int, error) {
		p := k.Port(portID)
		if p == nil {
			return 0, fmt.Errorf("port %q: %w", portID, vnet.ErrNotFound)
		}
		x = k.Explain(*p, q)
		return 0, nil
	})
	return x, err
}
