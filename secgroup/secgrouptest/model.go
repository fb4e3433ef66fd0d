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

// packetOf is a frame as the judge sees it.
func packetOf(p probe) reach.Packet {
	f := p.frame
	k := reach.Packet{From: p.from, SrcMAC: f.SrcMAC, DstMAC: f.DstMAC, Src: f.Src, Dst: f.Dst, Proto: f.Proto, SrcPort: f.SrcPort, DstPort: f.DstPort,
		ICMPType: f.ICMPType, ICMPCode: f.ICMPCode, TTL: f.TTL, Target: f.Target, EtherType: f.EtherType, Middle: f.Proto == lab.TCP && f.Flags != lab.SYN}
	if f.VLAN != 0 {
		k.EtherType = lab.EtherVLAN
	}
	if f.ARP != nil {
		k.ARP = &reach.ARP{SenderMAC: f.ARP.SHA, SenderIP: f.ARP.SPA}
	}
	return k
}

// reaches asks the judge whether a probe, as the first packet of a
// connection, gets where it is sent.
func reaches(m *reach.Model, p probe) (arrives bool, v reach.Verdict) {
	v = m.Send(packetOf(p))
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
		if got, v := reaches(m, p); got != p.pass {
			t.Errorf("%s: %s -> %s: %s: the judge says %t, the case says %t: %s", p.name, p.from, p.to, p.frame, got, p.pass, v.Explain())
		}
	}
}
