package metadata_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
)

type lookup func(metadata.Asker) (*metadata.Instance, error)

func (f lookup) Lookup(_ context.Context, a metadata.Asker) (*metadata.Instance, error) { return f(a) }

func web() *metadata.Instance {
	return &metadata.Instance{
		UUID: "83679162-1378-4288-a2d4-70e13ec132aa", Name: "web", Hostname: "web.example.org", ProjectID: "p1", AvailabilityZone: "eu1a",
		InstanceType: "m1.small", ImageID: "img", LaunchIndex: 2, Meta: map[string]string{"role": "front"},
		Keys:     []metadata.Key{{Name: "me", Type: "ssh", Data: "ssh-ed25519 AAAA me\n"}, {Name: "you", Data: "ssh-rsa BBBB you"}},
		UserData: []byte("#!/bin/sh\n\x00\xff"), VendorData: []byte(`{"v": 1}`), SecurityGroups: []string{"default", "web"},
		PublicIPv4: netip.MustParseAddr("203.0.113.7"),
		Files:      []metadata.File{{Path: "/etc/a", Content: []byte("A\n")}, {Path: "/etc/b", Content: []byte("B")}},
		Interfaces: []metadata.NIC{
			{PortID: "0f6b8a3e-aaaa-4bbb", NetworkID: "n1", MAC: vnet.MustParseMAC("02:00:00:00:00:0A"), MTU: 1450, Addresses: []metadata.NICAddress{
				{Type: "ipv4_dhcp", Address: netip.MustParsePrefix("192.0.2.10/24"), Gateway: netip.MustParseAddr("192.0.2.1")},
				{Type: "ipv6_slaac", Address: netip.MustParsePrefix("2001:db8::a/64"), Gateway: netip.MustParseAddr("2001:db8::1")}}},
			{PortID: "p2", NetworkID: "n2", MAC: vnet.MustParseMAC("02:00:00:00:00:0b"), MTU: 9000, Addresses: []metadata.NICAddress{
				{Type: "ipv4", Address: netip.MustParsePrefix("198.51.100.10/25"), Gateway: netip.MustParseAddr("198.51.100.1"), DNS: []netip.Addr{netip.MustParseAddr("198.51.100.53")},
					Routes: []metadata.NICHostRoute{{Destination: netip.MustParsePrefix("203.0.113.0/24"), NextHop: netip.MustParseAddr("198.51.100.2")}}},
				{Type: "ipv4", Address: netip.MustParsePrefix("198.51.100.130/25")}}},
		},
	}
}

func server(t testing.TB, o *metadata.ServerOptions) *metadata.Server {
	s, err := metadata.NewServer(lookup(func(a metadata.Asker) (*metadata.Instance, error) {
		switch a.Addr.String() {
		case "192.0.2.10":
			return web(), nil
		case "192.0.2.11":
			return &metadata.Instance{UUID: "bare"}, nil
		case "192.0.2.12":
			return nil, vnet.ErrNotReady
		case "192.0.2.13":
			return nil, nil
		}
		return nil, vnet.ErrNotFound
	}), o)
	require.NoError(t, err)
	return s
}

func ask(h http.Handler, method, path, from string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", strings.NewReader(""))
	r.URL.Path = path
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r = r.WithContext(metadata.WithAsker(r.Context(), metadata.NewAsker("r1", "", netip.MustParseAddr(from))))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPages(t *testing.T) {
	s := server(t, nil)
	ec2 := "1.0\n2007-01-19\n2007-03-01\n2007-08-29\n2007-10-10\n2007-12-15\n2008-02-01\n2008-09-01\n2009-04-04\n2011-01-01\n2016-09-02\n2018-09-24\n2021-03-23\nlatest"
	for path, want := range map[string]string{
		"/":                                 ec2,
		"/ec2/":                             ec2,
		"":                                  ec2,
		"/openstack":                        "2012-08-10\n2013-04-04\n2013-10-17\n2015-10-15\n2016-06-30\n2016-10-06\n2017-02-22\n2018-08-27\n2020-10-14\n2025-04-04\nlatest",
		"/openstack/2012-08-10/":            "meta_data.json\nuser_data",
		"/openstack/latest":                 "meta_data.json\npassword\nuser_data\nvendor_data.json\nnetwork_data.json\nvendor_data2.json",
		"/1.0/meta-data":                    "ami-id\nami-launch-index\nami-manifest-path\nhostname\ninstance-id\nlocal-ipv4\npublic-keys/\nreservation-id\nsecurity-groups",
		"/1.0":                              "meta-data/\nuser-data",
		"/latest":                           "dynamic/\nmeta-data/\nuser-data",
		"/latest//meta-data//":              "ami-id\nami-launch-index\nami-manifest-path\nblock-device-mapping/\nhostname\ninstance-action\ninstance-id\ninstance-type\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\nplacement/\npublic-hostname\npublic-ipv4\npublic-keys/\nreservation-id\nsecurity-groups",
		"/2009-04-04/meta-data/public-keys": "0=me\n1=you",
		"/latest/meta-data/public-keys/0":   "openssh-key",
		"/latest/meta-data/public-keys/0/openssh-key":                             "ssh-ed25519 AAAA me",
		"/latest/meta-data/public-keys/1=you/openssh-key":                         "ssh-rsa BBBB you",
		"/latest/meta-data/security-groups":                                       "default\nweb",
		"/latest/meta-data/placement/":                                            "availability-zone",
		"/latest/meta-data/placement/availability-zone":                           "eu1a",
		"/latest/meta-data/ami-launch-index":                                      "2",
		"/latest/meta-data/public-ipv4":                                           "203.0.113.7",
		"/latest/meta-data/network/interfaces/macs/":                              "02:00:00:00:00:0a/\n02:00:00:00:00:0b/",
		"/latest/meta-data/network/interfaces/macs/02:00:00:00:00:0b/local-ipv4s": "198.51.100.10\n198.51.100.130",
		"/latest/dynamic/":                                                        "instance-identity/",
		"/latest/user-data":                                                       "#!/bin/sh\n\x00\xff",
		"/openstack/2012-08-10/user_data":                                         "#!/bin/sh\n\x00\xff",
		"/openstack/content/0000":                                                 "A\n",
		"/openstack/content/0001/":                                                "B",
		"/openstack/latest/vendor_data.json":                                      `{"v": 1}`,
		"/openstack/latest/vendor_data2.json":                                     `{"static":{"v":1}}`,
		"/latest/meta-data/../../openstack/content/0001":                          "B",
		"/openstack/latest/network_data.json":                                     networkData,
	} {
		w := ask(s, "GET", path, "192.0.2.10")
		assert.Equal(t, 200, w.Code, path)
		assert.Equal(t, want, w.Body.String(), path)
		ct := "text/plain; charset=utf-8"
		switch {
		case strings.HasSuffix(path, ".json"):
			ct = "application/json"
		case strings.Contains(path, "user") || strings.Contains(path, "content"):
			ct = "application/octet-stream"
		}
		assert.Equal(t, ct, w.Header().Get("Content-Type"), path)
	}
	for _, path := range []string{"/openstack/1999-01-01", "/openstack/content", "/openstack/content/0002", "/openstack/content/1", "/openstack/content/-001",
		"/openstack/2012-08-10/password", "/openstack/2012-08-10/network_data.json", "/openstack/latest/x", "/openstack/latest/meta_data.json/x", "/3000-01-01",
		"/1.0/dynamic", "/1.0/meta-data/instance-type", "/2009-04-04/meta-data/mac", "/latest/meta-data/public-keys/2", "/latest/meta-data/public-keys/00",
		"/latest/meta-data/ami-id/x", "/latest/meta-data/\x00", "/latest/api"} {
		assert.Equal(t, 404, ask(s, "GET", path, "192.0.2.10").Code, path)
	}
	// The least there can be.
	for path, code := range map[string]int{"/latest/user-data": 404, "/latest/meta-data/public-keys": 404, "/openstack/latest/user_data": 404, "/openstack/latest/network_data.json": 200, "/latest/meta-data/public-ipv4": 200} {
		assert.Equal(t, code, ask(s, "GET", path, "192.0.2.11").Code, path)
	}
	assert.Equal(t, "{}", ask(s, "GET", "/openstack/latest/network_data.json", "192.0.2.11").Body.String())
	assert.Equal(t, `{"static":{}}`, ask(s, "GET", "/openstack/latest/vendor_data2.json", "192.0.2.11").Body.String())
}

const networkData = `{"links":[` +
	`{"id":"tap0f6b8a3e-aa","vif_id":"0f6b8a3e-aaaa-4bbb","type":"bridge","mtu":null,"ethernet_mac_address":"02:00:00:00:00:0a"},` +
	`{"id":"tapp2","vif_id":"p2","type":"bridge","mtu":9000,"ethernet_mac_address":"02:00:00:00:00:0b"}],` +
	`"networks":[` +
	`{"id":"network0","type":"ipv4_dhcp","link":"tap0f6b8a3e-aa","network_id":"n1"},` +
	`{"id":"network1","type":"ipv6_slaac","link":"tap0f6b8a3e-aa","network_id":"n1","ip_address":"2001:db8::a","netmask":"ffff:ffff:ffff:ffff::","routes":[{"network":"::","netmask":"::","gateway":"2001:db8::1"}],"services":[]},` +
	`{"id":"network2","type":"ipv4","link":"tapp2","network_id":"n2","ip_address":"198.51.100.10","netmask":"255.255.255.128","routes":[{"network":"0.0.0.0","netmask":"0.0.0.0","gateway":"198.51.100.1"},{"network":"203.0.113.0","netmask":"255.255.255.0","gateway":"198.51.100.2"}],"services":[{"type":"dns","address":"198.51.100.53"}]}],` +
	`"services":[{"type":"dns","address":"198.51.100.53"}]}`

func TestMetaDataByVersion(t *testing.T) {
	s := server(t, nil)
	doc := func(v string) map[string]any {
		var m map[string]any
		require.NoError(t, json.Unmarshal(ask(s, "GET", "/openstack/"+v+"/meta_data.json", "192.0.2.10").Body.Bytes(), &m))
		return m
	}
	first := doc("2012-08-10")
	for _, k := range []string{"random_seed", "project_id", "devices", "dedicated_cpus"} {
		assert.NotContains(t, first, k)
	}
	assert.Equal(t, "83679162-1378-4288-a2d4-70e13ec132aa", first["uuid"])
	assert.Equal(t, map[string]any{"me": "ssh-ed25519 AAAA me\n", "you": "ssh-rsa BBBB you"}, first["public_keys"])
	assert.Equal(t, []any{map[string]any{"path": "/etc/a", "content_path": "/content/0000"}, map[string]any{"path": "/etc/b", "content_path": "/content/0001"}}, first["files"])
	a, b := doc("latest"), doc("latest")
	assert.NotEqual(t, a["random_seed"], b["random_seed"])
	assert.Equal(t, "p1", a["project_id"])
	assert.Equal(t, []any{}, a["devices"])
	assert.Equal(t, float64(2), a["launch_index"])
	var id map[string]string
	require.NoError(t, json.Unmarshal(ask(s, "GET", "/latest/dynamic/instance-identity/document", "192.0.2.10").Body.Bytes(), &id))
	assert.Equal(t, "eu1", id["region"])
	assert.Regexp(t, "^i-[0-9a-f]{8}$", id["instanceId"])
}

func TestStatuses(t *testing.T) {
	s := server(t, nil)
	assert.Equal(t, 404, ask(s, "GET", "/", "192.0.2.99").Code)
	w := ask(s, "GET", "/", "192.0.2.12")
	assert.Equal(t, 503, w.Code)
	assert.NotEmpty(t, w.Header().Get("Retry-After"))
	assert.Equal(t, 503, ask(s, "GET", "/", "192.0.2.13").Code)
	w = ask(s, "DELETE", "/latest/meta-data", "192.0.2.10")
	assert.Equal(t, 405, w.Code)
	assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(w, r.WithContext(metadata.WithAsker(r.Context(), metadata.NewAsker("r1", "", netip.MustParseAddr("::ffff:192.0.2.10")))))
	}))
	defer ts.Close()
	resp, err := http.Head(ts.URL + "/latest/meta-data/hostname")
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, int64(len("web.example.org")), resp.ContentLength)
	assert.Equal(t, 400, ask(s, "PUT", "/openstack/latest/password", "192.0.2.10").Code)
	assert.Equal(t, 400, ask(s, "POST", "/openstack/latest/password", "192.0.2.10").Code, "empty")
}

func TestTokens(t *testing.T) {
	now := time.Unix(1700000000, 0)
	s := server(t, &metadata.ServerOptions{Now: func() time.Time { return now }, TokenKey: []byte("0123456789abcdef")})
	const path, ttl, head = "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
	for _, bad := range []string{"", "0", "21601", "-1", "1x", "99999999999999999999"} {
		assert.Equal(t, 400, ask(s, "PUT", path, "192.0.2.10", ttl, bad).Code, bad)
	}
	assert.Equal(t, 405, ask(s, "GET", path, "192.0.2.10").Code)
	assert.Equal(t, 403, ask(s, "PUT", path, "192.0.2.10", ttl, "60", "X-Forwarded-For", "x").Code)
	w := ask(s, "PUT", path, "192.0.2.10", ttl, "60")
	require.Equal(t, 200, w.Code)
	assert.Equal(t, "60", w.Header().Get(ttl))
	tok := w.Body.String()
	assert.Equal(t, 200, ask(s, "GET", "/latest", "192.0.2.10", head, tok).Code)
	assert.Equal(t, 401, ask(s, "GET", "/latest", "192.0.2.11", head, tok).Code, "of another instance")
	for i := range tok {
		b := []byte(tok)
		b[i] ^= 1
		assert.Equal(t, 401, ask(s, "GET", "/latest", "192.0.2.10", head, string(b)).Code, i)
	}
	other := server(t, &metadata.ServerOptions{Now: func() time.Time { return now }, TokenKey: []byte("0123456789abcdef")})
	assert.Equal(t, 200, ask(other, "GET", "/latest", "192.0.2.10", head, tok).Code, "another server with the same key")
	now = now.Add(time.Minute)
	assert.Equal(t, 401, ask(s, "GET", "/latest", "192.0.2.10", head, tok).Code, "old")
	req := server(t, &metadata.ServerOptions{Tokens: metadata.TokensRequired})
	for _, p := range []string{"/", "/openstack/latest/user_data", "/latest/nothing", "/openstack/latest/password"} {
		assert.Equal(t, 401, ask(req, "GET", p, "192.0.2.10").Code, p)
	}
	off := server(t, &metadata.ServerOptions{Tokens: metadata.TokensOff})
	assert.Equal(t, 404, ask(off, "PUT", path, "192.0.2.10", ttl, "60").Code)
	_, err := metadata.NewServer(lookup(nil), &metadata.ServerOptions{TokenKey: []byte("short")})
	assert.ErrorContains(t, err, "token_key")
}

func TestAsker(t *testing.T) {
	a := metadata.NewAsker("r", "n", netip.MustParseAddr("fe80::f816:3eff:fe12:3456%eth0"))
	assert.Equal(t, vnet.MustParseMAC("fa:16:3e:12:34:56"), a.MAC)
	assert.Equal(t, netip.MustParseAddr("fe80::f816:3eff:fe12:3456"), a.Addr)
	assert.True(t, metadata.NewAsker("r", "", netip.MustParseAddr("fe80::1234:5678:9abc:def0")).MAC.IsZero(), "privacy address")
	assert.True(t, metadata.NewAsker("r", "", netip.MustParseAddr("2001:db8::f816:3eff:fe12:3456")).MAC.IsZero(), "not link-local")
	assert.Equal(t, netip.MustParseAddr("192.0.2.1"), metadata.NewAsker("r", "", netip.MustParseAddr("::ffff:192.0.2.1")).Addr)
	rapid.Check(t, func(t *rapid.T) {
		m := vnet.MAC(rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac"))
		if metadata.NewAsker("r", "", m.LinkLocal()).MAC != m {
			t.Fatal("EUI-64 does not come back")
		}
	})
}

func TestValidate(t *testing.T) {
	require.NoError(t, web().Validate())
	for want, change := range map[string]func(*metadata.Instance){
		"uuid":                            func(in *metadata.Instance) { in.UUID = "" },
		"hostname":                        func(in *metadata.Instance) { in.Hostname = "a\nb" },
		"launch_index":                    func(in *metadata.Instance) { in.LaunchIndex = -1 },
		"public_ipv4":                     func(in *metadata.Instance) { in.PublicIPv4 = netip.MustParseAddr("::1") },
		"keys[1].name":                    func(in *metadata.Instance) { in.Keys[1].Name = "me" },
		"keys[0].data":                    func(in *metadata.Instance) { in.Keys[0].Data = " " },
		"vendor_data":                     func(in *metadata.Instance) { in.VendorData = []byte("{") },
		"files[1].path":                   func(in *metadata.Instance) { in.Files[1].Path = "b" },
		"interfaces[1].mac":               func(in *metadata.Instance) { in.Interfaces[1].MAC = in.Interfaces[0].MAC },
		"interfaces[0].mtu":               func(in *metadata.Instance) { in.Interfaces[0].MTU = 70000 },
		"interfaces[0].addresses[1].type": func(in *metadata.Instance) { in.Interfaces[0].Addresses[1].Type = "slaac" },
		"interfaces[0].addresses[0].address": func(in *metadata.Instance) {
			in.Interfaces[0].Addresses[0].Address = netip.MustParsePrefix("2001:db8::1/64")
		},
		"interfaces[1].addresses[0].routes[0].nexthop": func(in *metadata.Instance) { in.Interfaces[1].Addresses[0].Routes[0].NextHop = netip.Addr{} },
		"tokens": func(in *metadata.Instance) { in.Tokens = "maybe" },
	} {
		in := web().Clone()
		require.True(t, in.Equal(*web()))
		change(&in)
		require.False(t, in.Equal(*web()))
		require.NoError(t, web().Validate())
		var field *vnet.FieldError
		require.ErrorAs(t, in.Validate(), &field, want)
		assert.Equal(t, want, field.Field)
	}
	e := metadata.Endpoint{ID: "e", NetworkID: "n", PortID: "p", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}}
	require.NoError(t, e.Validate())
	for want, change := range map[string]func(*metadata.Endpoint){
		"id":           func(e *metadata.Endpoint) { e.ID = "a b" },
		"network_id":   func(e *metadata.Endpoint) { e.RouterID = "r" },
		"router_id":    func(e *metadata.Endpoint) { e.NetworkID = "" },
		"port_id":      func(e *metadata.Endpoint) { e.PortID = "" },
		"mac":          func(e *metadata.Endpoint) { e.MAC[0] = 1 },
		"host":         func(e *metadata.Endpoint) { e.Host = "h" },
		"addresses[0]": func(e *metadata.Endpoint) { e.Addresses[0] = netip.MustParsePrefix("192.0.2.255/24") },
	} {
		x := e.Clone()
		change(&x)
		require.False(t, x.Equal(e))
		var field *vnet.FieldError
		require.ErrorAs(t, x.Validate(), &field, want)
		assert.Equal(t, want, field.Field)
	}
}

func TestNovaFailures(t *testing.T) {
	src := lookup(func(metadata.Asker) (*metadata.Instance, error) { return web(), nil })
	broken := errors.New("broken")
	for _, c := range []struct {
		err  error
		code int
	}{{context.DeadlineExceeded, 504}, {broken, 503}} {
		n, err := metadata.NewNova(src, &metadata.NovaOptions{URL: "http://192.0.2.1:8775/", Secret: []byte("s"), Transport: trip(func(*http.Request) (*http.Response, error) { return nil, c.err })})
		require.NoError(t, err)
		assert.Equal(t, c.code, ask(n, "GET", "/openstack", "192.0.2.10").Code)
	}
	var got *http.Request
	n, err := metadata.NewNova(src, &metadata.NovaOptions{URL: "https://192.0.2.1/base/", Secret: []byte("s"), Transport: trip(func(r *http.Request) (*http.Response, error) { got = r; return nil, broken })})
	require.NoError(t, err)
	ask(n, "GET", "/a b/../c", "192.0.2.10")
	assert.Equal(t, "https://192.0.2.1/base/a%20b/../c", got.URL.String())
	for _, o := range []metadata.NovaOptions{{URL: "nova:8775", Secret: []byte("s")}, {URL: "http://x/?q", Secret: []byte("s")}, {URL: "http://x"}} {
		_, err := metadata.NewNova(src, &o)
		var field *vnet.FieldError
		assert.ErrorAs(t, err, &field)
	}
	// RFC 4231, test case 2.
	assert.Equal(t, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843", metadata.Sign([]byte("Jefe"), "what do ya want for nothing?"))
}

type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestProxyLimits(t *testing.T) {
	now := time.Unix(0, 0)
	var seen []metadata.Access
	p, err := metadata.NewProxy(server(t, nil), &metadata.ProxyOptions{Rate: 1, Burst: 2, Askers: 2, Now: func() time.Time { return now }, Observe: func(a metadata.Access) { seen = append(seen, a) }})
	require.NoError(t, err)
	codes := func(from string, n int) (out []int) {
		for range n {
			out = append(out, ask(p, "GET", "/", from).Code)
		}
		return out
	}
	assert.Equal(t, []int{200, 200, 429}, codes("192.0.2.10", 3))
	assert.True(t, seen[2].Limited)
	assert.Equal(t, []int{200}, codes("192.0.2.11", 1))
	now = now.Add(time.Second)
	assert.Equal(t, []int{200, 429}, codes("192.0.2.10", 2))
	// The table is bounded: the asker that was quiet longest is forgotten.
	codes("192.0.2.20", 1)
	codes("192.0.2.21", 1)
	assert.Equal(t, []int{200, 200, 429}, codes("192.0.2.10", 3))
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, 500, w.Code, "nobody said who asks")
	_, err = metadata.NewProxy(server(t, nil), &metadata.ProxyOptions{MaxBody: -1})
	assert.ErrorContains(t, err, "max_body")
}
