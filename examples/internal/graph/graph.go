// Package graph draws a cloud: its hosts, networks, routers, machines and
// addresses, and who reaches whom by the model.
package graph

import (
	"encoding/xml"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet/examples/internal/matrix"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/router"
)

// link is who reaches whom: a source machine, the machine that answers, and by what.
type link struct {
	from, to string
	by       []string // "icmp", "tcp/80", ...
}

// links gathers the model's answers by pairs of machines.
func links(r *matrix.Report) []link {
	var out []link
	for _, c := range r.Cells {
		if !c.Model.OK || !slices.Contains(r.Sources, c.Model.Who) { // a router may answer, too
			continue
		}
		k := slices.IndexFunc(out, func(l link) bool { return l.from == c.From && l.to == c.Model.Who })
		if k < 0 {
			out = append(out, link{from: c.From, to: c.Model.Who})
			k = len(out) - 1
		}
		by := c.Probe.Proto
		if by != "icmp" {
			by += "/" + strconv.Itoa(int(c.Probe.Port))
		}
		if !slices.Contains(out[k].by, by) {
			out[k].by = append(out[k].by, by)
		}
	}
	return out
}

func segment(t *topology.Cloud, id string) string {
	n := t.Network(id)
	s := string(n.Segment.Type)
	if n.Segment.ID != 0 {
		s += " " + strconv.Itoa(int(n.Segment.ID))
	}
	if n.Segment.PhysicalNetwork != "" {
		s += " on " + n.Segment.PhysicalNetwork
	}
	return s
}

func addrs(list []netip.Addr) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

func prefixes(list []netip.Prefix) []string {
	var s []string
	for _, p := range list {
		s = append(s, p.String())
	}
	return s
}

// Mermaid draws the cloud as a Mermaid flowchart.
func Mermaid(t *topology.Cloud, r *matrix.Report) string {
	var b strings.Builder
	id := func(kind, name string) string {
		return kind + "_" + strings.NewReplacer("-", "_", ".", "_").Replace(name)
	}
	text := func(lines ...string) string {
		return `"` + strings.ReplaceAll(strings.Join(lines, "<br/>"), `"`, "#quot;") + `"`
	}
	b.WriteString("flowchart LR\n")
	for _, n := range t.All.Overlay.Networks {
		var subnets []string
		for _, s := range n.Subnets {
			subnets = append(subnets, s.CIDR.String())
		}
		fmt.Fprintf(&b, "  %s([%s])\n", id("net", n.ID), text(append([]string{"<b>" + n.ID + "</b>", segment(t, n.ID)}, subnets...)...))
	}
	for _, h := range t.Hosts {
		fmt.Fprintf(&b, "  subgraph %s[%s]\n", id("host", h.Name), text("host "+h.Name+" "+h.LocalIP.String()))
		for _, x := range h.States.Router.Routers {
			lines := []string{"<b>" + x.ID + "</b>"}
			if g := x.Gateway; g != nil {
				for _, a := range g.Addresses {
					lines = append(lines, "gateway "+a.Addr().String())
				}
			}
			fmt.Fprintf(&b, "    %s{{%s}}\n", id("router", x.ID), text(lines...))
		}
		for _, v := range t.VMs {
			if v.Host != h.Name {
				continue
			}
			lines := []string{"<b>" + v.Name + "</b>"}
			for _, n := range v.NICs {
				for _, a := range n.IPs {
					lines = append(lines, a.String())
				}
			}
			fmt.Fprintf(&b, "    %s[%s]\n", id("vm", v.Name), text(lines...))
		}
		b.WriteString("  end\n")
	}
	for _, o := range t.Outside {
		fmt.Fprintf(&b, "  %s[/%s/]\n", id("vm", o.Name), text(append([]string{"<b>" + o.Name + "</b>"}, prefixes(o.Addresses)...)...))
		for _, n := range t.All.Overlay.Networks {
			if n.Segment.PhysicalNetwork == o.PhysicalNW {
				fmt.Fprintf(&b, "  %s --- %s\n", id("vm", o.Name), id("net", n.ID))
			}
		}
	}
	for _, v := range t.VMs {
		for _, n := range v.NICs {
			fmt.Fprintf(&b, "  %s --- %s\n", id("vm", v.Name), id("net", n.NetworkID))
		}
	}
	for _, x := range t.All.Router.Routers {
		for _, in := range x.Interfaces {
			fmt.Fprintf(&b, "  %s --- |%s| %s\n", id("net", in.NetworkID), text(prefixes(in.Addresses)...), id("router", x.ID))
		}
		if x.Gateway != nil {
			fmt.Fprintf(&b, "  %s --- %s\n", id("router", x.ID), id("net", x.Gateway.NetworkID))
		}
	}
	for _, f := range t.All.Router.FloatingIPs {
		for _, v := range t.VMs {
			if slices.ContainsFunc(v.NICs, func(n topology.NIC) bool { return n.PortID == f.PortID }) {
				fmt.Fprintf(&b, "  %s([%s]) ==> %s\n", id("fip", f.ID), text("<b>"+f.ID+"</b>", f.FloatingIP.String()), id("vm", v.Name))
			}
		}
	}
	b.WriteString("  %% who reaches whom\n")
	for _, l := range links(r) {
		fmt.Fprintf(&b, "  %s -. %s .-> %s\n", id("vm", l.from), text(strings.Join(l.by, " ")), id("vm", l.to))
	}
	return b.String()
}

// The measures of the SVG drawing, in pixels.
const (
	boxW, boxH, gap, lineH = 244, 74, 22, 15
	margin                 = 24
)

// palette colours networks, in the order of the file.
var palette = []string{"#5f6b7a", "#c0392b", "#2468b0", "#7d5ba6", "#1b8a5a", "#b9770e", "#0e7c86", "#8e3b6b"}

type drawing struct {
	b    strings.Builder
	w, h int
}

func (d *drawing) esc(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}

func (d *drawing) rect(x, y, w, h int, style string) {
	fmt.Fprintf(&d.b, `<rect x="%d" y="%d" width="%d" height="%d" rx="6" %s/>`+"\n", x, y, w, h, style)
	d.w, d.h = max(d.w, x+w), max(d.h, y+h)
}

func (d *drawing) text(x, y int, s, style string) {
	fmt.Fprintf(&d.b, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, style, d.esc(s))
	d.w, d.h = max(d.w, x+len(s)*7), max(d.h, y)
}

func (d *drawing) line(x1, y1, x2, y2 int, colour string) {
	fmt.Fprintf(&d.b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="2"/>`+"\n", x1, y1, x2, y2, colour)
}

// box draws a titled box with lines in it, and returns its height.
func (d *drawing) box(x, y int, title string, lines []string, style string) int {
	h := max(boxH, 28+lineH*len(lines))
	d.rect(x, y, boxW, h, style)
	d.text(x+10, y+18, title, `font-weight="bold"`)
	for i, l := range lines {
		d.text(x+10, y+36+i*lineH, l, `font-size="11" fill="#333"`)
	}
	return h
}

// SVG draws the cloud: networks as horizontal wires, hosts as columns of what
// hangs on them, and below who reaches whom.
func SVG(t *topology.Cloud, r *matrix.Report) string {
	d := &drawing{}
	d.text(margin, margin+8, "cloud "+t.Name, `font-size="20" font-weight="bold"`)

	// Networks: a wire each.
	colour, wire := map[string]string{}, map[string]int{}
	y := margin + 48
	for i, n := range t.All.Overlay.Networks {
		colour[n.ID], wire[n.ID] = palette[i%len(palette)], y
		var subnets []string
		for _, s := range n.Subnets {
			subnets = append(subnets, s.CIDR.String())
		}
		d.text(margin, y-5, n.ID, fmt.Sprintf(`font-weight="bold" fill="%s"`, colour[n.ID]))
		d.text(margin+90, y-5, fmt.Sprintf("%s, MTU %d: %s", segment(t, n.ID), n.MTU, strings.Join(subnets, ", ")), `font-size="11" fill="#333"`)
		y += 34
	}
	top := y + 10

	// Columns: outside, then each host.
	x, bottom := margin, top
	hang := func(nets []string, x, y int) {
		for i, n := range nets {
			at := x + 20 + 24*i
			d.line(at, wire[n], at, y, colour[n])
			fmt.Fprintf(&d.b, `<circle cx="%d" cy="%d" r="4" fill="%s"/>`+"\n", at, wire[n], colour[n])
		}
	}
	// Boxes of a column stand side by side, so that every line from a wire down to its box is straight.
	group := func(title, style string, boxes []func(x, y int) int) {
		if len(boxes) == 0 {
			return
		}
		w := len(boxes)*(boxW+gap) + gap
		h := 0
		for i, f := range boxes {
			h = max(h, f(x+gap+i*(boxW+gap), top+34))
		}
		d.rect(x, top, w, h+34+gap, style)
		d.text(x+12, top+20, title, `font-weight="bold" fill="#444"`)
		bottom = max(bottom, top+h+34+gap)
		x += w + gap
	}
	var boxes []func(x, y int) int
	for _, o := range t.Outside {
		boxes = append(boxes, func(x, y int) int {
			var nets []string
			for _, n := range t.All.Overlay.Networks {
				if n.Segment.PhysicalNetwork == o.PhysicalNW {
					nets = append(nets, n.ID)
				}
			}
			hang(nets, x, y)
			return d.box(x, y, o.Name, prefixes(o.Addresses), `fill="#f4f1e8" stroke="#8a7f5c"`)
		})
	}
	group("outside", `fill="none" stroke="#8a7f5c" stroke-dasharray="6 4"`, boxes)
	for _, h := range t.Hosts {
		boxes = nil
		for _, rt := range h.States.Router.Routers {
			boxes = append(boxes, func(x, y int) int {
				var nets, lines []string
				if g := rt.Gateway; g != nil {
					nets = append(nets, g.NetworkID)
					for _, a := range g.Addresses {
						lines = append(lines, "gateway "+a.Addr().String())
					}
					if !g.DisableSNAT {
						lines = append(lines, "source NAT")
					}
				}
				for _, in := range rt.Interfaces {
					nets = append(nets, in.NetworkID)
					lines = append(lines, prefixes(in.Addresses)...)
				}
				hang(nets, x, y)
				return d.box(x, y, rt.ID, lines, `fill="#e8f0f8" stroke="#2468b0" stroke-width="2"`)
			})
		}
		for _, v := range t.VMs {
			if v.Host != h.Name {
				continue
			}
			boxes = append(boxes, func(x, y int) int {
				var nets, lines []string
				for _, n := range v.NICs {
					nets = append(nets, n.NetworkID)
					for _, a := range n.IPs {
						lines = append(lines, a.String())
					}
					if len(n.Pairs) > 0 {
						lines = append(lines, "may take "+addrs(n.Pairs))
					}
					for _, f := range t.All.Router.FloatingIPs {
						if f.PortID == n.PortID {
							lines = append(lines, "floating IP "+f.FloatingIP.String())
						}
					}
					for _, f := range t.All.Router.PortForwards {
						if slices.Contains(n.IPs, f.InternalIP) && slices.ContainsFunc(t.All.Router.Routers, func(x router.Router) bool {
							return x.ID == f.RouterID && slices.ContainsFunc(x.Interfaces, func(i router.Interface) bool { return i.NetworkID == n.NetworkID })
						}) {
							lines = append(lines, fmt.Sprintf("%s %s:%d to %d", f.Protocol, f.ExternalIP, f.ExternalPort.First, f.InternalPort.First))
						}
					}
				}
				hang(nets, x, y)
				return d.box(x, y, v.Name, lines, `fill="#ffffff" stroke="#666"`)
			})
		}
		group("host "+h.Name+"  "+h.LocalIP.String(), `fill="none" stroke="#666"`, boxes)
	}
	right := max(x, 900)
	for _, n := range t.All.Overlay.Networks {
		d.line(margin, wire[n.ID], right-gap, wire[n.ID], colour[n.ID])
	}

	d.matrix(r, bottom+50)
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13">`,
		max(d.w, right)+margin, d.h+margin, max(d.w, right)+margin, d.h+margin) + "\n" + `<rect width="100%" height="100%" fill="#fdfdfb"/>` + "\n" + d.b.String() + "</svg>\n"
}

// matrix draws who reaches whom: a square for each pair of machines, as full
// as the services that answer are many.
func (d *drawing) matrix(r *matrix.Report, y int) {
	const cell, left = 26, 110
	all := links(r)
	most := 1
	for _, l := range all {
		most = max(most, len(l.by))
	}
	d.text(margin, y, "Who reaches whom", `font-size="16" font-weight="bold"`)
	d.text(margin, y+18, "lines: from, columns: to; the darker, the more services answer", `font-size="11" fill="#333"`)
	y += 100
	for j, to := range r.Sources {
		fmt.Fprintf(&d.b, `<text transform="translate(%d %d) rotate(-60)" font-size="12">%s</text>`+"\n", margin+left+j*cell+14, y-6, d.esc(to))
	}
	for i, from := range r.Sources {
		d.text(margin, y+i*cell+17, from, `font-size="12"`)
		for j, to := range r.Sources {
			style := `fill="#ffffff" stroke="#ccc"`
			title := from + " does not reach " + to
			if from == to {
				style, title = `fill="#eeeeee" stroke="#ccc"`, from
			}
			if k := slices.IndexFunc(all, func(l link) bool { return l.from == from && l.to == to }); k >= 0 {
				shade := 0.25 + 0.75*float64(len(all[k].by))/float64(most)
				style = fmt.Sprintf(`fill="#1b8a5a" fill-opacity="%.2f" stroke="#ccc"`, shade)
				title = from + " reaches " + to + ": " + strings.Join(all[k].by, ", ")
			}
			fmt.Fprintf(&d.b, `<rect x="%d" y="%d" width="%d" height="%d" %s><title>%s</title></rect>`+"\n", margin+left+j*cell, y+i*cell, cell-3, cell-3, style, d.esc(title))
		}
	}
	d.w, d.h = max(d.w, margin+left+len(r.Sources)*cell), y+len(r.Sources)*cell
}
