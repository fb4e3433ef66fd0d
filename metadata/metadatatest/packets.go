package metadatatest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/metadata"
)

// The world of ring 2. Tenants a and b have the same addresses; i has no
// router; u is on a's network and known to nobody.
//
//	a 10.0.0.5 --- net-a --- router-a      b 10.0.0.5 --- net-b --- router-b
//	u 10.0.0.9 --- net-a                   i 10.0.0.5 --- net-i (endpoint 10.0.0.2)
//
// Where a backend has no endpoints in routers, a and b are as i.
type world struct {
	*testing.T
	l     *lab.Lab
	h     Host
	s     *metadata.Service
	table *Table
	vms   map[string]*machine
	state metadata.State

	routed bool // a and b have routers
}

// endpoint is where a machine asks.
func (w *world) endpoint(name string) metadata.Endpoint {
	if w.routed && name != "i" {
		return inRouter("ep-"+name, "router-"+name)
	}
	return onNetwork("ep-"+name, "net-"+name, map[string]byte{"i": 1, "a": 2, "b": 3}[name])
}

// gateway is an address that a machine finds the service behind.
func (w *world) gateway() string {
	if w.routed {
		return "10.0.0.1"
	}
	return "10.0.0.2"
}

type machine struct {
	*lab.NS
	t     testing.TB
	index int
	mac   vnet.MAC
}

const device = "eth0"

func newWorld(t *testing.T, k Harness, setup Setup) *world {
	w := &world{T: t, l: lab.New(t), table: &Table{}, vms: map[string]*machine{}}
	if setup.Instances == nil {
		setup.Instances = w.table
	}
	w.h = k.Make(t, setup)
	var err error
	w.s, err = metadata.New(w.h.Metadata, nil)
	require.NoError(t, err)
	w.routed = w.s.Features(t.Context()).Router
	for i, name := range []string{"a", "b", "i", "u"} {
		m := &machine{NS: w.l.NS(name), t: t, mac: vnet.MAC{2, 0xcc, 0, 0, 0, byte(i + 1)}}
		w.vms[name] = m
		network, host := "net-"+name, "5"
		if name == "u" {
			network, host = "net-a", "9"
		} else {
			w.h.Network(t, network)
		}
		w.h.Plug(t, network, m.Path, device, m.mac)
		m.Configure(device, []string{"10.0.0." + host + "/24", "2001:db8::" + host + "/64"})
		require.NoError(t, m.Do(func() error {
			ifi, err := net.InterfaceByName(device)
			if err == nil {
				m.index = ifi.Index
			}
			return err
		}))
		if name == "u" {
			continue
		}
		in := Instance(name)
		router := "router-" + name
		if name == "i" || !w.routed {
			router = ""
		}
		for _, a := range []string{"10.0.0.5", "2001:db8::5"} {
			w.table.Put(metadata.NewAsker(router, map[bool]string{true: network}[router == ""], netip.MustParseAddr(a)), in)
		}
		w.table.Put(metadata.NewAsker(router, network, m.mac.LinkLocal()), in)
	}
	gw := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("2001:db8::1/64")}
	if w.routed {
		w.h.Router(t, "router-a", Interface{"net-a", gw})
	}
	for name, vm := range w.vms {
		if w.routed && name != "i" {
			vm.Route("default", "10.0.0.1")
			vm.Route("default", "2001:db8::1")
		} else {
			vm.Route("169.254.169.254/32", "10.0.0.2") // as DHCP option 121 says
			vm.IP("route", "add", "fd00:ec2::254/128", "dev", device)
		}
	}
	w.state = metadata.State{Endpoints: []metadata.Endpoint{w.endpoint("a"), w.endpoint("b"), w.endpoint("i")}}
	require.NoError(t, w.s.Sync(t.Context(), w.state, vnet.SyncOptions{}))
	w.serve(w.s)
	if w.routed { // one that appears while serving
		w.h.Router(t, "router-b", Interface{"net-b", gw})
	}
	for _, name := range []string{"a", "b", "i"} {
		w.up(name)
	}
	return w
}

func (w *world) serve(s *metadata.Service) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			assert.NoError(w, err, "Serve")
		case <-time.After(5 * time.Second):
			w.Error("Serve did not end with its context")
		}
	})
	w.Cleanup(stop)
	return stop
}

// up waits until a machine gets answers of any kind.
func (w *world) up(name string) {
	w.Helper()
	lab.Eventually(w, 10*time.Second, "an answer to "+name, func() bool {
		r, err := w.vms[name].fetch("GET", "http://169.254.169.254/", nil, nil)
		return err == nil && r.status != 0
	})
}

// Instance is what the suite tells the machine of that name.
func Instance(name string) *metadata.Instance {
	return &metadata.Instance{UUID: "11111111-0000-4000-8000-00000000000" + name, Name: "vm-" + name, Hostname: "vm-" + name + ".example.org",
		ProjectID: "project-" + name, AvailabilityZone: "nova", InstanceType: "m1.small", ImageID: "image-1", Meta: map[string]string{"role": name},
		Keys:     []metadata.Key{{Name: "key", Type: "ssh", Data: "ssh-ed25519 AAAA " + name}},
		UserData: []byte("#cloud-config\n# " + name + "\n"), SecurityGroups: []string{"default", "web"},
		Files: []metadata.File{{Path: "/etc/motd", Content: []byte("hello " + name)}},
		Interfaces: []metadata.NIC{{PortID: "port-" + name, NetworkID: "net-" + name, MAC: vnet.MAC{2, 0xcc, 0, 0, 0, 1}, MTU: 1450,
			Addresses: []metadata.NICAddress{{Type: "ipv4_dhcp", Address: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1")}}}},
	}
}

type reply struct {
	status int
	header http.Header
	body   string
}

// dial connects from the machine.
func (m *machine) dial(_ context.Context, network, addr string) (c net.Conn, err error) {
	err = m.Do(func() error {
		c, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, addr)
		return err
	})
	return c, err
}

// bases are the addresses of the service as the machine writes them.
func (m *machine) bases() map[string]string {
	return map[string]string{
		"169.254.169.254": "http://169.254.169.254",
		"fd00:ec2::254":   "http://[fd00:ec2::254]",
		"fe80::a9fe:a9fe": fmt.Sprintf("http://[fe80::a9fe:a9fe%%25%d]", m.index),
	}
}

func (m *machine) client() *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: m.dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (m *machine) fetch(method, url string, body []byte, header map[string]string) (reply, error) {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := m.client().Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b)}, err
}

func (m *machine) get(t testing.TB, path string, header map[string]string) reply {
	t.Helper()
	r, err := m.fetch("GET", "http://169.254.169.254"+path, nil, header)
	require.NoError(t, err, path)
	return r
}

func runPackets(t *testing.T, k Harness) {
	lab.Need(t, "curl")
	t.Run("server", func(t *testing.T) {
		w := newWorld(t, k, Setup{Proxy: metadata.ProxyOptions{HeaderTimeout: 300 * time.Millisecond, RequestTimeout: 2 * time.Second, AskerConns: 8}})
		t.Run("everybody gets their own, by all three addresses", func(t *testing.T) {
			for _, name := range []string{"a", "b", "i"} {
				for host, base := range w.vms[name].bases() {
					r, err := w.vms[name].fetch("GET", base+"/openstack/latest/meta_data.json", nil, nil)
					if !assert.NoError(t, err, "%s at %s", name, host) || !assert.Equal(t, 200, r.status, "%s at %s", name, host) {
						continue
					}
					var doc struct{ UUID, Name, Hostname string }
					require.NoError(t, json.Unmarshal([]byte(r.body), &doc))
					assert.Equal(t, Instance(name).UUID, doc.UUID, "%s at %s", name, host)
				}
			}
		})
		t.Run("curl", func(t *testing.T) {
			for _, name := range []string{"a", "b", "i"} {
				for _, base := range []string{"http://169.254.169.254", "http://[fd00:ec2::254]", "http://[fe80::a9fe:a9fe%25" + device + "]"} {
					out, err := w.vms[name].Exec(t.Context(), "curl", "-sSgf", "-m", "5", base+"/latest/meta-data/hostname")
					assert.NoError(t, err)
					assert.Equal(t, "vm-"+name+".example.org", out)
				}
			}
		})
		t.Run("cloud-init", func(t *testing.T) { runCloudInit(t, w) })
		t.Run("what a machine says of itself does not count", func(t *testing.T) {
			spoof := map[string]string{"X-Forwarded-For": "10.0.0.77", "X-Instance-ID": Instance("b").UUID, "X-Tenant-ID": "project-b",
				"X-Instance-ID-Signature": "00", "X-Neutron-Router-ID": "router-b", "X-Neutron-Network-ID": "net-b", "X-OVN-Network-ID": "net-b",
				"X-Real-IP": "10.0.0.77", "Forwarded": "for=10.0.0.77"}
			assert.Equal(t, "vm-a.example.org", w.vms["a"].get(t, "/latest/meta-data/hostname", spoof).body)
			assert.Equal(t, 404, w.vms["u"].get(t, "/latest/meta-data/hostname", spoof).status)
		})
		t.Run("unknown is 404, no answer yet is 503", func(t *testing.T) {
			assert.Equal(t, 404, w.vms["u"].get(t, "/openstack", nil).status)
			w.table.Fail(vnet.ErrNotReady)
			assert.Equal(t, 503, w.vms["a"].get(t, "/openstack", nil).status)
			w.table.Fail(errors.New("database is down"))
			assert.Equal(t, 503, w.vms["a"].get(t, "/openstack", nil).status)
			w.table.Fail(nil)
			assert.Equal(t, 200, w.vms["a"].get(t, "/openstack", nil).status)
		})
		t.Run("tokens stay on the machine", func(t *testing.T) {
			vm := w.vms["a"]
			token := func() string {
				r, err := vm.fetch("PUT", "http://169.254.169.254/latest/api/token", nil, map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "60"})
				require.NoError(t, err)
				require.Equal(t, 200, r.status)
				return r.body
			}
			cap := vm.Capture(device)
			tok := token()
			f := cap.Wait(2*time.Second, func(f lab.Frame) bool { return bytes.Contains(f.Payload, []byte(tok)) })
			assert.Equal(t, uint8(1), uint8(f.TTL), "TTL of the token")
			cap.Reset()
			r, err := vm.fetch("PUT", "http://[fd00:ec2::254]/latest/api/token", nil, map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "60"})
			require.NoError(t, err)
			f = cap.Wait(2*time.Second, func(f lab.Frame) bool { return len(r.body) > 0 && bytes.Contains(f.Payload, []byte(r.body)) })
			assert.Equal(t, uint8(1), uint8(f.TTL), "hop limit of the token")
			head := map[string]string{"X-aws-ec2-metadata-token": tok}
			cap.Reset()
			assert.Equal(t, 200, vm.get(t, "/latest/meta-data/instance-id", head).status)
			f = cap.Wait(2*time.Second, func(f lab.Frame) bool { return bytes.Contains(f.Payload, []byte("200 OK")) })
			assert.Greater(t, int(f.TTL), 1, "TTL of another answer")
			assert.Equal(t, 401, w.vms["b"].get(t, "/latest/meta-data/instance-id", head).status, "another machine's token")
			r, err = vm.fetch("PUT", "http://169.254.169.254/latest/api/token", nil, map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "60", "X-Forwarded-For": "192.0.2.1"})
			require.NoError(t, err)
			assert.Equal(t, 403, r.status)
		})
		t.Run("slow clients are let go", func(t *testing.T) {
			vm := w.vms["a"]
			c, err := vm.dial(t.Context(), "tcp", "169.254.169.254:80")
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, "GET / HTTP/1.1\r\nX-A: ")
			require.NoError(t, err)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(3*time.Second)))
			start := time.Now()
			_, err = io.Copy(io.Discard, c)
			assert.NoError(t, err, "the connection is closed")
			assert.Less(t, time.Since(start), 2*time.Second)
		})
		t.Run("one machine cannot take all connections", func(t *testing.T) {
			vm := w.vms["a"]
			var open []net.Conn
			for range 12 {
				c, err := vm.dial(t.Context(), "tcp", "169.254.169.254:80")
				if err == nil {
					open = append(open, c)
				}
			}
			closed := 0
			for _, c := range open {
				_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					var ne net.Error
					if !errors.As(err, &ne) || !ne.Timeout() {
						closed++
					}
				}
				c.Close()
			}
			assert.GreaterOrEqual(t, closed, 4)
			assert.Equal(t, 200, w.vms["b"].get(t, "/openstack", nil).status)
			lab.Eventually(t, 3*time.Second, "room again", func() bool {
				r, err := vm.fetch("GET", "http://169.254.169.254/openstack", nil, nil)
				return err == nil && r.status == 200
			})
		})
		t.Run("big requests", func(t *testing.T) {
			vm := w.vms["a"]
			url := "http://169.254.169.254/openstack/2013-04-04/password"
			r, err := vm.fetch("POST", url, bytes.Repeat([]byte("x"), 2000), nil)
			require.NoError(t, err)
			assert.Equal(t, 400, r.status)
			r, err = vm.fetch("POST", url, bytes.Repeat([]byte("x"), 1<<20), nil)
			if err == nil { // or the connection is cut while it still sends
				assert.Equal(t, 413, r.status)
			}
			password := bytes.Repeat([]byte("p"), 1020)
			// Headers beyond what one read of a socket may bring.
			r, err = vm.fetch("POST", url, password, map[string]string{"X-Long": strings.Repeat("y", 8000)})
			require.NoError(t, err)
			assert.Equal(t, 200, r.status)
			r, err = vm.fetch("POST", url, password, nil)
			require.NoError(t, err)
			assert.Equal(t, 409, r.status)
			assert.Equal(t, string(password), vm.get(t, "/openstack/latest/password", nil).body)
			assert.Empty(t, w.vms["b"].get(t, "/openstack/latest/password", nil).body)
			r, err = vm.fetch("GET", "http://169.254.169.254/", nil, map[string]string{"X-Long": strings.Repeat("y", 64<<10)})
			if err == nil {
				assert.Equal(t, 431, r.status)
			}
		})
		t.Run("the proxy's port is not a way in", func(t *testing.T) {
			_, err := w.vms["u"].dial(t.Context(), "tcp", w.gateway()+":9697")
			assert.Error(t, err)
			_, err = w.vms["u"].dial(t.Context(), "tcp", "[2001:db8::1]:9697")
			assert.Error(t, err)
		})
		t.Run("a restart takes over", func(t *testing.T) {
			// The suite's Cleanup stops the first Serve; a new one fails while it runs.
			require.ErrorIs(t, w.s.Serve(t.Context()), vnet.ErrConflict)
		})
		t.Run("deleted is silent", func(t *testing.T) {
			require.NoError(t, w.s.DeleteEndpoint(t.Context(), "ep-a"))
			lab.Eventually(t, 3*time.Second, "silence", func() bool {
				c, err := w.vms["a"].dial(t.Context(), "tcp", "169.254.169.254:80")
				if err == nil {
					c.Close()
				}
				return err != nil
			})
			require.NoError(t, w.s.EnsureEndpoint(t.Context(), w.endpoint("a")))
			w.up("a")
		})
	})
	t.Run("tokens required", func(t *testing.T) {
		w := newWorld(t, k, Setup{Server: metadata.ServerOptions{Tokens: metadata.TokensRequired}})
		vm := w.vms["i"]
		assert.Equal(t, 401, vm.get(t, "/latest/meta-data/", nil).status)
		assert.Equal(t, 401, vm.get(t, "/openstack/latest/meta_data.json", nil).status)
		r, err := vm.fetch("PUT", "http://169.254.169.254/latest/api/token", nil, map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
		require.NoError(t, err)
		require.Equal(t, 200, r.status)
		assert.Equal(t, 200, vm.get(t, "/latest/meta-data/", map[string]string{"X-aws-ec2-metadata-token": r.body}).status)
	})
	t.Run("rate", func(t *testing.T) {
		w := newWorld(t, k, Setup{Proxy: metadata.ProxyOptions{Rate: 0.5, Burst: 20}})
		n := 0
		for range 25 {
			if w.vms["a"].get(t, "/", nil).status == 429 {
				n++
			}
		}
		assert.Greater(t, n, 0)
		assert.Equal(t, 200, w.vms["b"].get(t, "/", nil).status, "the limit is each machine's own")
	})
	t.Run("nova", func(t *testing.T) { runNova(t, k) })
}

// runNova puts an API in the place of Nova's and looks at what comes there.
func runNova(t *testing.T, k Harness) {
	secret := []byte("shared secret")
	type seen struct {
		method, uri, body string
		header            http.Header
	}
	got := make(chan seen, 16)
	status := 200
	var mu sync.Mutex
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{r.Method, r.RequestURI, string(b), r.Header.Clone()}
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "text/x-nova")
		w.Header().Set("X-Secret", "inside")
		w.WriteHeader(status)
		fmt.Fprint(w, "from nova")
	}))
	defer api.Close()
	w := newWorld(t, k, Setup{Nova: &metadata.NovaOptions{URL: api.URL, Secret: secret, Timeout: 2 * time.Second}})
	for len(got) > 0 {
		<-got
	}
	vm := w.vms["b"]
	spoof := map[string]string{"X-Forwarded-For": "1.2.3.4", "X-Instance-ID": "other", "X-Tenant-ID": "other", "X-Instance-ID-Signature": "other",
		"X-Metadata-Provider": "evil", "X-aws-ec2-metadata-token": "t", "Cookie": "c", "X-Anything": "x"}
	r, err := vm.fetch("POST", "http://169.254.169.254/openstack/2013-04-04/password?a=b%20c", []byte("pass word"), spoof)
	require.NoError(t, err)
	assert.Equal(t, 200, r.status)
	assert.Equal(t, "from nova", r.body)
	assert.Equal(t, "text/x-nova", r.header.Get("Content-Type"))
	assert.Empty(t, r.header.Get("X-Secret"))
	s := <-got
	assert.Equal(t, "POST", s.method)
	assert.Equal(t, "/openstack/2013-04-04/password?a=b%20c", s.uri)
	assert.Equal(t, "pass word", s.body)
	id := Instance("b").UUID
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id))
	want := http.Header{"X-Forwarded-For": {"10.0.0.5"}, "X-Instance-Id": {id}, "X-Tenant-Id": {"project-b"},
		"X-Instance-Id-Signature": {hex.EncodeToString(mac.Sum(nil))}}
	s.header.Del("Content-Length")
	s.header.Del("Accept-Encoding")
	assert.Equal(t, want, s.header, "these four and no other")
	for from, to := range map[int]int{404: 404, 403: 403, 400: 400, 409: 409, 500: 500, 503: 503, 302: 500, 418: 500, 204: 500} {
		mu.Lock()
		status = from
		mu.Unlock()
		assert.Equal(t, to, vm.get(t, "/openstack", nil).status, "nova says %d", from)
		<-got
	}
	api.Close()
	assert.Equal(t, 503, vm.get(t, "/openstack", nil).status, "nova is down")
}
