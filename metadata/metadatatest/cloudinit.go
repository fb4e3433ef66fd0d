package metadatatest

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cloudInit asks with cloud-init's own readers, both trees, and turns
// network_data.json into its network configuration.
const cloudInit = `
import base64, json, sys
from cloudinit.sources.helpers import openstack, ec2
mac = sys.argv[1]
r = openstack.MetadataReader("http://169.254.169.254", timeout=5, retries=0).read_v2()
net = openstack.convert_net_json(r["networkdata"], known_macs={mac: "eth0"})
md = ec2.get_instance_metadata(api_version="latest", timeout=5, retries=0)
print(json.dumps({
    "version": r["version"], "uuid": r["metadata"]["instance-id"], "hostname": r["metadata"]["local-hostname"],
    "keys": r["metadata"]["public_keys"], "seed": len(r["metadata"]["random_seed"]), "userdata": base64.b64encode(r["userdata"]).decode(),
    "files": {k: base64.b64encode(v).decode() for k, v in r["files"].items()},
    "vendor": r.get("vendordata"), "net": net, "ec2": md,
    "ec2user": base64.b64encode(ec2.get_instance_userdata(timeout=5, retries=0)).decode(),
}))
`

func runCloudInit(t *testing.T, w *world) {
	const python = "/usr/bin/python3" // Debian's, which has its packages
	if _, err := os.Stat("/usr/lib/python3/dist-packages/cloudinit"); err != nil {
		t.Fatal("this test needs the package cloud-init: ", err)
	}
	script := filepath.Join(t.TempDir(), "crawl.py")
	require.NoError(t, os.WriteFile(script, []byte(cloudInit), 0o600))
	for _, name := range []string{"a", "i"} {
		in := Instance(name)
		start := time.Now()
		out, err := w.vms[name].Exec(t.Context(), python, script, in.Interfaces[0].MAC.String())
		require.NoError(t, err)
		t.Logf("cloud-init took %v", time.Since(start).Round(time.Millisecond))
		var got struct {
			UUID, Hostname, Userdata, EC2User string
			Version, Seed                     int
			Keys                              map[string]string
			Files                             map[string]string
			Net                               struct {
				Config []struct {
					Type, Name, MAC string `json:",omitempty"`
					Subnets         []struct{ Type string }
				}
			}
			EC2 map[string]any
		}
		require.NoError(t, json.Unmarshal([]byte(out), &got), out)
		assert.Equal(t, 2, got.Version)
		assert.Equal(t, in.UUID, got.UUID)
		assert.Equal(t, in.Hostname, got.Hostname)
		assert.Equal(t, 512, got.Seed)
		assert.Equal(t, map[string]string{"key": in.Keys[0].Data}, got.Keys)
		user := base64.StdEncoding.EncodeToString(in.UserData)
		assert.Equal(t, user, got.Userdata)
		assert.Equal(t, user, got.EC2User)
		assert.Equal(t, map[string]string{"/etc/motd": base64.StdEncoding.EncodeToString(in.Files[0].Content)}, got.Files)
		if assert.NotEmpty(t, got.Net.Config) {
			assert.Equal(t, "eth0", got.Net.Config[0].Name)
			assert.Equal(t, "physical", got.Net.Config[0].Type)
			assert.Equal(t, "dhcp4", got.Net.Config[0].Subnets[0].Type)
		}
		assert.Equal(t, in.Hostname, got.EC2["local-hostname"])
		assert.Equal(t, "10.0.0.5", got.EC2["local-ipv4"])
		assert.Equal(t, map[string]any{"key": in.Keys[0].Data}, got.EC2["public-keys"])
		assert.Equal(t, map[string]any{"availability-zone": "nova"}, got.EC2["placement"])
		assert.Equal(t, "default\nweb", toText(got.EC2["security-groups"]))
	}
}

// toText joins what cloud-init's reader split at newlines.
func toText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		s := ""
		for i, x := range v {
			if i > 0 {
				s += "\n"
			}
			s += toText(x)
		}
		return s
	}
	return ""
}
