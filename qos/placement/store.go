package placement

import "context"

// Store keeps providers and allocations. A [Ledger] hands it valid arguments.
// All methods may be called from several goroutines, and, where a store is
// shared, from several processes.
type Store interface {
	// PutProvider makes or changes the provider with that id. [vnet.ErrConflict]:
	// its generation is not p's, its name is another's, or its parent would be
	// below it. [vnet.ErrNotFound]: there is no such parent. [vnet.ErrInUse]: more
	// is allocated of it than it would have, and shrink is false. With shrink what
	// is allocated stands, and nothing more is until it fits.
	PutProvider(ctx context.Context, p Provider, shrink bool) (Provider, error)
	// DeleteProvider removes a provider; one that is gone is no error.
	// [vnet.ErrInUse] while something is allocated of it, or others are below it.
	DeleteProvider(ctx context.Context, id string) error
	// Provider returns one, or [vnet.ErrNotFound].
	Provider(ctx context.Context, id string) (Provider, error)
	// Providers returns a host's tree, or all with host "", sorted by id.
	Providers(ctx context.Context, host string) ([]Provider, error)
	// Usage is what is allocated of a provider.
	Usage(ctx context.Context, id string) (Resources, error)
	// Candidates returns how r could be met now, at most limit, in the order of
	// policy, and at most a few for one host.
	Candidates(ctx context.Context, r Request, policy Policy, limit int) ([]Candidate, error)
	// Allocation returns what a consumer has; without parts if it has nothing.
	Allocation(ctx context.Context, consumer string) (Allocation, error)
	// Allocate replaces what these consumers have, all together or not at all.
	// Without parts a consumer has nothing then. [vnet.ErrConflict]: a generation
	// is another, or there is not so much left; [vnet.ErrNotFound]: a provider is
	// not there, or has nothing of that class.
	Allocate(ctx context.Context, a ...Allocation) error
}
