package ovs

import (
	"flag"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
)

var update = flag.Bool("update", false, "write docs/pipeline.md and doc.go anew")

// rows are lines of a Markdown table, as wide as they need to be.
func rows(lines ...[]string) string {
	width := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, c := range l {
			width[i] = max(width[i], len(c))
		}
	}
	var b strings.Builder
	for n, l := range lines {
		for i, c := range l {
			fmt.Fprintf(&b, "| %-*s ", width[i], c)
		}
		b.WriteString("|\n")
		if n == 0 {
			for i := range l {
				b.WriteString("|" + strings.Repeat("-", width[i]+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

// span names the tables of a line.
func span(t pipeline.Table) string {
	if t.First == t.Last {
		return fmt.Sprint(t.First)
	}
	return fmt.Sprintf("%d-%d", t.First, t.Last)
}

// document is docs/pipeline.md, made of what the code uses.
func document() string {
	s := &Switch{owner: "OWNER", o: Options{Name: "HOST"}}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# The pipeline on Open vSwitch\n")
	p("One integration bridge of a host for an owner (package `ovs`), filled by the backends `overlay/ovsoverlay`, `secgroup/ovssecgroup`,")
	p("`router/ovsrouter`, `dhcp/ovsdhcp` and `metadata/ovsmetadata`. This page is made from `internal/pipeline` and `ovs` by their constants:")
	p("`go test ./ovs -run TestPage -update`.\n")
	p("## Tables\n")
	p("A part has flows in its own tables only; table %d is also filled by what takes packets in. A stage that nobody fills lets pass,", pipeline.Classify)
	p("unless the port wants filtering, which is closed until its filters stand.\n")
	lines := [][]string{{"table", "name", "part", "does", "what no flow of the part is about is"}}
	for _, t := range pipeline.Tables() {
		lines = append(lines, []string{span(t), t.Name, string(t.Part), t.Does, t.Base})
	}
	p("%s", rows(lines...))
	p("The handle's own flows, which make it so:\n\n```")
	for _, f := range baseFlows() {
		p("%s", f)
	}
	p("```\n")
	named := func(head string, ls []pipeline.Line) string {
		lines := [][]string{{head, "name", "is"}}
		for _, l := range ls {
			lines = append(lines, []string{l.At, l.Name, l.Does})
		}
		return rows(lines...)
	}
	p("## Registers and connections\n\n%s", named("where", pipeline.Registers()))
	p("## Flags\n\n%s", named("reg0", pipeline.Flags()))
	p("## Numbers, OpenFlow ports and conntrack zones\n")
	p("Numbers are unique among the owners of a switch, whose datapath has one set of zones; they go round, and connections of a zone are")
	p("forgotten before its number is free. They are pairs of the bridge's `external_ids`: `%s` is the number and the parts that use it.", numbered{"KIND", "ID"}.key())
	p("`%s` is another at each change: what a process guards that claims or frees.\n", keyVersion)
	p("%s", named("from-to", pipeline.Numbers()))
	p("## Cookies\n")
	p("All flows of an object have one cookie, computed from owner, part, kind and id; a flow in table %d with the same cookie is the record", pipeline.Registry)
	p("of what was asked for (a `note`: length, kind, id, bytes).\n")
	field := func(mask uint64) string {
		return fmt.Sprintf("%d-%d", bits.TrailingZeros64(mask), 63-bits.LeadingZeros64(mask))
	}
	p("%s", rows([]string{"bits", "mask", "are"},
		[]string{field(cookieOwner), fmt.Sprintf("%#016x", cookieOwner), "hash of the owner, odd"},
		[]string{field(cookiePart), fmt.Sprintf("%#016x", cookiePart), "the part, as below"},
		[]string{fmt.Sprint(bits.TrailingZeros64(cookieLearned)), fmt.Sprintf("%#016x", cookieLearned), "set in flows that the switch makes itself, for the object of the rest"},
		[]string{field(cookieLearned - 1), fmt.Sprintf("%#016x", cookieLearned-1), "hash of kind and id"}))
	lines = [][]string{{"part", "number", "cookies of owner `" + string(s.owner) + "`", "for example"}}
	var parts []vnet.Part
	for part := range partNumbers {
		parts = append(parts, part)
	}
	slices.SortFunc(parts, func(a, b vnet.Part) int { return int(partNumbers[a]) - int(partNumbers[b]) })
	for _, part := range parts {
		lines = append(lines, []string{string(part), fmt.Sprint(partNumbers[part]), fmt.Sprintf("`cookie=%#x/%#x`", s.partCookie(part), cookieOwner|cookiePart),
			fmt.Sprintf("KIND ID: `cookie=%#x/-1`", s.Cookie(part, "KIND", "ID"))})
	}
	p("%s", rows(lines...))
	p("## Rows\n")
	p("Every row of ours in the database says so in `external_ids`: `%s`, `%s`, `%s`, `%s`, and the kind of a device in `%s`. Its UUID", keyOwner, keyPart, keyKind, keyID, keyDevice)
	p("and the names of devices that we make are computed from them. A device on the host has the alias `%s`.", s.alias("PART", "DEVICE", "ID"))
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// short is the page's list of tables, for doc.go.
func short() string {
	var b strings.Builder
	for _, t := range pipeline.Tables() {
		b.WriteString(strings.TrimRight(fmt.Sprintf("//\t%-6s %-17s %-9s %s", span(t), t.Name, t.Part, t.Does), " ") + "\n")
	}
	return b.String()
}

// TestPage compares docs/pipeline.md and the package comment with the code.
// -update writes them.
func TestPage(t *testing.T) {
	const file = "../docs/pipeline.md"
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	const head, end = "// # Tables\n//\n", "//\n// Registers,"
	before, rest, ok := strings.Cut(string(doc), head)
	require.True(t, ok)
	_, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	want := before + head + short() + end + after
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(document()), 0o644))
		require.NoError(t, os.WriteFile("doc.go", []byte(want), 0o644))
		return
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, document(), string(have), "docs/pipeline.md is not what the code does: go test ./ovs -run TestPage -update")
	require.Equal(t, want, string(doc), "doc.go is not what the code does: go test ./ovs -run TestPage -update")
}

// TestBaseIsAsThePageSays compares the base flows with the page's last column.
func TestBaseIsAsThePageSays(t *testing.T) {
	base := map[uint8]of.Flow{}
	for _, f := range baseFlows() {
		if f.Priority == 0 {
			base[f.Table] = f
		}
	}
	for _, l := range pipeline.Tables() {
		f, has := base[l.First]
		next, passes := "", false
		if has {
			_, next, passes = strings.Cut(f.String(), "resubmit(,")
			next = strings.TrimSuffix(next, ")")
		}
		switch {
		case strings.Contains(l.Base, "to "):
			require.True(t, passes && strings.HasSuffix(l.Base, "to "+next), "table %d: %s: %s", l.First, l.Base, f)
		case l.Base == "delivered":
			require.True(t, has, l.First)
		default:
			require.False(t, has, "table %d: %s: %s", l.First, l.Base, f)
		}
	}
}
