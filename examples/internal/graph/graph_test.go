package graph_test

import (
	"encoding/xml"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/examples/internal/graph"
	"github.com/vnet-go/vnet/examples/internal/matrix"
	"github.com/vnet-go/vnet/examples/internal/topology"
)

var update = flag.Bool("update", false, "write what was got as what is wanted")

func files(t *testing.T) []string {
	more, err := filepath.Glob("../../topologies/*.yaml")
	require.NoError(t, err)
	return append(more, "../../cloud/topology.yaml")
}

func read(t *testing.T, path string) (*topology.Cloud, *matrix.Report) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	c, err := topology.Parse(filepath.Base(path), text, topology.Linux)
	require.NoError(t, err)
	r, err := matrix.Expected(c)
	require.NoError(t, err)
	return c, r
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run go test with -update when the change is meant")
}

func TestGolden(t *testing.T) {
	for _, path := range files(t) {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			c, r := read(t, path)
			golden(t, filepath.Join("testdata", name+".svg"), graph.SVG(c, r))
			golden(t, filepath.Join("testdata", name+".mmd"), graph.Mermaid(c, r))
		})
	}
}

// The SVG is XML that names everything, with nothing outside its frame.
func TestSVG(t *testing.T) {
	for _, path := range files(t) {
		c, r := read(t, path)
		svg := graph.SVG(c, r)
		var w, h float64
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			tok, err := d.Token()
			if err == io.EOF {
				break
			}
			require.NoError(t, err, path)
			e, ok := tok.(xml.StartElement)
			if !ok {
				continue
			}
			at := map[string]string{}
			for _, a := range e.Attr {
				at[a.Name.Local] = a.Value
			}
			if e.Name.Local == "svg" {
				w, h = number(t, at["width"]), number(t, at["height"])
			}
			if e.Name.Local == "rect" && at["width"] != "100%" {
				assert.LessOrEqual(t, number(t, at["x"])+number(t, at["width"]), w, path)
				assert.LessOrEqual(t, number(t, at["y"])+number(t, at["height"]), h, path)
			}
		}
		for _, s := range names(c) {
			assert.Contains(t, svg, s, path)
		}
	}
}

func number(t *testing.T, s string) (f float64) {
	require.NoError(t, xml.Unmarshal([]byte("<x>"+s+"</x>"), &f))
	return f
}

func names(c *topology.Cloud) (out []string) {
	for _, h := range c.Hosts {
		out = append(out, h.Name)
	}
	for _, n := range c.All.Overlay.Networks {
		out = append(out, n.ID)
	}
	for _, r := range c.All.Router.Routers {
		out = append(out, r.ID)
	}
	for _, v := range c.VMs {
		out = append(out, v.Name)
		for _, n := range v.NICs {
			for _, a := range n.IPs {
				out = append(out, a.String())
			}
		}
	}
	for _, f := range c.All.Router.FloatingIPs {
		out = append(out, f.FloatingIP.String())
	}
	return out
}

// Each line of the Mermaid text is one its grammar knows, and every node that
// an edge names was made before.
func TestMermaid(t *testing.T) {
	node := regexp.MustCompile(`^(\w+)(\(\[".*"\]\)|\["[^"]*"\]|\{\{"[^"]*"\}\}|\[/"[^"]*"/\])$`)
	edge := regexp.MustCompile(`^(\w+)(?:\(\[".*"\]\))? (?:---(?: \|"[^"]*"\|)?|==>|-\. "[^"]*" \.->) (\w+)$`)
	group := regexp.MustCompile(`^(subgraph \w+\["[^"]*"\]|end|%% .*|flowchart LR)$`)
	for _, path := range files(t) {
		c, r := read(t, path)
		text := graph.Mermaid(c, r)
		made := map[string]bool{}
		for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
			l = strings.TrimSpace(l)
			if m := edge.FindStringSubmatch(l); m != nil {
				made[m[1]] = made[m[1]] || strings.HasPrefix(m[1], "fip_")
				assert.True(t, made[m[1]] && made[m[2]], "%s: %s", path, l)
			} else if m := node.FindStringSubmatch(l); m != nil {
				made[m[1]] = true
			} else {
				assert.Regexp(t, group, l, path)
			}
		}
		for _, s := range names(c) {
			assert.Contains(t, text, s, path)
		}
	}
}
