package ovs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
)

// Connection is an entry of the datapath's connection tracking.
type Connection struct {
	Zone        uint16
	Proto       uint8 // IP protocol
	Orig, Reply Tuple
	State       string // of TCP, as "ESTABLISHED"; else ""
	Mark        uint32
}

// Tuple is one direction of a connection.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	// Of ICMP.
	ID         uint16
	Type, Code uint8
}

// controlPath is where ovs-vswitchd's control socket is.
func (s *Switch) controlPath() (string, error) {
	path := s.o.Control
	if path == "" {
		pid, err := os.ReadFile(filepath.Join(s.o.RunDir, "ovs-vswitchd.pid"))
		if err != nil {
			return "", fmt.Errorf("control socket of ovs-vswitchd: %w", err)
		}
		path = filepath.Join(s.o.RunDir, "ovs-vswitchd."+strings.TrimSpace(string(pid))+".ctl")
	}
	return path, nil
}

// control calls a command of ovs-vswitchd (unixctl: JSON-RPC on a unix socket,
// see ovs-appctl(8)).
func (s *Switch) control(ctx context.Context, command string, args ...string) (string, error) {
	path, err := s.controlPath()
	if err != nil {
		return "", err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return "", fmt.Errorf("control socket of ovs-vswitchd: %w: %w", vnet.ErrNotReady, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if args == nil {
		args = []string{}
	}
	if err := json.NewEncoder(c).Encode(map[string]any{"id": 0, "method": command, "params": args}); err != nil {
		return "", err
	}
	var r struct {
		Result *string `json:"result"`
		Error  *string `json:"error"`
	}
	if err := json.NewDecoder(c).Decode(&r); err != nil {
		return "", errors.Join(ctx.Err(), fmt.Errorf("%s: %w", command, err))
	}
	if r.Error != nil {
		return "", fmt.Errorf("%s: %s", command, strings.TrimSpace(*r.Error))
	}
	if r.Result == nil {
		return "", nil
	}
	return *r.Result, nil
}

func (s *Switch) datapath() string {
	if s.Userspace() {
		return "netdev@ovs-netdev"
	}
	return "system@ovs-system"
}

// Connections lists the connections of a zone.
func (s *Switch) Connections(ctx context.Context, zone uint16) ([]Connection, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	text, err := s.control(ctx, "dpctl/dump-conntrack", s.datapath(), "zone="+strconv.Itoa(int(zone)))
	if err != nil {
		return nil, err
	}
	var out []Connection
	for line := range strings.Lines(text) {
		if c, ok := parseConnection(strings.TrimSpace(line)); ok && c.Zone == zone {
			out = append(out, c)
		}
	}
	return out, nil
}

var protocols = map[string]uint8{"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "dccp": 33, "icmpv6": 58, "sctp": 132, "udplite": 136}

// parseConnection reads a line such as
// tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1,dport=2),reply=(...),zone=1,mark=2,protoinfo=(state=ESTABLISHED).
func parseConnection(line string) (c Connection, ok bool) {
	name, rest, ok := strings.Cut(line, ",")
	if !ok {
		return c, false
	}
	p, known := protocols[name]
	if !known {
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return c, false
		}
		p = uint8(n)
	}
	c.Proto = p
	for rest != "" {
		key, after, found := strings.Cut(rest, "=")
		if !found {
			break
		}
		var val string
		if strings.HasPrefix(after, "(") {
			val, after, _ = strings.Cut(after[1:], ")")
			rest = strings.TrimPrefix(after, ",")
		} else {
			val, rest, _ = strings.Cut(after, ",")
		}
		switch key {
		case "orig":
			c.Orig = parseTuple(val)
		case "reply":
			c.Reply = parseTuple(val)
		case "zone":
			n, _ := strconv.ParseUint(val, 10, 16)
			c.Zone = uint16(n)
		case "mark":
			n, _ := strconv.ParseUint(val, 0, 32)
			c.Mark = uint32(n)
		case "protoinfo":
			_, c.State, _ = strings.Cut(val, "state=")
			c.State, _, _ = strings.Cut(c.State, ",")
		}
	}
	return c, c.Orig.Src.IsValid()
}

func parseTuple(s string) (t Tuple) {
	for f := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(f, "=")
		n, _ := strconv.ParseUint(v, 10, 16)
		switch k {
		case "src":
			t.Src, _ = netip.ParseAddr(v)
		case "dst":
			t.Dst, _ = netip.ParseAddr(v)
		case "sport":
			t.SrcPort = uint16(n)
		case "dport":
			t.DstPort = uint16(n)
		case "id":
			t.ID = uint16(n)
		case "type":
			t.Type = uint8(n)
		case "code":
			t.Code = uint8(n)
		}
	}
	return t
}

// Forget removes exactly these connections from connection tracking. One that
// has gone is no error. Those of ICMPv6 are left out with the userspace
// datapath, and are a [*vnet.UnsupportedError] when the rest is forgotten: it
// makes ovs-vswitchd 3.1.0 abort (lib/conntrack.c, reverse_icmp_type).
func (s *Switch) Forget(ctx context.Context, cs ...Connection) error {
	if len(cs) == 0 {
		return nil
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	conn, err := s.ready(ctx)
	if err != nil {
		return err
	}
	var ms []of.CtMatch
	left := 0
	for _, c := range cs {
		if s.Userspace() && c.Proto == of.ProtoICMPv6 {
			left++
			continue
		}
		t := func(t Tuple) of.CtTuple {
			return of.CtTuple{Src: t.Src, Dst: t.Dst, SrcPort: t.SrcPort, DstPort: t.DstPort, ICMPID: t.ID, ICMPType: t.Type, ICMPCode: t.Code}
		}
		ms = append(ms, of.CtMatch{Zone: c.Zone, Proto: c.Proto, Orig: t(c.Orig)})
	}
	if err := conn.FlushConnections(ctx, ms...); err != nil || left == 0 {
		return err
	}
	return &vnet.UnsupportedError{Feature: fmt.Sprintf("forgetting %d connections of ICMPv6", left), Backend: "ovs-vswitchd's userspace datapath"}
}

// FlushZone forgets all connections of a zone.
func (s *Switch) FlushZone(ctx context.Context, zone uint16) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	conn, err := s.ready(ctx)
	if err != nil {
		return err
	}
	return conn.FlushZone(ctx, zone)
}

// Trace says what would become of a packet, as ofproto/trace of ovs-appctl(8)
// does; flow is in its syntax, as "in_port=3,tcp,nw_src=10.0.0.1,...".
func (s *Switch) Trace(ctx context.Context, flow string) (string, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.control(ctx, "ofproto/trace", s.o.Bridge, flow)
}
