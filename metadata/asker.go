package metadata

import (
	"context"
	"net/netip"

	"github.com/vnet-go/vnet"
)

// NewAsker says who asks at a place (router or network, either may be empty)
// from a source address as a socket has it: IPv4-mapped addresses are
// unmapped, zones dropped, and of a link-local address made by EUI-64 (RFC
// 4291, appendix A) the MAC is found again. Guests with link-local addresses
// of other kinds (RFC 7217, RFC 8981) have no MAC.
func NewAsker(routerID, networkID string, source netip.Addr) Asker {
	a := Asker{RouterID: routerID, NetworkID: networkID, Addr: source.Unmap().WithZone("")}
	if a.Addr.Is6() && a.Addr.IsLinkLocalUnicast() {
		if b := a.Addr.As16(); b[11] == 0xff && b[12] == 0xfe {
			a.MAC = vnet.MAC{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}
		}
	}
	return a
}

type askerKey struct{}

// WithAsker returns a context that says who asks; handlers of this package
// look for it there and nowhere in the request.
func WithAsker(ctx context.Context, a Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, a)
}

// AskerOf returns who asks, as [WithAsker] said.
func AskerOf(ctx context.Context) (Asker, bool) {
	a, ok := ctx.Value(askerKey{}).(Asker)
	return a, ok
}

type hopKey struct{}

// WithHopLimit returns a context with a function that sets the IPv4 TTL or
// IPv6 hop limit of the connection a request came by. A [Server] calls it
// before it answers with a token, so that the token gets no further than the
// machine that asked.
func WithHopLimit(ctx context.Context, set func(hops int) error) context.Context {
	return context.WithValue(ctx, hopKey{}, set)
}
