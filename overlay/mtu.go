package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnet-go/vnet"
)

// Overhead is how many bytes of the underlay's MTU a tunnel takes: the inner
// Ethernet header (14), the tunnel header (8 for VXLAN, RFC 7348 section 5; 8
// for Geneve without options, RFC 8926 section 3.1), UDP (8) and the outer IP
// header (20, or 40 for IPv6). It is 0 for types without a tunnel: a VLAN tag
// does not count in an MTU.
func Overhead(t SegmentType, underlay netip.Addr) int {
	if !t.Tunnel() {
		return 0
	}
	if underlay.Is6() && !underlay.Is4In6() {
		return 14 + 8 + 8 + 40
	}
	return 14 + 8 + 8 + 20
}

// EffectiveMTU is the MTU in bytes of a network: what it says, or what fits into
// underlayMTU, that of the device its frames leave the host by. A network that
// says more than fits is a [*vnet.FieldError].
func (n Network) EffectiveMTU(underlayMTU int, underlay netip.Addr) (int, error) {
	fits := underlayMTU - Overhead(n.Segment.Type, underlay)
	if n.MTU > fits && n.Segment.Type != Local {
		return 0, &vnet.FieldError{Field: "mtu", Value: fmt.Sprint(n.MTU), Reason: fmt.Sprintf("is more than the %d that fit into the underlay's %d", fits, underlayMTU)}
	}
	if n.MTU != 0 {
		return n.MTU, nil
	}
	if least := n.leastMTU(); fits < least {
		return 0, &vnet.FieldError{Field: "mtu", Value: fmt.Sprint(fits), Reason: fmt.Sprintf("is what fits into the underlay's %d, and less than the %d that the network's subnets need", underlayMTU, least)}
	}
	return fits, nil
}

// IDRange is first to last, both included.
type IDRange struct{ First, Last uint32 }

// Allocator hands out segment ids of one type from ranges, lowest first. It
// keeps its state in memory: an application that keeps networks in a database
// reserves their ids at start. Methods may be called from several goroutines.
type Allocator struct {
	ranges []IDRange
	mu     sync.Mutex
	used   map[uint32]bool
	next   []uint32 // of each range: everything in it that is below is used
}

// NewAllocator returns an allocator for segments of type t. Ranges lie in 1 to
// t.MaxID() and do not overlap; none means that whole range.
func NewAllocator(t SegmentType, ranges ...IDRange) (*Allocator, error) {
	most := t.MaxID()
	if most == 0 {
		return nil, &vnet.FieldError{Field: "type", Value: string(t), Reason: "has no segment ids"}
	}
	if len(ranges) == 0 {
		ranges = []IDRange{{1, most}}
	}
	for i, r := range ranges {
		at := fmt.Sprintf("ranges[%d]", i)
		if r.First == 0 || r.First > r.Last || r.Last > most {
			return nil, &vnet.FieldError{Field: at, Value: fmt.Sprintf("%d-%d", r.First, r.Last), Reason: fmt.Sprintf("is not a range within 1-%d", most)}
		}
		for j, o := range ranges[:i] {
			if r.First <= o.Last && o.First <= r.Last {
				return nil, &vnet.FieldError{Field: at, Value: fmt.Sprintf("%d-%d", r.First, r.Last), Reason: fmt.Sprintf("overlaps ranges[%d]", j)}
			}
		}
	}
	return &Allocator{ranges: slices.Clone(ranges), used: map[uint32]bool{}, next: make([]uint32, len(ranges))}, nil
}

// Allocate returns a free id, or [vnet.ErrConflict] when there is none.
func (a *Allocator) Allocate() (uint32, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, r := range a.ranges {
		id := max(r.First, a.next[i])
		for id <= r.Last && a.used[id] {
			id++
		}
		a.next[i] = id
		if id <= r.Last {
			a.used[id] = true
			return id, nil
		}
	}
	return 0, fmt.Errorf("no free segment id in %v: %w", a.ranges, vnet.ErrConflict)
}

// Reserve takes an id, also one outside the ranges (an operator's own choice);
// [vnet.ErrConflict] when it is taken.
func (a *Allocator) Reserve(id uint32) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used[id] {
		return fmt.Errorf("segment id %d: %w", id, vnet.ErrConflict)
	}
	a.used[id] = true
	return nil
}

// Release frees an id; one that is free is no error.
func (a *Allocator) Release(id uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, id)
	for i, r := range a.ranges {
		if r.First <= id && id <= r.Last {
			a.next[i] = min(a.next[i], id)
		}
	}
}
