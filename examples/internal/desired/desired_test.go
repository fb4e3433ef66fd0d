package desired_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/examples/internal/desired"
	"github.com/vnet-go/vnet/examples/internal/topology"
)

// said is what a source has yielded.
type said struct {
	d   desired.Desired
	err error
}

// hear runs a source until the test ends.
func hear(t *testing.T, s desired.Source) func() said {
	c := make(chan said, 100)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		for d, err := range s.Watch(ctx) {
			c <- said{d, err}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() said {
		t.Helper()
		select {
		case x := <-c:
			return x
		case <-time.After(20 * time.Second):
			t.Fatal("the source says nothing")
			return said{}
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

const (
	network = `{"id": "n", "segment": {"type": "local"}}`
	port    = `{"id": "p", "network_id": "n", "mac": "02:00:00:00:00:01"}`
)

func TestMistakesAreNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	write(t, path, `{}`)
	next := hear(t, &desired.File{Path: path, Poll: 2 * time.Millisecond})
	require.NoError(t, next().err)
	for _, c := range []struct{ text, want string }{
		{``, `state.json: line 1: the file ends too early; is it being written?`},
		{"{\"overlay\": {\n\"netw", `state.json: line 2: the file ends too early; is it being written?`},
		{"{\n\"a\": b}", `state.json: line 2: invalid character 'b' looking for beginning of value`},
		{`{} {}`, `state.json: line 1: there is something after the end`},
		{"{\n\"overlays\": {}}", `state.json: line 2: overlays is not known`},
		{`{"overlay": {"ports": [], "Ports": []}}`, `state.json: line 1: overlay.Ports is not known`},
		{"{\"overlay\": {\"ports\": [],\n\"ports\": []}}", `state.json: line 2: overlay.ports is there twice`},
		{`{"overlay": {"ports": {}}}`, `state.json: line 1: overlay.ports "{}" is a JSON object where a list is wanted`},
		{"{\"overlay\": {\"networks\": [" + network + "],\n\"ports\": [" + port + ",\n{\"id\": \"q\", \"network_id\": \"n\", \"mac\": \"02:00\"}]}}",
			`state.json: line 3: overlay.ports[1].mac "02:00" "02:00" is not a 48-bit MAC address`},
		{`{"overlay": {"ports": [{"id": "p", "fixed_ips": ["10.0.0.300"]}]}}`,
			`state.json: line 1: overlay.ports[0].fixed_ips[0] "10.0.0.300" ParseAddr("10.0.0.300"): IPv4 field has value >255`},
		{`{"overlay": {"networks": [{"id": "n", "segment": {"type": "local"}, "mtu": "big"}]}}`,
			`state.json: line 1: overlay.networks[0].mtu "big" is a JSON string where a number of type int is wanted`},
		{`{"overlay": {"networks": [{"id": "n", "segment": {"type": "vxlan"}}]}}`, `state.json: overlay.networks[0].segment.id "0" is not 1 to 16777215`},
		{`{"overlay": {"networks": [` + network + `], "ports": [` + port + `]}, "attachments": [{"port_id": "p", "kind": "tap"}, {"port_id": "p", "kind": "tap"}]}`,
			`state.json: attachments[1].port_id "p" is that of attachments[0] too`},
		{`{"attachments": [{"port_id": "p", "kind": "tap"}]}`, `state.json: attachments[0].port_id "p" is no port of overlay.ports`},
		{`{"secgroup": {"ports": [{"id": "p", "network_id": "n", "mac": "02:00:00:00:00:01", "security_groups": ["g"]}]}}`,
			`state.json: secgroup.ports[0].security_groups[0] "g" is no group of this state`},
	} {
		write(t, path, c.text)
		x := next()
		require.EqualError(t, x.err, c.want, c.text)
	}
	write(t, path, `{}`)
	assert.NoError(t, next().err, "it is told when it is well again, though nothing has changed")
}

func TestDirectoryIsMerged(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1.json"), `{"overlay": {"networks": [`+network+`]}}`)
	write(t, filepath.Join(dir, "2.json"), `{"revision": "7", "overlay": {"ports": [`+port+`]}}`)
	next := hear(t, &desired.File{Path: dir, Poll: 2 * time.Millisecond})
	x := next()
	require.NoError(t, x.err)
	assert.Equal(t, "7", x.d.Revision)
	assert.False(t, x.d.Force)
	require.Len(t, x.d.State.Overlay.Networks, 1)
	require.Len(t, x.d.State.Overlay.Ports, 1)
	write(t, filepath.Join(dir, "3.json"), `{"force": "7", "overlay": {"ports": [`+strings.ReplaceAll(port, `"p"`, `"q"`)+`]}}`)
	assert.EqualError(t, next().err, `3.json: overlay.ports[0].mac "02:00:00:00:00:01" is that of port p`)
	write(t, filepath.Join(dir, "3.json"), `{"force": "7", "revision": "8"}`)
	assert.EqualError(t, next().err, `3.json: revision "8" is in 2.json too`)
	write(t, filepath.Join(dir, "3.json"), `{"force": "7"}`)
	x = next()
	require.NoError(t, x.err)
	assert.True(t, x.d.Force)
	require.NoError(t, os.Remove(filepath.Join(dir, "2.json")))
	x = next()
	require.NoError(t, x.err)
	assert.Equal(t, x.d.State.Hash(), x.d.Revision)
	assert.False(t, x.d.Force, "it was meant for another")
	assert.Empty(t, x.d.State.Overlay.Ports)
}

// A file is written in place, slowly: nothing but the whole of it is ever taken.
func TestHalfIsNeverTaken(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ports.json")
	write(t, filepath.Join(dir, "net.json"), `{"overlay": {"networks": [`+network+`]}}`)
	var ports []string
	text := func(n int) string {
		for i := len(ports); i < n; i++ {
			ports = append(ports, fmt.Sprintf(`{"id": "p%d", "network_id": "n", "mac": "02:00:00:00:01:%02x"}`, i, i))
		}
		return `{"overlay": {"ports": [` + strings.Join(ports[:n], ",\n") + `]}}`
	}
	write(t, path, text(1))
	next := hear(t, &desired.File{Path: dir, Poll: 2 * time.Millisecond})
	require.Len(t, next().d.State.Overlay.Ports, 1)
	whole := text(100)
	f, err := os.Create(path)
	require.NoError(t, err)
	for i := 0; i < len(whole); i += 500 {
		_, err := f.WriteString(whole[i:min(len(whole), i+500)])
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, f.Close())
	for {
		x := next()
		if x.err != nil {
			continue
		}
		require.Len(t, x.d.State.Overlay.Ports, 100)
		break
	}
}

// source is one of the test's hand.
type source struct {
	say      chan said
	reported []desired.Status
}

func (s *source) Watch(ctx context.Context) iter.Seq2[desired.Desired, error] {
	return func(yield func(desired.Desired, error) bool) {
		for {
			select {
			case x := <-s.say:
				if !yield(x.d, x.err) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *source) Report(_ context.Context, x desired.Status) { s.reported = append(s.reported, x) }

func TestCached(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	topo, err := topology.Parse("x", []byte("name: x\nhosts: [{name: h1}]\nnetworks: [{name: n, subnets: [{name: s, cidr: 10.0.0.0/24}]}]\nservers: [{name: vm, networks: [{network: n}]}]\n"), topology.Linux)
	require.NoError(t, err)
	d := desired.Desired{Revision: "1", State: desired.State{States: topo.Hosts[0].States}}
	inner := &source{say: make(chan said)}
	c := &desired.Cached{Source: inner, Path: path, Grace: time.Hour}
	next := hear(t, c)
	inner.say <- said{d: d}
	assert.Equal(t, "1", next().d.Revision)
	_, ok := c.Last()
	assert.False(t, ok, "not applied yet")
	c.Report(t.Context(), desired.Status{Applied: "0"})
	c.Report(t.Context(), desired.Status{Applied: "1"})
	assert.Len(t, inner.reported, 2)
	last, ok := c.Last()
	require.True(t, ok)
	a, _ := json.Marshal(d)
	b, _ := json.Marshal(last)
	assert.JSONEq(t, string(a), string(b), "back without loss")

	// The next process's source does not know.
	boom := errors.New("boom")
	inner = &source{say: make(chan said)}
	next = hear(t, &desired.Cached{Source: inner, Path: path, Grace: time.Hour})
	inner.say <- said{err: boom}
	assert.Equal(t, "1", next().d.Revision)
	assert.ErrorIs(t, next().err, boom)
	inner.say <- said{err: boom}
	assert.ErrorIs(t, next().err, boom, "once is enough")
	// Or says nothing.
	next = hear(t, &desired.Cached{Source: &source{}, Path: path, Grace: time.Millisecond})
	assert.Equal(t, "1", next().d.Revision)
	assert.Error(t, next().err)
	// What cannot be read is none.
	write(t, path, "{")
	_, ok = c.Last()
	assert.False(t, ok)
}
