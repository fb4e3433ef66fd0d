package secgrouptest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/reach"
	"github.com/vnet-go/vnet/secgroup"
)

// model is the judge of the world with these security groups.
func (w *world) model(s secgroup.State) *reach.Model {
	w.t.Helper()
	m, err := reach.New(reach.World{Overlay: w.over, SecGroup: s})
	require.NoError(w.t, err)
	return m
}

// packetOf is a frame as the judge sees it; ok is false for frames it knows
// nothing of.
func packetOf(p probe) (k reach.Packet, ok bool) {
	f := p.frame
	k = reach.Packet{From: p.from, SrcMAC: f.SrcMAC, DstMAC: f.DstMAC, Src: f.Src, Dst: f.Dst, Proto: f.Proto, SrcPort: f.SrcPort, DstPort: f.DstPort,
		ICMPType: f.ICMPType, ICMPCode: f.ICMPCode, TTL: f.TTL, Target: f.Target}
	if f.ARP != nil {
		k.ARP = &reach.ARP{SenderMAC: f.ARP.SHA, SenderIP: f.ARP.SPA}
	}
	return k, f.EtherType == 0 && f.VLAN == 0
}

// reaches asks the judge whether a probe, as the first packet of a
// connection, gets where it is sent.
func reaches(m *reach.Model, p probe) (arrives bool, v reach.Verdict) {
	k, _ := packetOf(p)
	v = m.Send(k)
	for _, a := range v.Arrivals {
		arrives = arrives || a.ID == p.to
	}
	return arrives, v
}

// judged fails where a case says something else than the judge.
func (w *world) judged(t testing.TB, s secgroup.State, probes []probe) {
	t.Helper()
	m := w.model(s)
	for _, p := range probes {
		p = w.fill(p)
		if _, ok := packetOf(p); !ok || mld(p.frame) || opensNothing(p.frame) {
			continue
		}
		if got, v := reaches(m, p); got != p.pass {
			t.Errorf("%s: %s -> %s: %s: the judge says %t, the case says %t: %s", p.name, p.from, p.to, p.frame, got, p.pass, v.Explain())
		}
	}
}

// mld: the judge does not know multicast listener discovery.
func mld(f lab.Frame) bool {
	return f.Proto == lab.ICMPv6 && (f.ICMPType >= 130 && f.ICMPType <= 132 || f.ICMPType == 143)
}

// opensNothing: the judge is asked of first packets of connections only.
func opensNothing(f lab.Frame) bool {
	switch f.Proto {
	case lab.TCP:
		return f.Flags != lab.SYN
	case lab.ICMP:
		return f.ICMPType != 8 && f.ICMPType != 13
	}
	return f.Proto == lab.ICMPv6 && (f.ICMPType < 128 || f.ICMPType == 129)
}
