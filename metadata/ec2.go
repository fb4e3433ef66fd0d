package metadata

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dir is a level of the tree. Values: string and []byte (text), document
// (JSON), dir, and keyDir, which is listed in a way of its own; lazyText,
// lazyDir and lazyDocument are made when somebody goes there.
type dir map[string]any

type (
	lazyText     func() string
	lazyDir      func() dir
	lazyDocument func() document
)

type document []byte

// keyDir is public-keys/: it lists "0=name" without a slash, and a key is at
// 0/openssh-key.
type keyDir []Key

// The versions of the EC2 tree: Nova's, and those with network/interfaces
// that cloud-init looks for. There are no differences after 2011-01-01.
const (
	ec2Network = "2011-01-01"
	ec2Dynamic = "2009-04-04"
)

var ec2Versions = [...]string{"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01",
	"2008-09-01", "2009-04-04", ec2Network, "2016-09-02", "2018-09-24", "2021-03-23"}

// EC2Versions are the versions of the EC2 tree, oldest first, without "latest".
func EC2Versions() []string { return slices.Clone(ec2Versions[:]) }

// EC2ID returns the EC2 name of an id: prefix, hyphen, and 8 hexadecimal
// digits that are always the same for the same id.
func EC2ID(prefix, id string) string {
	sum := sha256.Sum256([]byte(prefix + "\x00" + id))
	return fmt.Sprintf("%s-%08x", prefix, binary.BigEndian.Uint32(sum[:]))
}

func (in *Instance) hostname() string { return cmp.Or(in.Hostname, in.Name, in.UUID) }

// localIPv4 is the first fixed IPv4 address.
func (in *Instance) localIPv4() string {
	for _, n := range in.Interfaces {
		for _, a := range n.Addresses {
			if a.Address.IsValid() && a.Address.Addr().Is4() {
				return a.Address.Addr().String()
			}
		}
	}
	return ""
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// ec2Root is the tree of one version; version is one of ec2Versions. What is
// there from which version on: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html
func ec2Root(in *Instance, version string) dir {
	root := dir{"meta-data": ec2MetaData(in, version)}
	if len(in.UserData) > 0 {
		root["user-data"] = in.UserData
	}
	if version >= ec2Dynamic {
		root["dynamic"] = dir{"instance-identity": dir{"document": lazyDocument(func() document { return identity(in) })}}
	}
	return root
}

func ec2MetaData(in *Instance, version string) dir {
	id := func(prefix, id string) lazyText { return func() string { return EC2ID(prefix, id) } }
	d := dir{
		"ami-id":            id("ami", cmp.Or(in.ImageID, in.UUID)),
		"ami-launch-index":  strconv.Itoa(in.LaunchIndex),
		"ami-manifest-path": "FIXME", // as Nova, whose clients know it for "none"
		"instance-id":       id("i", in.UUID),
		"reservation-id":    id("r", in.UUID),
		"hostname":          in.hostname(),
		"local-ipv4":        in.localIPv4(),
		"security-groups":   strings.Join(in.SecurityGroups, "\n"),
	}
	if len(in.Keys) > 0 {
		d["public-keys"] = keyDir(in.Keys)
	}
	if version == "1.0" {
		return d
	}
	d["local-hostname"], d["public-hostname"] = in.hostname(), in.hostname()
	d["public-ipv4"] = text(in.PublicIPv4)
	if version >= "2007-08-29" {
		d["instance-type"] = in.InstanceType
	}
	if version >= "2007-12-15" {
		d["block-device-mapping"] = dir{"ami": "vda", "root": "/dev/vda"}
	}
	if version >= "2008-02-01" {
		d["placement"] = dir{"availability-zone": in.AvailabilityZone}
	}
	if version >= "2008-09-01" {
		d["instance-action"] = "none"
	}
	if version >= ec2Network && len(in.Interfaces) > 0 {
		macs := dir{}
		for i := range in.Interfaces {
			macs[in.Interfaces[i].MAC.String()] = lazyDir(func() dir { return ec2Interface(in, i) })
		}
		d["network"] = dir{"interfaces": dir{"macs": macs}}
		d["mac"] = in.Interfaces[0].MAC.String()
	}
	return d
}

func ec2Interface(in *Instance, i int) dir {
	n := in.Interfaces[i]
	d := dir{"device-number": strconv.Itoa(i), "interface-id": EC2ID("eni", n.PortID), "mac": n.MAC.String(),
		"local-hostname": in.hostname(), "subnet-id": EC2ID("subnet", n.NetworkID), "owner-id": in.ProjectID}
	var v4, v6, blocks []string
	for _, a := range n.Addresses {
		if !a.Address.IsValid() {
			continue
		}
		ip, block := a.Address.Addr().String(), a.Address.Masked().String()
		if a.Address.Addr().Is4() {
			v4 = append(v4, ip)
			if d["subnet-ipv4-cidr-block"] == nil {
				d["subnet-ipv4-cidr-block"] = block
			}
		} else {
			v6 = append(v6, ip)
			if !slices.Contains(blocks, block) {
				blocks = append(blocks, block)
			}
		}
	}
	if v4 != nil {
		d["local-ipv4s"] = strings.Join(v4, "\n")
	}
	if v6 != nil {
		d["ipv6s"], d["subnet-ipv6-cidr-blocks"] = strings.Join(v6, "\n"), strings.Join(blocks, "\n")
	}
	if i == 0 && in.PublicIPv4.IsValid() {
		d["public-ipv4s"], d["public-hostname"] = text(in.PublicIPv4), in.hostname()
	}
	return d
}

// identity is the instance identity document, unsigned.
func identity(in *Instance) document {
	region := in.AvailabilityZone
	if n := len(region); n > 1 && region[n-1] >= 'a' && region[n-1] <= 'z' && region[n-2] >= '0' && region[n-2] <= '9' {
		region = region[:n-1]
	}
	b, err := json.MarshalIndent(struct {
		AccountID        string `json:"accountId"`
		AvailabilityZone string `json:"availabilityZone"`
		ImageID          string `json:"imageId"`
		InstanceID       string `json:"instanceId"`
		InstanceType     string `json:"instanceType"`
		PrivateIP        string `json:"privateIp"`
		Region           string `json:"region"`
		Version          string `json:"version"`
	}{in.ProjectID, in.AvailabilityZone, EC2ID("ami", cmp.Or(in.ImageID, in.UUID)), EC2ID("i", in.UUID), in.InstanceType, in.localIPv4(), region, "2017-09-30"}, "", "  ")
	if err != nil {
		return nil
	}
	return b
}

// walk goes down from node by the path elements and returns what is there as
// it is sent; ok is false when there is nothing.
func walk(node any, elems []string) (body []byte, contentType string, ok bool) {
	for _, e := range elems {
		switch n := node.(type) {
		case dir:
			if node, ok = n[e]; !ok {
				return nil, "", false
			}
		case keyDir:
			// Asked for by index, or by a whole line of the listing.
			index, _, _ := strings.Cut(e, "=")
			i, err := strconv.Atoi(index)
			if err != nil || i < 0 || i >= len(n) || index != strconv.Itoa(i) {
				return nil, "", false
			}
			node = dir{"openssh-key": strings.TrimSpace(n[i].Data)}
		default:
			return nil, "", false
		}
		switch n := node.(type) {
		case lazyText:
			node = n()
		case lazyDir:
			node = n()
		case lazyDocument:
			node = n()
		}
	}
	switch n := node.(type) {
	case dir:
		names := make([]string, 0, len(n))
		for name, v := range n {
			switch v.(type) {
			case dir, lazyDir, keyDir:
				name += "/"
			}
			names = append(names, name)
		}
		slices.Sort(names)
		return []byte(strings.Join(names, "\n")), plain, true
	case keyDir:
		var b strings.Builder
		for i, k := range n {
			if i > 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "%d=%s", i, k.Name)
		}
		return []byte(b.String()), plain, true
	case string:
		return []byte(n), plain, true
	case document:
		return n, jsonType, true
	case []byte:
		return n, binaryType, true
	}
	return nil, "", false
}

const (
	plain      = "text/plain; charset=utf-8"
	jsonType   = "application/json"
	binaryType = "application/octet-stream"
)

// version returns the version that v names in a tree with these, and whether
// there is one.
func version(v string, all []string) (string, bool) {
	if v == "latest" {
		return all[len(all)-1], true
	}
	return v, slices.Contains(all, v)
}

// past leaves out the versions dated after now: they are not listed, though
// they are served.
func past(all []string, now time.Time) []string {
	today := now.UTC().Format(time.DateOnly)
	return slices.DeleteFunc(slices.Clone(all), func(v string) bool { return v > today && len(v) == len(today) })
}
