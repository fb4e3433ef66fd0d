package pipeline

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/vnet-go/vnet"
)

// TestMayFill compares what the parts may do with the page.
func TestMayFill(t *testing.T) {
	parts := []vnet.Part{"", vnet.PartHost, vnet.PartOverlay, vnet.PartSecGroup, vnet.PartRouter, vnet.PartDHCP, vnet.PartMetadata}
	for table := range 256 {
		var of vnet.Part
		for _, l := range Tables() {
			if uint8(table) >= l.First && uint8(table) <= l.Last {
				if of != "" {
					t.Errorf("table %d is twice on the page", table)
				}
				of = l.Part
			}
		}
		for _, p := range parts {
			want := p == vnet.PartHost || p != "" && p == of || table == Classify && p == vnet.PartMetadata
			if got := MayFill(p, uint8(table)); got != want {
				t.Errorf("table %d: MayFill(%q) = %t, the page says %t", table, p, got, want)
			}
		}
	}
}

// TestPage checks that what has a name is on the page, and that ranges do not meet.
func TestPage(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "pipeline.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, l := range slices.Concat(Registers(), Flags(), Numbers()) {
		named[l.Name] = true
	}
	tables := true // the first block
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			if !tables {
				if !named[v.Names[0].Name] {
					t.Errorf("%s is not on the page", v.Names[0])
				}
				continue
			}
			n, err := strconv.Atoi(v.Values[0].(*ast.BasicLit).Value)
			if err != nil || !slices.ContainsFunc(Tables(), func(l Table) bool { return int(l.First) <= n && n <= int(l.Last) }) {
				t.Errorf("table %s is not on the page: %v", v.Names[0], err)
			}
		}
		tables = false
	}
	first, _ := ZonesOfRouter(1)
	_, last := ZonesOfRouter(Routers)
	if ZoneOfNetwork(Networks) >= first || last >= ZoneOfPort(1) || int(ZoneOfPort(1))+Ports-1 > 0xffff {
		t.Error("zones meet")
	}
	if Ports >= VXLANPort || GenevePort >= PatchPort || PatchPort+Patches >= ProbePort || ProbePort >= 0xff00 {
		t.Error("OpenFlow ports meet")
	}
}
