package ovsrouter

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
)

func someStation() station {
	s := someSite(true)
	return station{r: s.r, number: s.number, home: true, nets: s.nets}
}

// waits is a packet for 10.0.1.9 that waits on network in2.
func waits(t *testing.T, hop string) report {
	a := ip(hop).As4()
	regs := [16]uint32{0: hop4 | translates, 1: 2, 4: 1, 8: uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3]), 14: 0x40020200, 15: 0x00000102}
	f := lab.Frame{SrcMAC: machine, DstMAC: routers, Src: a4, Dst: ip(hop), Proto: lab.UDP, SrcPort: 1, DstPort: 2, TTL: 63}
	return report{askNeighbour, tLeave, func(n int) uint32 { return regs[n] }, f.Bytes()}
}

// Neighbours are asked for three times; what waits goes when they answer, and
// is answered by ICMP when they do not.
func TestResolver(t *testing.T) {
	s, q, now := someStation(), resolver{}, time.Unix(1000, 0)
	p := waits(t, "10.0.1.9")
	require.Equal(t, vnet.MAC{2, 0, 0, 0, 1, 2}, p.mac())
	question, full := q.add(s, p, now)
	require.False(t, full)
	f := frame(t, question.frame)
	require.Equal(t, ip("10.0.1.9"), f.ARP.TPA)
	require.Equal(t, ip("10.0.1.1"), f.ARP.SPA)
	for i := range queueLimit {
		again, full := q.add(s, p, now)
		require.Nil(t, again, "within a second")
		require.Equal(t, i >= queueLimit-2, full)
	}
	require.Empty(t, q.heard(3, ip("10.0.1.9")), "on another network")
	require.Len(t, q.heard(2, ip("10.0.1.9")), queueLimit)
	require.Empty(t, q)

	q.add(s, p, now)
	for range questions - 1 {
		now = now.Add(questionEvery)
		say := q.tick(now)
		require.Len(t, say, 1)
		require.NotNil(t, frame(t, say[0].frame).ARP)
	}
	say := q.tick(now.Add(questionEvery))
	require.Len(t, say, 1)
	f = frame(t, say[0].frame)
	require.EqualValues(t, 3, f.ICMPType)
	require.EqualValues(t, 1, f.ICMPCode)
	require.Equal(t, a4, f.Dst)
	require.Empty(t, q)

	h := hush(p, 7)
	require.NoError(t, h.Validate())
	require.Equal(t, "cookie=0x7, table=58, hard_timeout=1, priority=60,reg0=0x80/0x2000c0,reg1=0x2,reg8=0xa000109 actions=drop", h.String())
}

func TestBucket(t *testing.T) {
	k, now := bucket{}, time.Unix(1000, 0)
	for range answerRate {
		require.True(t, k.take(now))
	}
	require.False(t, k.take(now))
	require.True(t, k.take(now.Add(time.Second)))
}

func TestTold(t *testing.T) {
	a, ok := told(lab.Frame{SrcMAC: machine, DstMAC: routers, ARP: &lab.ARP{Op: 2, SHA: machine, SPA: b4, THA: routers, TPA: a4}}.Bytes())
	require.True(t, ok)
	require.Equal(t, b4, a)
	a, ok = told(advertisement(machine, routers, b6, a6))
	require.True(t, ok)
	require.Equal(t, b6, a)
}
