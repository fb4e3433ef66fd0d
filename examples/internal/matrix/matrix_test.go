package matrix_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/examples/internal/matrix"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
	"github.com/vnet-go/vnet/secgroup"
)

var update = flag.Bool("update", false, "write what was got as what is wanted")

func read(t *testing.T, path string) *topology.Cloud {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	c, err := topology.Parse(filepath.Base(path), text, topology.Linux)
	require.NoError(t, err)
	return c
}

// What the model expects of every shipped topology, as people read it.
func TestExpectedGolden(t *testing.T) {
	files, err := filepath.Glob("../../topologies/*.yaml")
	require.NoError(t, err)
	for _, path := range append(files, "../../cloud/topology.yaml") {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			r, err := matrix.Expected(read(t, path))
			require.NoError(t, err)
			for i := range r.Cells {
				c := &r.Cells[i]
				c.Seen = vm.Answer{OK: c.Model.OK, Who: c.Model.Who}
				assert.True(t, c.Agrees())
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(r.String()), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), r.String(), "run go test with -update when the change is meant")
		})
	}
}

func TestAgrees(t *testing.T) {
	for _, tt := range []struct {
		seen  vm.Answer
		model matrix.Expectation
		want  bool
	}{
		{vm.Answer{}, matrix.Expectation{}, true},
		{vm.Answer{OK: true}, matrix.Expectation{OK: true, Who: "a"}, true}, // icmp does not say who
		{vm.Answer{OK: true, Who: "a"}, matrix.Expectation{OK: true, Who: "a"}, true},
		{vm.Answer{OK: true, Who: "b"}, matrix.Expectation{OK: true, Who: "a"}, false}, // another tenant's
		{vm.Answer{OK: true, Who: "a"}, matrix.Expectation{}, false},
		{vm.Answer{}, matrix.Expectation{OK: true, Who: "a"}, false},
	} {
		assert.Equal(t, tt.want, matrix.Cell{Seen: tt.seen, Model: tt.model}.Agrees(), "%+v", tt)
	}
}

// A disagreement is marked in the table and explained below it.
func TestReportMarksMismatch(t *testing.T) {
	r, err := matrix.Expected(read(t, "../../topologies/lan.yaml"))
	require.NoError(t, err)
	for _, c := range r.Cells {
		if !c.Agrees() {
			r.Mismatches = append(r.Mismatches, c)
		}
	}
	text := r.String()
	assert.Contains(t, text, "·!")
	assert.Contains(t, text, "seen no answer, the model says an answer of b: ")
}

func TestExplain(t *testing.T) {
	c := read(t, "../../cloud/topology.yaml")
	m, err := matrix.NewModel(c)
	require.NoError(t, err)
	e, err := m.Explain("world", "203.0.113.101", vm.Probe{Proto: "tcp", Port: 80})
	require.NoError(t, err)
	for _, s := range []string{"floating IP fip-web1", "web1-port", "red-web", "the answer of web1 comes back"} {
		assert.Contains(t, e.String(), s)
	}
	e, err = m.Explain("web1", "db1", vm.Probe{Proto: "tcp", Port: 22})
	require.NoError(t, err)
	assert.Contains(t, e.String(), "dropped")
	_, err = m.Explain("nobody", "web1", vm.Probe{Proto: "icmp"})
	assert.Error(t, err)
	_, err = m.Explain("web1", "nobody", vm.Probe{Proto: "icmp"})
	assert.Error(t, err)

	js := m.Judges("web1", vm.Probe{Proto: "tcp", Dst: netip.MustParseAddr("10.0.0.20"), Port: 22})
	require.Len(t, js, 2, "the sender's rules and, though it is dropped there, the receiver's")
	assert.Equal(t, matrix.Judge{PortID: "db1-red", Host: "h2", Packet: secgroup.Packet{Direction: secgroup.Ingress, Remote: netip.MustParseAddr("10.0.0.11"), Protocol: 6, Selector: 22}}, js[1])
}
