package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dpdk"
	"github.com/vnet-go/vnet/ovs"
)

// Options of [New]. The zero value and nil are the same.
type Options struct {
	// Root is where /sys is looked for; "": the machine's.
	Root string
}

// Backend implements [dpdk.Backend].
type Backend struct {
	s  *ovs.Switch
	m  machine
	mu sync.Mutex // one change at a time
}

var _ dpdk.Backend = (*Backend)(nil)

// New returns a backend over the switch of t. Settings of the switch as a whole
// are written at once, also where t is a batch.
func New(t ovs.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{s: t.Switch(), m: machine{root: "/"}}
	if o != nil && o.Root != "" {
		b.m.root = o.Root
	}
	return b, nil
}

// The keys of external_ids that say whose the configuration is, which keys of
// other_config are ours, what huge pages there were before, which process does
// not use some settings yet, and which those are.
const (
	noteOwner   = "vnet-dpdk:owner"
	noteKeys    = "vnet-dpdk:keys"
	notePages   = "vnet-dpdk:hugepages"
	noteProcess = "vnet-dpdk:process"
	noteWaiting = "vnet-dpdk:restart"
)

// live are the keys that ovs-vswitchd heeds at once.
var live = map[string]bool{"pmd-cpu-mask": true, "pmd-rxq-assign": true, "pmd-auto-lb": true}

func mask(cores []int) string {
	var m big.Int
	for _, c := range cores {
		m.SetBit(&m, c, 1)
	}
	return "0x" + m.Text(16)
}

func commas(all []int) string {
	var s []string
	for _, x := range all {
		s = append(s, strconv.Itoa(x))
	}
	return strings.Join(s, ",")
}

// settings are the keys of other_config (ovs-vswitchd.conf.db(5)).
func settings(c dpdk.Config) map[string]string {
	out := map[string]string{"dpdk-init": c.Init}
	put := func(is bool, k, v string) {
		if is {
			out[k] = v
		}
	}
	put(len(c.SocketMemory) > 0, "dpdk-socket-mem", commas(c.SocketMemory))
	put(len(c.SocketLimit) > 0, "dpdk-socket-limit", commas(c.SocketLimit))
	put(len(c.PMDCores) > 0, "pmd-cpu-mask", mask(c.PMDCores))
	put(len(c.LCores) > 0, "dpdk-lcore-mask", mask(c.LCores))
	put(c.HugepageDir != "", "dpdk-hugepage-dir", c.HugepageDir)
	put(len(c.ExtraArgs) > 0, "dpdk-extra", strings.Join(c.ExtraArgs, " "))
	put(c.PerPortMemory, "per-port-memory", "true")
	put(c.VhostIOMMU, "vhost-iommu-support", "true")
	put(c.VhostPostcopy, "vhost-postcopy-support", "true")
	put(c.VhostSocketDir != "", "vhost-sock-dir", c.VhostSocketDir)
	put(c.RxqAssign != "", "pmd-rxq-assign", c.RxqAssign)
	put(c.AutoLB, "pmd-auto-lb", "true")
	return out
}

// check refuses what cannot be on this machine.
func (b *Backend) check(now ovs.Settings, c dpdk.Config) error {
	if now.Version == "" { // set when it is built with DPDK; its interface types come with the initialisation
		return &vnet.UnsupportedError{Feature: "DPDK", Backend: "this ovs-vswitchd", Need: "one that is built with DPDK (openvswitch-switch-dpdk)"}
	}
	if d := c.VhostSocketDir; d != "" {
		if !b.m.isDir(filepath.Join(b.s.Options().RunDir, d), false) {
			return &vnet.FieldError{Field: "vhost_socket_dir", Value: d, Reason: "is not there in the switch's run folder"}
		}
	}
	return b.m.check(c)
}

// merge computes the settings of the row; diff are the lines of a plan.
func (b *Backend) merge(v *ovs.Settings, c dpdk.Config, pages map[string]int) (diff []string, err error) {
	owner := string(b.s.Owner())
	if o := v.Notes[noteOwner]; o != "" && o != owner {
		return nil, fmt.Errorf("DPDK of this switch is configured by owner %q: %w", o, vnet.ErrConflict)
	}
	want := settings(c)
	var ours []string
	if v.Notes[noteOwner] != "" {
		ours = strings.Fields(v.Notes[noteKeys])
	}
	waiting := strings.Fields(v.Notes[noteWaiting])
	if v.Notes[noteProcess] != v.Process {
		waiting = nil
	}
	line := func(k, a, z string) {
		l := fmt.Sprintf("%s: %s -> %s", k, orNone(a), orNone(z))
		if v.Initialized && !live[k] {
			l += " (restart of ovs-vswitchd)"
			if !slices.Contains(waiting, k) {
				waiting = append(waiting, k)
			}
		}
		diff = append(diff, l)
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		have, there := v.Config[k]
		if there && have != want[k] && !slices.Contains(ours, k) {
			return nil, fmt.Errorf("other_config:%s is %q and not ours: %w", k, have, vnet.ErrConflict)
		}
		if have != want[k] {
			line(k, have, want[k])
			v.Config[k] = want[k]
		}
		if !there && !slices.Contains(ours, k) {
			ours = append(ours, k)
		}
	}
	for _, k := range slices.Clone(ours) {
		if _, wanted := want[k]; !wanted {
			if have, there := v.Config[k]; there {
				line(k, have, "")
			}
			delete(v.Config, k)
			ours = slices.DeleteFunc(ours, func(x string) bool { return x == k })
		}
	}
	slices.Sort(ours)
	slices.Sort(waiting)
	text, err := json.Marshal(pages)
	v.Notes[noteOwner], v.Notes[noteKeys], v.Notes[notePages] = owner, strings.Join(ours, " "), string(text)
	if len(waiting) > 0 && v.Process != "" {
		v.Notes[noteProcess], v.Notes[noteWaiting] = v.Process, strings.Join(waiting, " ")
	} else {
		delete(v.Notes, noteProcess)
		delete(v.Notes, noteWaiting)
	}
	return diff, err
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func pagesOf(v ovs.Settings) map[string]int {
	out := map[string]int{}
	_ = json.Unmarshal([]byte(v.Notes[notePages]), &out) // absent: none
	return out
}

// EnsureConfig implements [dpdk.Backend]. Huge pages are asked for first: when
// the kernel gives fewer, they are put back and nothing else is written.
func (b *Backend) EnsureConfig(ctx context.Context, c dpdk.Config) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, err := b.s.Settings(ctx)
	if err != nil {
		return err
	}
	if err := b.check(now, c); err != nil {
		return err
	}
	before := pagesOf(now)
	trial := now
	trial.Config, trial.Notes = maps.Clone(now.Config), maps.Clone(now.Notes)
	if trial.Config == nil {
		trial.Config = map[string]string{}
	}
	if trial.Notes == nil {
		trial.Notes = map[string]string{}
	}
	if _, err := b.merge(&trial, c, before); err != nil {
		return err
	}
	undo, err := b.m.reserve(c, before)
	if err != nil {
		return err
	}
	err = b.m.makeDirs(c)
	if err == nil {
		err = b.s.SetSettings(ctx, func(v *ovs.Settings) error { _, err := b.merge(v, c, before); return err })
	}
	if err != nil {
		return errors.Join(err, undo())
	}
	return nil
}

// DeleteConfig implements [dpdk.Backend]. A switch that runs goes on with what it
// has until it is restarted; pages that it uses stay until then.
func (b *Backend) DeleteConfig(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, err := b.s.Settings(ctx)
	if err != nil || now.Notes[noteOwner] != string(b.s.Owner()) {
		return err
	}
	if ports, err := b.s.Externals(ctx, vnet.PartDPDK); err != nil || len(ports) > 0 {
		return errors.Join(err, inUse(ports))
	}
	if err := b.m.putBack(pagesOf(now)); err != nil {
		return err
	}
	return b.s.SetSettings(ctx, func(v *ovs.Settings) error {
		for k := range strings.FieldsSeq(v.Notes[noteKeys]) {
			delete(v.Config, k)
		}
		for _, k := range []string{noteOwner, noteKeys, notePages, noteProcess, noteWaiting} {
			delete(v.Notes, k)
		}
		return nil
	})
}

func inUse(ports []ovs.External) error {
	var ids []string
	for _, p := range ports {
		ids = append(ids, p.ID)
	}
	if len(ids) == 0 {
		return nil
	}
	return fmt.Errorf("DPDK has ports %s: %w", strings.Join(ids, ", "), vnet.ErrInUse)
}

func external(p dpdk.Port) ovs.External {
	e := ovs.External{Part: vnet.PartDPDK, ID: p.ID, Bridge: p.Bridge, Name: p.Name, Type: "dpdk", MTU: p.MTU, Options: map[string]string{"dpdk-devargs": p.Devargs}}
	for k, n := range map[string]int{"n_rxq": p.RxQueues, "n_txq": p.TxQueues, "n_rxq_desc": p.RxDescriptors, "n_txq_desc": p.TxDescriptors} {
		if n > 0 {
			e.Options[k] = strconv.Itoa(n)
		}
	}
	var pairs []string
	for _, q := range slices.Sorted(maps.Keys(p.RxqAffinity)) {
		pairs = append(pairs, fmt.Sprintf("%d:%d", q, p.RxqAffinity[q]))
	}
	if len(pairs) > 0 {
		e.Config = map[string]string{"pmd-rxq-affinity": strings.Join(pairs, ",")}
	}
	return e
}

func equal(a, b *ovs.External) bool {
	return a.Bridge == b.Bridge && a.Name == b.Name && a.MTU == b.MTU && maps.Equal(a.Options, b.Options) && maps.Equal(a.Config, b.Config)
}

// EnsurePort implements [dpdk.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p dpdk.Port) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ensurePort(ctx, p)
}

func (b *Backend) ensurePort(ctx context.Context, p dpdk.Port) error {
	now, err := b.s.Settings(ctx)
	if err != nil {
		return err
	}
	if !now.Initialized {
		return fmt.Errorf("DPDK is not initialised in ovs-vswitchd: %w", vnet.ErrNotReady)
	}
	if err := b.m.checkPort(p); err != nil {
		return err
	}
	if err := b.s.PutExternal(ctx, external(p)); err != nil {
		return err
	}
	e, err := b.s.WaitExternal(ctx, vnet.PartDPDK, p.ID)
	switch {
	case err != nil:
		return fmt.Errorf("ovs-vswitchd has not taken %s: %w: %w", p.Name, vnet.ErrNotReady, err)
	case e.Error != "":
		return fmt.Errorf("ovs-vswitchd says of %s: %s: %w", p.Name, e.Error, vnet.ErrConflict)
	}
	return nil
}

// DeletePort implements [dpdk.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.s.DeleteExternal(ctx, vnet.PartDPDK, id)
}

func (b *Backend) plan(ctx context.Context, st dpdk.State) (p vnet.Plan, gone []vnet.Change, existing int, err error) {
	now, err := b.s.Settings(ctx)
	if err != nil {
		return p, nil, 0, err
	}
	if err := b.check(now, st.Config); err != nil {
		return p, nil, 0, err
	}
	for i, x := range st.Ports {
		if err := b.m.checkPort(x); err != nil {
			return p, nil, 0, vnet.In(fmt.Sprintf("ports[%d]", i), err)
		}
	}
	was := now.Notes[noteOwner] != ""
	v := now
	v.Config, v.Notes = map[string]string{}, map[string]string{}
	maps.Copy(v.Config, now.Config)
	maps.Copy(v.Notes, now.Notes)
	diff, err := b.merge(&v, st.Config, pagesOf(now))
	if err != nil {
		return p, nil, 0, err
	}
	for _, h := range st.Config.Hugepages {
		if n, err := b.m.pages(h.Node, h.SizeKB); err == nil && n < h.Count {
			diff = append(diff, fmt.Sprintf("hugepages of %d kB on node %d: %d -> %d", h.SizeKB, h.Node, n, h.Count))
		}
	}
	diff = append(diff, b.m.dirDiff(st.Config)...)
	if len(diff) > 0 || !was {
		c := vnet.NewChange(vnet.PartDPDK, "config", "switch", was, true)
		c.Diff = diff
		p.Changes = append(p.Changes, c)
	}
	have, err := b.s.Externals(ctx, vnet.PartDPDK)
	if err != nil {
		return p, nil, 0, err
	}
	var want []ovs.External
	for _, x := range st.Ports {
		want = append(want, external(x))
	}
	changes, gone := vnet.Compare(have, want, func(e ovs.External) string { return e.ID }, func(a, z *ovs.External) (vnet.Change, bool) {
		if a == nil || z == nil {
			id := a
			if a == nil {
				id = z
			}
			return vnet.NewChange(vnet.PartDPDK, "port", id.ID, a != nil, z != nil), true
		}
		c := vnet.NewChange(vnet.PartDPDK, "port", a.ID, true, true)
		c.Differ("bridge", a.Bridge, z.Bridge, vnet.ImpactObject)
		c.Differ("name", a.Name, z.Name, vnet.ImpactObject)
		c.Differ("options", a.Options, z.Options, vnet.ImpactObject)
		c.Differ("rxq_affinity", a.Config["pmd-rxq-affinity"], z.Config["pmd-rxq-affinity"], vnet.ImpactSome)
		c.Differ("mtu", a.MTU, z.MTU, vnet.ImpactSome)
		return c, !equal(a, z)
	})
	p.Changes = append(append(p.Changes, gone...), changes...)
	return p, gone, len(have), nil
}

// Plan implements [dpdk.Backend].
func (b *Backend) Plan(ctx context.Context, st dpdk.State) (vnet.Plan, error) {
	p, _, _, err := b.plan(ctx, st)
	return p, err
}

// Sync implements [dpdk.Backend]. Ports need a switch that has DPDK: when the
// configuration is the first, it waits for that.
func (b *Backend) Sync(ctx context.Context, st dpdk.State, o vnet.SyncOptions) error {
	p, gone, existing, err := b.plan(ctx, st)
	if err != nil {
		return err
	}
	if err := o.Check(p, existing); err != nil {
		return err
	}
	if err := b.EnsureConfig(ctx, st.Config); err != nil {
		return err
	}
	for _, c := range gone {
		if err := b.DeletePort(ctx, c.ID); err != nil {
			return err
		}
	}
	if len(st.Ports) == 0 {
		return nil
	}
	if err := b.WaitReady(ctx); err != nil {
		return err
	}
	for _, x := range st.Ports {
		if err := b.EnsurePort(ctx, x); err != nil {
			return fmt.Errorf("port %s: %w", x.ID, err)
		}
	}
	return nil
}

// Status implements [dpdk.Backend].
func (b *Backend) Status(ctx context.Context) (dpdk.Status, error) {
	v, err := b.s.Settings(ctx)
	x := dpdk.Status{Initialized: v.Initialized, Version: v.Version}
	if v.Process != "" && v.Notes[noteProcess] == v.Process {
		x.RestartNeeded = strings.Fields(v.Notes[noteWaiting])
	}
	return x, err
}

// WaitReady implements [dpdk.Backend].
func (b *Backend) WaitReady(ctx context.Context) error {
	if err := b.s.WaitSettings(ctx, func(v ovs.Settings) bool { return v.Initialized }); err != nil {
		return fmt.Errorf("DPDK is not initialised in ovs-vswitchd: %w: %w", vnet.ErrNotReady, err)
	}
	return nil
}

// Health implements [dpdk.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health {
	h := b.s.Health(ctx)
	if st, err := b.Status(ctx); h.Complete && (err != nil || !st.Initialized) {
		h.Detail = "DPDK is not initialised"
	} else if len(st.RestartNeeded) > 0 {
		h.Detail = "a restart of ovs-vswitchd is needed for " + strings.Join(st.RestartNeeded, ", ")
	}
	return h
}

// Statistics implements [dpdk.Backend].
func (b *Backend) Statistics(ctx context.Context) (dpdk.Statistics, error) {
	threads, err := b.s.Ask(ctx, "dpif-netdev/pmd-stats-show")
	if err != nil {
		return dpdk.Statistics{}, err
	}
	queues, err := b.s.Ask(ctx, "dpif-netdev/pmd-rxq-show")
	if err != nil {
		return dpdk.Statistics{}, err
	}
	return dpdk.Statistics{PMDs: parsePMDs(threads), Queues: parseQueues(queues)}, nil
}
