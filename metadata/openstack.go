package metadata

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The versions of the OpenStack tree (nova/api/metadata/base.py) and what
// each brought.
const (
	osFirst       = "2012-08-10" // meta_data.json, user_data
	osPassword    = "2013-04-04" // random_seed, password
	osVendorData  = "2013-10-17"
	osNetworkData = "2015-10-15" // network_data.json, project_id
	osDevices     = "2016-06-30"
	osVendorData2 = "2016-10-06"
	osVLANs       = "2017-02-22"
	osTrusted     = "2018-08-27"
	osCPUs        = "2020-10-14" // dedicated_cpus
	osShares      = "2025-04-04"
)

var openstackVersions = [...]string{osFirst, osPassword, osVendorData, osNetworkData, osDevices, osVendorData2, osVLANs, osTrusted, osCPUs, osShares}

// OpenStackVersions are the versions of the OpenStack tree, oldest first,
// without "latest".
func OpenStackVersions() []string { return slices.Clone(openstackVersions[:]) }

// openstackFile returns what is at elems below /openstack; password is
// handled elsewhere.
func openstackFile(in *Instance, elems []string, now time.Time) (body []byte, contentType string, ok bool, err error) {
	if len(elems) == 0 {
		return []byte(strings.Join(append(past(openstackVersions[:], now), "latest"), "\n")), plain, true, nil
	}
	if elems[0] == "content" {
		if len(elems) != 2 || len(elems[1]) != 4 {
			return nil, "", false, nil
		}
		i, err := strconv.Atoi(elems[1])
		if err != nil || i < 0 || i >= len(in.Files) {
			return nil, "", false, nil
		}
		return in.Files[i].Content, binaryType, true, nil
	}
	v, ok := version(elems[0], openstackVersions[:])
	if !ok || len(elems) > 2 {
		return nil, "", false, nil
	}
	files := openstackList(in, v)
	if len(elems) == 1 {
		return []byte(strings.Join(files, "\n")), plain, true, nil
	}
	if !slices.Contains(files, elems[1]) {
		return nil, "", false, nil
	}
	switch elems[1] {
	case "user_data":
		return in.UserData, binaryType, true, nil
	case "meta_data.json":
		body, err = in.metaData(v)
	case "network_data.json":
		body, err = in.networkData()
	case "vendor_data.json":
		body = object(in.VendorData)
	case "vendor_data2.json":
		if body = in.VendorData2; len(body) == 0 {
			body, err = json.Marshal(map[string]json.RawMessage{"static": object(in.VendorData)})
		}
	default:
		return nil, "", false, nil
	}
	return body, jsonType, true, err
}

func object(doc []byte) []byte {
	if len(doc) == 0 {
		return []byte("{}")
	}
	return doc
}

// openstackList are the files of a version.
func openstackList(in *Instance, v string) []string {
	files := []string{"meta_data.json"}
	if v >= osPassword {
		files = append(files, "password")
	}
	if len(in.UserData) > 0 {
		files = append(files, "user_data")
	}
	if v >= osVendorData {
		files = append(files, "vendor_data.json")
	}
	if v >= osNetworkData {
		files = append(files, "network_data.json")
	}
	if v >= osVendorData2 {
		files = append(files, "vendor_data2.json")
	}
	return files
}

type fileRef struct {
	Path        string `json:"path"`
	ContentPath string `json:"content_path"`
}

func (in *Instance) metaData(v string) ([]byte, error) {
	type doc struct {
		UUID       string            `json:"uuid"`
		Meta       map[string]string `json:"meta,omitempty"`
		Files      []fileRef         `json:"files,omitempty"`
		PublicKeys map[string]string `json:"public_keys,omitempty"`
		Keys       []Key             `json:"keys,omitempty"`
		Hostname   string            `json:"hostname"`
		Name       string            `json:"name"`
		Launch     int               `json:"launch_index"`
		Zone       string            `json:"availability_zone"`
		RandomSeed string            `json:"random_seed,omitempty"`
		ProjectID  string            `json:"project_id,omitempty"`
		Devices    *[]any            `json:"devices,omitempty"`
		CPUs       *[]int            `json:"dedicated_cpus,omitempty"`
	}
	d := doc{UUID: in.UUID, Meta: in.Meta, Hostname: in.hostname(), Name: in.Name, Launch: in.LaunchIndex, Zone: in.AvailabilityZone}
	for i, f := range in.Files {
		d.Files = append(d.Files, fileRef{f.Path, fmt.Sprintf("/content/%04d", i)})
	}
	for _, k := range in.Keys {
		if d.PublicKeys == nil {
			d.PublicKeys = map[string]string{}
		}
		d.PublicKeys[k.Name] = k.Data
		k.Type = cmp.Or(k.Type, "ssh")
		d.Keys = append(d.Keys, k)
	}
	if v >= osPassword {
		var seed [512]byte
		if _, err := rand.Read(seed[:]); err != nil {
			return nil, err
		}
		d.RandomSeed = base64.StdEncoding.EncodeToString(seed[:])
	}
	if v >= osNetworkData {
		d.ProjectID = in.ProjectID
	}
	if v >= osDevices {
		d.Devices = &[]any{}
	}
	if v >= osCPUs {
		d.CPUs = &[]int{}
	}
	return json.Marshal(d)
}

type netLink struct {
	ID   string `json:"id"`
	VIF  string `json:"vif_id"`
	Type string `json:"type"`
	MTU  *int   `json:"mtu"`
	MAC  string `json:"ethernet_mac_address"`
}

type netService struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

type netRoute struct {
	Network string `json:"network"`
	Netmask string `json:"netmask"`
	Gateway string `json:"gateway"`
}

type netNetwork struct {
	ID        string        `json:"id"`
	Type      string        `json:"type"`
	Link      string        `json:"link"`
	NetworkID string        `json:"network_id"`
	IPAddress string        `json:"ip_address,omitempty"`
	Netmask   string        `json:"netmask,omitempty"`
	Routes    *[]netRoute   `json:"routes,omitempty"`
	Services  *[]netService `json:"services,omitempty"`
}

// networkData is network_data.json, shaped as nova/virt/netutils.py shapes
// it: MTU null on links with DHCP, networks by DHCP without addresses, only
// the first network of each family on a link. Without interfaces it is {},
// which means "no configuration".
func (in *Instance) networkData() ([]byte, error) {
	if len(in.Interfaces) == 0 {
		return []byte("{}"), nil
	}
	d := struct {
		Links    []netLink    `json:"links"`
		Networks []netNetwork `json:"networks"`
		Services []netService `json:"services"`
	}{[]netLink{}, []netNetwork{}, []netService{}}
	dns := slices.Clone(in.DNS)
	for i, n := range in.Interfaces {
		l := netLink{ID: fmt.Sprintf("interface%d", i), VIF: n.PortID, Type: cmp.Or(n.Type, "bridge"), MAC: n.MAC.String()}
		if n.PortID != "" {
			l.ID = "tap" + n.PortID[:min(11, len(n.PortID))]
		}
		if slices.ContainsFunc(d.Links, func(o netLink) bool { return o.ID == l.ID }) {
			l.ID = fmt.Sprintf("interface%d", i)
		}
		byDHCP := slices.ContainsFunc(n.Addresses, func(a NICAddress) bool { return strings.Contains(a.Type, "dhcp") })
		if !byDHCP && n.MTU > 0 {
			l.MTU = &n.MTU
		}
		d.Links = append(d.Links, l)
		var had [2]bool
		for _, a := range n.Addresses {
			family := 0
			if a.Address.Addr().Is6() {
				family = 1
			}
			if had[family] {
				continue
			}
			had[family] = true
			d.Networks = append(d.Networks, in.network(len(d.Networks), l.ID, n.NetworkID, a))
			for _, s := range a.DNS {
				if !slices.Contains(dns, s) {
					dns = append(dns, s)
				}
			}
		}
	}
	for _, a := range dns {
		d.Services = append(d.Services, netService{"dns", a.String()})
	}
	return json.Marshal(d)
}

func (in *Instance) network(i int, link, id string, a NICAddress) netNetwork {
	n := netNetwork{ID: fmt.Sprintf("network%d", i), Type: a.Type, Link: link, NetworkID: id}
	if a.Type == "ipv4_dhcp" || a.Type == "ipv6_dhcp" {
		return n
	}
	n.IPAddress, n.Netmask = a.Address.Addr().String(), netmask(a.Address)
	routes, services := []netRoute{}, []netService{}
	if a.Gateway.IsValid() {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if a.Gateway.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		routes = append(routes, netRoute{all.Addr().String(), netmask(all), a.Gateway.String()})
	}
	for _, r := range a.Routes {
		routes = append(routes, netRoute{r.Destination.Masked().Addr().String(), netmask(r.Destination), r.NextHop.String()})
	}
	for _, s := range a.DNS {
		services = append(services, netService{"dns", s.String()})
	}
	n.Routes, n.Services = &routes, &services
	return n
}

// netmask is the length of p as an address of its family.
func netmask(p netip.Prefix) string {
	a, _ := netip.AddrFromSlice(net.CIDRMask(p.Bits(), p.Addr().BitLen()))
	return a.String()
}
