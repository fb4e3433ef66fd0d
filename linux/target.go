package linux

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
)

// Target is what backends write through: a [*Host], which commits what is
// submitted at once, or a [*Batch], which collects what several backends
// submit and commits it together.
type Target interface {
	Host() *Host
	// Submit carries out the steps, or collects them.
	Submit(ctx context.Context, steps ...Step) error
	// Pending says what a collected and not yet committed step will do to an
	// object. A Host has nothing pending.
	Pending(part vnet.Part, kind, id string) (vnet.Verb, bool)
}

var (
	_ Target = (*Host)(nil)
	_ Target = (*Batch)(nil)
)

// Phase orders the steps of one commit, whoever submitted them: filters stand
// before anything is connected, and go after all is disconnected. Every
// prefix of the order is safe.
type Phase int

// The phases.
const (
	FilterAdd  Phase = iota // tables, chains, elements that close or admit; namespaces
	LinkAdd                 // devices and namespaces are made
	Connect                 // devices become ports of bridges, go to namespaces, are set up
	Configure               // addresses, routes, forwarding entries, NAT, sysctls of devices
	Disconnect              // devices leave bridges, addresses and routes go
	LinkDel                 // devices and namespaces go
	FilterDel               // what admitted or closed goes
)

func (p Phase) String() string {
	return [...]string{"filter-add", "link-add", "connect", "configure", "disconnect", "link-del", "filter-del"}[p]
}

// Step is one change of the kernel's state.
type Step struct {
	// Change says what it does to which object of the contract, for Plan. With
	// a zero Verb the step belongs to the change of the step before it.
	Change vnet.Change
	Phase  Phase
	// Do carries it out; Undo, if not nil, takes it back when a later step of
	// the same commit fails. Neither may submit.
	Do, Undo func(ctx context.Context) error
	// NFT declares its part of the one nftables transaction of namespace NS
	// (nil: the host's) in this phase; those transactions come after all Do of
	// the phase. It may be called more than once.
	NFT func(tx *nft.Tx) error
	NS  *Namespace

	first bool // of what was submitted together
}

// PartialError says how far a commit came. It wraps the cause.
type PartialError struct {
	Failed vnet.Change   // what was being done
	Phase  Phase         // in which phase
	Done   []vnet.Change // what stands: carried out, at least in part, and not taken back
	Undone []vnet.Change // what was carried out and wholly taken back
	Err    error
	Undo   error // why something could not be taken back; nil otherwise
}

func (e *PartialError) Error() string {
	var b strings.Builder
	if e.Failed.Verb != "" {
		fmt.Fprintf(&b, "%s %s %s: ", e.Failed.Verb, e.Failed.Kind, e.Failed.ID)
	}
	fmt.Fprintf(&b, "%s: %v", e.Phase, e.Err)
	list := func(what string, cs []vnet.Change) {
		for i, c := range cs {
			if i == 0 {
				b.WriteString("; " + what + ":")
			} else if i == 8 {
				fmt.Fprintf(&b, " and %d more", len(cs)-i)
				break
			}
			fmt.Fprintf(&b, " %s %s %s", c.Verb, c.Kind, c.ID)
			if i < len(cs)-1 {
				b.WriteByte(',')
			}
		}
	}
	list("stands", e.Done)
	list("taken back", e.Undone)
	if e.Undo != nil {
		fmt.Fprintf(&b, "; not taken back: %v", e.Undo)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *PartialError) Unwrap() error { return e.Err }

// Batch collects steps. It may be used from several goroutines.
type Batch struct {
	h     *Host
	mu    sync.Mutex
	steps []Step
}

// Batch returns an empty batch for this host.
func (h *Host) Batch() *Batch { return &Batch{h: h} }

// Host returns the host.
func (b *Batch) Host() *Host { return b.h }

// Submit collects the steps.
func (b *Batch) Submit(ctx context.Context, steps ...Step) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	at := len(b.steps)
	b.steps = append(b.steps, steps...)
	if at < len(b.steps) {
		b.steps[at].first = true
	}
	return nil
}

// Pending says what the batch will do to an object.
func (b *Batch) Pending(part vnet.Part, kind, id string) (vnet.Verb, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range slices.Backward(b.steps) {
		if c := s.Change; c.Verb != "" && c.Part == part && c.Kind == kind && c.ID == id {
			return c.Verb, true
		}
	}
	return "", false
}

// Plan returns the changes collected so far, in the order of submission.
func (b *Batch) Plan() vnet.Plan {
	b.mu.Lock()
	defer b.mu.Unlock()
	return PlanOf(b.steps)
}

// PlanOf returns the changes of steps.
func PlanOf(steps []Step) vnet.Plan {
	var p vnet.Plan
	for _, s := range steps {
		if s.Change.Verb != "" {
			p.Changes = append(p.Changes, s.Change)
		}
	}
	return p
}

// Commit carries out what was collected, and empties the batch whatever comes
// of it. On failure it returns a [*PartialError].
func (b *Batch) Commit(ctx context.Context) error {
	b.mu.Lock()
	steps := b.steps
	b.steps = nil
	b.mu.Unlock()
	return b.h.commit(ctx, steps)
}

// Host returns h.
func (h *Host) Host() *Host { return h }

// Submit carries out the steps. On failure it returns a [*PartialError].
func (h *Host) Submit(ctx context.Context, steps ...Step) error { return h.commit(ctx, steps) }

// Pending returns false: a host commits at once.
func (h *Host) Pending(vnet.Part, string, string) (vnet.Verb, bool) { return "", false }

// step is a Step with the index of the change it belongs to, -1 for none.
type numbered struct {
	Step
	of int
}

// commit runs steps by phase, and within a phase all Do before one nft
// transaction a namespace.
func (h *Host) commit(ctx context.Context, steps []Step) (err error) {
	if len(steps) == 0 {
		return nil
	}
	h.commitMu.Lock()
	defer h.commitMu.Unlock()
	defer func(since time.Time) { h.metrics.commit(since, err) }(time.Now())
	var changes []vnet.Change
	all := make([]numbered, len(steps))
	of := -1
	for i, s := range steps {
		switch {
		case s.Change.Verb != "":
			of = len(changes)
			changes = append(changes, s.Change)
		case s.first: // not of another backend's change
			of = -1
		}
		all[i] = numbered{s, of}
	}
	slices.SortStableFunc(all, func(a, b numbered) int { return int(a.Phase) - int(b.Phase) })

	var done []numbered
	for from := 0; from < len(all); {
		to := from
		for to < len(all) && all[to].Phase == all[from].Phase {
			to++
		}
		if err := h.runPhase(ctx, all[from:to], &done); err != nil {
			return partial(changes, done, err)
		}
		from = to
	}
	return nil
}

// stepError says which step an error is of.
type stepError struct {
	step numbered
	err  error
}

func (e *stepError) Error() string { return e.err.Error() }

func (h *Host) runPhase(ctx context.Context, steps []numbered, done *[]numbered) error {
	var order []*Namespace // of first appearance
	byNS := map[*Namespace][]numbered{}
	for _, s := range steps {
		if s.Do != nil {
			if err := ctx.Err(); err != nil {
				return &stepError{s, err}
			}
			if err := s.Do(ctx); err != nil {
				return &stepError{s, err}
			}
			*done = append(*done, s)
		}
		if s.NFT != nil {
			ns := s.NS
			if ns == nil {
				ns = h.ns
			}
			if byNS[ns] == nil {
				order = append(order, ns)
			}
			byNS[ns] = append(byNS[ns], s)
		}
	}
	for _, ns := range order {
		group := byNS[ns]
		current := group[0]
		err := ns.NFT().Do(ctx, func(tx *nft.Tx) error {
			for _, s := range group {
				current = s
				if err := s.NFT(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return &stepError{current, fmt.Errorf("nftables of %s: %w", ns, err)}
		}
		*done = append(*done, group...)
	}
	return nil
}

// partial takes back what can be and says what stands.
func partial(changes []vnet.Change, done []numbered, cause error) error {
	var se *stepError
	errors.As(cause, &se)
	e := &PartialError{Phase: se.step.Phase, Err: se.err}
	if se.step.of >= 0 {
		e.Failed = changes[se.step.of]
	}
	stands := map[int]bool{}
	// The caller's context may be what ended the commit; taking back must not end with it.
	ctx := context.Background()
	for _, s := range slices.Backward(done) {
		if s.Undo == nil {
			stands[s.of] = true
			continue
		}
		if err := s.Undo(ctx); err != nil {
			stands[s.of] = true
			e.Undo = errors.Join(e.Undo, err)
		}
	}
	touched := map[int]bool{}
	for _, s := range done {
		touched[s.of] = true
	}
	for i, c := range changes {
		switch {
		case stands[i]:
			e.Done = append(e.Done, c)
		case touched[i]:
			e.Undone = append(e.Undone, c)
		}
	}
	return e
}
