// Package matrix finds out who reaches whom in a cloud, by sending packets
// from inside every machine, and says what the model expects of each.
package matrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
)

// Target is one address that every machine tries to reach. Machines of
// several networks may have it: which one answers is the point.
type Target struct {
	Label string     `json:"label"` // who has it
	Addr  netip.Addr `json:"addr"`
	TCP   []uint16   `json:"tcp,omitempty"` // ports tried only here
	UDP   []uint16   `json:"udp,omitempty"`
}

// Expectation is what the model says of a probe.
type Expectation struct {
	OK  bool   `json:"ok"`            // an answer comes
	Who string `json:"who,omitempty"` // from this machine
	Why string `json:"why,omitempty"` // by which rule, or why not
}

// Cell is one probe: what was seen beside what the model says.
type Cell struct {
	From  string      `json:"from"`
	To    string      `json:"to"` // the target's label
	Probe vm.Probe    `json:"probe"`
	Seen  vm.Answer   `json:"seen"`
	Model Expectation `json:"model"`
}

// Agrees reports whether what was seen is what the model says.
func (c Cell) Agrees() bool {
	return c.Seen.OK == c.Model.OK && (!c.Seen.OK || c.Seen.Who == "" || c.Seen.Who == c.Model.Who)
}

func (c Cell) String() string {
	seen := "no answer"
	if c.Seen.OK {
		seen = "an answer"
		if c.Seen.Who != "" {
			seen += " of " + c.Seen.Who
		}
	} else if c.Seen.Note != "" {
		seen += " (" + c.Seen.Note + ")"
	}
	model := "no answer"
	if c.Model.OK {
		model = "an answer of " + c.Model.Who
	}
	return fmt.Sprintf("%s, %s [%s]: seen %s, the model says %s: %s", c.From, c.Probe, c.To, seen, model, c.Model.Why)
}

// Report is a matrix.
type Report struct {
	Sources    []string `json:"sources"`
	Targets    []Target `json:"targets"`
	TCP        []uint16 `json:"tcp"`
	UDP        []uint16 `json:"udp"`
	Probes     int      `json:"probes"`
	Answered   int      `json:"answered"`
	Cells      []Cell   `json:"cells"`
	Mismatches []Cell   `json:"mismatches"`
}

// Targets lists all addresses of a cloud that somebody may want to reach.
func Targets(t *topology.Cloud) []Target {
	var out []Target
	add := func(label string, a netip.Addr) *Target {
		for i := range out {
			if out[i].Addr == a {
				if !slices.Contains(strings.Split(out[i].Label, "|"), label) {
					out[i].Label += "|" + label
				}
				return &out[i]
			}
		}
		out = append(out, Target{Label: label, Addr: a})
		return &out[len(out)-1]
	}
	for _, v := range t.VMs {
		for _, n := range v.NICs {
			for _, a := range n.IPs {
				add(v.Name, a)
			}
			for _, a := range n.Pairs {
				add("shared", a)
			}
		}
	}
	for _, f := range t.All.Router.FloatingIPs {
		add(f.ID, f.FloatingIP)
	}
	for _, f := range t.All.Router.PortForwards {
		name, _, _ := strings.Cut(f.ID, "-"+f.Protocol+"-")
		x := add(name, f.ExternalIP)
		if f.Protocol == "tcp" {
			x.TCP = append(x.TCP, f.ExternalPort.First)
		} else {
			x.UDP = append(x.UDP, f.ExternalPort.First)
		}
	}
	for _, o := range t.Outside {
		for _, a := range o.Addresses {
			add(o.Name, a.Addr())
		}
	}
	return out
}

// owns reports the addresses that a machine has itself: it is not asked to reach those.
func owns(t *topology.Cloud, name string) (v4, v6 bool, own map[netip.Addr]bool) {
	own = map[netip.Addr]bool{}
	add := func(a netip.Addr) {
		own[a] = true
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
	}
	if v := t.VM(name); v != nil {
		for _, n := range v.NICs {
			for _, a := range n.IPs {
				add(a)
			}
			for _, a := range n.Pairs {
				if Holder(t, n.NetworkID, a) == name {
					add(a)
				}
			}
		}
	}
	for _, o := range t.Outside {
		if o.Name == name {
			for _, a := range o.Addresses {
				add(a.Addr())
			}
		}
	}
	return v4, v6, own
}

// Holder is the machine on the network that takes a shared address when it
// boots: its metadata tells it to.
func Holder(t *topology.Cloud, network string, a netip.Addr) string {
	for _, v := range t.VMs {
		for _, n := range v.NICs {
			if n.NetworkID == network && slices.Contains(n.Pairs, a) && v.Instance.Meta["address_pair"] == a.String() {
				return v.Name
			}
		}
	}
	return ""
}

// Expected is the matrix as the model has it; nothing has been seen.
func Expected(t *topology.Cloud) (*Report, error) {
	model, err := NewModel(t)
	if err != nil {
		return nil, err
	}
	r := &Report{Targets: Targets(t), TCP: t.TCP, UDP: t.UDP, Mismatches: []Cell{}}
	for _, o := range t.Outside {
		r.Sources = append(r.Sources, o.Name)
	}
	for _, v := range t.VMs {
		r.Sources = append(r.Sources, v.Name)
	}
	for _, from := range r.Sources {
		v4, v6, own := owns(t, from)
		for _, to := range r.Targets {
			if own[to.Addr] || to.Addr.Is4() && !v4 || to.Addr.Is6() && !v6 {
				continue
			}
			probes := []vm.Probe{{Proto: "icmp", Dst: to.Addr}}
			for _, p := range append(slices.Clone(t.TCP), to.TCP...) {
				probes = append(probes, vm.Probe{Proto: "tcp", Dst: to.Addr, Port: p})
			}
			for _, p := range append(slices.Clone(t.UDP), to.UDP...) {
				probes = append(probes, vm.Probe{Proto: "udp", Dst: to.Addr, Port: p})
			}
			for _, p := range probes {
				r.Cells = append(r.Cells, Cell{From: from, To: to.Label, Probe: p, Model: model.Expect(from, p)})
			}
		}
	}
	r.Probes = len(r.Cells)
	return r, nil
}

// rounds is how often a probe is sent whose answer the model expects and that did not come.
const rounds = 3

// Observe sends all probes, from all machines at once. dir is where a machine has its files.
func Observe(ctx context.Context, t *topology.Cloud, dir func(string) string) (*Report, error) {
	r, err := Expected(t)
	if err != nil {
		return nil, err
	}
	for round := range rounds {
		bySource := map[string][]int{}
		for i, c := range r.Cells {
			// A lost packet proves nothing; one that arrived where it must not does.
			if round == 0 || c.Model.OK && !c.Seen.OK {
				bySource[c.From] = append(bySource[c.From], i)
			}
		}
		if err := send(ctx, r, bySource, dir); err != nil {
			return nil, err
		}
	}
	for _, c := range r.Cells {
		if c.Seen.OK {
			r.Answered++
		}
		if !c.Agrees() {
			r.Mismatches = append(r.Mismatches, c)
		}
	}
	return r, nil
}

func send(ctx context.Context, r *Report, bySource map[string][]int, dir func(string) string) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for from, cells := range bySource {
		wg.Go(func() {
			probes := make([]vm.Probe, len(cells))
			for k, i := range cells {
				probes[k] = r.Cells[i].Probe
			}
			answers, err := vm.Send(ctx, dir(from), probes)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || len(answers) != len(cells) {
				errs = append(errs, fmt.Errorf("probes of %s: %w", from, errors.Join(err)))
				return
			}
			for k, i := range cells {
				r.Cells[i].Seen = answers[k]
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// symbols stand for the services of a cell, in the order of probing.
const symbols = "123456789abcdefghjklmnopqrstuvwxyz"

// String prints a line for each target and a column for each source; each
// place of a cell is a service that answers.
func (r *Report) String() string {
	var b strings.Builder
	b.WriteString("Who reaches whom: lines are targets, columns sources; i icmp")
	n := 0
	legend := map[string]byte{"icmp": 'i'}
	name := func(proto string, port uint16) string { return fmt.Sprintf("%s/%d", proto, port) }
	add := func(proto string, ports []uint16) {
		for _, p := range ports {
			k := name(proto, p)
			if _, ok := legend[k]; !ok && n < len(symbols) {
				legend[k] = symbols[n]
				fmt.Fprintf(&b, ", %c %s", symbols[n], k)
				n++
			}
		}
	}
	add("tcp", r.TCP)
	add("udp", r.UDP)
	for _, t := range r.Targets {
		add("tcp", t.TCP)
		add("udp", t.UDP)
	}
	b.WriteString("; · no answer, ! not as the model says\n\n")
	type key struct {
		from string
		to   netip.Addr
	}
	cells, wrong := map[key]string{}, map[key]bool{}
	for _, c := range r.Cells {
		k := key{c.From, c.Probe.Dst}
		s := "·"
		if c.Seen.OK {
			p := "icmp"
			if c.Probe.Proto != "icmp" {
				p = name(c.Probe.Proto, c.Probe.Port)
			}
			s = string(legend[p])
		}
		cells[k] += s
		wrong[k] = wrong[k] || !c.Agrees()
	}
	left, width := 0, make([]int, len(r.Sources))
	for _, t := range r.Targets {
		left = max(left, len(t.Label)+1+len(t.Addr.String()))
	}
	for i, s := range r.Sources {
		width[i] = len(s)
		for _, t := range r.Targets {
			n := len([]rune(cells[key{s, t.Addr}]))
			if wrong[key{s, t.Addr}] {
				n++
			}
			width[i] = max(width[i], n)
		}
	}
	line := func(label string, cell func(i int, s string) string) {
		out := fmt.Sprintf("  %-*s", left, label)
		for i, s := range r.Sources {
			x := cell(i, s)
			out += "  " + x + strings.Repeat(" ", width[i]-len([]rune(x)))
		}
		b.WriteString(strings.TrimRight(out, " ") + "\n")
	}
	line("", func(_ int, s string) string { return s })
	for _, t := range r.Targets {
		line(t.Label+" "+t.Addr.String(), func(i int, s string) string {
			x := cells[key{s, t.Addr}]
			if wrong[key{s, t.Addr}] {
				x += "!"
			}
			return x
		})
	}
	fmt.Fprintf(&b, "\n%d probes, %d answered, %d not as the model says\n", r.Probes, r.Answered, len(r.Mismatches))
	for _, c := range r.Mismatches {
		b.WriteString("  ! " + c.String() + "\n")
	}
	return b.String()
}

// MarshalJSON keeps lists lists when they are empty.
func (r *Report) MarshalJSON() ([]byte, error) {
	type plain Report
	x := plain(*r)
	if x.Mismatches == nil {
		x.Mismatches = []Cell{}
	}
	return json.Marshal(x)
}
