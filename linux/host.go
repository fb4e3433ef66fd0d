package linux

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// Options say where a host is and what it has. The zero value works in the
// caller's namespace, without physical networks or tunnels.
type Options struct {
	// Name of the host, as in Port.Host of the contracts. Default: the kernel's
	// host name.
	Name string
	// Netns is the path of the network namespace to work in; "" for the one
	// that the calling goroutine is in.
	Netns string
	// NetnsDir is where named namespaces are made. Default /run/netns.
	NetnsDir string
	// PhysicalNetworks maps names of physical networks to devices or bridges of
	// this host.
	PhysicalNetworks map[string]string
	// TunnelIP is this host's end of tunnels; zero: no tunnels.
	TunnelIP netip.Addr
	// TunnelPort is the UDP port of VXLAN. Default 4789 (RFC 7348).
	TunnelPort uint16
	// Logger gets what a person may want to know later. Default: none.
	Logger *slog.Logger
	// Metrics gets the host's counts (vnet_linux_...), until Close. A second
	// handle of the same owner and host name cannot have the same registry.
	// Default: none.
	Metrics prometheus.Registerer
}

// Host is one network namespace with everything this owner has made in it. Its
// methods may be called from several goroutines.
type Host struct {
	owner vnet.Owner
	o     Options
	ns    *Namespace
	since time.Time

	commitMu sync.Mutex // one commit at a time
	metrics  *metrics

	nsMu  sync.Mutex
	named map[string]*Namespace

	featuresOnce sync.Once
	features     Features

	ports Ports
	zones Zones
	nets  Networks

	followMu  sync.Mutex
	followers []Follower
}

// Open opens the host for an owner. Nothing is made until a backend needs it.
func Open(ctx context.Context, owner vnet.Owner, o *Options) (*Host, error) {
	if err := owner.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h := &Host{owner: owner, named: map[string]*Namespace{}, since: time.Now()}
	if o != nil {
		h.o = *o
	}
	if h.o.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("host name: %w", err)
		}
		h.o.Name = name
	}
	if h.o.NetnsDir == "" {
		h.o.NetnsDir = "/run/netns"
	}
	if h.o.TunnelPort == 0 {
		h.o.TunnelPort = 4789
	}
	if h.o.Logger == nil {
		h.o.Logger = slog.New(slog.DiscardHandler)
	}
	var ns *netns.NS
	var err error
	if h.o.Netns == "" {
		ns, err = netns.Current()
	} else {
		ns, err = netns.Open(h.o.Netns)
	}
	if err != nil {
		return nil, fmt.Errorf("open host %s: %w", h.o.Name, err)
	}
	h.ns = newNamespace("", h.o.Netns, ns)
	h.ports.h, h.zones.h, h.nets.h = h, h, h
	if _, err := h.ns.rtnl.Link("lo"); err != nil {
		h.Close()
		return nil, fmt.Errorf("open host %s: %w", h.o.Name, err)
	}
	if h.metrics, err = newMetrics(h.o.Metrics, h); err != nil {
		h.Close()
		return nil, fmt.Errorf("open host %s: metrics: %w", h.o.Name, err)
	}
	return h, nil
}

// Close lets go of the kernel's sockets and files. What was made stands.
func (h *Host) Close() error {
	h.nsMu.Lock()
	all := h.named
	h.named = map[string]*Namespace{}
	h.nsMu.Unlock()
	for _, n := range all {
		n.close()
	}
	h.ns.close()
	h.metrics.close()
	return nil
}

// Name is the host's name.
func (h *Host) Name() string { return h.o.Name }

// Owner is whose things this handle makes and sees.
func (h *Host) Owner() vnet.Owner { return h.owner }

// Options are those given to [Open] with defaults filled in.
func (h *Host) Options() Options { return h.o }

// Logger is the application's, or one that discards.
func (h *Host) Logger() *slog.Logger { return h.o.Logger }

// Local reports whether an object with this Host field is this host's to make.
func (h *Host) Local(host string) bool { return host == "" || host == h.o.Name }

// Health asks the kernel whether it answers.
func (h *Host) Health(ctx context.Context) vnet.Health {
	hl := vnet.Health{Complete: true, Since: h.since}
	if _, err := h.ns.rtnl.Link("lo"); err != nil {
		hl.Complete, hl.Detail = false, err.Error()
	}
	return hl
}

var nameEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// LinkName is the name of a device: kind (one or two letters) and a hash of
// owner, kind and id, 15 characters in all.
func (h *Host) LinkName(kind, id string) string {
	sum := sha256.Sum256([]byte(string(h.owner) + "\x00" + kind + "\x00" + id))
	return (kind + nameEncoding.EncodeToString(sum[:]))[:15]
}

// Alias is the alias that every device of ours has (IFLA_IFALIAS): it says the
// owner and what the device is for. [Host.Cleanup] removes devices by it,
// except those of kind [AliasExisting], which it only lets go of.
func (h *Host) Alias(part vnet.Part, kind, id string) string {
	return strings.Join([]string{"vnet", string(h.owner), string(part), kind, id}, ":")
}

// AliasExisting is the kind in the alias of a device that the caller made and
// we use: it is never removed.
const AliasExisting = "existing"

// ParseAlias takes an alias apart; ok only for one of this owner.
func (h *Host) ParseAlias(s string) (part vnet.Part, kind, id string, ok bool) {
	f := strings.SplitN(s, ":", 5)
	if len(f) != 5 || f[0] != "vnet" || f[1] != string(h.owner) {
		return "", "", "", false
	}
	return vnet.Part(f[2]), f[3], f[4], true
}

// NetworkDevice is the name of the bridge that is the network on this host.
func (h *Host) NetworkDevice(networkID string) string { return h.LinkName("n", networkID) }

// PortAltName is the alternative name of the device at a port, set by
// overlay's Plug, by which everybody finds it.
func (h *Host) PortAltName(portID string) string {
	return "vnet:" + string(h.owner) + ":port:" + portID
}

// PortOf returns the port that a device is plugged at, by its alternative names.
func (h *Host) PortOf(l rtnl.Link) (portID string, ok bool) {
	for _, a := range l.AltNames {
		if id, ok := strings.CutPrefix(a, h.PortAltName("")); ok {
			return id, true
		}
	}
	return "", false
}

// PortDevice returns the device that is plugged at a port on this host, or
// [vnet.ErrNotFound].
func (h *Host) PortDevice(ctx context.Context, portID string) (name string, index int, err error) {
	if err := ctx.Err(); err != nil {
		return "", 0, err
	}
	l, err := h.ns.rtnl.Link(h.PortAltName(portID))
	if err != nil {
		if errors.Is(err, vnet.ErrNotFound) {
			err = fmt.Errorf("no device at port %s: %w", portID, vnet.ErrNotFound)
		}
		return "", 0, err
	}
	return l.Name, l.Index, nil
}

// OwnLink is a device of this owner in the host's namespace.
type OwnLink struct {
	rtnl.Link
	Kind, ID string // from the alias
}

// Links returns the devices of a part in the host's namespace, by alias.
func (h *Host) Links(ctx context.Context, part vnet.Part) ([]OwnLink, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := h.ns.rtnl.Links()
	if err != nil {
		return nil, err
	}
	var out []OwnLink
	for _, l := range links {
		if p, kind, id, ok := h.ParseAlias(l.Alias); ok && p == part {
			out = append(out, OwnLink{l, kind, id})
		}
	}
	return out, nil
}

// UnderlayMTU is the MTU in bytes of the device that has TunnelIP;
// [vnet.ErrNotFound] when no device has it.
func (h *Host) UnderlayMTU(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !h.o.TunnelIP.IsValid() {
		return 0, fmt.Errorf("host %s has no tunnel address: %w", h.o.Name, vnet.ErrNotFound)
	}
	addrs, err := h.ns.rtnl.Addrs("")
	if err != nil {
		return 0, err
	}
	for _, a := range addrs {
		if a.Prefix.Addr() == h.o.TunnelIP {
			l, err := h.ns.rtnl.LinkByIndex(a.Index)
			return l.MTU, err
		}
	}
	return 0, fmt.Errorf("no device has the tunnel address %s: %w", h.o.TunnelIP, vnet.ErrNotFound)
}
