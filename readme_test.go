package vnet_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The program in the README is the one in examples/embed.
func TestReadmeShowsEmbed(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	embed, err := os.ReadFile("examples/embed/main.go")
	require.NoError(t, err)
	_, code, ok := strings.Cut(string(readme), "```go\n")
	require.True(t, ok)
	code, _, ok = strings.Cut(code, "```")
	require.True(t, ok)
	require.Contains(t, string(embed), strings.TrimSpace(code), "run the README's program through examples/embed")
}
