package ovsdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
)

func nbSpec(t testing.TB) Spec {
	m, err := nbrow.FullDatabaseModel()
	require.NoError(t, err)
	return Spec{Model: m, Sentinel: "NB_Global",
		Tables: []string{"NB_Global", "Logical_Switch", "Logical_Switch_Port", "Port_Group", "ACL", "DHCP_Options", "Address_Set"},
		Index:  map[string][]string{"Logical_Switch": {"name"}, "Logical_Switch_Port": {"name"}},
		Group:  func(x map[string]string) string { return x["g"] },
	}
}

// quick are options for tests that wait for things to go wrong.
func quick() *Options {
	return &Options{Timeout: 2 * time.Second, Keepalive: 300 * time.Millisecond, MaxDelay: 200 * time.Millisecond}
}

func open(t testing.TB, o *Options, endpoints ...string) *Client {
	t.Helper()
	c, err := NewClient(nbSpec(t), endpoints, o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return c
}

// id makes a UUID for tests.
func id(n int) string { return fmt.Sprintf("00000000-0000-8000-8000-%012x", n) }

// addSwitch makes switch n with a name.
func addSwitch(n int, name string) func(*Tx) error {
	return func(x *Tx) error {
		if x.Row("Logical_Switch", id(n)) != nil {
			return nil
		}
		return x.Put(&nbrow.LogicalSwitch{UUID: id(n), Name: name, ExternalIDs: map[string]string{"g": "a"}})
	}
}

func names(s *State) []string {
	var out []string
	for _, r := range s.All("Logical_Switch") {
		out = append(out, r.(*nbrow.LogicalSwitch).Name)
	}
	slices.Sort(out)
	return out
}

func TestReadYourWrites(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c := open(t, nil, srv.Endpoint())
	for i := range 50 {
		_, err := c.Commit(ctx(t), addSwitch(i, fmt.Sprint("s", i)), nil)
		require.NoError(t, err)
		require.NotNil(t, c.State().Row("Logical_Switch", id(i)), "in the state when Commit returns")
		require.Len(t, c.State().Lookup("Logical_Switch", "name", fmt.Sprint("s", i)), 1)
	}
	n := 0
	for range c.State().Group("Logical_Switch", "a") {
		n++
	}
	require.Equal(t, 50, n)
}

// TestWeakReferences: what refers to a row does so no more when it is deleted,
// also if it is changed in the same transaction, and the server lives when the
// row comes again with the same UUID.
func TestWeakReferences(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c := open(t, nil, srv.Endpoint())
	do := func(f func(x *Tx) error) {
		t.Helper()
		_, err := c.Commit(ctx(t), f, nil)
		require.NoError(t, err)
	}
	port := func(x *Tx) error {
		return errors.Join(x.Put(&nbrow.LogicalSwitchPort{UUID: id(2), Name: "port"}), x.Put(&nbrow.LogicalSwitch{UUID: id(1), Name: "switch", Ports: []string{id(2)}}))
	}
	do(func(x *Tx) error {
		return errors.Join(port(x), x.Put(&nbrow.PortGroup{UUID: id(3), Name: "group", Ports: []string{id(2)}}))
	})
	do(func(x *Tx) error {
		return errors.Join(x.Delete("Logical_Switch_Port", id(2)), x.Put(&nbrow.PortGroup{UUID: id(3), Name: "renamed", Ports: []string{id(2)}}))
	})
	require.Empty(t, c.State().Row("Port_Group", id(3)).(*nbrow.PortGroup).Ports)
	do(port)
	do(func(x *Tx) error { return x.Delete("Port_Group", id(3)) })
	do(addSwitch(4, "after"))
}

// TestEveryKindOfColumn writes and changes sets, maps, optionals and scalars
// and compares what the client has with what a fresh one reads.
func TestEveryKindOfColumn(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c := open(t, nil, srv.Endpoint())
	step := func(f func(x *Tx) error) {
		t.Helper()
		_, err := c.Commit(ctx(t), f, nil)
		require.NoError(t, err)
		d := open(t, nil, srv.Endpoint())
		s, err := d.Ready(ctx(t))
		require.NoError(t, err)
		for _, table := range []string{"Logical_Switch", "Logical_Switch_Port", "Port_Group", "ACL", "DHCP_Options"} {
			a, b := map[string]any{}, map[string]any{}
			for k, v := range s.All(table) {
				a[k] = v
			}
			for k, v := range c.State().All(table) {
				b[k] = v
			}
			ja, _ := json.MarshalIndent(a, "", " ")
			jb, _ := json.MarshalIndent(b, "", " ")
			require.Equal(t, string(ja), string(jb), table)
		}
		require.Equal(t, s.Parents("Logical_Switch_Port", id(2)), c.State().Parents("Logical_Switch_Port", id(2)))
		d.Close()
	}
	port := func(change func(p *nbrow.LogicalSwitchPort)) func(x *Tx) error {
		return func(x *Tx) error {
			p := nbrow.LogicalSwitchPort{UUID: id(2)}
			if was, ok := x.Row("Logical_Switch_Port", id(2)).(*nbrow.LogicalSwitchPort); ok {
				p = *was
			}
			change(&p)
			return x.Put(&p)
		}
	}
	step(func(x *Tx) error {
		return errors.Join(
			x.Put(&nbrow.DHCPOptions{UUID: id(3), Cidr: "10.0.0.0/24", Options: map[string]string{"router": "10.0.0.1", "x": "<&>"}}),
			x.Put(&nbrow.LogicalSwitchPort{UUID: id(2), Name: "p", Addresses: []string{"b", "a", "b"}, Dhcpv4Options: new(id(3)), Enabled: new(false), TagRequest: new(0)}),
			x.Put(&nbrow.LogicalSwitch{UUID: id(1), Name: "s", Ports: []string{id(2)}}))
	})
	p := c.State().Row("Logical_Switch_Port", id(2)).(*nbrow.LogicalSwitchPort)
	require.Equal(t, []string{"a", "b"}, p.Addresses)
	require.False(t, *p.Enabled)
	require.Equal(t, []Ref{{"Logical_Switch", id(1), "ports"}}, c.State().Parents("Logical_Switch_Port", id(2)))
	step(port(func(p *nbrow.LogicalSwitchPort) {
		p.Addresses, p.Options, p.Enabled, p.TagRequest = []string{"c", "a"}, map[string]string{"k": "1", "l": "2"}, new(true), nil
	}))
	step(port(func(p *nbrow.LogicalSwitchPort) { p.Options, p.Type = map[string]string{"k": "2"}, "localnet" }))
	step(port(func(p *nbrow.LogicalSwitchPort) { p.Addresses, p.Options, p.Dhcpv4Options, p.Type = nil, nil, nil, "" }))
	step(func(x *Tx) error {
		return errors.Join(x.Put(&nbrow.LogicalSwitch{UUID: id(4), Name: "t"}), x.Member("Logical_Switch", id(1), "ports", nil, []string{id(2)}),
			x.Member("Logical_Switch", id(4), "ports", []string{id(2)}, nil))
	})
	require.Equal(t, []Ref{{"Logical_Switch", id(4), "ports"}}, c.State().Parents("Logical_Switch_Port", id(2)))
	step(func(x *Tx) error { return x.Delete("Logical_Switch_Port", id(2)) })
	require.Nil(t, c.State().Row("Logical_Switch_Port", id(2)))
}

func TestReconnect(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c := open(t, quick(), srv.Endpoint())
	_, err := c.Commit(ctx(t), addSwitch(1, "one"), nil)
	require.NoError(t, err)
	for i := range 3 {
		srv.Kill()
		lab.Eventually(t, time.Minute, "the view is known to be stale", func() bool { return c.Err() != nil })
		require.ErrorIs(t, c.Err(), vnet.ErrNotReady)
		require.NotZero(t, c.Status().Lost)
		done := make(chan error, 1)
		go func() { _, err := c.Commit(ctx(t), addSwitch(10+i, fmt.Sprint("during", i)), nil); done <- err }()
		srv.Start()
		require.NoError(t, <-done, "asked for during the break, done after it")
	}
	srv.Transact(`["OVN_Northbound",{"op":"insert","table":"Logical_Switch","row":{"name":"theirs"}}]`)
	lab.Eventually(t, time.Minute, "what others do is seen", func() bool { return slices.Contains(names(c.State()), "theirs") })
	require.Equal(t, []string{"during0", "during1", "during2", "one", "theirs"}, names(c.State()))
}

// TestAnotherDatabase: the server comes back with other contents. Nothing of
// the old may stay.
func TestAnotherDatabase(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c := open(t, quick(), srv.Endpoint())
	_, err := c.Commit(ctx(t), addSwitch(1, "old"), nil)
	require.NoError(t, err)
	srv.Kill()
	require.NoError(t, os.Remove(filepath.Join(srv.Dir, "db")))
	srv.Run("ovsdb-tool", "create", filepath.Join(srv.Dir, "db"), ovsdbtest.NB)
	srv.Start()
	lab.Eventually(t, time.Minute, "the new contents are seen", func() bool { return c.Status().Connected && len(names(c.State())) == 0 })
	require.False(t, c.Status().Complete, "no row in NB_Global")
	require.ErrorContains(t, c.Err(), "NB_Global")
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = c.Commit(short, addSwitch(2, "new"), nil)
	require.ErrorIs(t, err, vnet.ErrNotReady)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	srv.Transact(`["OVN_Northbound",{"op":"insert","table":"NB_Global","row":{}}]`)
	_, err = c.Commit(ctx(t), addSwitch(2, "new"), nil)
	require.NoError(t, err)
}

// mutilate writes a schema with changes.
func mutilate(t *testing.T, path string, change func(tables map[string]any)) string {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var s map[string]any
	require.NoError(t, json.Unmarshal(b, &s))
	change(s["tables"].(map[string]any))
	delete(s, "cksum")
	out := filepath.Join(t.TempDir(), "schema")
	b, _ = json.Marshal(s)
	require.NoError(t, os.WriteFile(out, b, 0o644))
	return out
}

func columnsOf(tables map[string]any, table string) map[string]any {
	return tables[table].(map[string]any)["columns"].(map[string]any)
}

func TestOlderServer(t *testing.T) {
	older := mutilate(t, ovsdbtest.NB, func(tables map[string]any) {
		delete(tables, "Address_Set")
		delete(columnsOf(tables, "Logical_Switch_Port"), "mirror_rules")
		delete(columnsOf(tables, "Logical_Switch_Port"), "tag_request")
		columnsOf(tables, "Logical_Switch_Port")["enabled"] = map[string]any{"type": "string"} // of another type
		delete(columnsOf(tables, "NAT"), "allowed_ext_ips")
		delete(columnsOf(tables, "NAT"), "exempted_ext_ips")
	})
	srv := ovsdbtest.New(t, older)
	c := open(t, nil, srv.Endpoint())
	s, err := c.Ready(ctx(t))
	require.NoError(t, err)
	require.False(t, s.Has("Address_Set", ""))
	require.False(t, s.Has("Logical_Switch_Port", "tag_request"))
	require.False(t, s.Has("Logical_Switch_Port", "enabled"))
	require.True(t, s.Has("Logical_Switch_Port", "addresses"))
	_, err = c.Commit(ctx(t), func(x *Tx) error {
		return errors.Join(x.Put(&nbrow.LogicalSwitchPort{UUID: id(2), Name: "p", TagRequest: new(5), Enabled: new(true)}),
			x.Put(&nbrow.LogicalSwitch{UUID: id(1), Name: "s", Ports: []string{id(2)}}))
	}, nil)
	require.NoError(t, err, "columns that are not there are not written")
	_, err = c.Commit(ctx(t), func(x *Tx) error { return x.Put(&nbrow.AddressSet{UUID: id(3), Name: "x"}) }, nil)
	require.ErrorIs(t, err, vnet.ErrUnsupported)
	require.ErrorContains(t, err, "Address_Set")
	// Upgraded while we are connected.
	srv.Run("ovsdb-client", "convert", srv.Endpoint(), mutilate(t, ovsdbtest.NB, func(tables map[string]any) {
		columnsOf(tables, "Logical_Switch_Port")["enabled"] = map[string]any{"type": "string"}
	}))
	lab.Eventually(t, time.Minute, "the new schema is seen", func() bool {
		return c.Err() == nil && c.State().Has("Address_Set", "") && c.State().Has("Logical_Switch_Port", "tag_request")
	})
	_, err = c.Commit(ctx(t), func(x *Tx) error { return x.Put(&nbrow.AddressSet{UUID: id(3), Name: "x"}) }, nil)
	require.NoError(t, err)
	require.NotNil(t, c.State().Row("Logical_Switch_Port", id(2)))
}

func TestNewerServer(t *testing.T) {
	newer := mutilate(t, ovsdbtest.NB, func(tables map[string]any) {
		columnsOf(tables, "Logical_Switch_Port")["brand_new"] = map[string]any{"type": map[string]any{"key": "string", "min": 0, "max": "unlimited"}}
		columnsOf(tables, "ACL")["tier"] = map[string]any{"type": "integer"}
		tables["Sampling"] = map[string]any{"columns": map[string]any{"name": map[string]any{"type": "string"}}, "isRoot": true}
	})
	srv := ovsdbtest.New(t, newer)
	c := open(t, nil, srv.Endpoint())
	_, err := c.Commit(ctx(t), func(x *Tx) error {
		return errors.Join(x.Put(&nbrow.LogicalSwitchPort{UUID: id(2), Name: "p"}), x.Put(&nbrow.LogicalSwitch{UUID: id(1), Name: "s", Ports: []string{id(2)}}))
	}, nil)
	require.NoError(t, err)
	srv.Transact(`["OVN_Northbound",{"op":"update","table":"Logical_Switch_Port","where":[],"row":{"brand_new":["set",["a","b"]],"type":"router"}},
		{"op":"insert","table":"Sampling","row":{"name":"x"}}]`)
	lab.Eventually(t, time.Minute, "the rest of the row is seen", func() bool {
		return c.State().Row("Logical_Switch_Port", id(2)).(*nbrow.LogicalSwitchPort).Type == "router"
	})
	_, err = c.Commit(ctx(t), func(x *Tx) error {
		p := *x.Row("Logical_Switch_Port", id(2)).(*nbrow.LogicalSwitchPort)
		p.Type = ""
		return x.Put(&p)
	}, nil)
	require.NoError(t, err)
	require.Contains(t, srv.Run("ovsdb-client", "dump", srv.Endpoint(), "OVN_Northbound", "Logical_Switch_Port", "brand_new"), "[a, b]", "what we do not know is kept")
}

// listener runs serve for each connection until the test ends.
func listener(t *testing.T, serve func(net.Conn)) string {
	d, err := os.MkdirTemp("", "vnet-l-")
	require.NoError(t, err)
	l, err := net.Listen("unix", filepath.Join(d, "s"))
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
			wg.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range all {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
		os.RemoveAll(d)
	})
	return "unix:" + filepath.Join(d, "s")
}

func TestSilentServer(t *testing.T) {
	var tried atomic.Int32
	silent := listener(t, func(c net.Conn) { tried.Add(1); io.Copy(io.Discard, c) })
	c := open(t, quick(), silent)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := c.Commit(short, addSwitch(1, "x"), nil)
	require.ErrorIs(t, err, vnet.ErrNotReady)
	require.ErrorContains(t, err, "OVN_Northbound")
	require.Less(t, time.Since(began), 5*time.Second)
	lab.Eventually(t, time.Minute, "it is tried again and again", func() bool { return tried.Load() >= 3 })

	// And beside one that answers.
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	d := open(t, quick(), silent, srv.Endpoint())
	_, err = d.Ready(ctx(t))
	require.NoError(t, err)
}

// TestFrozenServer: the server stops answering in the middle, its socket stays.
func TestFrozenServer(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c := open(t, quick(), srv.Endpoint())
	_, err := c.Ready(ctx(t))
	require.NoError(t, err)
	srv.Freeze()
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = c.Commit(short, addSwitch(1, "x"), nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "unknown")
	lab.Eventually(t, time.Minute, "the silence is noticed", func() bool { return c.Err() != nil })
	srv.Thaw()
	_, err = c.Commit(ctx(t), addSwitch(2, "y"), nil)
	require.NoError(t, err)
}

func TestNonsense(t *testing.T) {
	answers := []string{
		"", "\x00\x01\x02", "[]", "{", `{"id":1,"result":[],"error":null}`, `{"id":1,"error":{"error":"no"},"result":null}{"id":2,"result":7,"error":null}`,
		`{"method":"update3","params":null,"id":null}`, `{"method":"update","params":["_Server"],"id":null}`,
		`{"method":"echo","params":null,"id":"x"}`, `{"id":{},"result":null}`, strings.Repeat("[", 100000),
	}
	// Answers that are well formed up to some step and nonsense then.
	steps := func(replies ...string) func(net.Conn) {
		return func(c net.Conn) {
			d := json.NewDecoder(c)
			for i := 0; ; i++ {
				var m message
				if d.Decode(&m) != nil || i >= len(replies) {
					return
				}
				if m.Method == "echo" {
					i--
					fmt.Fprintf(c, `{"id":%s,"result":[],"error":null}`, m.ID)
					continue
				}
				fmt.Fprintf(c, `{"id":%s,"result":%s,"error":null}`, m.ID, replies[i])
			}
		}
	}
	const member = `{"Database":{"a":{"new":{"name":"OVN_Northbound","model":"standalone","connected":true,"leader":true,"index":["set",[]]}}}}`
	const schema = `{"name":"OVN_Northbound","version":"1.0.0","tables":{"Logical_Switch":{"columns":{"name":{"type":"string"},"ports":{"type":{"key":{"type":"uuid"},"min":0,"max":"unlimited"}},"other_config":{"type":{"key":"string","value":"string","min":0,"max":"unlimited"}}}}}}`
	serve := []func(net.Conn){
		steps("{}", "7"), steps("{}", `{"Database":7}`), steps("{}", "null"), steps("{}", member, "null"), steps("{}", member, `{"name":"x"}`),
		steps("{}", member, `{"name":"OVN_Northbound","tables":{"Logical_Switch":{"columns":{"name":{}}}}}`),
		steps("{}", member, `{"name":"OVN_Northbound","tables":{"Logical_Switch":null}}`),
		steps("{}", member, schema, "null"), steps("{}", member, schema, `[true,"x",{}]`), steps("{}", member, schema, `[1,2,3]`),
		steps("{}", member, schema, `[false,"x",{"Logical_Switch":{"u":{"initial":{"name":["set",[]]}}}}]`),
		steps("{}", member, schema, `[false,"x",{"Logical_Switch":{"u":{"initial":{"name":["set",[1,2]],"ports":["map",[]]}}}}]`),
		steps("{}", member, schema, `[false,"x",{"Logical_Switch":{"u":{"modify":{"name":"a"}}}}]`),
		steps("{}", member, schema, `[false,"x",{"Logical_Switch":{"u":{"initial":{"ports":["set",[["uuid"]]],"other_config":["map",[["a"]]]}}}}]`),
		steps("{}", member, schema, `[false,"x",{"Logical_Switch":{"u":null,"v":{"delete":null},"w":{}}}]`),
	}
	for _, a := range answers {
		serve = append(serve, func(c net.Conn) { io.WriteString(c, a); io.Copy(io.Discard, c) })
	}
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	for i, f := range serve {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int32
			e := listener(t, func(c net.Conn) { calls.Add(1); f(c) })
			c := open(t, quick(), e)
			lab.Eventually(t, time.Minute, "it has been tried twice, or taken for an empty database", func() bool {
				return calls.Load() >= 2 || c.Status().Connected
			})
			require.Error(t, c.Err())
			d := open(t, quick(), e, srv.Endpoint())
			if s := c.Status(); !s.Connected { // one that is a server, if an odd one, is kept
				_, err := d.Ready(ctx(t))
				require.NoError(t, err)
			}
		})
	}
}

func TestCancelEndsCalls(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c := open(t, nil, srv.Endpoint())
	_, err := c.Ready(ctx(t))
	require.NoError(t, err)
	srv.Freeze()
	defer srv.Thaw()
	for _, f := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := c.Commit(ctx, addSwitch(1, "x"), nil); return err },
		func(ctx context.Context) error { return c.Wait(ctx, func(*State) bool { return false }) },
		func(ctx context.Context) error { _, err := c.Transact(ctx, nil); return err },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f(ctx) }()
		cancel()
		select {
		case err := <-done:
			require.ErrorIs(t, err, context.Canceled)
		case <-time.After(time.Minute):
			t.Fatal("does not end with its context")
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	before := runtime.NumGoroutine()
	for range 5 {
		c, err := NewClient(nbSpec(t), []string{srv.Endpoint()}, quick())
		require.NoError(t, err)
		_, err = c.Ready(ctx(t))
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- c.Wait(t.Context(), func(*State) bool { return false }) }()
		c.Close()
		require.ErrorIs(t, <-done, vnet.ErrNotReady)
		_, err = c.Commit(t.Context(), addSwitch(1, "x"), nil)
		require.ErrorIs(t, err, vnet.ErrNotReady)
	}
	lab.Eventually(t, time.Minute, "its goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+1 })
}

// TestWriters: several clients make the same objects, in a table without a
// unique index and in one with, and add to the same set. All succeed, and
// there is one of each.
func TestWriters(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	const writers, objects = 4, 20
	var wg sync.WaitGroup
	errs := make(chan error, writers*objects)
	for w := range writers {
		c := open(t, nil, srv.Endpoint())
		wg.Go(func() {
			for i := range objects {
				_, err := c.Commit(ctx(t), func(x *Tx) error {
					var e []error
					if x.Row("Logical_Switch", id(1)) == nil {
						e = append(e, x.Put(&nbrow.LogicalSwitch{UUID: id(1), Name: "s"}))
					}
					if x.Row("DHCP_Options", id(100+i)) == nil {
						e = append(e, x.Put(&nbrow.DHCPOptions{UUID: id(100 + i), Cidr: fmt.Sprint(i)}))
					}
					// Everybody's own member of everybody's set, guarded by what was read.
					p := id(10000 + w*100 + i)
					e = append(e, x.Put(&nbrow.LogicalSwitchPort{UUID: p, Name: p}), x.Member("Logical_Switch", id(1), "ports", []string{p}, nil))
					if x.Base().Row("Logical_Switch", id(1)) != nil {
						e = append(e, x.Guard("Logical_Switch", id(1), "name"))
					}
					return errors.Join(e...)
				}, nil)
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	c := open(t, nil, srv.Endpoint())
	s, err := c.Ready(ctx(t))
	require.NoError(t, err)
	require.Equal(t, 1, s.Len("Logical_Switch"))
	require.Equal(t, objects, s.Len("DHCP_Options"))
	require.Equal(t, writers*objects, s.Len("Logical_Switch_Port"))
}

// TestLostUpdate: two clients count up in the same place; the guard lets no
// step be lost.
func TestLostUpdate(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	var wg sync.WaitGroup
	errs := make(chan error, 60)
	for range 2 {
		c := open(t, nil, srv.Endpoint())
		wg.Go(func() {
			for range 30 {
				_, err := c.Commit(ctx(t), func(x *Tx) error {
					n := nbrow.DHCPOptions{UUID: id(1), Cidr: "1", Options: map[string]string{"n": "x"}}
					if was, ok := x.Row("DHCP_Options", id(1)).(*nbrow.DHCPOptions); ok {
						n.Cidr, n.Options = was.Cidr, map[string]string{"n": was.Options["n"] + "x"}
						if err := x.Guard("DHCP_Options", id(1), "options"); err != nil {
							return err
						}
					}
					return x.Put(&n)
				}, nil)
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	c := open(t, nil, srv.Endpoint())
	s, err := c.Ready(ctx(t))
	require.NoError(t, err)
	require.Len(t, s.Row("DHCP_Options", id(1)).(*nbrow.DHCPOptions).Options["n"], 60)
}

func TestRefusals(t *testing.T) {
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c := open(t, nil, srv.Endpoint())
	put := func(rows ...any) error {
		_, err := c.Commit(ctx(t), func(x *Tx) error {
			var e []error
			for _, r := range rows {
				e = append(e, x.Put(r))
			}
			return errors.Join(e...)
		}, nil)
		return err
	}
	require.NoError(t, put(&nbrow.AddressSet{UUID: id(1), Name: "a"}))
	err := put(&nbrow.AddressSet{UUID: id(2), Name: "a"})
	require.ErrorIs(t, err, vnet.ErrConflict, "an index")
	err = put(&nbrow.LogicalSwitch{UUID: id(3), Name: "s", Ports: []string{id(4)}})
	require.ErrorIs(t, err, vnet.ErrInUse, "a reference to nothing")
	err = put(&nbrow.ACL{UUID: id(5), Action: "sing", Direction: "to-lport"}, &nbrow.PortGroup{UUID: id(6), Name: "g", ACLs: []string{id(5)}})
	require.ErrorIs(t, err, vnet.ErrConflict, "a value that the schema refuses")
	require.Zero(t, c.State().Len("Port_Group"), "nothing of it was done")
}

func TestRaft(t *testing.T) {
	const db = "OVN_Northbound"
	all := ovsdbtest.Cluster(t, ovsdbtest.NB, db, 3)
	var endpoints []string
	for _, s := range all {
		endpoints = append(endpoints, s.Endpoint())
	}
	c := open(t, quick(), strings.Join(endpoints, ","))
	_, err := c.Commit(ctx(t), addSwitch(1, "one"), nil)
	require.NoError(t, err)
	leader := ovsdbtest.Leader(t, all, db)
	require.Equal(t, leader.Endpoint(), c.Status().Endpoint.String(), "the leader is found")
	require.False(t, c.Status().Follower)

	// A client that knows only a follower works through it.
	var other *ovsdbtest.Server
	for _, s := range all {
		if s != leader {
			other = s
		}
	}
	f := open(t, quick(), other.Endpoint())
	_, err = f.Commit(ctx(t), addSwitch(2, "two"), nil)
	require.NoError(t, err)
	require.True(t, f.Status().Follower)
	require.NotNil(t, f.State().Row("Logical_Switch", id(2)))
	lab.Eventually(t, time.Minute, "the leader's client sees it", func() bool { return len(names(c.State())) == 2 })

	// The leader dies in the middle of writes.
	stop := make(chan struct{})
	result := make(chan error, 1)
	count := 0
	go func() {
		defer close(result)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.Commit(ctx(t), addSwitch(100+i, fmt.Sprint("w", i)), nil); err != nil {
				result <- err
				return
			}
			count = i + 1
		}
	}()
	lab.Eventually(t, time.Minute, "writes are under way", func() bool { return c.State().Row("Logical_Switch", id(110)) != nil })
	leader.Kill()
	lab.Eventually(t, time.Minute, "another leader is followed", func() bool {
		return c.Err() == nil && c.Status().Endpoint.String() != leader.Endpoint() && !c.Status().Follower
	})
	at := c.State().Len("Logical_Switch")
	lab.Eventually(t, time.Minute, "writes go on", func() bool { return c.State().Len("Logical_Switch") > at+5 })
	// And the one that has died comes back, and leadership is handed over without a death.
	leader.Start()
	now := ovsdbtest.Leader(t, all, db)
	now.Run("ovs-appctl", "-t", filepath.Join(now.Dir, "ctl"), "cluster/change-election-timer", db, "2000")
	now.Freeze()
	lab.Eventually(t, time.Minute, "a leader that hangs is left", func() bool {
		return c.Err() == nil && c.Status().Endpoint.String() != now.Endpoint() && !c.Status().Follower
	})
	now.Thaw()
	at = c.State().Len("Logical_Switch")
	lab.Eventually(t, time.Minute, "writes go on", func() bool { return c.State().Len("Logical_Switch") > at+5 })
	close(stop)
	require.NoError(t, <-result)
	// Nothing lost, nothing twice.
	d := open(t, quick(), endpoints...)
	s, err := d.Ready(ctx(t))
	require.NoError(t, err)
	want := []string{"one", "two"}
	for i := range count {
		want = append(want, fmt.Sprint("w", i))
	}
	slices.Sort(want)
	require.Equal(t, want, names(s))
	require.Equal(t, want, names(c.State()))
}
