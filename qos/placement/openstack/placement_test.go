package openstack_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/qos/placement"
	"github.com/vnet-go/vnet/qos/placement/openstack"
	"github.com/vnet-go/vnet/qos/placement/placementtest"
)

// serve is OpenStack's own service (Debian's python3-placement), on a port of the
// loopback device that it tells.
const serve = `
import sys
from wsgiref.simple_server import make_server, WSGIRequestHandler
from placement import wsgi
class Quiet(WSGIRequestHandler):
    def log_message(self, *a): pass
s = make_server('127.0.0.1', 0, wsgi.init_application(), handler_class=Quiet)
print('PORT', s.server_port, flush=True)
s.serve_forever()
`

// service starts a Placement that ends with the test, and returns its address.
func service(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("integration test left out by -short")
	}
	const python = "/usr/bin/python3"
	if out, err := exec.Command(python, "-c", "import placement").CombinedOutput(); err != nil {
		t.Fatalf("python3-placement is not installed (make deps installs it): %v %s", err, out)
	}
	dir := t.TempDir()
	conf := "[api]\nauth_strategy = noauth2\n[placement_database]\nconnection = sqlite:///" + filepath.Join(dir, "db") + "\nsync_on_startup = true\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "placement.conf"), []byte(conf), 0o600))
	cmd := exec.Command(python, "-W", "ignore", "-c", serve)
	cmd.Env = append(os.Environ(), "OS_PLACEMENT_CONFIG_DIR="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var errs strings.Builder
	cmd.Stderr = &errs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(errs.String())
		}
	})
	port := make(chan string, 1)
	go func() {
		s := bufio.NewScanner(out)
		for s.Scan() { // its log, to the end
			if p, ok := strings.CutPrefix(s.Text(), "PORT "); ok {
				port <- p
			}
		}
		close(port)
	}()
	select {
	case p := <-port:
		require.NotEmpty(t, p, "Placement has ended: %s", &errs)
		return "http://127.0.0.1:" + p
	case <-time.After(lab.Patience(60 * time.Second)):
		t.Fatal("Placement does not start")
		return ""
	}
}

func token(context.Context, bool) (string, error) { return "admin", nil }

func store(t testing.TB, endpoint string) *openstack.Store {
	t.Helper()
	s, err := openstack.New(&openstack.Options{Endpoint: endpoint, Token: token, ProjectID: "p", UserID: "u"})
	require.NoError(t, err)
	return s
}

// get is a request of the test's own.
func request(t testing.TB, method, url string, out any) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	require.NoError(t, err)
	r.Header.Set("X-Auth-Token", "admin")
	r.Header.Set("OpenStack-API-Version", "placement 1.37")
	a, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	require.NoError(t, err)
	require.Less(t, a.StatusCode, 300, "%s %s: %s", method, url, b)
	if out != nil {
		require.NoError(t, json.Unmarshal(b, out))
	}
}

// empty takes everything away from a service.
func empty(t testing.TB, endpoint string) {
	t.Helper()
	var list struct {
		Providers []struct {
			UUID   string  `json:"uuid"`
			Parent *string `json:"parent_provider_uuid"`
		} `json:"resource_providers"`
	}
	for {
		request(t, "GET", endpoint+"/resource_providers", &list)
		if len(list.Providers) == 0 {
			return
		}
		above := map[string]bool{}
		for _, p := range list.Providers {
			var a struct {
				Allocations map[string]any `json:"allocations"`
			}
			request(t, "GET", endpoint+"/resource_providers/"+p.UUID+"/allocations", &a)
			for c := range a.Allocations {
				request(t, "DELETE", endpoint+"/allocations/"+c, nil)
			}
			if p.Parent != nil {
				above[*p.Parent] = true
			}
		}
		for _, p := range list.Providers {
			if !above[p.UUID] {
				request(t, "DELETE", endpoint+"/resource_providers/"+p.UUID, nil)
			}
		}
	}
}

// The suite of all stores, with OpenStack's own service.
func TestConformance(t *testing.T) {
	endpoint := service(t)
	placementtest.Run(t, placementtest.Harness{Draws: 1, Workers: 2, Make: func(t testing.TB) placement.Store {
		empty(t, endpoint)
		return named{store(t, endpoint), &sync.Mutex{}, map[string]string{}}
	}})
}

// What Neutron makes of a host and a port fits as it is.
func TestNeutron(t *testing.T) {
	endpoint := service(t)
	l, err := placement.New(store(t, endpoint), nil)
	require.NoError(t, err)
	ctx := t.Context()
	const host = "5c0b7f7e-0000-4000-8000-000000000001"
	tree, err := placement.HostProviders(placement.Host{ID: host, Name: "compute1", Kind: placement.AgentOVS, Kpps: 1000,
		Devices: []placement.Device{{Name: "br-physnet1", PhysicalNetwork: "physnet1", EgressKbps: 10_000_000, IngressKbps: 10_000_000}, {EgressKbps: 5_000_000, IngressKbps: 5_000_000}}})
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, l.EnsureProviders(ctx, false, tree...))
	}
	port := placement.Port{ID: "1a2b3c4d-0000-4000-8000-00000000000a", PhysicalNetwork: "physnet1", EgressKbps: 6_000_000, IngressKbps: 1_000_000, Kpps: 600}
	r, ok, err := placement.PortRequest(port)
	require.NoError(t, err)
	require.True(t, ok)
	c, err := l.Claim(ctx, port.ID, r)
	require.NoError(t, err)
	require.Equal(t, host, c.Host)
	require.InDelta(t, 0.6, c.Load, 1e-9)
	require.Len(t, c.Providers, 2)
	a, err := l.Allocation(ctx, port.ID)
	require.NoError(t, err)
	require.Equal(t, c.Parts(r), a.Parts)
	second := "1a2b3c4d-0000-4000-8000-00000000000b"
	_, err = l.Claim(ctx, second, r)
	require.Error(t, err)
	var raw struct {
		Allocations map[string]struct {
			Resources map[string]int `json:"resources"`
		} `json:"allocations"`
		Project string `json:"project_id"`
	}
	request(t, "GET", fmt.Sprintf("%s/allocations/%s", endpoint, port.ID), &raw)
	require.Equal(t, "p", raw.Project)
	require.Len(t, raw.Allocations, 2)
}
