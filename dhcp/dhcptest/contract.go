package dhcptest

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
)

// sample is a state that has some of everything.
func sample() dhcp.State {
	return dhcp.State{
		Scopes: []dhcp.Scope{
			{
				ID: "v4", NetworkID: "net", Subnet: prefix("10.0.0.0/24"), ServerIP: addr("10.0.0.2"), Router: addr("10.0.0.1"), DNS: []netip.Addr{addr("192.0.2.53")},
				Domain: "example.org", SearchDomain: []string{"example.org"}, MTU: 1450, Routes: []dhcp.Route{{Destination: prefix("169.254.169.254/32"), NextHop: addr("10.0.0.2")}},
				Lease: time.Hour, Options: []dhcp.Option{{Code: 150, Data: []byte{10, 0, 0, 9}}},
			},
			{ID: "v6", NetworkID: "net", Subnet: prefix("2001:db8:a::/64"), DNS: []netip.Addr{addr("2001:db8:53::1")}},
			{ID: "stateless", NetworkID: "other", Subnet: prefix("2001:db8:a::/64"), Mode: dhcp.Stateless},
			{ID: "same", NetworkID: "other", Subnet: prefix("10.0.0.0/24"), ServerIP: addr("10.0.0.2")},
		},
		Reservations: []dhcp.Reservation{
			{ID: "p1", NetworkID: "net", MAC: mac(1), IPs: []netip.Addr{addr("10.0.0.11"), addr("2001:db8:a::11")}, Hostname: "one"},
			{ID: "p2", NetworkID: "net", MAC: mac(2), IPs: []netip.Addr{addr("10.0.0.12")}},
			{ID: "q1", NetworkID: "other", MAC: mac(1), IPs: []netip.Addr{addr("10.0.0.11")}},
			{ID: "far", NetworkID: "net", MAC: mac(3), IPs: []netip.Addr{addr("10.0.0.13")}, Host: "elsewhere"},
		},
	}
}

func (b *bench) ensure(s dhcp.State) {
	b.t.Helper()
	for _, x := range s.Scopes {
		require.NoError(b.t, b.s.EnsureScope(b.ctx, x))
	}
	b.ports(s.Reservations...)
	for _, x := range s.Reservations {
		require.NoError(b.t, b.s.EnsureReservation(b.ctx, x))
	}
}

func (b *bench) sync(s dhcp.State) {
	b.t.Helper()
	b.ports(s.Reservations...)
	require.NoError(b.t, b.s.Sync(b.ctx, s, vnet.SyncOptions{}))
}

// brief is the plan to s, a word for the verb, the kind and the id.
func (b *bench) brief(s dhcp.State) []string {
	b.t.Helper()
	p, err := b.s.Plan(b.ctx, s)
	require.NoError(b.t, err)
	out := []string{}
	for _, c := range p.Changes {
		require.Equal(b.t, vnet.PartDHCP, c.Part)
		out = append(out, fmt.Sprintf("%s %s %s", c.Verb, c.Kind, c.ID))
	}
	return out
}

// silent checks that f writes nothing.
func (b *bench) silent(what string, f func()) {
	b.t.Helper()
	if b.h.Writes == nil {
		f()
		return
	}
	before := b.h.Writes()
	f()
	require.Equal(b.t, before, b.h.Writes(), "%s wrote something", what)
}

func contractCases() []Case {
	return []Case{
		{"twice is once", "Ensure makes one object as described; the same call again writes nothing.", func(b *bench) {
			s := sample()
			b.ensure(s)
			b.silent("ensuring again", func() { b.ensure(s) })
			require.Empty(b.t, b.brief(s))
		}},
		{"sync makes it so", "Sync makes the whole state so; a second one finds nothing to do.", func(b *bench) {
			s := sample()
			b.sync(s)
			require.Empty(b.t, b.brief(s))
			b.silent("syncing again", func() { b.sync(s) })
			b.silent("ensuring what Sync made", func() { b.ensure(s) })
		}},
		{"order does not matter", "Two states that mean the same are the same.", func(b *bench) {
			s := sample()
			b.sync(s)
			o := s.Clone()
			o.Scopes[0], o.Scopes[3] = o.Scopes[3], o.Scopes[0]
			o.Reservations[0], o.Reservations[1] = o.Reservations[1], o.Reservations[0]
			for i := range o.Scopes {
				o.Scopes[i].Mode = map[dhcp.Mode]dhcp.Mode{"": dhcp.Stateful, dhcp.Stateless: dhcp.Stateless}[o.Scopes[i].Mode]
			}
			require.Empty(b.t, b.brief(o))
			b.silent("syncing it in another order", func() { b.sync(o) })
		}},
		{"plan writes nothing", "Plan says what Sync would do, and writes nothing.", func(b *bench) {
			b.ports(sample().Reservations...)
			b.silent("planning", func() {
				require.Equal(b.t, []string{
					"create scope same", "create scope stateless", "create scope v4", "create scope v6",
					"create reservation far", "create reservation p1", "create reservation p2", "create reservation q1",
				}, b.brief(sample()))
			})
		}},
		{"sync changes what differs", "Sync creates, changes and removes what differs, and only that.", func(b *bench) {
			s := sample()
			b.sync(s)
			s.Scopes[0].MTU = 1400
			s.Reservations = s.Reservations[:3]
			s.Reservations[1].IPs = []netip.Addr{addr("10.0.0.99")}
			b.ports(s.Reservations...)
			require.Equal(b.t, []string{"update scope v4", "update reservation p2", "delete reservation far"}, b.brief(s))
			b.sync(s)
			require.Empty(b.t, b.brief(s))
		}},
		{"an address moves", "An address may move from one reservation to another in one Sync.", func(b *bench) {
			s := sample()
			b.sync(s)
			s.Reservations[0].IPs, s.Reservations[1].IPs = s.Reservations[1].IPs, s.Reservations[0].IPs
			b.sync(s)
			require.Empty(b.t, b.brief(s))
		}},
		{"delete of what is gone", "Delete of what does not exist is no error.", func(b *bench) {
			for range 2 {
				require.NoError(b.t, b.s.DeleteScope(b.ctx, "none"))
				require.NoError(b.t, b.s.DeleteReservation(b.ctx, "none"))
			}
		}},
		{"scope goes first", "Delete of a scope whose addresses reservations hold is allowed.", func(b *bench) {
			s := sample()
			b.sync(s)
			require.NoError(b.t, b.s.DeleteScope(b.ctx, "v4"))
			s.Scopes = s.Scopes[1:]
			require.Empty(b.t, b.brief(s))
		}},
		{"everything can go", "Delete removes objects in any order.", func(b *bench) {
			s := sample()
			b.ensure(s)
			for _, x := range s.Scopes {
				require.NoError(b.t, b.s.DeleteScope(b.ctx, x.ID))
			}
			for _, x := range s.Reservations {
				require.NoError(b.t, b.s.DeleteReservation(b.ctx, x.ID))
			}
			require.Empty(b.t, b.brief(dhcp.State{}))
		}},
		{"bad input is named", "Bad input is refused with the names of its fields before anything is written.", func(b *bench) {
			s := sample()
			s.Scopes[0].Router = addr("192.0.2.1")
			s.Reservations[0].MAC = vnet.MAC{}
			var f *vnet.FieldError
			b.silent("refusing", func() {
				err := b.s.Sync(b.ctx, s, vnet.SyncOptions{})
				require.ErrorAs(b.t, err, &f)
				require.ErrorContains(b.t, err, "scopes[0].router")
				require.ErrorContains(b.t, err, "reservations[0].mac")
				require.ErrorAs(b.t, b.s.EnsureScope(b.ctx, s.Scopes[0]), &f)
				require.ErrorAs(b.t, b.s.EnsureReservation(b.ctx, s.Reservations[0]), &f)
			})
			require.Empty(b.t, b.brief(dhcp.State{}))
		}},
		{"what it cannot do", "What a backend cannot do it refuses by name.", func(b *bench) {
			feat := b.s.Features(b.ctx)
			s := sample().Scopes[0]
			try := func(can bool, change func(*dhcp.Scope)) {
				b.t.Helper()
				x := s.Clone()
				change(&x)
				err := b.s.EnsureScope(b.ctx, x)
				if can {
					require.NoError(b.t, err)
				} else {
					require.ErrorIs(b.t, err, vnet.ErrUnsupported)
				}
			}
			try(feat.Pool, func(x *dhcp.Scope) {
				x.Options, x.Pool = nil, []dhcp.AddrRange{{First: addr("10.0.0.100"), Last: addr("10.0.0.120")}}
			})
			try(feat.Relay, func(x *dhcp.Scope) { x.Options, x.Relays = nil, []netip.Prefix{prefix("192.0.2.0/24")} })
			try(feat.Options, func(x *dhcp.Scope) {})
			try(feat.V6, func(x *dhcp.Scope) { *x = sample().Scopes[1] })
			try(!feat.Has(dhcp.LimitOptionCodes), func(x *dhcp.Scope) { x.Options = []dhcp.Option{{Code: 224, Data: []byte("x")}} })
			try(!feat.Has(dhcp.LimitBootFiles), func(x *dhcp.Scope) { x.BootFiles = map[uint16]string{7: "grubx64.efi"} })
			try(true, func(x *dhcp.Scope) {
				x.BootFiles = map[uint16]string{dhcp.BootDefault: "pxelinux.0", dhcp.BootIPXE: "http://192.0.2.9/boot"}
			})
			try(!feat.Has(dhcp.LimitRapidCommit), func(x *dhcp.Scope) { x.RapidCommit = true })
			for _, change := range []func(*dhcp.Reservation){
				func(r *dhcp.Reservation) { r.ClientID = []byte{1, 2, 3} },
				func(r *dhcp.Reservation) { r.DUID = []byte{0, 3, 0, 1, 2, 3} },
			} {
				r := sample().Reservations[0]
				change(&r)
				b.ports(r)
				err := b.s.EnsureReservation(b.ctx, r)
				if feat.Has(dhcp.LimitClientID) {
					require.ErrorIs(b.t, err, vnet.ErrUnsupported)
				} else {
					require.NoError(b.t, err)
				}
			}
			if feat.V6 {
				st := sample()
				st.Scopes = append(st.Scopes[:2:2], dhcp.Scope{ID: "second", NetworkID: "net", Subnet: prefix("2001:db8:b::/64")})
				st.Reservations = st.Reservations[:1]
				st.Reservations[0].IPs = append(st.Reservations[0].IPs, addr("2001:db8:b::11"))
				b.ports(st.Reservations...)
				if err := b.s.Sync(b.ctx, st, vnet.SyncOptions{}); feat.Has(dhcp.LimitOneAddress) {
					require.ErrorIs(b.t, err, vnet.ErrUnsupported)
				} else {
					require.NoError(b.t, err)
				}
			}
			if !feat.Leases {
				for _, err := range b.s.Leases(b.ctx) {
					require.ErrorIs(b.t, err, vnet.ErrUnsupported)
				}
			}
		}},
		{"delete budget", "A Sync that would delete too much stops with the list, having written nothing.", func(b *bench) {
			s := sample()
			for i := range 30 {
				s.Reservations = append(s.Reservations, dhcp.Reservation{ID: fmt.Sprint("x", i), NetworkID: "net", MAC: mac(100 + i)})
			}
			b.sync(s)
			few := dhcp.State{Scopes: s.Scopes}
			b.silent("stopping", func() {
				err := b.s.Sync(b.ctx, few, vnet.SyncOptions{})
				var be *vnet.BudgetError
				require.ErrorAs(b.t, err, &be)
				require.Equal(b.t, 34, be.Deletes)
			})
			require.Empty(b.t, b.brief(s))
			require.NoError(b.t, b.s.Sync(b.ctx, few, vnet.SyncOptions{Force: true}))
			require.Empty(b.t, b.brief(few))
		}},
		{"cancel ends", "A context that has ended is an error, and nothing is written.", func(b *bench) {
			ctx, cancel := context.WithCancel(b.ctx)
			cancel()
			b.silent("a cancelled call", func() {
				require.ErrorIs(b.t, b.s.Sync(ctx, sample(), vnet.SyncOptions{}), context.Canceled)
				require.ErrorIs(b.t, b.s.EnsureScope(ctx, sample().Scopes[0]), context.Canceled)
			})
			require.Empty(b.t, b.brief(dhcp.State{}))
		}},
		{"ports come first", "A reservation whose port is not there is ErrNotFound, one with another address than its port's a FieldError; it goes with its port.", func(b *bench) {
			if !b.s.Features(b.ctx).Central {
				b.ensure(sample()) // nothing is asked of anything
				return
			}
			s := sample()
			require.NoError(b.t, b.s.EnsureScope(b.ctx, s.Scopes[0]))
			r := s.Reservations[0]
			b.silent("refusing", func() {
				err := b.s.EnsureReservation(b.ctx, r)
				require.ErrorIs(b.t, err, vnet.ErrNotFound)
				require.ErrorIs(b.t, b.s.Sync(b.ctx, s, vnet.SyncOptions{}), vnet.ErrNotFound)
			})
			b.ports(r)
			require.NoError(b.t, b.s.EnsureReservation(b.ctx, r))
			one := dhcp.State{Scopes: s.Scopes[:1], Reservations: []dhcp.Reservation{r}}
			require.Empty(b.t, b.brief(one))
			o := r.Clone()
			o.IPs[0] = addr("10.0.0.66")
			var f *vnet.FieldError
			b.silent("refusing", func() {
				require.ErrorAs(b.t, b.s.EnsureReservation(b.ctx, o), &f)
				require.Equal(b.t, "ips[0]", f.Field)
			})
			b.h.RemovePort(b.t, r)
			b.ports(r)
			require.Equal(b.t, []string{"create reservation p1"}, b.brief(one))
			b.sync(one)
			require.Empty(b.t, b.brief(one))
		}},
		{"explain", "Explain goes from an object to what carries it; what is not there is ErrNotFound.", func(b *bench) {
			if _, ok := b.h.DHCP.(dhcp.Explainer); !ok {
				_, err := b.s.Explain(b.ctx, "scope", "v4")
				require.ErrorIs(b.t, err, vnet.ErrUnsupported)
				return
			}
			b.sync(sample())
			for kind, id := range map[string]string{"scope": "v4", "reservation": "p1", "network": "net"} {
				x, err := b.s.Explain(b.ctx, kind, id)
				require.NoError(b.t, err)
				require.Contains(b.t, x.String(), id)
				_, err = b.s.Explain(b.ctx, kind, "none")
				require.ErrorIs(b.t, err, vnet.ErrNotFound)
			}
			_, err := b.s.Explain(b.ctx, "router", "r")
			var f *vnet.FieldError
			require.ErrorAs(b.t, err, &f)
		}},
		{"restart", "After a restart a Sync leads to the same; a backend whose state is outside the process finds nothing to do.", func(b *bench) {
			s := sample()
			b.sync(s)
			b.s = service(b.t, b.h.Reopen(b.t))
			if b.k.Volatile {
				require.Len(b.t, b.brief(s), 8)
				b.sync(s)
			}
			require.Empty(b.t, b.brief(s))
		}},
	}
}
