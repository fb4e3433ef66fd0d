package radv

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/vnet-go/vnet"
)

// Timing of RFC 4861: 6.2.1 (defaults) and 10 (constants).
const (
	defaultInterval  = 600 * time.Second
	initialInterval  = 16 * time.Second
	initialAdverts   = 3
	minDelayBetween  = 3 * time.Second
	maxAnswerDelay   = 500 * time.Millisecond
	prefixValid      = 30 * 24 * time.Hour
	prefixPreferred  = 7 * 24 * time.Hour
	solicitationsMax = 64 // answered by unicast; more share one multicast
)

// Pending is how many solicitations a caller should let wait for
// [Config.Serve]; what comes beyond shares a multicast.
const Pending = solicitationsMax + 1

// AllNodes is where unsolicited advertisements go.
func AllNodes() netip.Addr { return netip.IPv6LinkLocalAllNodes() }

// Config is what one interface advertises.
type Config struct {
	MAC            vnet.MAC
	Prefixes       []netip.Prefix // on-link
	Managed, Other bool           // the M and O flags
	Autonomous     bool           // the A flag of all prefixes
	MTU            int            // bytes; zero: not announced
	RDNSS          []netip.Addr   // RFC 8106
	DNSSL          []string       // RFC 8106
	Interval       time.Duration  // longest between unsolicited ones; zero: 600 s
}

func (c Config) interval() time.Duration {
	if c.Interval == 0 {
		return defaultInterval
	}
	return c.Interval
}

// Lifetime is the router lifetime that c announces.
func (c Config) Lifetime() time.Duration { return 3 * c.interval() }

// Message is the advertisement, with the router lifetime given; zero says
// that the router is none any more (RFC 4861, 6.2.5).
func (c Config) Message(lifetime time.Duration) *ndp.RouterAdvertisement {
	m := &ndp.RouterAdvertisement{
		CurrentHopLimit:      64,
		ManagedConfiguration: c.Managed,
		OtherConfiguration:   c.Other,
		RouterLifetime:       min(lifetime, 9000*time.Second),
		Options:              []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: c.MAC.HardwareAddr()}},
	}
	if c.MTU != 0 {
		m.Options = append(m.Options, ndp.NewMTU(uint32(c.MTU)))
	}
	for _, p := range c.Prefixes {
		m.Options = append(m.Options, &ndp.PrefixInformation{
			PrefixLength: uint8(p.Bits()), OnLink: true, AutonomousAddressConfiguration: c.Autonomous,
			ValidLifetime: prefixValid, PreferredLifetime: prefixPreferred, Prefix: p.Addr(),
		})
	}
	if len(c.RDNSS) > 0 {
		m.Options = append(m.Options, &ndp.RecursiveDNSServer{Lifetime: lifetime, Servers: c.RDNSS})
	}
	if len(c.DNSSL) > 0 {
		m.Options = append(m.Options, &ndp.DNSSearchList{Lifetime: lifetime, DomainNames: c.DNSSL})
	}
	return m
}

// Solicits reports whether m is a solicitation to answer, that came from an
// address with a hop limit (RFC 4861, 6.1.1: from this link, not routed to here).
func Solicits(m ndp.Message, hopLimit int, from netip.Addr) bool {
	rs, ok := m.(*ndp.RouterSolicitation)
	return ok && hopLimit == 255 && !(from.IsUnspecified() && slices.ContainsFunc(rs.Options, func(o ndp.Option) bool {
		l, ok := o.(*ndp.LinkLayerAddress)
		return ok && l.Direction == ndp.Source
	}))
}

// Serve advertises until ctx ends, and answers whom it is told of by solicited:
// the addresses that solicitations came from. send puts an advertisement on the
// network. If ceases says so when ctx has ended, the last one is that the router is none
// any more. Failures to send to all end Serve; ends carries such of the
// caller's own.
func (c Config) Serve(ctx context.Context, log *slog.Logger, solicited <-chan netip.Addr, ends <-chan error, ceases func() bool, send func(m *ndp.RouterAdvertisement, to netip.Addr) error) error {
	sent, last := 0, time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	// RFC 4861, 6.2.6: answers wait for a random time, which those who ask
	// meanwhile share.
	asking := map[netip.Addr]bool{}
	answer := time.NewTimer(time.Hour)
	answer.Stop()
	defer answer.Stop()
	for {
		select {
		case <-ctx.Done():
			if ceases() {
				return send(c.Message(0), AllNodes())
			}
			return nil
		case err := <-ends:
			return err
		case <-timer.C:
			if err := send(c.Message(c.Lifetime()), AllNodes()); err != nil {
				return err
			}
			sent, last = sent+1, time.Now()
			clear(asking) // they have heard it
			answer.Stop()
			next := c.interval()/3 + rand.N(c.interval()*2/3)
			if sent < initialAdverts {
				next = min(next, initialInterval)
			}
			timer.Reset(max(next, minDelayBetween))
		case from := <-solicited:
			if len(asking) == 0 {
				answer.Reset(rand.N(maxAnswerDelay))
			}
			asking[from] = true
		case <-answer.C:
			if asking[netip.IPv6Unspecified()] || len(asking) > solicitationsMax {
				// Not by unicast, and not sooner after the last than is allowed.
				timer.Reset(max(0, time.Until(last.Add(minDelayBetween))))
				continue
			}
			for to := range asking {
				if err := send(c.Message(c.Lifetime()), to); err != nil {
					log.Debug("router advertisement", "to", to, "err", err)
				}
			}
			clear(asking)
		}
	}
}
