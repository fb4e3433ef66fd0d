package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet/examples/internal/graph"
	"github.com/vnet-go/vnet/examples/internal/machine"
	"github.com/vnet-go/vnet/examples/internal/matrix"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
	"github.com/vnet-go/vnet/router"
)

func table(w io.Writer, header string, rows func(add func(cells ...any))) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, header)
	rows(func(cells ...any) {
		var s []string
		for _, c := range cells {
			s = append(s, fmt.Sprint(c))
		}
		fmt.Fprintln(tw, "  "+strings.Join(s, "\t"))
	})
	tw.Flush()
	fmt.Fprintln(w)
}

// or is what stands in a table for nothing.
func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// built prints what the cloud is made of.
func built(w io.Writer, t *topology.Cloud) {
	table(w, "Networks", func(add func(...any)) {
		for _, n := range t.All.Overlay.Networks {
			seg := string(n.Segment.Type)
			if n.Segment.ID != 0 {
				seg += " " + strconv.Itoa(int(n.Segment.ID))
			}
			if n.Segment.PhysicalNetwork != "" {
				seg += " on " + n.Segment.PhysicalNetwork
			}
			var subnets, hosts []string
			for _, s := range n.Subnets {
				subnets = append(subnets, s.CIDR.String())
			}
			for _, h := range t.Hosts {
				for _, x := range h.States.Overlay.Networks {
					if x.ID == n.ID {
						hosts = append(hosts, h.Name)
					}
				}
			}
			add(n.ID, seg, "MTU "+strconv.Itoa(n.MTU), strings.Join(subnets, ", "), "on "+or(strings.Join(hosts, ", ")))
		}
	})
	table(w, "Routers", func(add func(...any)) {
		for _, r := range t.All.Router.Routers {
			var in []string
			for _, i := range r.Interfaces {
				in = append(in, i.NetworkID+" "+prefixes(i))
			}
			out := "no gateway"
			if g := r.Gateway; g != nil {
				out = "gateway"
				for _, a := range g.Addresses {
					out += " " + a.Addr().String()
				}
				if !g.DisableSNAT {
					out += ", SNAT"
				}
			}
			add(r.ID, "on "+r.Host, strings.Join(in, "; "), out)
		}
		for _, f := range t.All.Router.FloatingIPs {
			add(f.ID, f.FloatingIP, "to "+f.PortID+" "+f.FixedIP.String(), "by "+f.RouterID)
		}
		for _, f := range t.All.Router.PortForwards {
			add(f.ID, fmt.Sprintf("%s %s:%s", f.Protocol, f.ExternalIP, ports(f.ExternalPort)), fmt.Sprintf("to %s:%s", f.InternalIP, ports(f.InternalPort)), "by "+f.RouterID)
		}
	})
	promised(w, t)
}

func prefixes(i router.Interface) string {
	var s []string
	for _, a := range i.Addresses {
		s = append(s, a.String())
	}
	return strings.Join(s, " ")
}

func ports(r router.PortRange) string {
	if r.Last <= r.First {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// machines prints what the machines say of themselves.
func machines(w io.Writer, t *topology.Cloud, states []*vm.State) {
	table(w, "Machines", func(add func(...any)) {
		for _, s := range states {
			host := "outside"
			if v := t.VM(s.Name); v != nil {
				host = "on " + v.Host
			}
			phase := fmt.Sprintf("%s after %.1f s", s.Phase, s.BootTime)
			for _, p := range s.Problems {
				phase += "; " + p
			}
			add(s.Name, host, "hostname "+s.Hostname, phase)
		}
	})
	table(w, "Leases", func(add func(...any)) {
		for _, s := range states {
			for _, l := range s.Leases {
				if t.VM(s.Name) == nil {
					continue
				}
				more := ""
				if l.MTU > 0 {
					more += fmt.Sprintf("MTU %d ", l.MTU)
				}
				if l.Seconds > 0 {
					more += fmt.Sprintf("%d s ", l.Seconds)
				}
				if l.Server != "" {
					more += "of " + l.Server
				}
				add(s.Name, l.Device, l.By, l.Address, more, strings.Join(l.Routes, ", "))
			}
		}
	})
	table(w, "Metadata", func(add func(...any)) {
		for _, s := range states {
			if m := s.Metadata; m != nil {
				add(s.Name, m.Hostname, m.UUID, "keys: "+or(strings.Join(m.Keys, ", ")), fmt.Sprintf("user data: %d bytes", m.UserData), "EC2: "+m.InstanceID, "at "+m.URL)
			}
		}
	})
}

// states asks all machines how they are.
func states(ctx context.Context, m *machine.Machine, t *topology.Cloud) []*vm.State {
	var out []*vm.State
	for _, s := range specs(t, "") {
		st, err := vm.Current(ctx, m.VMDir(s.Name))
		if err != nil {
			st = &vm.State{Name: s.Name, Phase: vm.Failed, Problems: []string{"does not run"}}
		}
		out = append(out, st)
	}
	return out
}

func (c *cli) status(ctx context.Context) error {
	m, t, err := c.running()
	if err != nil {
		return err
	}
	a := newAgentClient(m)
	hosts := map[string]hostStatus{}
	agentErr := a.call(ctx, "GET", "/status", nil, &hosts)
	st := states(ctx, m, t)
	if c.json {
		out := struct {
			Name  string                `json:"name"`
			Agent bool                  `json:"agent"` // it runs
			Hosts map[string]hostStatus `json:"hosts"`
			VMs   []*vm.State           `json:"vms"`
		}{t.Name, agentErr == nil, hosts, st}
		return c.printJSON(out)
	}
	table(c.out, "Hosts", func(add func(...any)) {
		for _, h := range sites(t) {
			s, ok := hosts[h.Name]
			if !ok {
				without := "no DHCP, no router advertisements, no metadata"
				if t.Backend == topology.OVN {
					without = "no metadata"
				}
				add(h.Name, h.LocalIP, "the agent does not run: "+without)
				continue
			}
			bad := ""
			for part, x := range s.Health {
				if !x.Complete {
					bad += " " + part + ": " + or(x.Detail)
				}
			}
			if bad == "" {
				bad = "all is well"
			}
			cells := []any{h.Name, h.LocalIP, bad}
			if h.Name == central {
				cells[1] = ""
			}
			if len(s.Leases) > 0 {
				cells = append(cells, fmt.Sprintf("%d leases", len(s.Leases)))
			}
			if s.Tracking != "" {
				cells = append(cells, "connections: "+s.Tracking)
			}
			add(cells...)
		}
	})
	built(c.out, t)
	functions(c.out, hosts)
	sockets(c.out, m, t)
	machines(c.out, t, st)
	return nil
}

// sockets prints where the hypervisors of machines on hosts with DPDK listen.
func sockets(w io.Writer, m *machine.Machine, t *topology.Cloud) {
	var rows [][]any
	for _, v := range t.VMs {
		for _, n := range v.NICs {
			if n.VhostUser {
				rows = append(rows, []any{n.PortID, v.Host, m.Socket(v.Host, v.Name, n.Device)})
			}
		}
	}
	if len(rows) > 0 {
		table(w, "vhost-user", func(add func(...any)) {
			for _, x := range rows {
				add(x...)
			}
		})
	}
}

// functions prints which port has which virtual function.
func functions(w io.Writer, hosts map[string]hostStatus) {
	var rows [][]any
	for _, h := range slices.Sorted(maps.Keys(hosts)) {
		for _, f := range hosts[h].Functions {
			rate := "no limit"
			if f.Settings.MaxMbps > 0 {
				rate = fmt.Sprintf("at most %d Mbit/s", f.Settings.MaxMbps)
			}
			rows = append(rows, []any{f.PortID, h, f.PCI, fmt.Sprintf("VF %d of %s", f.VF, f.PF), "VLAN " + f.VLAN.String(), fmt.Sprintf("spoof check %t, trusted %t", f.Settings.SpoofCheck, f.Settings.Trusted), rate})
		}
	}
	if len(rows) > 0 {
		table(w, "Virtual functions", func(add func(...any)) {
			for _, x := range rows {
				add(x...)
			}
		})
	}
}

func (c *cli) matrix(ctx context.Context) error {
	m, t, err := c.running()
	if err != nil {
		return err
	}
	r, err := matrix.Observe(ctx, t, m.VMDir)
	if err != nil {
		return err
	}
	if c.json {
		err = c.printJSON(r)
	} else {
		_, err = fmt.Fprint(c.out, r)
	}
	if err == nil && len(r.Mismatches) > 0 {
		err = errMismatch
	}
	return err
}

func (c *cli) explain(ctx context.Context) error {
	m, t, err := c.running()
	if err != nil {
		return err
	}
	kind, id := c.args[0], c.args[1]
	if kind == "packet" {
		return c.explainPacket(ctx, m, t)
	}
	if v := t.VM(id); kind == "port" && v != nil && len(v.NICs) > 0 {
		id = v.NICs[0].PortID
	}
	out, err := newAgentClient(m).explain(ctx, kind, id)
	if err != nil {
		return err
	}
	if len(out) == 0 {
		return fmt.Errorf("no host knows a %s %q", kind, id)
	}
	if c.json {
		return c.printJSON(out)
	}
	for _, h := range out {
		fmt.Fprintf(c.out, "on %s\n", h.Host)
		for _, e := range h.Of {
			fmt.Fprint(c.out, indent(e.String(), "  "))
		}
	}
	return nil
}

// explainPacket asks the model and the hosts: packet FROM TO [icmp | tcp PORT | udp PORT].
func (c *cli) explainPacket(ctx context.Context, m *machine.Machine, t *topology.Cloud) error {
	a := c.args[1:]
	if len(a) < 2 {
		return fmt.Errorf("explain packet FROM TO [icmp | tcp PORT | udp PORT]: %w", errUsage)
	}
	p := vm.Probe{Proto: "icmp"}
	if len(a) > 2 {
		p.Proto = a[2]
	}
	switch {
	case p.Proto == "icmp" && len(a) <= 3:
	case (p.Proto == "tcp" || p.Proto == "udp") && len(a) == 4:
		n, err := strconv.ParseUint(a[3], 10, 16)
		if err != nil {
			return fmt.Errorf("%q is no port: %w", a[3], errUsage)
		}
		p.Port = uint16(n)
	default:
		return fmt.Errorf("explain packet FROM TO [icmp | tcp PORT | udp PORT]: %w", errUsage)
	}
	model, err := matrix.NewModel(t)
	if err != nil {
		return err
	}
	if p.Dst, err = model.Address(a[0], a[1]); err != nil {
		return err
	}
	e, err := model.Explain(a[0], a[1], p)
	if err != nil {
		return err
	}
	// Beside the model, what the backends say whose rules decide.
	kernel := []explained{}
	for _, j := range model.Judges(a[0], p) {
		x, err := newAgentClient(m).explainPacket(ctx, j)
		if err != nil {
			fmt.Fprintln(c.progress, "cloud: the agent does not say what the host's rules do:", err)
			break
		}
		kernel = append(kernel, x)
	}
	if tracer := tracers[t.Backend]; tracer != nil {
		x, err := tracer(ctx, m, t, a[0], p)
		if err != nil {
			return err
		}
		if x != nil {
			kernel = append(kernel, *x)
		}
	}
	if c.json {
		return c.printJSON(map[string]any{"model": e, "hosts": kernel})
	}
	fmt.Fprint(c.out, indent(e.String(), ""))
	for _, x := range kernel {
		fmt.Fprintf(c.out, "on %s\n", x.Host)
		for _, y := range x.Of {
			fmt.Fprint(c.out, indent(y.String(), "  "))
		}
	}
	return nil
}

func (c *cli) graph(ctx context.Context) error {
	var t *topology.Cloud
	var err error
	if c.file != "" {
		t, err = c.read()
	} else {
		_, t, err = c.running()
	}
	if err != nil {
		return err
	}
	r, err := matrix.Expected(t)
	if err != nil {
		return err
	}
	text := graph.SVG(t, r)
	if c.format == "mermaid" {
		text = graph.Mermaid(t, r)
	}
	if c.json {
		return c.printJSON(map[string]string{"format": c.format, "text": text})
	}
	_, err = io.WriteString(c.out, text)
	return err
}

// exec runs a command inside a machine: in its network, with its hostname and resolv.conf.
func (c *cli) exec(ctx context.Context) error {
	m, t, err := c.running()
	if err != nil {
		return err
	}
	name := c.args[0]
	procs := m.Processes("vm " + name)
	if len(procs) == 0 {
		var names []string
		for _, s := range specs(t, "") {
			names = append(names, s.Name)
		}
		return fmt.Errorf("no machine %q runs; there is %s", name, strings.Join(names, ", "))
	}
	cmd := exec.CommandContext(ctx, c.args[1], c.args[2:]...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, c.out, os.Stderr
	if c.json {
		cmd.Stdout, cmd.Stderr = &out, &errs
	}
	err = inside(procs[0].PID, cmd.Run)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if c.json {
		if err := c.printJSON(map[string]any{"stdout": out.String(), "stderr": errs.String(), "status": cmd.ProcessState.ExitCode()}); err != nil {
			return err
		}
	}
	if exit != nil {
		return &exitError{exit.ExitCode()}
	}
	return nil
}

// inside runs f on a thread in the namespaces of a process; what f starts is in them.
func inside(pid int, f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		errc <- func() error {
			// Threads share their directories, and such a thread cannot change its mounts.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			for _, ns := range []struct {
				name string
				flag int
			}{{"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS}, {"mnt", unix.CLONE_NEWNS}} {
				fd, err := unix.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns", ns.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				err = unix.Setns(fd, ns.flag)
				unix.Close(fd)
				if err != nil {
					return fmt.Errorf("%s namespace: %w", ns.name, err)
				}
			}
			return f()
		}()
	}()
	return <-errc
}
