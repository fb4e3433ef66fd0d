package dpdk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
)

// Hugepages is how many pages of a size a NUMA node is to have, at least.
type Hugepages struct {
	Node   int `json:"node"`
	SizeKB int `json:"size_kb"` // 2048, 1048576, ...
	Count  int `json:"count"`
}

// SocketDir is a folder for sockets that VMMs make.
type SocketDir struct {
	Path     string `json:"path"` // absolute; its parent exists
	UID, GID int    // owner and group, which VMM and switch share
	Mode     uint32 `json:"mode"` // permission bits
}

// Config is how a switch uses DPDK. Zero fields leave the switch's own defaults.
type Config struct {
	Init          string      `json:"init"` // "true": without DPDK the switch ends; "try": it goes on
	Hugepages     []Hugepages `json:"hugepages,omitempty"`
	SocketMemory  []int       `json:"socket_memory,omitempty"` // MB, by NUMA node
	SocketLimit   []int       `json:"socket_limit,omitempty"`  // MB, by NUMA node; 0: none
	PMDCores      []int       `json:"pmd_cores,omitempty"`     // each is spun by a thread
	LCores        []int       `json:"lcores,omitempty"`        // of the other threads
	HugepageDir   string      `json:"hugepage_dir,omitempty"`  // hugetlbfs
	ExtraArgs     []string    `json:"extra_args,omitempty"`    // of the EAL, as "--no-pci"
	PerPortMemory bool        `json:"per_port_memory,omitempty"`
	VhostIOMMU    bool        `json:"vhost_iommu,omitempty"`
	VhostPostcopy bool        `json:"vhost_postcopy,omitempty"`
	// VhostSocketDir is where the switch makes sockets as a server: below its run folder.
	VhostSocketDir string      `json:"vhost_socket_dir,omitempty"`
	SocketDirs     []SocketDir `json:"socket_dirs,omitempty"`
	RxqAssign      string      `json:"rxq_assign,omitempty"` // "cycles", "roundrobin", "group"
	AutoLB         bool        `json:"auto_lb,omitempty"`
}

// Validate reports bad input as [*vnet.FieldError], joined.
func (c Config) Validate() error {
	var errs []error
	bad := func(field string, value any, reason string) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason})
	}
	if c.Init != "true" && c.Init != "try" {
		bad("init", c.Init, `is neither "true" nor "try"`)
	}
	if !slices.Contains([]string{"", "cycles", "roundrobin", "group"}, c.RxqAssign) {
		bad("rxq_assign", c.RxqAssign, "is none of cycles, roundrobin, group")
	}
	seen := map[[2]int]bool{}
	for i, h := range c.Hugepages {
		if h.Node < 0 || h.SizeKB <= 0 || h.Count <= 0 {
			bad(fmt.Sprintf("hugepages[%d]", i), h, "needs a node, a size and a count")
		}
		if k := [2]int{h.Node, h.SizeKB}; seen[k] {
			bad(fmt.Sprintf("hugepages[%d]", i), h, "is there twice")
		} else {
			seen[k] = true
		}
	}
	for field, all := range map[string][]int{"socket_memory": c.SocketMemory, "socket_limit": c.SocketLimit} {
		for i, mb := range all {
			if mb < 0 {
				bad(fmt.Sprintf("%s[%d]", field, i), mb, "is negative")
			}
		}
	}
	for i := range min(len(c.SocketMemory), len(c.SocketLimit)) {
		if l := c.SocketLimit[i]; l > 0 && l < c.SocketMemory[i] {
			bad(fmt.Sprintf("socket_limit[%d]", i), l, "is less than the node's socket_memory")
		}
	}
	for field, all := range map[string][]int{"pmd_cores": c.PMDCores, "lcores": c.LCores} {
		for i, n := range all {
			if n < 0 || slices.Index(all, n) != i {
				bad(fmt.Sprintf("%s[%d]", field, i), n, "is negative or there twice")
			}
		}
	}
	for i, a := range c.ExtraArgs {
		if a == "" || strings.ContainsAny(a, " \t\n") {
			bad(fmt.Sprintf("extra_args[%d]", i), a, "is empty or has spaces, which the switch splits at")
		}
	}
	if d := c.VhostSocketDir; strings.HasPrefix(d, "/") || strings.Contains(d, "..") {
		bad("vhost_socket_dir", d, "is not below the switch's run folder")
	}
	for i, d := range c.SocketDirs {
		if !strings.HasPrefix(d.Path, "/") || d.Mode == 0 || d.Mode > 0o7777 || d.UID < 0 || d.GID < 0 {
			bad(fmt.Sprintf("socket_dirs[%d]", i), d.Path, "needs an absolute path, a mode and an owner")
		}
	}
	return errors.Join(errs...)
}

// Port is a physical device, or one of DPDK's virtual ones, in a bridge of the operator's.
type Port struct {
	ID     string `json:"id"`
	Bridge string `json:"bridge"` // exists, with datapath_type netdev
	Name   string `json:"name"`   // in the switch, up to 15 characters
	// Devargs is a PCI address, or a virtual device as "net_af_packet0,iface=eth1".
	Devargs       string      `json:"devargs"`
	RxQueues      int         `json:"rx_queues,omitempty"`
	TxQueues      int         `json:"tx_queues,omitempty"`
	RxDescriptors int         `json:"rx_descriptors,omitempty"` // a power of two up to 4096
	TxDescriptors int         `json:"tx_descriptors,omitempty"` // a power of two up to 4096
	MTU           int         `json:"mtu,omitempty"`            // bytes
	RxqAffinity   map[int]int `json:"rxq_affinity,omitempty"`   // queue to core
}

// Validate reports bad input as [*vnet.FieldError], joined.
func (p Port) Validate() error {
	errs := []error{vnet.CheckID("id", p.ID)}
	bad := func(field string, value any, reason string) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason})
	}
	if p.Bridge == "" {
		bad("bridge", "", "is missing")
	}
	if p.Name == "" || len(p.Name) > 15 || strings.ContainsAny(p.Name, "/ \t\n") {
		bad("name", p.Name, "is not a name of 1 to 15 characters")
	}
	if p.Devargs == "" || strings.ContainsAny(p.Devargs, " \t\n") {
		bad("devargs", p.Devargs, "is empty or has spaces")
	}
	for f, n := range map[string]int{"rx_queues": p.RxQueues, "tx_queues": p.TxQueues} {
		if n < 0 || n > 1024 {
			bad(f, n, "is not between 0 and 1024")
		}
	}
	for f, n := range map[string]int{"rx_descriptors": p.RxDescriptors, "tx_descriptors": p.TxDescriptors} {
		if n < 0 || n > 4096 || n&(n-1) != 0 {
			bad(f, n, "is not a power of two up to 4096")
		}
	}
	if p.MTU != 0 && (p.MTU < 68 || p.MTU > 9702) {
		bad("mtu", p.MTU, "is not between 68 and 9702")
	}
	for q, core := range p.RxqAffinity {
		if q < 0 || core < 0 || q >= max(1, p.RxQueues) {
			bad("rxq_affinity", fmt.Sprint(q, ":", core), "names a queue or core that cannot be")
		}
	}
	return errors.Join(errs...)
}

// Equal reports whether two ports ask for the same.
func (p Port) Equal(q Port) bool {
	same := maps.Equal(p.RxqAffinity, q.RxqAffinity)
	p.RxqAffinity, q.RxqAffinity = nil, nil
	return same && fmt.Sprint(p) == fmt.Sprint(q)
}

// State is all that is wanted of a switch.
type State struct {
	Config Config `json:"config"`
	Ports  []Port `json:"ports,omitempty"`
}

// Validate reports bad input as [*vnet.FieldError], joined.
func (s State) Validate() error {
	errs := []error{vnet.In("config", s.Config.Validate())}
	ids, names := map[string]bool{}, map[string]bool{}
	for i, p := range s.Ports {
		in := fmt.Sprintf("ports[%d]", i)
		errs = append(errs, vnet.In(in, p.Validate()))
		if ids[p.ID] || names[p.Name] {
			errs = append(errs, &vnet.FieldError{Field: in, Value: p.ID, Reason: "has an id or a name of another"})
		}
		ids[p.ID], names[p.Name] = true, true
	}
	return errors.Join(errs...)
}

// Status is how the running switch stands.
type Status struct {
	Initialized bool
	Version     string // of DPDK
	// RestartNeeded are the settings that were changed after the switch had
	// initialised DPDK, and that it reads only then.
	RestartNeeded []string
}

// PMD is a polling thread.
type PMD struct {
	Node, Core   int
	Received     uint64 // packets
	IdleCycles   uint64
	BusyCycles   uint64
	EMCHits      uint64
	MegaflowHits uint64
	Misses       uint64
}

// Queue is a receive queue and who polls it.
type Queue struct {
	Port    string // name in the switch
	Queue   int
	Core    int
	Node    int
	Enabled bool
	Usage   int // percent of the core; -1: not known yet
}

// Statistics is what threads and queues have done.
type Statistics struct {
	PMDs   []PMD
	Queues []Queue
}

// Backend sets up one switch. It gets validated objects; Plan, Sync and Ensure
// go one way; a second call writes nothing; a delete of what is gone is no error.
// What cannot be on this machine is refused before anything is written. Methods
// may be called from several goroutines.
type Backend interface {
	EnsureConfig(ctx context.Context, c Config) error
	// DeleteConfig takes back what EnsureConfig set, huge pages included.
	DeleteConfig(ctx context.Context) error
	// EnsurePort returns when the switch has taken the port.
	EnsurePort(ctx context.Context, p Port) error
	DeletePort(ctx context.Context, id string) error
	Sync(ctx context.Context, s State, o vnet.SyncOptions) error
	Plan(ctx context.Context, s State) (vnet.Plan, error)
	Status(ctx context.Context) (Status, error)
	// WaitReady returns when DPDK is initialised.
	WaitReady(ctx context.Context) error
	Statistics(ctx context.Context) (Statistics, error)
	Health(ctx context.Context) vnet.Health
}

// Setup is what applications call: it validates and wraps errors in
// [vnet.OpError]. It keeps no state.
type Setup struct{ b Backend }

// New returns a Setup over b.
func New(b Backend) (*Setup, error) {
	if b == nil {
		return nil, &vnet.FieldError{Field: "backend", Reason: "is nil"}
	}
	return &Setup{b}, nil
}

func do(op, kind, id string, check error, f func() error) error {
	if check == nil {
		check = f()
	}
	if check == nil {
		return nil
	}
	return &vnet.OpError{Op: op, Kind: kind, ID: id, Err: check}
}

// EnsureConfig makes the switch's configuration so; see [Status] for what waits
// for a restart.
func (s *Setup) EnsureConfig(ctx context.Context, c Config) error {
	return do("ensure", "config", "", c.Validate(), func() error { return s.b.EnsureConfig(ctx, c) })
}

// DeleteConfig takes it back, huge pages included.
func (s *Setup) DeleteConfig(ctx context.Context) error {
	return do("delete", "config", "", nil, func() error { return s.b.DeleteConfig(ctx) })
}

// EnsurePort makes a physical port, and returns when the switch has taken it.
func (s *Setup) EnsurePort(ctx context.Context, p Port) error {
	return do("ensure", "port", p.ID, p.Validate(), func() error { return s.b.EnsurePort(ctx, p) })
}

// DeletePort removes it.
func (s *Setup) DeletePort(ctx context.Context, id string) error {
	return do("delete", "port", id, vnet.CheckID("id", id), func() error { return s.b.DeletePort(ctx, id) })
}

// Sync makes the whole of st so, within the bounds of o.
func (s *Setup) Sync(ctx context.Context, st State, o vnet.SyncOptions) error {
	return do("sync", "state", "", st.Validate(), func() error { return s.b.Sync(ctx, st, o) })
}

// Plan says what Sync would do, and does nothing.
func (s *Setup) Plan(ctx context.Context, st State) (p vnet.Plan, err error) {
	err = do("plan", "state", "", st.Validate(), func() error { p, err = s.b.Plan(ctx, st); return err })
	return p, err
}

// Status says how the running switch stands.
func (s *Setup) Status(ctx context.Context) (x Status, err error) {
	err = do("read", "status", "", nil, func() error { x, err = s.b.Status(ctx); return err })
	return x, err
}

// WaitReady returns when DPDK is initialised, or with the context's error.
func (s *Setup) WaitReady(ctx context.Context) error {
	return do("await", "config", "", nil, func() error { return s.b.WaitReady(ctx) })
}

// Statistics reads what threads and queues have done.
func (s *Setup) Statistics(ctx context.Context) (x Statistics, err error) {
	err = do("read", "statistics", "", nil, func() error { x, err = s.b.Statistics(ctx); return err })
	return x, err
}

// Health says how far the view of the switch can be trusted.
func (s *Setup) Health(ctx context.Context) vnet.Health { return s.b.Health(ctx) }

// Guest is what a hypervisor needs for a vhost-user port.
type Guest struct {
	ID       string // of the device in the VM, as "net0"
	Kind     overlay.DeviceKind
	Socket   string // overlay.Device.Socket
	MAC      vnet.MAC
	Queues   int // pairs; 0: 1
	MTU      int // bytes; 0: the guest's own default
	MemoryMB int // of the whole VM, which must be shared with the switch
	Hugepage string
}

// QEMUMode is QEMU's role, as in Neutron's vhostuser_mode: the one that the switch has not.
func (g Guest) QEMUMode() string {
	if g.Kind == overlay.VhostUserClient {
		return "server"
	}
	return "client"
}

// Validate reports bad input as [*vnet.FieldError], joined.
func (g Guest) Validate() error {
	errs := []error{vnet.CheckID("id", g.ID)}
	if g.Kind != overlay.VhostUserClient && g.Kind != overlay.VhostUserServer {
		errs = append(errs, &vnet.FieldError{Field: "kind", Value: string(g.Kind), Reason: "is no kind of vhost-user"})
	}
	if !strings.HasPrefix(g.Socket, "/") || strings.ContainsAny(g.Socket, ",'<>&\"\n") {
		errs = append(errs, &vnet.FieldError{Field: "socket", Value: g.Socket, Reason: "is no absolute path without commas and quotes"})
	}
	if strings.ContainsAny(g.Hugepage, ",\n") {
		errs = append(errs, &vnet.FieldError{Field: "hugepage", Value: g.Hugepage, Reason: "has a comma"})
	}
	if !g.MAC.IsUnicast() {
		errs = append(errs, &vnet.FieldError{Field: "mac", Value: g.MAC.String(), Reason: "is no address of an interface"})
	}
	if g.Queues < 0 || g.Queues > 256 || g.MemoryMB < 0 || g.MTU < 0 {
		errs = append(errs, &vnet.FieldError{Field: "queues", Value: fmt.Sprint(g.Queues), Reason: "or memory or MTU is out of range"})
	}
	return errors.Join(errs...)
}

// QEMU returns the arguments of qemu-system: memory that is shared with the
// switch (when MemoryMB is given), socket, and device, with 2*Queues+2 vectors.
func (g Guest) QEMU() ([]string, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	var out []string
	if g.MemoryMB > 0 {
		path := g.Hugepage
		if path == "" {
			path = "/dev/hugepages"
		}
		out = append(out, "-object", fmt.Sprintf("memory-backend-file,id=mem-%s,size=%dM,mem-path=%s,share=on,prealloc=on", g.ID, g.MemoryMB, path),
			"-numa", "node,memdev=mem-"+g.ID)
	}
	socket := "socket,id=chr-" + g.ID + ",path=" + g.Socket
	if g.QEMUMode() == "server" {
		socket += ",server=on,wait=off"
	} else {
		socket += ",reconnect=1"
	}
	netdev, device := "vhost-user,id="+g.ID+",chardev=chr-"+g.ID, "virtio-net-pci,netdev="+g.ID+",mac="+g.MAC.String()
	if g.Queues > 1 {
		netdev += fmt.Sprintf(",queues=%d", g.Queues)
		device += fmt.Sprintf(",mq=on,vectors=%d", 2*g.Queues+2)
	}
	if g.MTU > 0 {
		device += fmt.Sprintf(",host_mtu=%d", g.MTU)
	}
	return append(out, "-chardev", socket, "-netdev", netdev, "-device", device), nil
}

// LibvirtXML returns the interface element of a domain. The domain's memory
// must be backed by shared huge pages (memoryBacking, or memAccess of its cells).
func (g Guest) LibvirtXML() (string, error) {
	if err := g.Validate(); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<interface type='vhostuser'>\n  <mac address='%s'/>\n  <source type='unix' path='%s' mode='%s'/>\n  <model type='virtio'/>\n", g.MAC, g.Socket, g.QEMUMode())
	if g.Queues > 1 {
		fmt.Fprintf(&b, "  <driver queues='%d'/>\n", g.Queues)
	}
	if g.MTU > 0 {
		fmt.Fprintf(&b, "  <mtu size='%d'/>\n", g.MTU)
	}
	b.WriteString("</interface>\n")
	return b.String(), nil
}
