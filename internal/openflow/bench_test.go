package openflow

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func benchFlows(n int) []FlowMod {
	g := rapid.Custom(genFlow)
	mods := make([]FlowMod, n)
	for i := range mods {
		mods[i] = Add(g.Example(i))
	}
	return mods
}

// typical is a flow as the pipeline has many.
func typical(i int) Flow {
	mac := [6]byte{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
	return Flow{Table: 60, Priority: 100, Cookie: uint64(i), Match: Any(Reg(1).Is(uint64(i%1000)), EthDst.MAC(mac)),
		Actions: []Action{Load(Reg(3).All(), uint64(i)), Load(Reg(0).Bit(4), 1), Goto(70)}}
}

func BenchmarkEncode(b *testing.B) {
	mod := Add(typical(1))
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := mod.appendMessage(buf, 1); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	mod := Add(typical(1))
	m, err := mod.appendMessage(nil, 1)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeFlowMod(m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeRandom(b *testing.B) {
	mods := benchFlows(500)
	buf := make([]byte, 0, 1<<16)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := mods[i%len(mods)].appendMessage(buf, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBundle adds 50,000 flows in one bundle, and "ovs-ofctl --bundle
// add-flows" adds the same ones; ofctl-ratio is its time over ours.
func BenchmarkBundle(b *testing.B) {
	const n = 50_000
	s := newSwitch(b)
	c := s.dial()
	mods := make([]FlowMod, n)
	var text strings.Builder
	for i := range mods {
		f := typical(i)
		mods[i] = Add(f)
		fmt.Fprintln(&text, f.String())
	}
	file := s.path("flows")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	empty := func() {
		if err := c.Bundle(b.Context(), []FlowMod{DeleteAll(AllTables, 0, 0, nil)}); err != nil {
			b.Fatal(err)
		}
	}
	var theirs, read time.Duration
	for b.Loop() {
		b.StopTimer()
		empty()
		start := time.Now()
		s.run("ovs-ofctl", "-O", "OpenFlow15", "--bundle", "add-flows", "unix:"+s.mgmt, file)
		theirs += time.Since(start)
		start = time.Now()
		flows, err := c.Flows(b.Context(), FlowFilter{Table: AllTables})
		if err != nil || len(flows) != n {
			b.Fatal(err, len(flows))
		}
		read += time.Since(start)
		empty()
		b.StartTimer()
		if err := c.Bundle(b.Context(), mods); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(theirs.Seconds()/b.Elapsed().Seconds(), "ofctl-ratio")
	b.ReportMetric(read.Seconds()/float64(b.N), "read-s/op")
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "flows/s")
}

// BenchmarkOneCookie reads the one flow of a cookie among 50,000, and
// BenchmarkOneChange replaces it in a bundle.
func BenchmarkOneCookie(b *testing.B) {
	c := filled(b)
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		flows, err := c.Flows(b.Context(), FlowFilter{Table: AllTables, Cookie: uint64(i%50_000) + 1, CookieMask: ^uint64(0)})
		if err != nil || len(flows) != 1 {
			b.Fatal(err, len(flows))
		}
	}
}

func BenchmarkOneChange(b *testing.B) {
	c := filled(b)
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		f := typical(i%50_000 + 1)
		f.Actions = append(f.Actions, Output{Port: Port(i%100 + 1)})
		if err := c.Bundle(b.Context(), []FlowMod{Add(f)}); err != nil {
			b.Fatal(err)
		}
	}
}

// filled is a switch with 50,000 flows of as many cookies.
func filled(b *testing.B) *Conn {
	s := newSwitch(b)
	c := s.dial()
	mods := make([]FlowMod, 50_000)
	for i := range mods {
		mods[i] = Add(typical(i + 1))
	}
	if err := c.Bundle(b.Context(), mods); err != nil {
		b.Fatal(err)
	}
	return c
}
