package topology_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/vnet-go/vnet/examples/internal/topology"
)

var update = flag.Bool("update", false, "write what was got as what is wanted")

// files are the topologies that are shipped.
func files(t *testing.T) []string {
	more, err := filepath.Glob("../../topologies/*.yaml")
	require.NoError(t, err)
	hardware, err := filepath.Glob("../../topologies/hardware/*.yaml")
	require.NoError(t, err)
	more = append(more, hardware...)
	return append(more, "../../cloud/topology.yaml")
}

func parse(t *testing.T, path string) *topology.Cloud {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	backend := topology.Linux
	if strings.Contains(string(text), "--backend ovs") { // in its comment: it needs that one
		backend = topology.OVS
	}
	c, err := topology.Parse(filepath.Base(path), text, backend)
	require.NoError(t, err)
	return c
}

// golden compares with a file, or writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run go test with -update when the change is meant")
}

// What a file means is the same in every run and does not change by accident.
func TestCompileGolden(t *testing.T) {
	for _, path := range files(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			got, err := json.MarshalIndent(parse(t, path), "", " ")
			require.NoError(t, err)
			again, err := json.MarshalIndent(parse(t, path), "", " ")
			require.NoError(t, err)
			require.Equal(t, string(got), string(again))
			golden(t, filepath.Join("testdata", strings.TrimSuffix(filepath.Base(path), ".yaml")+".golden.json"), append(got, '\n'))
		})
	}
}

// The agent gets the cloud as JSON: nothing may be lost on the way.
func TestCloudThroughJSON(t *testing.T) {
	for _, path := range files(t) {
		c := parse(t, path)
		text, err := json.Marshal(c)
		require.NoError(t, err)
		var back topology.Cloud
		require.NoError(t, json.Unmarshal(text, &back))
		again, err := json.Marshal(&back)
		require.NoError(t, err)
		assert.Equal(t, string(text), string(again))
	}
}

// The states are what the subsystems accept.
func TestStatesAreValid(t *testing.T) {
	for _, path := range files(t) {
		c := parse(t, path)
		for _, h := range c.Hosts {
			for name, v := range map[string]any{"overlay": h.States.Overlay, "secgroup": h.States.SecGroup, "router": h.States.Router, "dhcp": h.States.DHCP, "metadata": h.States.Metadata, "qos": h.States.QoS} {
				if s, ok := v.(interface{ Validate() error }); ok {
					assert.NoError(t, s.Validate(), "%s: %s of %s", path, name, h.Name)
				}
			}
		}
	}
}

// The schema beside the shipped file is the one the parser's types make.
func TestSchemaInStep(t *testing.T) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	require.NoError(t, e.Encode(topology.Schema()))
	golden(t, "../../cloud/topology.schema.json", b.Bytes())
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	c := jsonschema.NewCompiler()
	s, err := c.Compile("../../cloud/topology.schema.json")
	require.NoError(t, err)
	return s
}

// load reads YAML as a validator of JSON Schema wants it.
func load(t *testing.T, text []byte) any {
	var v any
	require.NoError(t, yaml.Unmarshal(text, &v))
	b, err := json.Marshal(v)
	require.NoError(t, err)
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	return out
}

func TestSchemaAcceptsShippedFiles(t *testing.T) {
	s := compileSchema(t)
	for _, path := range files(t) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.NoError(t, s.Validate(load(t, text)), path)
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t)
	for name, text := range map[string]string{
		"unknown field":  "name: x\nhosts: [{name: h1, colour: red}]\nnetworks: []\n",
		"missing":        "hosts: []\nnetworks: []\n",
		"not in enum":    "name: x\nhosts: []\nnetworks: [{name: n, provider:network_type: token-ring, subnets: []}]\n",
		"wrong type":     "name: x\nhosts: []\nnetworks: [{name: n, subnets: [], mtu: big}]\n",
		"port too large": "name: x\nhosts: []\nnetworks: []\nprobe: {tcp: [70000]}\n",
	} {
		assert.Error(t, s.Validate(load(t, []byte(text))), name)
	}
}

const base = `name: t
hosts: [{name: h1}, {name: h2}]
physical_networks: [{name: p1}]
networks:
  - name: ext
    router:external: true
    provider:network_type: flat
    provider:physical_network: p1
    subnets: [{name: ext4, cidr: 203.0.113.0/24, enable_dhcp: false}]
  - name: a
    subnets:
      - {name: a4, cidr: 10.0.0.0/24}
      - {name: a6, cidr: "2001:db8::/64", ipv6_ra_mode: slaac}
routers:
  - {name: r, external_gateway_info: {network_id: ext}, interfaces: [{subnet_id: a4}, {subnet_id: a6}]}
`

// cards is a host with a card.
const cards = `name: t
hosts: [{name: h1, sriov_devices: [{name: eth9, physical_network: ph, vfs: 2, egress_kbps: 1000}]}]
physical_networks: [{name: ph}]
networks:
  - name: d
    provider:network_type: vlan
    provider:physical_network: ph
    provider:segmentation_id: 7
    subnets: [{name: d4, cidr: 10.9.0.0/24}]
  - name: a
    subnets: [{name: a4, cidr: 10.8.0.0/24}]
`

// Each mistake is said with its line. The line is where "<--" stands in the
// text; what is said there is what follows it.
func TestMistakes(t *testing.T) {
	tests := []struct{ name, text string }{
		{"not YAML", "name: [\n<-- not YAML"},
		{"unknown field", base + "colour: red <-- colour: unknown field"},
		{"misspelt field", base + "severs: [] <-- did you mean \"servers\"?"},
		{"field twice", base + "name: u <-- is given twice, first on line 1"},
		{"missing field", base + "servers:\n  - host: h1 <-- servers[0].name: is missing\n    networks: [{network: a}]"},
		{"list expected", base + "servers: {name: x} <-- must be a list, not a mapping"},
		{"single value expected", base + "servers:\n  - name: [x] <-- must be a single value, not a list\n    networks: [{network: a}]"},
		{"mapping expected", base + "servers:\n  - web <-- must be a mapping, not a single value"},
		{"bool", base + "ports:\n  - name: p\n    network_id: a\n    port_security_enabled: maybe <-- \"maybe\" is not true or false"},
		{"number", base + "underlay:\n  mtu: big <-- \"big\" is not a number"},
		{"port number", base + "probe:\n  tcp: [70000] <-- probe.tcp[0]: \"70000\" is not a number from 0 to 65535"},
		{"address", base + "ports:\n  - name: p\n    network_id: a\n    fixed_ips: [{ip_address: 10.0.0}] <-- fixed_ips[0].ip_address: \"10.0.0\" is not an IP address"},
		{"prefix", base + "  - {name: r2, routes: [{destination: all, nexthop: 10.0.0.9}]} <-- is not a prefix in CIDR form"},
		{"MAC", base + "ports:\n  - name: p\n    network_id: a\n    mac_address: fa:16 <-- is not a MAC address"},
		{"multicast MAC", base + "ports:\n  - name: p\n    network_id: a\n    mac_address: 01:00:5e:00:00:01 <-- is not a unicast address"},
		{"MAC twice", base + "ports:\n  - {name: p, network_id: a, mac_address: fa:16:3e:00:00:01}\n  - {name: q, network_id: a, mac_address: fa:16:3e:00:00:01} <-- is the MAC of port \"p\""},
		{"enum", base + "security_groups:\n  - name: g\n    security_group_rules: [{direction: inwards}] <-- \"inwards\" is not one of ingress, egress"},
		{"cloud name", strings.Replace(base, "name: t\n", "name: My_Cloud <-- must be lower-case\n", 1)},
		{"name of two", base + "ports:\n  - {name: p, network_id: a}\n  - {name: p, network_id: a} <-- is the name of another port, on line 17"},
		{"bad name", base + "ports:\n  - {name: \"a b\", network_id: a} <-- ports[0].name"},
		{"host name", base + "servers:\n  - name: Web_1 <-- must be a host name\n    networks: [{network: a}]"},
		{"no such host", base + "servers:\n  - name: w\n    host: h9 <-- there is no host \"h9\"; there is h1, h2\n    networks: [{network: a}]"},
		{"no such network", base + "servers:\n  - name: w\n    networks: [{network: b}] <-- there is no network \"b\""},
		{"no such port", base + "servers:\n  - name: w\n    networks: [{port: b}] <-- there is no port \"b\""},
		{"network and port", base + "servers:\n  - name: w\n    networks: [{}] <-- exactly one of network and port"},
		{"no networks", base + "servers:\n  - name: w\n    networks: [] <-- at least one is needed"},
		{"port of two servers", base + "ports: [{name: p, network_id: a}]\nservers:\n  - {name: w, networks: [{port: p}]}\n  - {name: v, networks: [{port: p}]} <-- is plugged into server \"w\""},
		{"no such key", base + "servers:\n  - name: w\n    key_name: k <-- there is no keypair \"k\"\n    networks: [{network: a}]"},
		{"key form", base + "keypairs:\n  - {name: k, public_key: secret} <-- is not in the form of authorized_keys"},
		{"no such group", base + "servers:\n  - name: w\n    security_groups: [g] <-- there is no security group \"g\"\n    networks: [{network: a}]"},
		{"group twice", base + "security_groups: [{name: g}]\nports:\n  - name: p\n    network_id: a\n    security_groups: [g, g] <-- is there twice"},
		{"no such remote group", base + "security_groups:\n  - name: g\n    security_group_rules: [{direction: ingress, remote_group_id: x}] <-- there is no security group \"x\""},
		{"no such address group", base + "security_groups:\n  - name: g\n    security_group_rules: [{direction: ingress, remote_address_group_id: x}] <-- there is no address group \"x\""},
		{"two remotes", base + "security_groups: \n  - name: g\n    security_group_rules: [{direction: ingress, remote_ip_prefix: 10.0.0.0/8, remote_group_id: g}] <-- at most one of"},
		{"rule versions", base + "security_groups:\n  - name: g\n    security_group_rules: [{direction: ingress, ethertype: IPv6, remote_ip_prefix: 10.0.0.0/8}] <-- is not IPv6"},
		{"rule prefix bits", base + "security_groups:\n  - name: g\n    security_group_rules: [{direction: ingress, remote_ip_prefix: 10.0.0.1/8}] <-- did you mean 10.0.0.0/8?"},
		{"rule ports without protocol", base + "security_groups:\n  - name: g\n    security_group_rules: [{direction: ingress, port_range_min: 80, port_range_max: 80}] <-- port_range"},
		{"rule ports turned", base + "security_groups:\n  - name: g\n    security_group_rules: [{direction: ingress, protocol: tcp, port_range_min: 90, port_range_max: 80}] <-- port_range"},
		{"rule protocol", base + "security_groups:\n  - name: g\n    security_group_rules: [{direction: ingress, protocol: chaos}] <-- \"chaos\""},
		{"pairs without port security", base + "ports:\n  - name: p\n    network_id: a\n    port_security_enabled: false\n    allowed_address_pairs: [{ip_address: 10.0.0.9}] <-- needs none"},
		{"groups without port security", base + "security_groups: [{name: g}]\nports:\n  - name: p\n    network_id: a\n    port_security_enabled: false\n    security_groups: [g] <-- has none"},
		{"address in no subnet", base + "ports:\n  - name: p\n    network_id: a\n    fixed_ips: [{ip_address: 10.9.0.1}] <-- is in no subnet of network \"a\""},
		{"address of other subnet", base + "ports:\n  - name: p\n    network_id: a\n    fixed_ips: [{subnet_id: a6, ip_address: 10.0.0.9}] <-- is not in subnet \"a6\""},
		{"subnet of other network", base + "ports:\n  - name: p\n    network_id: a\n    fixed_ips: [{subnet_id: ext4}] <-- is not on network \"a\""},
		{"address twice", base + "servers:\n  - {name: w, networks: [{network: a, fixed_ip: 10.0.0.9}]}\n  - {name: v, networks: [{network: a, fixed_ip: 10.0.0.9}]} <-- 10.0.0.9 is taken: line 17"},
		{"gateway's address", base + "servers:\n  - {name: w, networks: [{network: a, fixed_ip: 10.0.0.1}]} <-- 10.0.0.1 is taken: line 15"},
		{"broadcast address", base + "servers:\n  - {name: w, networks: [{network: a, fixed_ip: 10.0.0.255}]} <-- is the broadcast address of subnet"},
		{"slaac address", base + "servers:\n  - {name: w, networks: [{network: a, fixed_ip: \"2001:db8::9\"}]} <-- are made of the MAC"},
		{"gateway not external", base + "  - name: r2\n    external_gateway_info: {network_id: a} <-- is not router:external"},
		{"subnet on two routers", base + "  - name: r2\n    interfaces: [{subnet_id: a4}] <-- is already on router \"r\""},
		{"no such subnet", base + "  - name: r2\n    interfaces: [{subnet_id: b4}] <-- there is no subnet \"b4\""},
		{"route next hop", base + "  - name: r2\n    routes: [{destination: 10.1.0.0/16, nexthop: 192.168.0.1}] <-- is on no subnet that is attached"},
		{"floating IP of nothing", base + "floatingips:\n  - {name: f, floating_network_id: ext, port_id: w} <-- there is no port or server \"w\""},
		{"floating IP not external", base + "floatingips:\n  - {name: f, floating_network_id: a} <-- is not router:external"},
		{"floating IP outside", base + "floatingips:\n  - {name: f, floating_network_id: ext, floating_ip_address: 10.1.1.1} <-- is in no subnet of network \"ext\""},
		{"floating IP both", base + "servers: [{name: w, networks: [{network: a}]}]\nfloatingips:\n  - {name: f, floating_network_id: ext, port_id: w, port_forwardings: [{protocol: tcp, external_port: 1, internal_port: 1, internal_port_id: w}]} <-- not both"},
		{"forward without port", base + "servers: [{name: w, networks: [{network: a}]}]\nfloatingips:\n  - {name: f, floating_network_id: ext, port_forwardings: [{protocol: tcp, internal_port: 1, internal_port_id: w}]} <-- exactly one of external_port"},
		{"forward range", base + "servers: [{name: w, networks: [{network: a}]}]\nfloatingips:\n  - {name: f, floating_network_id: ext, port_forwardings: [{protocol: tcp, external_port_range: 9-10, internal_port: 1, internal_port_id: w}]} <-- is not a range"},
		{"forward sizes", base + "servers: [{name: w, networks: [{network: a}]}]\nfloatingips:\n  - {name: f, floating_network_id: ext, port_forwardings: [{protocol: tcp, external_port_range: \"9:10\", internal_port: 1, internal_port_id: w}]} <-- differ in size"},
		{"forward overlap", base + "servers: [{name: w, networks: [{network: a}]}]\nfloatingips:\n  - name: f\n    floating_network_id: ext\n    port_forwardings:\n      - {protocol: tcp, external_port: 9, internal_port: 1, internal_port_id: w}\n      - {protocol: tcp, external_port: 9, internal_port: 2, internal_port_id: w} <-- overlaps forwarding"},
		{"outside on nothing", base + "outside_servers:\n  - {name: o, physical_network: p9, addresses: [203.0.113.9/24]} <-- there is no physical network \"p9\""},
		{"outside route", base + "outside_servers:\n  - {name: o, physical_network: p1, addresses: [203.0.113.9/24], routes: [{destination: 10.0.0.0/8, nexthop: 10.0.0.1}]} <-- is on no subnet that is attached"},
		{"router on a host without the wire", strings.Replace(base, "{name: h2}", "{name: h2, physical_networks: []}", 1) + "  - name: r2\n    host: h2 <-- is not cabled to physical network \"p1\"\n    external_gateway_info: {network_id: ext}"},
		{"server on a host without the wire", strings.Replace(base, "{name: h2}", "{name: h2, physical_networks: []}", 1) + "servers:\n  - name: w\n    host: h2 <-- is not cabled to physical network \"p1\"\n    networks: [{network: ext}]"},
		{"no such policy", base + "ports:\n  - name: p\n    network_id: a\n    qos_policy_id: gold <-- there is no QoS policy \"gold\""},
		{"policy rule twice", base + "qos_policies:\n  - name: q\n    rules:\n      - {type: bandwidth_limit, max_kbps: 1000}\n      - {type: bandwidth_limit, max_kbps: 2000, direction: egress} <-- there is another bandwidth_limit of direction egress"},
		{"policy rule of another type", base + "qos_policies:\n  - name: q\n    rules: [{type: dscp_marking, dscp_mark: 8, max_kbps: 1}] <-- max_kbps: is not for dscp_marking"},
		{"policy rule empty", base + "qos_policies:\n  - name: q\n    rules: [{type: bandwidth_limit}] <-- a bandwidth_limit needs max_kbps"},
		{"policy contradicts itself", base + "qos_policies:\n  - name: q <-- min_kbps: \"2000\" is above max_kbps, 1000\n    rules: [{type: bandwidth_limit, max_kbps: 1000}, {type: minimum_bandwidth, min_kbps: 2000}]"},
		{"policy burst", base + "qos_policies:\n  - name: q <-- max_burst_kbit: \"8\" is less than one frame\n    rules: [{type: bandwidth_limit, max_kbps: 1000, max_burst_kbps: 8}]"},
		{"policy direction", base + "qos_policies:\n  - name: q\n    rules: [{type: bandwidth_limit, direction: any, max_kbps: 1000}] <-- any is for minimum_packet_rate only"},
		{"mark of ingress", base + "qos_policies:\n  - name: q\n    rules: [{type: dscp_marking, direction: ingress, dscp_mark: 8}] <-- only what is sent is marked"},
		{"policy of forwards", base + "servers: [{name: w, networks: [{network: a}]}]\nqos_policies: [{name: q, rules: []}]\nfloatingips:\n  - {name: f, floating_network_id: ext, qos_policy_id: q, port_forwardings: [{protocol: tcp, external_port: 1, internal_port: 1, internal_port_id: w}]} <-- has the gateway's"},
		{"more promised than there is", strings.Replace(base, "{name: h1}", "{name: h1, bandwidths: [{egress_kbps: 1000}]}", 1) + "qos_policies: [{name: q, rules: [{type: minimum_bandwidth, min_kbps: 600}]}]\nports:\n  - {name: p1, network_id: a, qos_policy_id: q}\n  - {name: p2, network_id: a, qos_policy_id: q} <-- host \"h1\" has not the minimum bandwidth that port \"p2\" asks for\nservers: [{name: w1, networks: [{port: p1}]}, {name: w2, networks: [{port: p2}]}]"},
		{"groups on a function", cards + "ports:\n  - name: p <-- security groups cannot hold on a virtual function\n    network_id: d\n    binding:vnic_type: direct\nservers: [{name: w, networks: [{port: p}]}]"},
		{"function of a tunnel", cards + "ports:\n  - name: p\n    network_id: a\n    security_groups: []\n    binding:vnic_type: direct <-- network \"a\" is of type \"vxlan\"\nservers: [{name: w, networks: [{port: p}]}]"},
		{"no card", strings.Replace(cards, "sriov_devices: [{name: eth9, physical_network: ph, vfs: 2, egress_kbps: 1000}]", "", 1) + "ports:\n  - name: p\n    network_id: d\n    security_groups: []\n    binding:vnic_type: direct <-- host \"h1\" has no card\nservers: [{name: w, networks: [{port: p}]}]"},
		{"not of a function", cards + "qos_policies: [{name: q, rules: [{type: dscp_marking, dscp_mark: 10}]}]\nports:\n  - name: p\n    network_id: d\n    security_groups: []\n    binding:vnic_type: direct\n    qos_policy_id: q <-- DSCP of a VF\nservers: [{name: w, networks: [{port: p}]}]"},
		{"more promised of a card", cards + "qos_policies: [{name: q, rules: [{type: minimum_bandwidth, min_kbps: 2000}]}]\nports:\n  - {name: p, network_id: d, security_groups: [], binding:vnic_type: direct, qos_policy_id: q} <-- host \"h1\" has not the minimum bandwidth\nservers: [{name: w, networks: [{port: p}]}]"},
		{"DPDK elsewhere", "name: t\nhosts:\n  - name: h1\n    dpdk: {pmd_cores: [1]} <-- only the backend ovs\nnetworks: [{name: a, subnets: [{name: a4, cidr: 10.0.0.0/24}]}]"},
		{"promised by nobody", base + "qos_policies: [{name: q, rules: [{type: minimum_bandwidth, direction: ingress, min_kbps: 600}]}]\nservers: [{name: w1, networks: [{port: p1}]}]\nports:\n  - {name: p1, network_id: a, qos_policy_id: q} <-- host \"h1\" has not the minimum bandwidth that port \"p1\" asks for"},
		{"bandwidth twice", strings.Replace(base, "{name: h2}]", "{name: h2, bandwidths: [{egress_kbps: 1}, {egress_kbps: 2}]}] <-- hosts[1].bandwidths[1]: there is another", 1)},
		{"underlay", base + "underlay: {cidr: 192.0.2.1/24} <-- did you mean 192.0.2.0/24?"},
	}
	// Mistakes of networks stand in a file of their own.
	for _, n := range []struct{ name, text string }{
		{"cidr bits", "  - {name: s, cidr: 10.0.0.1/24} <-- did you mean 10.0.0.0/24?"},
		{"cidr small", "  - {name: s, cidr: 10.0.0.0/31} <-- no room"},
		{"overlap", "  - {name: s, cidr: 10.0.0.0/24}\n  - {name: s2, cidr: 10.0.0.128/25} <-- overlaps subnet \"s\""},
		{"ip version", "  - {name: s, cidr: 10.0.0.0/24, ip_version: 6} <-- is not the version of"},
		{"gateway", "  - {name: s, cidr: 10.0.0.0/24, gateway_ip: 10.0.1.1} <-- is not in 10.0.0.0/24"},
		{"gateway word", "  - {name: s, cidr: 10.0.0.0/24, gateway_ip: none} <-- is not an IP address or null"},
		{"ra mode of v4", "  - {name: s, cidr: 10.0.0.0/24, ipv6_ra_mode: slaac} <-- is for IPv6 subnets"},
		{"modes differ", "  - {name: s, cidr: \"2001:db8::/64\", ipv6_ra_mode: slaac, ipv6_address_mode: dhcpv6-stateful} <-- must equal ipv6_ra_mode"},
		{"slaac length", "  - {name: s, cidr: \"2001:db8::/60\", ipv6_ra_mode: slaac} <-- need a /64"},
		{"dns version", "  - {name: s, cidr: 10.0.0.0/24, dns_nameservers: [\"2001:db8::1\"]} <-- is not of the subnet's IP version"},
		{"host route", "  - {name: s, cidr: 10.0.0.0/24, host_routes: [{destination: 10.1.0.0/16, nexthop: 10.3.0.1}]} <-- is on no subnet"},
		{"pool", "  - {name: s, cidr: 10.0.0.0/24, allocation_pools: [{start: 10.0.0.9, end: 10.0.0.2}]} <-- is not a range in"},
	} {
		tests = append(tests, struct{ name, text string }{"subnet: " + n.name, "name: t\nhosts: [{name: h1}]\nnetworks:\n- name: n\n  subnets:\n" + n.text})
	}
	for _, n := range []struct{ name, text string }{
		{"vni", "  provider:segmentation_id: 99999999 <-- is not a VNI"},
		{"vlan id", "  provider:network_type: vlan\n  provider:physical_network: p1\n  provider:segmentation_id: 5000 <-- needs a VLAN id"},
		{"flat without physical network", "  provider:network_type: flat <-- provider:physical_network: a flat network needs one"},
		{"local with id", "  provider:network_type: local\n  provider:segmentation_id: 7 <-- a local network has none"},
		{"vxlan on physical network", "  provider:physical_network: p1 <-- only flat and vlan"},
		{"mtu", "  mtu: 9000 <-- is not from 1280 to 1450"},
	} {
		tests = append(tests, struct{ name, text string }{"network: " + n.name, "name: t\nhosts: [{name: h1}]\nphysical_networks: [{name: p1}]\nnetworks:\n- subnets: [{name: s, cidr: 10.0.0.0/24}]\n  name: n\n" + n.text})
	}
	mark := regexp.MustCompile(` ?<-- (.*)`)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var line int
			var reason string
			for i, l := range strings.Split(tt.text, "\n") {
				if m := mark.FindStringSubmatch(l); m != nil {
					line, reason = i+1, m[1]
				}
			}
			_, err := topology.Parse("t.yaml", []byte(mark.ReplaceAllString(tt.text, "")), topology.Linux)
			var p topology.Problems
			require.ErrorAs(t, err, &p)
			for _, x := range p {
				if strings.Contains(x.Error(), reason) && (x.Line == line || tt.name == "not YAML" || strings.Contains(tt.name, "without physical")) {
					return
				}
			}
			t.Fatalf("nothing of %q on line %d in:\n%v", reason, line, err)
		})
	}
}

// All mistakes are reported at once, in the order of their lines.
func TestAllMistakesAtOnce(t *testing.T) {
	text := `name: TOO_LOUD
hosts: [{name: h1, colour: red}]
networks:
  - name: a
    subnets: [{name: a4, cidr: 10.0.0.1/24}]
servers:
  - {name: w, host: h2, networks: [{network: b}]}
`
	_, err := topology.Parse("t.yaml", []byte(text), topology.Linux)
	var p topology.Problems
	require.ErrorAs(t, err, &p)
	var got []int
	for _, x := range p {
		got = append(got, x.Line)
	}
	assert.Equal(t, []int{1, 2, 5, 7, 7}, got, "%v", err)
	assert.Contains(t, err.Error(), "t.yaml:2: hosts[0].colour: unknown field")
}

// Names alone decide what is filled in: a further server moves no other.
func TestAddedServerMovesNoOther(t *testing.T) {
	one, err := topology.Parse("t.yaml", []byte(base+"servers:\n  - {name: w, networks: [{network: a}]}\n"), topology.Linux)
	require.NoError(t, err)
	two, err := topology.Parse("t.yaml", []byte(base+"servers:\n  - {name: aa, networks: [{network: a}]}\n  - {name: w, networks: [{network: a}]}\n"), topology.Linux)
	require.NoError(t, err)
	assert.Equal(t, one.VM("w"), two.VM("w"))
	assert.Equal(t, one.All.Router, two.All.Router)
}

// Whoever sends garbage gets problems, never a panic.
func FuzzParse(f *testing.F) {
	text, err := os.ReadFile("../../cloud/topology.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(base))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := topology.Parse("fuzz.yaml", text, topology.Linux)
		if (c == nil) == (err == nil) {
			t.Fatal("neither cloud nor problems, or both")
		}
	})
}
