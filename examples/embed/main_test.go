package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
)

// The program in a namespace of its own makes two machines that may ping each
// other, and nothing else; run again, it changes nothing.
func TestEmbed(t *testing.T) {
	l := lab.New(t)
	host, vm1, vm2 := l.NS("host"), l.NS("vm1"), l.NS("vm2")
	bin := filepath.Join(t.TempDir(), "embed")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	for range 2 {
		text, err := host.Exec(context.Background(), bin, vm1.Path, vm2.Path)
		require.NoError(t, err)
		assert.Equal(t, 2, strings.Count(text, "\n"))
	}
	vm1.Configure("eth0", []string{"192.0.2.1/24"})
	vm2.Configure("eth0", []string{"192.0.2.2/24"})
	_, err = vm1.Exec(context.Background(), "ping", "-c", "1", "-W", "2", "192.0.2.2")
	assert.NoError(t, err)
	// Another's address is not sent from.
	vm1.Addr("eth0", "192.0.2.9/24")
	_, err = vm1.Exec(context.Background(), "ping", "-c", "1", "-W", "1", "-I", "192.0.2.9", "192.0.2.2")
	assert.Error(t, err)
}
