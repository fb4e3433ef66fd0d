package vm

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vnet-go/vnet/examples/internal/topology"
)

// Spec is what a machine is started with.
type Spec struct {
	Name   string         `json:"name"`
	Host   string         `json:"host"`   // a machine that moves starts anew there
	Client string         `json:"client"` // DHCP client: "builtin", "udhcpc", "dhclient" or "dhcpcd"
	NICs   []topology.NIC `json:"nics"`
	// Outside, when set, makes it a machine outside the cloud, with addresses of its own.
	Outside *topology.Outside `json:"outside,omitempty"`
	TCP     []uint16          `json:"tcp"` // ports it answers on
	UDP     []uint16          `json:"udp"`
}

// Files of a machine, in its directory.
const (
	specFile  = "spec.json"
	stateFile = "state.json"
	// Socket is where a running machine takes probes.
	Socket = "vm.sock"
	// Log is what it wrote.
	Log = "console.log"
)

// Phase says how far a machine has come.
type Phase string

// The phases.
const (
	Booting Phase = "booting"
	Ready   Phase = "ready"
	Failed  Phase = "failed" // something it needs did not come; it runs all the same
)

// State is what a machine tells about itself.
type State struct {
	Name      string              `json:"name"`
	PID       int                 `json:"pid"`
	Phase     Phase               `json:"phase"`
	Problems  []string            `json:"problems,omitempty"`
	BootTime  float64             `json:"boot_seconds"`
	Client    string              `json:"client"`
	Hostname  string              `json:"hostname"`
	Leases    []Lease             `json:"leases"`
	Addresses map[string][]string `json:"addresses"` // device -> prefixes, without link-local ones
	Routes    []string            `json:"routes"`
	DNS       []netip.Addr        `json:"dns,omitempty"`
	Search    []string            `json:"search,omitempty"`
	Metadata  *Metadata           `json:"metadata,omitempty"`
}

// Lease is how one address was got.
type Lease struct {
	Device  string       `json:"device"`
	By      string       `json:"by"` // "dhcpv4", "dhcpv6", "slaac", "static", "address-pair"
	Address netip.Prefix `json:"address"`
	Server  string       `json:"server,omitempty"`  // who gave it
	Seconds int          `json:"seconds,omitempty"` // for how long
	MTU     int          `json:"mtu,omitempty"`
	Routes  []string     `json:"routes,omitempty"` // classless static routes of option 121
}

// Metadata is what was fetched.
type Metadata struct {
	URL        string            `json:"url"` // where it was found
	UUID       string            `json:"uuid"`
	Name       string            `json:"name"`
	Hostname   string            `json:"hostname"`
	Project    string            `json:"project_id,omitempty"`
	Keys       []string          `json:"keys,omitempty"` // names
	Meta       map[string]string `json:"meta,omitempty"`
	UserData   int               `json:"user_data_bytes"`
	Networks   int               `json:"networks"`        // in network_data.json
	InstanceID string            `json:"ec2_instance_id"` // by the EC2 tree
	LocalIPv4  string            `json:"ec2_local_ipv4,omitempty"`
	PublicIPv4 string            `json:"ec2_public_ipv4,omitempty"`
	Token      bool              `json:"imds_v2"` // an IMDSv2 token was given
}

// ReadState reads what the machine with that directory last told.
func ReadState(dir string) (*State, error) {
	var s State
	return &s, readJSON(filepath.Join(dir, stateFile), &s)
}

// ReadSpec reads what the machine with that directory was started with.
func ReadSpec(dir string) (*Spec, error) {
	var s Spec
	return &s, readJSON(filepath.Join(dir, specFile), &s)
}

// Write stores the spec in the machine's directory and forgets its last state.
func (s *Spec) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	os.Remove(filepath.Join(dir, stateFile))
	return writeJSON(filepath.Join(dir, specFile), s)
}

// Same reports whether a machine started with s need not start again to be
// one of o. The ports it answers on may change while it runs.
func (s *Spec) Same(o *Spec) bool { return len(s.Diff(o)) == 0 }

// Diff says what differs between two specs that a machine must start again for.
func (s *Spec) Diff(o *Spec) []string {
	var out []string
	for _, f := range []struct {
		name string
		a, b any
	}{{"host", s.Host, o.Host}, {"client", s.Client, o.Client}, {"interfaces", s.NICs, o.NICs}, {"outside", s.Outside, o.Outside}} {
		x, _ := json.Marshal(f.a)
		y, _ := json.Marshal(f.b)
		if string(x) != string(y) {
			out = append(out, fmt.Sprintf("%s: %s -> %s", f.name, x, y))
		}
	}
	return out
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// writeJSON replaces the file whole, so that a reader never sees half of it.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
