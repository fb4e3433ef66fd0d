package nft

import (
	"context"
	"errors"
	"net/netip"
)

// Doer enters a network namespace.
type Doer interface{ Do(func() error) error }

// Conn is the one writer of nftables in a namespace. Its methods may be called
// from several goroutines; transactions run one after the other.
type Conn struct{}

// Open returns a connection in the namespace that ns enters. Its socket is opened
// when first used.
func Open(ns Doer) *Conn { return &Conn{} }

// Close closes the connection.
func (c *Conn) Close() error { return nil }

var errLater = errors.New("nft: being built")

// Do runs one transaction: f declares what is to stand, the difference is sent
// as one atomic batch. Nothing is sent when there is no difference or f
// returns an error. f may be called again when somebody else wrote in between;
// it must do nothing but declare.
func (c *Conn) Do(ctx context.Context, f func(tx *Tx) error) error { return errLater }

// Check says what Do would change, in words ("chain inet vnet-a x", "set ...
// +3 -1"), and sends nothing.
func (c *Conn) Check(ctx context.Context, f func(tx *Tx) error) ([]string, error) {
	return nil, errLater
}

// Elements returns what stands in a set, decoded; [vnet.ErrNotFound] when
// there is no such set. The order is that of the keys' bytes.
func (c *Conn) Elements(ctx context.Context, s Set) ([]Element, error) { return nil, errLater }

// Lookup returns the data of one key of a map that is no interval map.
func (c *Conn) Lookup(ctx context.Context, s Set, key ...any) ([]any, bool, error) {
	return nil, false, errLater
}

// Tables returns the tables that stand in the namespace, anybody's.
func (c *Conn) Tables(ctx context.Context) ([]Table, error) { return nil, errLater }

// Chains returns the names of a table's chains, sorted; nil when there is no
// such table.
func (c *Conn) Chains(ctx context.Context, t Table) ([]string, error) { return nil, errLater }

// Sets returns the names of a table's sets and maps (without fp), sorted.
func (c *Conn) Sets(ctx context.Context, t Table) ([]string, error) { return nil, errLater }

// Stats counts what a connection has sent since it was opened.
type Stats struct {
	Transactions uint64 // batches committed
	Messages     uint64 // messages in them, without begin and end
	Elements     uint64 // set elements in those messages
	Reloads      uint64 // times that what stands was read
}

// Stats returns the counts.
func (c *Conn) Stats() Stats { return Stats{} }

// Writes is the number of messages sent: unchanged means nothing was written.
func (c *Conn) Writes() uint64 { return 0 }

// Tx is a transaction being declared. Its methods keep the first error, which
// Do returns; most calls need no check.
type Tx struct{}

// Table makes a table stand. Sets and chains make theirs stand by themselves.
func (tx *Tx) Table(t Table) {}

// DeleteTable removes a table with all that is in it, if it stands.
func (tx *Tx) DeleteTable(t Table) {}

// Set makes a set stand with this definition; its elements stay. With another
// definition of the same name it is made anew and empty, which the kernel
// refuses while chains that are not declared in this transaction use it.
func (tx *Tx) Set(s Set) {}

// DeleteSet removes a set, if it stands.
func (tx *Tx) DeleteSet(s Set) {}

// Add makes elements stand in a set, which must stand or be declared. An
// element that stands with other data gets the new data.
func (tx *Tx) Add(s Set, e ...Element) {}

// Remove takes elements out of a set by their keys; those that are not there
// are no error.
func (tx *Tx) Remove(s Set, e ...Element) {}

// Fill makes the set stand with exactly these elements; only differences are sent.
func (tx *Tx) Fill(s Set, e ...Element) {}

// Chain makes a chain stand with exactly these rules, and reports whether it
// differed. Chains it jumps to must stand or be declared.
func (tx *Tx) Chain(c Chain) bool { return false }

// DeleteChain removes a chain with its rules, if it stands.
func (tx *Tx) DeleteChain(t Table, name string) {}

// HasTable, HasChain and HasSet report what stands, with what the transaction
// has declared so far.
func (tx *Tx) HasTable(t Table) bool              { return false }
func (tx *Tx) HasChain(t Table, name string) bool { return false }
func (tx *Tx) HasSet(s Set) bool                  { return false }

// Chains returns the names of a table's chains, with what was declared, sorted.
func (tx *Tx) Chains(t Table) []string { return nil }

// Elements returns what stands in a set, with what was declared.
func (tx *Tx) Elements(s Set) []Element { return nil }

// Empty reports whether nothing would be sent.
func (tx *Tx) Empty() bool { return true }

// Fail makes the transaction fail with err.
func (tx *Tx) Fail(err error) {}

func disjoint(p []netip.Prefix) []Range { return nil }

type emitter struct{}
type (
	lookup struct {
		keys         Keys
		set          Set
		invert, vmap bool
	}
	compare struct {
		field Field
		v     any
		ne    bool
	}
	bitTest struct {
		field Field
		bits  uint32
		none  bool
	}
	namePrefix string
	store      struct {
		field Field
		v     Value
	}
	nat struct {
		dst, random bool
		v           Value
	}
	masquerade struct{}
	redirect   struct{ port uint16 }
	notrack    struct{}
	counter    struct{}
	comment    string
	limit      struct {
		rate  uint64
		burst uint32
		over  bool
	}
	clampMSS struct{}
	reject   struct{}
)

func (lookup) String() string     { return "" }
func (compare) String() string    { return "" }
func (bitTest) String() string    { return "" }
func (store) String() string      { return "" }
func (nat) String() string        { return "" }
func (masquerade) String() string { return "" }
func (redirect) String() string   { return "" }
func (notrack) String() string    { return "" }
func (counter) String() string    { return "" }
func (comment) String() string    { return "" }
func (limit) String() string      { return "" }
func (clampMSS) String() string   { return "" }
func (reject) String() string     { return "" }
func (Verdict) String() string    { return "" }

func (lookup) emit(*emitter) error     { return nil }
func (compare) emit(*emitter) error    { return nil }
func (bitTest) emit(*emitter) error    { return nil }
func (store) emit(*emitter) error      { return nil }
func (nat) emit(*emitter) error        { return nil }
func (masquerade) emit(*emitter) error { return nil }
func (redirect) emit(*emitter) error   { return nil }
func (notrack) emit(*emitter) error    { return nil }
func (counter) emit(*emitter) error    { return nil }
func (comment) emit(*emitter) error    { return nil }
func (limit) emit(*emitter) error      { return nil }
func (clampMSS) emit(*emitter) error   { return nil }
func (reject) emit(*emitter) error     { return nil }
func (Verdict) emit(*emitter) error    { return nil }
