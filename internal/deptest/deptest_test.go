package deptest

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/vnet-go/vnet"

// contracts are the packages that applications import for what they want.
var contracts = []string{"overlay", "router", "dhcp", "metadata", "secgroup", "qos", "sriov", "dpdk"}

// handles are the platforms.
var handles = []string{"linux", "ovn", "ovs"}

// pkg is what `go list` says of a package.
type pkg struct {
	Dir, ImportPath           string
	Standard                  bool
	GoFiles                   []string
	Imports                   []string
	TestImports, XTestImports []string
	Deps                      []string
	Module                    *struct{ Path string }
	Incomplete                bool
	DepsErrors                []*struct{ Err string }
	TestGoFiles, XTestGoFiles []string
}

// short is the path within the module; "" for the root.
func (p pkg) short() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

var load = sync.OnceValues(func() ([]pkg, error) {
	out, err := exec.Command("go", "list", "-deps", "-json", module+"/...").Output()
	if err != nil {
		return nil, err
	}
	var all []pkg
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
})

// ours are the packages of the module, and all the packages by path.
func ours(t *testing.T) ([]pkg, map[string]pkg) {
	t.Helper()
	all, err := load()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	by := map[string]pkg{}
	var mine []pkg
	for _, p := range all {
		by[p.ImportPath] = p
		if p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/") {
			mine = append(mine, p)
		}
	}
	if len(mine) < 10 {
		t.Fatalf("only %d packages found", len(mine))
	}
	return mine, by
}

// rel is an import as the path within the module, or "" for others.
func rel(imp string) string {
	if imp == module {
		return "."
	}
	if s, ok := strings.CutPrefix(imp, module+"/"); ok {
		return s
	}
	return ""
}

// within reports whether path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// backend splits "router/linuxrouter" into contract and backend.
func backend(short string) (contract string, ok bool) {
	c, rest, found := strings.Cut(short, "/")
	if !found || !slices.Contains(contracts, c) {
		return "", false
	}
	name, _, _ := strings.Cut(rest, "/")
	for _, prefix := range []string{"linux", "nft", "ovs", "ovn", "mem", "tc"} {
		if strings.HasPrefix(name, prefix) && strings.HasSuffix(name, c) {
			return c, true
		}
	}
	return "", false
}

func isBackend(short string) bool { _, ok := backend(short); return ok }

func testPackage(short string) bool {
	for _, part := range strings.Split(short, "/") {
		if strings.HasSuffix(part, "test") || part == "lab" || part == "whole" {
			return true
		}
	}
	return false
}

func TestContractsAreLight(t *testing.T) {
	mine, by := ours(t)
	for _, p := range mine {
		if !slices.Contains(contracts, p.short()) {
			continue
		}
		for _, d := range p.Deps {
			r := rel(d)
			switch {
			case by[d].Standard, r == ".", r == "overlay", within(r, p.short()) && strings.Contains(r, "/internal/"):
			default:
				t.Errorf("contract %s depends on %s", p.short(), d)
			}
		}
	}
}

func TestBackendsStandAlone(t *testing.T) {
	mine, by := ours(t)
	for _, p := range mine {
		c, ok := backend(p.short())
		if !ok {
			continue
		}
		// What the contract imports, its backends may.
		allowed := append([]string{module, module + "/" + c}, by[module+"/"+c].Imports...)
		var hands []string
		for _, i := range p.Imports {
			r := rel(i)
			switch {
			case r == "" || slices.Contains(allowed, i) || within(r, "internal") || within(r, c+"/internal"):
				if within(r, "internal/lab") || r == "internal/reach" {
					t.Errorf("backend %s imports %s, which is for tests", p.short(), r)
				}
			case slices.Contains(handles, r):
				hands = append(hands, r)
			case within(r, c) && !isBackend(r): // what a contract's backends share: dhcp/dhcpwire
			case within(r, p.short()):
			default:
				t.Errorf("backend %s imports %s", p.short(), i)
			}
		}
		if p.short() == "metadata/ovnmetadata" || p.short() == "metadata/ovsmetadata" { // these make a namespace on the host, and rules in it
			hands = slices.DeleteFunc(hands, func(h string) bool { return h == "linux" })
		}
		if len(hands) > 1 {
			t.Errorf("backend %s has several handles: %v", p.short(), hands)
		}
		if strings.Contains(p.short(), "/mem") && len(hands) > 0 {
			t.Errorf("in-memory backend %s imports %v", p.short(), hands)
		}
	}
}

func TestHandlesKnowNoContract(t *testing.T) {
	mine, _ := ours(t)
	for _, p := range mine {
		if !slices.Contains(handles, p.short()) {
			continue
		}
		for _, d := range p.Deps {
			if r := rel(d); r != "" && r != "." && !within(r, "internal") {
				t.Errorf("handle %s depends on %s", p.short(), r)
			}
		}
	}
}

func TestInternalsKnowNoBackend(t *testing.T) {
	mine, _ := ours(t)
	for _, p := range mine {
		if !within(p.short(), "internal") {
			continue
		}
		for _, d := range p.Deps {
			r := rel(d)
			if _, is := backend(r); is || slices.Contains(handles, r) {
				t.Errorf("%s depends on %s", p.short(), r)
			}
			if p.short() != "internal/reach" && p.short() != "internal/whole" && slices.Contains(contracts, r) {
				t.Errorf("%s depends on the contract %s; only the judge and the suite of whole clouds do", p.short(), r)
			}
		}
		// Nor do the judge's tests: it is written from the contract.
		if p.short() == "internal/reach" {
			for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
				if _, is := backend(rel(i)); is {
					t.Errorf("tests of %s import %s", p.short(), i)
				}
			}
		}
	}
}

func TestOneImporter(t *testing.T) {
	mine, _ := ours(t)
	only := map[string][]string{
		"github.com/vishvananda/netlink":     {"internal/rtnl"},
		"github.com/vishvananda/netns":       {"internal/netns"},
		"github.com/google/nftables":         {"internal/nft"},
		"github.com/mdlayher/packet":         {"internal/pktio"},
		"github.com/insomniacslk/dhcp":       {"dhcp/dhcpwire", "dhcp/dhcptest"},
		"github.com/ovn-kubernetes/libovsdb": {"internal/ovsdb", "internal/nbrow", "internal/sbrow", "internal/vswitchrow"},
	}
	// Its client, with what it brings, is not used: see internal/ovsdb.
	never := []string{"github.com/ovn-org/libovsdb", "github.com/ovn-kubernetes/libovsdb/client"}
	for _, p := range mine {
		for _, i := range p.Imports {
			for lib, who := range only {
				if within(i, lib) && !slices.Contains(who, p.short()) && p.short() != "internal" {
					t.Errorf("%s imports %s, which is for %v", p.short(), i, who)
				}
			}
			for _, lib := range never {
				if within(i, lib) {
					t.Errorf("%s imports %s", p.short(), i)
				}
			}
		}
	}
}

func TestTestingStaysInTests(t *testing.T) {
	mine, _ := ours(t)
	for _, p := range mine {
		if testPackage(p.short()) || p.short() == "internal" {
			continue
		}
		for _, i := range p.Imports {
			r := rel(i)
			if within(i, "github.com/stretchr/testify") || within(i, "pgregory.net/rapid") || i == "testing" || i == "os/exec" ||
				r != "" && testPackage(r) && r != "internal/deptest" {
				t.Errorf("%s imports %s outside of its tests", p.short(), i)
			}
		}
	}
}

// TestNoInit looks for what makes two instances of us in one process share
// state: init functions, and package variables that are exported (but for
// errors), that change, or that hold locks.
func TestNoInit(t *testing.T) {
	mine, _ := ours(t)
	fset := token.NewFileSet()
	for _, p := range mine {
		if testPackage(p.short()) {
			continue
		}
		vars := map[string]token.Pos{}
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
			for _, d := range f.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Recv == nil && d.Name.Name == "init" {
						t.Errorf("%s: func init", fset.Position(d.Pos()))
					}
				case *ast.GenDecl:
					if d.Tok != token.VAR {
						continue
					}
					for _, s := range d.Specs {
						v := s.(*ast.ValueSpec)
						for _, n := range v.Names {
							if ast.IsExported(n.Name) && !strings.HasPrefix(n.Name, "Err") {
								t.Errorf("%s: exported variable %s", fset.Position(n.Pos()), n.Name)
							}
							if x, ok := v.Type.(*ast.SelectorExpr); ok {
								if pkg, ok := x.X.(*ast.Ident); ok && (pkg.Name == "sync" || pkg.Name == "atomic") {
									t.Errorf("%s: package variable %s is a %s.%s", fset.Position(n.Pos()), n.Name, pkg.Name, x.Sel.Name)
								}
							}
							if n.Name != "_" {
								vars[n.Name] = n.Pos()
							}
						}
					}
				}
			}
		}
		for _, name := range changed(files, vars) {
			t.Errorf("%s: package variable %s changes", fset.Position(vars[name]), name)
		}
	}
}

// changed returns those names that are assigned to and not declared by a local
// variable of the same function.
func changed(files []*ast.File, names map[string]token.Pos) []string {
	var out []string
	root := func(e ast.Expr) string {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.Ident:
				return x.Name
			default:
				return ""
			}
		}
	}
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			local := map[string]bool{}
			for _, l := range []*ast.FieldList{fn.Recv, fn.Type.Params, fn.Type.Results} {
				if l == nil {
					continue
				}
				for _, field := range l.List {
					for _, n := range field.Names {
						local[n.Name] = true
					}
				}
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				switch x := n.(type) {
				case *ast.ValueSpec:
					for _, n := range x.Names {
						local[n.Name] = true
					}
				case *ast.Field:
					for _, n := range x.Names {
						local[n.Name] = true
					}
				case *ast.RangeStmt:
					local[root(x.Key)], local[root(x.Value)] = true, true
				case *ast.AssignStmt:
					for _, l := range x.Lhs {
						name := root(l)
						if x.Tok == token.DEFINE {
							local[name] = true
						} else if _, is := names[name]; is && !local[name] {
							out = append(out, name)
						}
					}
				case *ast.IncDecStmt:
					if _, is := names[root(x.X)]; is && !local[root(x.X)] {
						out = append(out, root(x.X))
					}
				}
				return true
			})
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestDocumented insists on a package comment that says more than the name.
func TestDocumented(t *testing.T) {
	mine, _ := ours(t)
	fset := token.NewFileSet()
	for _, p := range mine {
		if len(p.GoFiles) == 0 || p.short() == "internal" {
			continue
		}
		longest := 0
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				longest = max(longest, len(f.Doc.Text()))
			}
		}
		if longest < 60 {
			t.Errorf("%s has no package comment to speak of", p.ImportPath)
		}
	}
}
