package vm

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tree answers as a metadata server does; absent paths are 404.
func tree(paths map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, ok := paths[r.Method+" "+r.URL.Path]; ok {
			w.Write([]byte(s))
			return
		}
		http.NotFound(w, r)
	})
}

func TestFetchAll(t *testing.T) {
	srv := httptest.NewServer(tree(map[string]string{
		"GET /openstack": "latest",
		"GET /openstack/latest/meta_data.json": `{"uuid": "u-1", "name": "web", "hostname": "web.example.org", "project_id": "red",
			"meta": {"role": "web"}, "keys": [{"name": "alice", "type": "ssh", "data": "ssh-ed25519 AAAA alice@example.org\n"}]}`,
		"GET /openstack/latest/user_data":         "#cloud-config\n",
		"GET /openstack/latest/network_data.json": `{"links": [], "networks": [{}, {}], "services": []}`,
		"PUT /latest/api/token":                   "token",
		"GET /latest/meta-data/instance-id":       "i-00000001",
		"GET /latest/meta-data/local-ipv4":        "10.0.0.5",
	}))
	defer srv.Close()
	dir := t.TempDir()
	c := &client{http: srv.Client(), base: srv.URL}
	md, err := c.all(context.Background(), dir)
	require.NoError(t, err)
	assert.Equal(t, &Metadata{URL: srv.URL, UUID: "u-1", Name: "web", Hostname: "web.example.org", Project: "red", Keys: []string{"alice"},
		Meta: map[string]string{"role": "web"}, UserData: 14, Networks: 2, InstanceID: "i-00000001", LocalIPv4: "10.0.0.5", Token: true}, md)
	keys, err := os.ReadFile(filepath.Join(dir, "authorized_keys"))
	require.NoError(t, err)
	assert.Equal(t, "ssh-ed25519 AAAA alice@example.org\n", string(keys))
	meta, err := os.ReadFile(filepath.Join(dir, "meta_data.json"))
	require.NoError(t, err)
	assert.Contains(t, string(meta), "web.example.org")
}

// A server that is not ready is asked again: it is an error, not an empty answer.
func TestFetchNotReady(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer srv.Close()
	c := &client{http: srv.Client(), base: srv.URL}
	_, err := c.all(context.Background(), t.TempDir())
	assert.ErrorContains(t, err, "503")
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestGratuitousARP(t *testing.T) {
	b := gratuitousARP(net.HardwareAddr{2, 0, 0, 0, 0, 1}, mustAddr("192.0.2.1"))
	require.Len(t, b, 42)
	assert.Equal(t, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, b[:22])
	assert.Equal(t, b[28:32], b[38:42])
}
