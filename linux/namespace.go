package linux

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sysctl"
)

// Namespace is a network namespace that backends work in. Its connections are
// opened when first used, so a Namespace may be named in a step before the
// step that makes it has run. All methods may be called from several
// goroutines.
type Namespace struct {
	name, path string

	mu   sync.Mutex
	ns   *netns.NS // nil until used
	rtnl *rtnl.Conn
	nft  *nft.Conn
}

func newNamespace(name, path string, ns *netns.NS) *Namespace {
	n := &Namespace{name: name, path: path, ns: ns}
	n.rtnl = rtnl.Open(n)
	n.nft = nft.Open(n)
	return n
}

// Name is the name of the namespace's file; "" for the host's own namespace.
func (n *Namespace) Name() string { return n.name }

// Path is the path of the namespace's file; "" for the host's own namespace
// when it is the process's.
func (n *Namespace) Path() string { return n.path }

func (n *Namespace) String() string {
	if n.name == "" {
		return "host namespace"
	}
	return "namespace " + n.name
}

func (n *Namespace) open() (*netns.NS, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns == nil {
		ns, err := netns.Open(n.path)
		if err != nil {
			return nil, err
		}
		n.ns = ns
	}
	return n.ns, nil
}

func (n *Namespace) opened() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ns != nil
}

// Do runs f on a locked thread in the namespace. A thread that cannot come
// back is thrown away. f must not start goroutines that are to be there too.
func (n *Namespace) Do(f func() error) error {
	ns, err := n.open()
	if err != nil {
		return err
	}
	return ns.Do(f)
}

// WithFd lends the namespace's open file to f.
func (n *Namespace) WithFd(f func(fd int) error) error {
	ns, err := n.open()
	if err != nil {
		return err
	}
	return ns.WithFd(f)
}

// RTNL is rtnetlink in the namespace.
func (n *Namespace) RTNL() *rtnl.Conn { return n.rtnl }

// NFT is nftables in the namespace.
func (n *Namespace) NFT() *nft.Conn { return n.nft }

// Sysctl is the namespace's settings.
func (n *Namespace) Sysctl() sysctl.Tree { return sysctl.Tree{NS: n} }

// DeleteConntrack ends the connections tracked in the namespace for which
// match is true, exactly those, and returns how many. It looks at every
// connection.
func (n *Namespace) DeleteConntrack(ctx context.Context, match func(rtnl.Flow) bool) (int, error) {
	return n.rtnl.DeleteFlows(ctx, match)
}

func (n *Namespace) close() {
	n.rtnl.Close()
	n.nft.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns != nil {
		n.ns.Close()
		n.ns = nil
	}
}

// NetnsName is the name of a namespace of ours on this host: it says the
// owner, the host, the part, and the object it is for.
func (h *Host) NetnsName(part vnet.Part, id string) string {
	return h.netnsPrefix() + string(part) + "." + id
}

// A host's name may have dots, which separate here.
func (h *Host) netnsPrefix() string {
	return string(h.owner) + "." + strings.NewReplacer(".", "~", "/", "~").Replace(h.o.Name) + "."
}

// NS is the host's own namespace.
func (h *Host) NS() *Namespace { return h.ns }

// NamespaceRef returns a named namespace that may not exist yet; what is done
// in it fails with [vnet.ErrNotFound] until it does.
func (h *Host) NamespaceRef(name string) *Namespace {
	h.nsMu.Lock()
	defer h.nsMu.Unlock()
	n := h.named[name]
	if n == nil {
		n = newNamespace(name, filepath.Join(h.o.NetnsDir, name), nil)
		h.named[name] = n
	}
	return n
}

// Namespace returns an existing named namespace, or [vnet.ErrNotFound].
func (h *Host) Namespace(ctx context.Context, name string) (*Namespace, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now, err := netns.Open(filepath.Join(h.o.NetnsDir, name))
	if err != nil {
		// A reference that waits for the namespace to be made stays good.
		h.nsMu.Lock()
		n := h.named[name]
		h.nsMu.Unlock()
		if n != nil && n.opened() {
			h.forget(name)
		}
		return nil, err
	}
	defer now.Close()
	n := h.NamespaceRef(name)
	held, err := n.open()
	if err != nil {
		return nil, err
	}
	a, err := now.ID()
	if err != nil {
		return nil, err
	}
	if b, err := held.ID(); err != nil || a != b { // somebody made it anew
		h.forget(name)
		n = h.NamespaceRef(name)
		if _, err := n.open(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// CreateNamespace makes a named namespace with its loopback up; one that
// stands is returned as it is.
func (h *Host) CreateNamespace(ctx context.Context, name string) (*Namespace, error) {
	if n, err := h.Namespace(ctx, name); err == nil {
		return n, n.rtnl.SetUp("lo")
	} else if ctx.Err() != nil {
		return nil, err
	}
	ns, err := netns.Create(filepath.Join(h.o.NetnsDir, name))
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	ns.Close()
	n, err := h.Namespace(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := h.made(ctx, n); err != nil {
		return nil, err
	}
	return n, n.rtnl.SetUp("lo")
}

// DeleteNamespace removes a named namespace; one that is gone is no error. Its
// devices end at once, even when a process still holds it.
func (h *Host) DeleteNamespace(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n, err := h.Namespace(ctx, name); err == nil {
		// A process that holds the namespace would keep its devices, and with
		// them the peers on the host's bridges.
		if links, err := n.rtnl.Links(); err == nil {
			for _, l := range links {
				if l.Kind != "" {
					_ = n.rtnl.DelLink(l.Name)
				}
			}
		}
	}
	h.forget(name)
	return netns.Remove(filepath.Join(h.o.NetnsDir, name))
}

func (h *Host) forget(name string) {
	h.nsMu.Lock()
	n := h.named[name]
	delete(h.named, name)
	h.nsMu.Unlock()
	if n != nil {
		n.close()
	}
}

// Namespaces returns the ids of the objects of a part that have a namespace on
// this host, sorted.
func (h *Host) Namespaces(ctx context.Context, part vnet.Part) ([]string, error) {
	names, err := h.ownNamespaces(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, name := range names {
		if id, ok := strings.CutPrefix(name, h.netnsPrefix()+string(part)+"."); ok {
			ids = append(ids, id)
		}
	}
	sort.Strings(ids)
	return ids, nil
}

func (h *Host) ownNamespaces(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ents, err := os.ReadDir(h.o.NetnsDir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("namespaces: %w", err)
	}
	var names []string
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), h.netnsPrefix()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
