package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vnet-go/vnet/examples/internal/topology"
)

var (
	errNothing = errors.New("nobody answers")
	errAbsent  = errors.New("404")
)

// fetch asks for the metadata as cloud-init does: the OpenStack tree first,
// then the EC2 tree, at the IPv4 address or, without IPv4, at the link-local
// one. Files that came are kept in dir.
func fetch(ctx context.Context, nics []topology.NIC, dir string) (*Metadata, error) {
	var bases []string
	for _, n := range nics {
		if n.DHCP4 || slices.ContainsFunc(n.Static, func(s topology.Static) bool { return s.Address.Addr().Is4() }) {
			bases = append(bases, "http://169.254.169.254")
			break
		}
	}
	for _, n := range nics {
		bases = append(bases, "http://[fe80::a9fe:a9fe%25"+n.Device+"]")
	}
	c := &client{http: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, DisableKeepAlives: true}}}
	err := errNothing
	for ctx.Err() == nil {
		for _, base := range bases {
			var md *Metadata
			c.base, c.token = base, ""
			if md, err = c.all(ctx, dir); err == nil {
				return md, nil
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("%s: %w", strings.Join(bases, ", "), err)
}

type client struct {
	http  *http.Client
	base  string
	token string
}

func (c *client) do(ctx context.Context, method, path string, header ...string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("X-aws-ec2-metadata-token", c.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", path, errAbsent)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return b, nil
}

// optional fetches what need not be there.
func (c *client) optional(ctx context.Context, path string) ([]byte, error) {
	b, err := c.do(ctx, "GET", path)
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	return b, err
}

func (c *client) all(ctx context.Context, dir string) (*Metadata, error) {
	var doc struct {
		UUID     string            `json:"uuid"`
		Name     string            `json:"name"`
		Hostname string            `json:"hostname"`
		Project  string            `json:"project_id"`
		Meta     map[string]string `json:"meta"`
		Keys     []struct {
			Name string `json:"name"`
			Data string `json:"data"`
		} `json:"keys"`
	}
	if _, err := c.do(ctx, "GET", "/openstack"); err != nil {
		return nil, err
	}
	meta, err := c.do(ctx, "GET", "/openstack/latest/meta_data.json")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(meta, &doc); err != nil {
		return nil, fmt.Errorf("meta_data.json: %w", err)
	}
	md := &Metadata{URL: c.base, UUID: doc.UUID, Name: doc.Name, Hostname: doc.Hostname, Project: doc.Project, Meta: doc.Meta}
	if md.UUID == "" {
		return nil, errors.New("meta_data.json has no uuid")
	}
	var authorized strings.Builder
	for _, k := range doc.Keys {
		md.Keys = append(md.Keys, k.Name)
		authorized.WriteString(strings.TrimSpace(k.Data) + "\n")
	}
	user, err := c.optional(ctx, "/openstack/latest/user_data")
	if err != nil {
		return nil, err
	}
	md.UserData = len(user)
	nd, err := c.optional(ctx, "/openstack/latest/network_data.json")
	if err != nil {
		return nil, err
	}
	var net struct {
		Networks []json.RawMessage `json:"networks"`
	}
	if len(nd) > 0 {
		if err := json.Unmarshal(nd, &net); err != nil {
			return nil, fmt.Errorf("network_data.json: %w", err)
		}
	}
	md.Networks = len(net.Networks)

	// The EC2 tree, with a token where one is given (IMDSv2).
	if t, err := c.do(ctx, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "21600"); err == nil {
		c.token, md.Token = string(t), true
	}
	id, err := c.do(ctx, "GET", "/latest/meta-data/instance-id")
	if err != nil {
		return nil, err
	}
	md.InstanceID = string(id)
	for path, to := range map[string]*string{"local-ipv4": &md.LocalIPv4, "public-ipv4": &md.PublicIPv4} {
		b, err := c.optional(ctx, "/latest/meta-data/"+path)
		if err != nil {
			return nil, err
		}
		*to = string(b)
	}
	for name, b := range map[string][]byte{"meta_data.json": meta, "user-data": user, "network_data.json": nd, "authorized_keys": []byte(authorized.String())} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, err
		}
	}
	return md, nil
}
