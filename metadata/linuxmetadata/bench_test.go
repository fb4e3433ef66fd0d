package linuxmetadata_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
)

// BenchmarkRequests measures requests a second from a machine's namespace
// under wrk: through our proxy with the server in the same process, and
// through haproxy as Neutron sets it up (X-Forwarded-For, a unix socket to
// the server), forwarding to the same server.
func BenchmarkRequests(b *testing.B) {
	lab.Need(b, "wrk", "haproxy")
	l := lab.New(b)
	gw, vm := l.NS("gw"), l.NS("vm")
	l.Veth(gw, "eth0", vm, "eth0")
	gw.Addr("eth0", "10.0.0.1/24")
	vm.Addr("eth0", "10.0.0.5/24")
	table := &metadatatest.Table{}
	table.Put(metadata.NewAsker("r", "", netip.MustParseAddr("10.0.0.5")), metadatatest.Instance("a"))
	srv, err := metadata.NewServer(table, nil)
	require.NoError(b, err)

	// Ours.
	proxy, err := metadata.NewProxy(srv, &metadata.ProxyOptions{Rate: -1, AskerInFlight: 1000, AskerConns: 1000})
	require.NoError(b, err)
	var ours net.Listener
	require.NoError(b, gw.Do(func() (err error) {
		ours, err = net.Listen("tcp4", "10.0.0.1:80")
		return err
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- proxy.Serve(ctx, metadata.Listener{Listener: ours, Who: func(c net.Conn) (metadata.Asker, bool) {
			return metadata.NewAsker("r", "", netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()), true
		}})
	}()
	defer func() { cancel(); require.NoError(b, <-done) }()

	// haproxy, and the same server behind it.
	dir := b.TempDir()
	sock := filepath.Join(dir, "s")
	back, err := net.Listen("unix", sock)
	require.NoError(b, err)
	hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, _ := netip.ParseAddr(r.Header.Get("X-Forwarded-For"))
		srv.ServeHTTP(w, r.WithContext(metadata.WithAsker(r.Context(), metadata.NewAsker("r", "", a))))
	})}
	go func() { _ = hs.Serve(back) }()
	defer hs.Close()
	cfg := filepath.Join(dir, "haproxy.cfg")
	require.NoError(b, os.WriteFile(cfg, fmt.Appendf(nil, `global
    maxconn 1024
    nbthread 2
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout http-request 30s
    timeout connect 30s
    timeout client 32s
    timeout server 32s
    timeout http-keep-alive 30s
listen listener
    bind 10.0.0.1:81
    server metadata unix@%s
    http-request set-header X-Neutron-Router-ID r
`, sock), 0o600))
	gw.Start("haproxy", "-db", "-f", cfg)
	lab.Eventually(b, 5*time.Second, "haproxy", func() bool {
		_, err := vm.Exec(ctx, "curl", "-sf", "-o", "/dev/null", "http://10.0.0.1:81/latest")
		return err == nil
	})

	rate := regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrk := func(port int, path string) float64 {
		out, err := vm.Exec(ctx, "wrk", "-t1", "-c16", "-d2s", fmt.Sprintf("http://10.0.0.1:%d%s", port, path))
		require.NoError(b, err)
		require.NotContains(b, out, "Non-2xx")
		m := rate.FindStringSubmatch(out)
		require.NotNil(b, m, out)
		f, err := strconv.ParseFloat(m[1], 64)
		require.NoError(b, err)
		return f
	}
	for name, path := range map[string]string{"ec2": "/latest/meta-data/instance-id", "openstack": "/openstack/latest/meta_data.json"} {
		b.Run(name, func(b *testing.B) {
			var us, them float64
			for range b.N {
				us += wrk(80, path)
				them += wrk(81, path)
			}
			b.ReportMetric(us/float64(b.N), "requests/s")
			b.ReportMetric(them/float64(b.N), "haproxy-requests/s")
			b.ReportMetric(us/them, "ratio-to-haproxy")
			b.ReportMetric(0, "ns/op")
		})
	}
}
