package topology

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is one mistake in a topology file.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Field  string `json:"field"` // path, as "networks[0].subnets[1].cidr"
	Reason string `json:"reason"`
}

func (p Problem) Error() string {
	if p.Field == "" {
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Reason)
	}
	return fmt.Sprintf("%s:%d: %s: %s", p.File, p.Line, p.Field, p.Reason)
}

// Problems is all that is wrong with a file, in the order of its lines.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes each problem visible to [errors.As].
func (p Problems) Unwrap() []error {
	out := make([]error, len(p))
	for i, x := range p {
		out[i] = x
	}
	return out
}

// decoder fills structs from YAML nodes and remembers where each field stood.
type decoder struct {
	file     string
	pos      map[string]int // field path -> line
	problems Problems
}

var yamlLine = regexp.MustCompile(`line (\d+): (.*)`)

// document decodes one YAML document into v, a pointer to a struct.
func (d *decoder) document(text []byte, v any) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		line, reason := 1, strings.TrimPrefix(err.Error(), "yaml: ")
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			line, _ = strconv.Atoi(m[1])
			reason = m[2]
		}
		d.problems = append(d.problems, Problem{d.file, line, "", "not YAML: " + reason})
		return
	}
	if len(root.Content) == 0 {
		d.problems = append(d.problems, Problem{d.file, 1, "", "is empty"})
		return
	}
	d.pos[""] = root.Content[0].Line
	d.value(root.Content[0], reflect.ValueOf(v).Elem(), "")
}

// bad reports a mistake at the field, or at the nearest field around it that stands in the file.
func (d *decoder) bad(path, format string, args ...any) {
	p := Problem{File: d.file, Line: d.line(path), Field: path, Reason: fmt.Sprintf(format, args...)}
	if !slices.Contains(d.problems, p) {
		d.problems = append(d.problems, p)
	}
}

func (d *decoder) line(path string) int {
	for {
		if n, ok := d.pos[path]; ok {
			return n
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return d.pos[""]
		}
		path = path[:i]
	}
}

// key is the field name of f in the file; required is whether it must be there.
func key(f reflect.StructField) (name string, required bool) {
	name, rest, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name, rest == "required"
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// words names what kinds of YAML node are, for people.
var words = map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	null := n.Kind == yaml.ScalarNode && n.Tag == "!!null"
	t := v.Type()
	switch {
	case t == reflect.TypeFor[OptionalAddr]():
		o := OptionalAddr{Set: true}
		if !null {
			a, err := netip.ParseAddr(n.Value)
			if err != nil || n.Kind != yaml.ScalarNode {
				d.bad(path, "%q is not an IP address or null", n.Value)
				return
			}
			o.Addr = a.Unmap()
		}
		v.Set(reflect.ValueOf(o))
	case null && (t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Pointer):
		// An empty value is an empty list.
	case null:
		d.bad(path, "has no value")
	case t.Kind() == reflect.Pointer && !t.Implements(textUnmarshaler):
		p := reflect.New(t.Elem())
		d.value(n, p.Elem(), path)
		v.Set(p)
	case reflect.PointerTo(t).Implements(textUnmarshaler):
		if n.Kind != yaml.ScalarNode {
			d.bad(path, "must be a single value, not %s", words[n.Kind])
			return
		}
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
			d.bad(path, "%q is not %s", n.Value, typeWord(t))
		}
	case t.Kind() == reflect.Struct:
		d.object(n, v, path)
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.bad(path, "must be a list, not %s", words[n.Kind])
			return
		}
		s := reflect.MakeSlice(t, len(n.Content), len(n.Content))
		for i, c := range n.Content {
			p := fmt.Sprintf("%s[%d]", path, i)
			d.pos[p] = c.Line
			d.value(c, s.Index(i), p)
		}
		v.Set(s)
	case t.Kind() == reflect.Map:
		if n.Kind != yaml.MappingNode {
			d.bad(path, "must be a mapping, not %s", words[n.Kind])
			return
		}
		m := reflect.MakeMap(t)
		for i := 0; i+1 < len(n.Content); i += 2 {
			p := join(path, n.Content[i].Value)
			d.pos[p] = n.Content[i].Line
			e := reflect.New(t.Elem()).Elem()
			d.value(n.Content[i+1], e, p)
			m.SetMapIndex(reflect.ValueOf(n.Content[i].Value), e)
		}
		v.Set(m)
	case n.Kind != yaml.ScalarNode:
		d.bad(path, "must be a single value, not %s", words[n.Kind])
	case t.Kind() == reflect.String:
		v.SetString(n.Value) // numbers too: a protocol is a name or a number
	case t.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if err != nil || n.Tag != "!!bool" {
			d.bad(path, "%q is not true or false", n.Value)
			return
		}
		v.SetBool(b)
	case t.Kind() == reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if err != nil {
			d.bad(path, "%q is not a number", n.Value)
			return
		}
		v.SetInt(int64(i))
	case t.Kind() >= reflect.Uint8 && t.Kind() <= reflect.Uint32:
		u, err := strconv.ParseUint(n.Value, 10, t.Bits())
		if err != nil {
			d.bad(path, "%q is not a number from 0 to %d", n.Value, uint64(1)<<t.Bits()-1)
			return
		}
		v.SetUint(u)
	case t.Kind() == reflect.Float64:
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			d.bad(path, "%q is not a number", n.Value)
			return
		}
		v.SetFloat(f)
	default:
		panic("topology: no decoder for " + t.String())
	}
}

func (d *decoder) object(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.bad(path, "must be a mapping, not %s", words[n.Kind])
		return
	}
	fields := map[string]reflect.StructField{}
	for f := range fieldsOf(v.Type()) {
		name, _ := key(f)
		fields[name] = f
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		p := join(path, k.Value)
		d.pos[p] = k.Line
		if line, twice := seen[k.Value]; twice {
			d.bad(p, "is given twice, first on line %d", line)
			continue
		}
		seen[k.Value] = k.Line
		f, ok := fields[k.Value]
		if !ok {
			reason := "unknown field"
			if near := nearest(k.Value, fields); near != "" {
				reason += fmt.Sprintf(", did you mean %q?", near)
			}
			d.bad(p, "%s", reason)
			continue
		}
		fv := v.FieldByIndex(f.Index)
		d.value(c, fv, p)
		if enum := f.Tag.Get("enum"); enum != "" && fv.Kind() == reflect.String && fv.String() != "" {
			if vals := strings.Split(enum, ","); !slices.Contains(vals, fv.String()) {
				d.bad(p, "%q is not one of %s", fv.String(), strings.Join(vals, ", "))
				fv.SetString("") // checked no further
			}
		}
	}
	for name, f := range fields {
		if _, required := key(f); required && seen[name] == 0 {
			d.problems = append(d.problems, Problem{d.file, n.Line, join(path, name), "is missing"})
		}
	}
}

// fieldsOf yields the fields of a struct type that stand in the file.
func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("yaml") != "" && !yield(f) {
				return
			}
		}
	}
}

// nearest is the known field that a misspelt one probably meant.
func nearest(s string, fields map[string]reflect.StructField) string {
	best, dist := "", max(2, len(s)/3)+1
	for name := range fields {
		if n := distance(s, name); n < dist || n == dist && best != "" && name < best {
			best, dist = name, n
		}
	}
	return best
}

// distance is the number of single-letter edits between two words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost = 1 + min(prev, row[j], row[j+1])
			}
			prev, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

func typeWord(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[netip.Addr]():
		return "an IP address"
	case reflect.TypeFor[netip.Prefix]():
		return "a prefix in CIDR form"
	case reflect.TypeFor[AddrOrPrefix]():
		return "an IP address or prefix"
	}
	return "a MAC address"
}

// OptionalAddr is an address that may be left out (a default is taken) or null (there is none).
type OptionalAddr struct {
	Set  bool
	Addr netip.Addr
}

// AddrOrPrefix is an address, meaning that one alone, or a prefix.
type AddrOrPrefix struct{ netip.Prefix }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *AddrOrPrefix) UnmarshalText(b []byte) error {
	if a, err := netip.ParseAddr(string(b)); err == nil {
		a = a.Unmap()
		p.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	x, err := netip.ParsePrefix(string(b))
	if err != nil {
		return errors.New("neither address nor prefix")
	}
	p.Prefix = x
	return nil
}
