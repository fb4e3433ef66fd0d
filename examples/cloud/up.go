package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/machine"
	"github.com/vnet-go/vnet/examples/internal/matrix"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
)

// progress prints a line for each step as it ends.
type progress struct {
	w     io.Writer
	begin time.Time
	last  time.Time
}

func newProgress(w io.Writer) *progress {
	now := time.Now()
	return &progress{w, now, now}
}

func (p *progress) step(format string, args ...any) {
	now := time.Now()
	fmt.Fprintf(p.w, "%6.2fs  %-6s %s\n", now.Sub(p.begin).Seconds(), fmt.Sprintf("+%.2f", now.Sub(p.last).Seconds()), fmt.Sprintf(format, args...))
	p.last = now
}

// lockDir keeps two programs from changing one cloud at the same time. The
// kernel gives the lock back when its holder dies.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, upLock), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	// What a killed holder was just starting has the lock too, until it is another program.
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			f.Close()
			return nil, fmt.Errorf("another up or down of this cloud is at work: %w", err)
		}
	}
}

// writeFile replaces a file whole.
func writeFile(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// knownHosts are all hosts that something may have been made for.
func knownHosts(m *machine.Machine) []string {
	var out []string
	if b, err := os.ReadFile(filepath.Join(m.Dir, hostsFile)); err == nil {
		json.Unmarshal(b, &out)
	}
	return out
}

// specs is what the machines of a cloud are started with, outside ones first.
func specs(t *topology.Cloud, client string) []*vm.Spec {
	var out []*vm.Spec
	for i := range t.Outside {
		out = append(out, &vm.Spec{Name: t.Outside[i].Name, Client: "none", Outside: &t.Outside[i], TCP: t.TCP, UDP: t.UDP})
	}
	for _, v := range t.VMs {
		out = append(out, &vm.Spec{Name: v.Name, Host: v.Host, Client: client, NICs: v.NICs, TCP: t.TCP, UDP: t.UDP})
	}
	return out
}

// bootPlan says which machines are to start, to start anew, or to go.
func bootPlan(m *machine.Machine, want []*vm.Spec) vnet.Plan {
	var p vnet.Plan
	names := map[string]bool{}
	for _, s := range want {
		names[s.Name] = true
		have, err := vm.ReadSpec(m.VMDir(s.Name))
		running := len(m.Processes("vm "+s.Name)) > 0
		c := vnet.Change{Verb: vnet.Create, Part: "machine", Kind: "boot", ID: s.Name, Impact: vnet.ImpactNone}
		st, stErr := vm.ReadState(m.VMDir(s.Name))
		switch {
		case err != nil || !running:
		case have.Same(s) && stErr == nil && st.Phase == vm.Failed:
			c.Verb, c.Impact, c.Diff = vnet.Update, vnet.ImpactObject, st.Problems
		case have.Same(s) && lost(m, s) != "":
			c.Verb, c.Impact, c.Diff = vnet.Update, vnet.ImpactObject, []string{lost(m, s) + ": its virtual function is gone"}
		case have.Same(s):
			continue
		default:
			c.Verb, c.Impact = vnet.Update, vnet.ImpactObject
			c.Diff = have.Diff(s)
		}
		p.Changes = append(p.Changes, c)
	}
	entries, _ := os.ReadDir(filepath.Join(m.Dir, "vms"))
	for _, e := range entries {
		if !names[e.Name()] {
			p.Changes = append(p.Changes, vnet.Change{Verb: vnet.Delete, Part: "machine", Kind: "boot", ID: e.Name(), Impact: vnet.ImpactObject})
		}
	}
	return p
}

// lost is a device of a machine that a card took away, when it was reset.
func lost(m *machine.Machine, s *vm.Spec) string {
	for _, n := range s.NICs {
		if n.Direct && !m.HasDevice(s.Name, n.Device) {
			return n.Device
		}
	}
	return ""
}

// planAll is what up would do: machines, subsystems of all hosts, boots.
func planAll(ctx context.Context, m *machine.Machine, t *topology.Cloud, client string) (vnet.Plan, error) {
	p := m.Plan(t)
	var sub vnet.Plan
	if a := runningAgent(ctx, m); a != nil {
		if err := a.call(ctx, "POST", "/plan", t, &sub); err != nil {
			return p, err
		}
	} else {
		quiet := slog.New(slog.DiscardHandler)
		for _, h := range sites(t) {
			var s *Subsystems
			if stands(m, t, h.Name) {
				var err error
				if s, err = openSite(ctx, m, t, h, &instances{}, quiet); err != nil {
					return p, err
				}
			}
			hp, err := planOrNew(ctx, s, t, h.Name)
			if s != nil {
				err = errors.Join(err, s.Close())
			}
			if err != nil {
				return p, err
			}
			sub.Changes = append(sub.Changes, hp.Changes...)
		}
	}
	p.Changes = append(p.Changes, sub.Changes...)
	p.Changes = append(p.Changes, bootPlan(m, specs(t, client)).Changes...)
	return p, nil
}

// stands reports whether there is something of a site to look at.
func stands(m *machine.Machine, t *topology.Cloud, site string) bool {
	switch t.Backend {
	case topology.OVN:
		return site == central && m.OVNRuns()
	case topology.OVS:
		return m.HasHost(site) && m.OVSRuns(site)
	}
	return m.HasHost(site)
}

// planOrNew plans for a site that may not be there yet: then everything is new.
func planOrNew(ctx context.Context, s *Subsystems, t *topology.Cloud, site string) (vnet.Plan, error) {
	fresh, err := wireMem()
	if err != nil {
		return vnet.Plan{}, err
	}
	if site == central {
		fresh.Holds = all
	} else if platform(t.Backend).Central != nil {
		return vnet.Plan{}, nil // holds nothing of its own
	}
	if s == nil {
		s = fresh
	}
	s.meet(t)
	want, _ := fresh.states(t, site)
	return planSite(ctx, s, fresh, site, want)
}

// up makes the cloud, and ends well only when it does what the model says.
func (c *cli) up(ctx context.Context) error {
	t, err := c.read()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("up needs root: it makes network namespaces")
	}
	m := c.machine(t.Name)
	lock, err := lockDir(m.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	c.name = t.Name
	if _, old, err := c.running(); err == nil && old.Backend != t.Backend {
		return fmt.Errorf("cloud %s is up on %s; take it down first", t.Name, old.Backend)
	}
	p := newProgress(c.progress)
	p.step("read %s: %d hosts, %d networks, %d routers, %d servers", c.file, len(t.Hosts), len(t.All.Overlay.Networks), len(t.All.Router.Routers), len(t.VMs))

	// What there may be is written down before it is made, so that down finds it.
	before := knownHosts(m)
	hosts := slices.Clone(before)
	for _, h := range t.Hosts {
		if !slices.Contains(hosts, h.Name) {
			hosts = append(hosts, h.Name)
		}
	}
	if err := writeFile(filepath.Join(m.Dir, hostsFile), hosts); err != nil {
		return err
	}
	plan, err := planAll(ctx, m, t, c.client)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(m.Dir, cloudFile), t); err != nil {
		return err
	}
	switch {
	case plan.Empty():
		p.step("plan: nothing to do")
	case len(before) == 0:
		p.step("plan: %d objects to create", plan.Count(vnet.Create))
	default:
		p.step("plan: %d to create, %d to update, %d to delete", plan.Count(vnet.Create), plan.Count(vnet.Update), plan.Count(vnet.Delete))
		fmt.Fprint(c.progress, indent(plan.String(), "                "))
	}

	want := specs(t, c.client)
	boots := bootPlan(m, want)
	for _, ch := range boots.Changes {
		// Off before its ports change; a new machine may have been killed half-way.
		if err := errors.Join(m.Kill("vm "+ch.ID), m.Kill("hv-"+ch.ID), m.Reset(ch.ID)); err != nil {
			return err
		}
		if ch.Verb == vnet.Delete {
			if err := os.RemoveAll(m.VMDir(ch.ID)); err != nil {
				return err
			}
		}
	}
	if err := m.Ensure(t); err != nil {
		return err
	}
	p.step("hosts and wires stand")
	switch t.Backend {
	case topology.OVN:
		if err := m.EnsureOVN(ctx, t); err != nil {
			return err
		}
		p.step("OVN runs: databases, northd, %d hypervisors", len(t.Hosts))
	case topology.OVS:
		if err := m.EnsureOVS(ctx, t); err != nil {
			return err
		}
		p.step("Open vSwitch runs on %d hosts", len(t.Hosts))
	}

	a, err := startAgent(ctx, m)
	if err != nil {
		return err
	}
	p.step("agent runs")
	if err := a.sync(ctx, t, c.force, func(e event) { p.step("%s", e.Step) }); err != nil {
		return err
	}
	if err := prune(ctx, m, t, before); err != nil {
		return err
	}
	states, err := boot(ctx, m, want)
	if err != nil {
		return err
	}
	p.step("%d of %d machines booted", len(boots.Changes)-boots.Count(vnet.Delete), len(want))
	var failed []string
	for _, s := range states {
		if s.Phase != vm.Ready {
			failed = append(failed, fmt.Sprintf("%s: %s: %s", s.Name, s.Phase, strings.Join(s.Problems, "; ")))
		}
	}
	for _, f := range failed {
		fmt.Fprintln(c.progress, "        !", f)
	}
	report, err := matrix.Observe(ctx, t, m.VMDir)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(m.Dir, reportFile), report); err != nil {
		return err
	}
	p.step("%d probes sent, %d not as the model says", report.Probes, len(report.Mismatches))
	if c.json {
		for _, x := range report.Mismatches {
			fmt.Fprintln(c.progress, "        !", x)
		}
		if err := c.printJSON(struct {
			Plan   vnet.Plan      `json:"plan"`
			VMs    []*vm.State    `json:"vms"`
			Matrix *matrix.Report `json:"matrix"`
		}{plan, states, report}); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(c.out)
		built(c.out, t)
		machines(c.out, t, states)
		fmt.Fprint(c.out, report)
	}
	switch {
	case len(failed) > 0:
		return fmt.Errorf("%d machines did not boot as they should", len(failed))
	case len(report.Mismatches) > 0:
		return errMismatch
	}
	p.step("%s is up, and is what the model says", t.Name)
	return nil
}

func indent(s, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n"+by) + "\n"
}

// runningAgent is the agent that runs, when it is of this very program; or nil.
func runningAgent(ctx context.Context, m *machine.Machine) *agentClient {
	procs := m.Processes("agent")
	if a := newAgentClient(m); len(procs) == 1 && sameProgram(procs[0].PID) && a.alive(ctx) {
		return a
	}
	return nil
}

// startAgent finds the running agent or starts one.
func startAgent(ctx context.Context, m *machine.Machine) (*agentClient, error) {
	if a := runningAgent(ctx, m); a != nil {
		return a, nil
	}
	if err := m.Kill("agent"); err != nil {
		return nil, err
	}
	a := newAgentClient(m)
	log := filepath.Join(m.Dir, agentLog)
	if _, err := m.Start("agent", "", log, "agent", m.Dir, m.Name); err != nil {
		return nil, err
	}
	ended := watch(m, "agent")
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if a.alive(ctx) {
			return a, nil
		}
		if ended() {
			break
		}
	}
	b, _ := os.ReadFile(log)
	return nil, fmt.Errorf("the agent does not come up: %s", bytes.TrimSpace(b))
}

// watch returns a function that says whether a process has ended. For a moment
// after its start a process has no environment to be known by, so it has to be
// missed for a while.
func watch(m *machine.Machine, role string) func() bool {
	seen := time.Now()
	return func() bool {
		if len(m.Processes(role)) > 0 {
			seen = time.Now()
		}
		return time.Since(seen) > time.Second
	}
}

// sameProgram reports whether a process runs the file that we run.
func sameProgram(pid int) bool {
	x, err1 := os.Stat("/proc/self/exe")
	y, err2 := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// prune removes the hardware that is not wanted any more, and what backends
// made on hosts that are gone.
func prune(ctx context.Context, m *machine.Machine, t *topology.Cloud, before []string) error {
	var errs []error
	for _, h := range before {
		if t.Host(h) == nil {
			errs = append(errs, m.RemoveHost(h), returnFunctions(ctx, m.Name, []string{h}))
		}
	}
	errs = append(errs, m.Prune(t))
	var hosts []string
	for _, h := range t.Hosts {
		hosts = append(hosts, h.Name)
	}
	return errors.Join(append(errs, writeFile(filepath.Join(m.Dir, hostsFile), hosts))...)
}

// boot starts the machines that do not run and waits until all are up. It
// starts none that runs as it should.
func boot(ctx context.Context, m *machine.Machine, want []*vm.Spec) ([]*vm.State, error) {
	states := make([]*vm.State, len(want))
	errs := make([]error, len(want))
	var wg sync.WaitGroup
	for i, s := range want {
		wg.Go(func() { states[i], errs[i] = bootOne(ctx, m, s) })
	}
	wg.Wait()
	return states, errors.Join(errs...)
}

func bootOne(ctx context.Context, m *machine.Machine, s *vm.Spec) (*vm.State, error) {
	dir := m.VMDir(s.Name)
	role := "vm " + s.Name
	ours := len(m.Processes(role)) == 0
	start := func() error {
		if err := s.Write(dir); err != nil {
			return err
		}
		_, err := m.Start(role, m.VMNS(s.Name), filepath.Join(dir, vm.Log), "vm", dir)
		return err
	}
	var err error
	if ours {
		err = start()
	} else if err = vm.Listen(ctx, dir, s.TCP, s.UDP); err != nil {
		// Started by an up that was killed, and killed with it, or not yet listening.
		err = errors.Join(m.Kill(role), start())
		ours = true
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	ended := watch(m, role)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		st, err := vm.ReadState(dir)
		switch {
		case err != nil || st.Phase == vm.Booting:
		case st.Phase == vm.Failed && !ours:
			// It booted while there was nothing to boot from yet.
			if err := errors.Join(m.Kill(role), start()); err != nil {
				return nil, fmt.Errorf("%s: %w", s.Name, err)
			}
			ours = true
		default:
			return st, nil
		}
		if ended() {
			b, _ := os.ReadFile(filepath.Join(dir, vm.Log))
			return nil, fmt.Errorf("machine %s ended: %s", s.Name, bytes.TrimSpace(b))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(40 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("machine %s does not boot", s.Name)
}

// down takes all away. It needs nothing but the cloud's name, whatever was
// killed before.
func (c *cli) down(ctx context.Context) error {
	if c.file != "" && c.name == "" {
		t, err := c.read()
		if err != nil {
			return err
		}
		c.name = t.Name
	}
	if c.name == "" {
		if _, _, err := c.running(); c.name == "" {
			if errors.Is(err, errUsage) {
				return err
			}
			fmt.Fprintln(c.progress, "nothing is up")
			return nil
		}
	}
	m := c.machine(c.name)
	if _, err := os.Stat(m.Dir); errors.Is(err, os.ErrNotExist) && len(m.Left(nil)) == 0 {
		fmt.Fprintln(c.progress, "nothing is up")
		return nil
	}
	lock, err := lockDir(m.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	p := newProgress(c.progress)
	hosts := knownHosts(m)
	if err := m.Remove(hosts); err != nil {
		return err
	}
	if err := errors.Join(returnFunctions(ctx, c.name, hosts), m.ReturnPages()); err != nil {
		return err
	}
	if err := os.RemoveAll(m.Dir); err != nil {
		return err
	}
	os.Remove(c.stateDir) // when it was the last one
	if left := m.Left(hosts); len(left) > 0 {
		return fmt.Errorf("still there: %s", strings.Join(left, ", "))
	}
	p.step("%s is gone", c.name)
	return nil
}
