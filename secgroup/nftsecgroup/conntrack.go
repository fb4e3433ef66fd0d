package nftsecgroup

import (
	"context"
	"errors"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/secgroup/internal/book"
)

// object is o as the book has it.
func (o object) object() book.Object {
	return book.Object{Group: o.group, AddressGroup: o.addressGroup, Port: o.port}
}

// newEnds looks at changes before they are made to f. fresh reports whether a
// new port may have connections already.
func newEnds(f *facts, changes []change, fresh func(portID string) bool) *book.Ends {
	var list []book.Change
	for _, c := range changes {
		list = append(list, book.Change{Old: c.old.object(), New: c.new.object()})
	}
	return book.NewEnds(f.Book, list, f.local, fresh)
}

// judge returns, after the changes have been made, what is true of a flow
// that nothing allows any more.
func judge(e *book.Ends, f *facts, zones map[uint16]string) func(rtnl.Flow) bool {
	dead := e.Judge(f.Book)
	return func(c rtnl.Flow) bool {
		network, ok := zones[c.Zone]
		return ok && dead(book.Connection{Network: network, Protocol: c.Proto, Src: c.Orig.Src, Dst: c.Orig.Dst,
			SrcPort: c.Orig.SrcPort, Selector: c.Orig.DstPort, Mark: c.Mark})
	}
}

// zones returns the conntrack zones of the networks concerned.
func (b *Backend) zones(ctx context.Context, networks map[string]bool) (map[uint16]string, error) {
	out := map[uint16]string{}
	for n := range networks {
		z, err := b.h.Zones().Get(ctx, n)
		if errors.Is(err, vnet.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("conntrack zone of network %s: %w", n, err)
		}
		out[z] = n
	}
	return out, nil
}

// end is the step that deletes the connections that dead says; it runs after
// the transaction.
func (b *Backend) end(dead func(rtnl.Flow) bool) linux.Step {
	return linux.Step{Phase: linux.FilterDel, Do: func(ctx context.Context) error {
		b.metrics.walks.Inc()
		n, err := b.h.NS().DeleteConntrack(ctx, dead)
		b.metrics.ended.Add(float64(n))
		if err != nil {
			return fmt.Errorf("end connections: %w", err)
		}
		if n > 0 {
			b.h.Logger().InfoContext(ctx, "secgroup: connections ended", "host", b.h.Name(), "count", n)
		}
		return nil
	}}
}
