package secgrouptest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/secgroup"
)

// runRandom draws groups, ports and packets, and compares what arrives, and
// what of the answers, with the judge, and the judge with a plain reading of
// the rules. rapid shrinks what disagrees.
func runRandom(t *testing.T, w *world, h Harness) {
	limit := 40
	if h.Slow {
		limit = 8
	}
	limit = cmp.Or(h.Draws, limit)
	checks, failed := 0, false
	rapid.Check(t, func(t *rapid.T) {
		// A failure is drawn again, smaller, as often as rapid likes.
		if checks++; checks > limit && !failed {
			return
		}
		s := drawState(t, w)
		if err := s.Validate(); err != nil {
			t.Fatalf("drew a bad state: %v", err)
		}
		w.sync(s)
		m := w.model(s)
		var probes, answers []probe
		for range rapid.IntRange(1, 10).Draw(t, "packets") {
			drawn := drawProbe(t)
			if w.limit.ICMPCodes {
				drawn.frame.ICMPCode = 0
			}
			p := w.fill(drawn)
			ok, v := reaches(m, p)
			if p.pass = arrives(s, p.from, p.to, p.frame); ok != p.pass {
				failed = true
				t.Fatalf("%s -> %s: %s: rule by rule %t, the judge says %t: %s; state %s", p.from, p.to, p.frame, p.pass, ok, v.Explain(), stateText(s))
			}
			probes = append(probes, p)
			// A machine answers to its own address; a timestamp's answer is like no request.
			// Without ports, an answer may be to a connection of an earlier state.
			old := w.limit.OpenerEnds && p.frame.Proto == 47
			if p.pass && !old && !drawn.frame.Src.IsValid() && drawn.frame.SrcMAC.IsZero() && p.frame.ICMPType != 13 {
				back := v.Reply()
				answers = append(answers, probe{"answer", p.to, p.from, reply(p), p.v6, back.OK()})
			}
		}
		check := func(what string, probes []probe) {
			for i, arrived := range w.send(probes) {
				if p := probes[i]; arrived != p.pass {
					failed = true
					t.Fatalf("%s %s -> %s: %s: arrived %t, the judge says %t; state %s", what, p.from, p.to, p.frame, arrived, p.pass, stateText(s))
				}
			}
		}
		check("packet", probes)
		if len(answers) > 0 {
			check("answer", answers)
		}
	})
}

func drawState(t *rapid.T, w *world) secgroup.State {
	var s secgroup.State
	names := []string{"g0", "g1", "g2"}
	v4s := []netip.Prefix{prefix("10.0.0.1/32"), prefix("10.0.0.2/31"), prefix("10.0.0.0/30"), prefix("10.0.0.0/8"), prefix("0.0.0.0/0"), prefix("10.0.9.0/24")}
	v6s := []netip.Prefix{prefix("2001:db8::1/128"), prefix("2001:db8::2/127"), prefix("2001:db8::/64"), prefix("::/0")}
	for _, id := range names {
		g := secgroup.Group{ID: id, Stateless: rapid.IntRange(0, 4).Draw(t, id+" stateless") == 4}
		for i := range rapid.IntRange(0, 5).Draw(t, id+" rules") {
			r := secgroup.Rule{ID: fmt.Sprintf("r%d", i),
				Direction: rapid.SampledFrom([]secgroup.Direction{secgroup.Ingress, secgroup.Egress}).Draw(t, "direction"),
				Ethertype: rapid.SampledFrom([]secgroup.Ethertype{secgroup.IPv4, secgroup.IPv6}).Draw(t, "version"),
				Protocol:  rapid.SampledFrom([]string{"", "tcp", "udp", "icmp", "47"}).Draw(t, "protocol")}
			switch r.Protocol {
			case "tcp", "udp":
				if rapid.Bool().Draw(t, "ports") {
					lo := uint16(rapid.IntRange(1, 6).Draw(t, "lo"))
					r.PortMin, r.PortMax = num(lo), num(lo+uint16(rapid.IntRange(0, 3).Draw(t, "more")))
				}
			case "icmp":
				if rapid.Bool().Draw(t, "type") {
					r.PortMin = num(rapid.SampledFrom([]uint16{8, 13, 128}).Draw(t, "type"))
					if rapid.Bool().Draw(t, "code") {
						r.PortMax = num(uint16(rapid.IntRange(0, 1).Draw(t, "code")))
					}
				}
			}
			switch rapid.IntRange(0, 4).Draw(t, "remote") {
			case 1:
				r.RemoteGroup = rapid.SampledFrom(names).Draw(t, "group")
			case 2:
				r.RemoteAddressGroup = "ag"
			case 3, 4:
				r.RemotePrefix = rapid.SampledFrom(v4s).Draw(t, "prefix")
				if r.Ethertype == secgroup.IPv6 {
					r.RemotePrefix = rapid.SampledFrom(v6s).Draw(t, "prefix6")
				}
			}
			g.Rules = append(g.Rules, r)
		}
		s.Groups = append(s.Groups, g)
	}
	ag := secgroup.AddressGroup{ID: "ag"}
	for range rapid.IntRange(0, 3).Draw(t, "addresses") {
		ag.Prefixes = append(ag.Prefixes, rapid.SampledFrom(append(v4s[:4:4], v6s[:3]...)).Draw(t, "address"))
	}
	s.AddressGroups = []secgroup.AddressGroup{ag}
	for _, name := range []string{"a", "b", "c", "d"} {
		p := w.port(name)
		if name == "d" || rapid.IntRange(0, 5).Draw(t, name+" open") == 5 {
			p.DisablePortSecurity = true
		} else {
			for _, g := range names {
				if rapid.Bool().Draw(t, name+" in "+g) {
					p.Groups = append(p.Groups, g)
				}
			}
			for range rapid.IntRange(0, 2).Draw(t, name+" pairs") {
				q := secgroup.AddressPair{Prefix: rapid.SampledFrom(append(v4s[5:6:6], v6s[2], v4s[2])).Draw(t, "pair")}
				if rapid.Bool().Draw(t, "other MAC") {
					q.MAC = mac(99)
				}
				p.AllowedPairs = append(p.AllowedPairs, q)
			}
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

func drawProbe(t *rapid.T) probe {
	p := probe{name: "random", v6: rapid.Bool().Draw(t, "v6")}
	p.from = rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "from")
	p.to = rapid.SampledFrom([]string{"a", "b", "c", "d"}).Filter(func(s string) bool { return s != p.from }).Draw(t, "to")
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0, 1:
		p.frame = tcp(uint16(rapid.IntRange(1, 10).Draw(t, "port")))
	case 2:
		p.frame = udp(uint16(rapid.IntRange(1, 10).Draw(t, "port")))
	case 3:
		p.frame = icmp(rapid.SampledFrom([]uint8{8, 13}).Draw(t, "type"), uint8(rapid.IntRange(0, 1).Draw(t, "code")))
		if p.v6 {
			p.frame = icmp6(128, uint8(rapid.IntRange(0, 1).Draw(t, "code")))
		}
	case 4:
		// Without ports every packet the other way is a reply: one way only.
		p.frame = lab.Frame{Proto: 47}
		p.from, p.to = min(p.from, p.to), max(p.from, p.to)
	}
	switch rapid.IntRange(0, 7).Draw(t, "source") {
	case 6: // within a pair that some ports have
		p.frame.Src = addr("10.0.9.7")
		if p.v6 {
			p.frame.Src = addr("2001:db8::77")
		}
	case 7:
		p.frame.SrcMAC = mac(99)
	}
	return p
}

func stateText(s secgroup.State) string {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}
