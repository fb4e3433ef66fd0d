package vm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What each client tells its script means the same.
func TestFromEnv(t *testing.T) {
	routes := map[string]map[string]string{
		"udhcpc": {"ip": "10.0.0.5", "mask": "24", "router": "10.0.0.1", "dns": "192.0.2.1 192.0.2.2", "mtu": "1450", "lease": "3600", "serverid": "10.0.0.2",
			"hostname": "web", "search": "a.example.org b.example.org", "staticroutes": "10.9.0.0/16 10.0.0.1 0.0.0.0/0 10.0.0.1"},
		"dhclient": {"new_ip_address": "10.0.0.5", "new_subnet_mask": "255.255.255.0", "new_routers": "10.0.0.1", "new_domain_name_servers": "192.0.2.1 192.0.2.2",
			"new_interface_mtu": "1450", "new_dhcp_lease_time": "3600", "new_dhcp_server_identifier": "10.0.0.2", "new_host_name": "web",
			"new_domain_search": "a.example.org b.example.org", "new_classless_routes": "16 10 9 10 0 0 1 0 10 0 0 1"},
		"dhcpcd": {"new_ip_address": "10.0.0.5", "new_subnet_cidr": "24", "new_routers": "10.0.0.1", "new_domain_name_servers": "192.0.2.1 192.0.2.2",
			"new_interface_mtu": "1450", "new_dhcp_lease_time": "3600", "new_dhcp_server_identifier": "10.0.0.2", "new_host_name": "web",
			"new_domain_search": "a.example.org b.example.org", "new_classless_static_routes": "10.9.0.0/16 10.0.0.1 0.0.0.0/0 10.0.0.1"},
	}
	for client, env := range routes {
		o, err := fromEnv(client, env)
		require.NoError(t, err, client)
		assert.Equal(t, "10.0.0.5/24", o.address.String(), client)
		assert.Equal(t, "10.0.0.2", o.server, client)
		assert.Equal(t, 1450, o.mtu, client)
		assert.Equal(t, 3600, o.seconds, client)
		assert.Equal(t, "web", o.host, client)
		assert.Equal(t, []string{"a.example.org", "b.example.org"}, o.search, client)
		assert.Len(t, o.dns, 2, client)
		require.Len(t, o.routes, 2, client)
		assert.Equal(t, "10.9.0.0/16", o.routes[0].dst.String(), client)
		assert.Equal(t, "0.0.0.0/0", o.routes[1].dst.String(), client)
		assert.Equal(t, client == "dhcpcd", o.applied)
	}
	_, err := fromEnv("udhcpc", map[string]string{})
	assert.ErrorContains(t, err, "no address")
	_, err = fromEnv("dhclient", map[string]string{"new_ip_address": "10.0.0.5"})
	assert.ErrorContains(t, err, "no mask")
}

func TestHook(t *testing.T) {
	file := filepath.Join(t.TempDir(), "told")
	t.Setenv("ip", "10.0.0.5")
	require.NoError(t, Hook(file, []string{"deconfig"}))
	_, err := os.Stat(file)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, Hook(file, []string{"bound"}))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var env map[string]string
	require.NoError(t, json.Unmarshal(b, &env))
	assert.Equal(t, "10.0.0.5", env["ip"])
}
