package ovn

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// page renders Columns as doc.go has it.
func page() string {
	var b strings.Builder
	last := ""
	for _, r := range Columns() {
		of := "own"
		if r.Of != "" {
			of = "of " + string(r.Of)
		}
		head := fmt.Sprintf("%-9s %-28s %-11s", r.Part, r.Table, of)
		if string(r.Part) != last && last != "" {
			b.WriteString("//\n")
		}
		last = string(r.Part)
		line := head
		for _, c := range r.Columns {
			if len(line)+len(c) > 130 {
				b.WriteString("//\t" + strings.TrimRight(line, " ") + "\n")
				line = strings.Repeat(" ", len(head))
			}
			line += " " + c
		}
		b.WriteString("//\t" + strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

func TestPage(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	if os.Getenv("UPDATE") != "" {
		before, rest, _ := strings.Cut(string(doc), "// one and looked at as a whole only in new rows.\n//\n")
		_, after, _ := strings.Cut(rest, "// The handle itself")
		require.NoError(t, os.WriteFile("doc.go", []byte(before+"// one and looked at as a whole only in new rows.\n//\n"+page()+"//\n// The handle itself"+after), 0o644))
		return
	}
	require.Contains(t, string(doc), page(), "doc.go is older than Columns: UPDATE=1 go test -run TestPage ./ovn")
}
