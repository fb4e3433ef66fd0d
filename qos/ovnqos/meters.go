package ovnqos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
)

// Meter is what the meter of one limit has seen on one chassis.
type Meter struct {
	// Flow is the first eight digits of the UUID of the logical flow that uses
	// it, which ovn-controller makes the cookie of flows.
	Flow    string    `json:"flow"`
	Passed  qos.Count `json:"passed"`
	Dropped qos.Count `json:"dropped"`
}

// Meters reads what the limits on this host have seen, from the integration
// bridge: endpoint is its management socket, "unix:/run/openvswitch/br-int.mgmt"
// as a rule. The program that runs on the host calls it, and hands the result to
// the one that has the [Backend] (see Options.Meters).
func Meters(ctx context.Context, endpoint string) (out []Meter, err error) {
	path, ok := strings.CutPrefix(endpoint, "unix:")
	if !ok {
		return nil, &vnet.FieldError{Field: "endpoint", Value: endpoint, Reason: "is not of the form unix:PATH"}
	}
	c, err := openflow.Dial(ctx, "unix", path, nil)
	if err != nil {
		return nil, fmt.Errorf("read meters: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	stats, err := c.MeterStats(ctx)
	if err != nil || len(stats) == 0 {
		return nil, err
	}
	users, err := users(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, s := range stats {
		cookies := users[s.ID]
		if len(cookies) != 1 {
			continue // of something else than a limit, or between two
		}
		m := Meter{Flow: fmt.Sprintf("%08x", cookies[0]), Dropped: qos.Count{Packets: s.DroppedPackets, Bytes: s.DroppedBytes}}
		// The meter counts what comes to it.
		m.Passed = qos.Count{Packets: s.Packets - min(s.Packets, s.DroppedPackets), Bytes: s.Bytes - min(s.Bytes, s.DroppedBytes)}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Meter) int { return cmp.Compare(a.Flow, b.Flow) })
	return out, nil
}

// users are the cookies of the flows that use each meter.
func users(ctx context.Context, c *openflow.Conn) (map[uint32][]uint64, error) {
	flows, err := c.Flows(ctx, openflow.FlowFilter{Table: openflow.AllTables})
	if err != nil {
		return nil, err
	}
	out := map[uint32][]uint64{}
	for _, f := range flows {
		for _, a := range f.Actions {
			if m, is := a.(openflow.Meter); is && !slices.Contains(out[m.ID], f.Cookie) {
				out[m.ID] = append(out[m.ID], f.Cookie)
			}
		}
	}
	return out, nil
}

// Statistics implements [qos.Backend]: the sum over the chassis that
// Options.Meters has asked. It needs a handle with a Southbound, where the
// logical flows stand that belong to our rows.
func (b *Backend) Statistics(ctx context.Context) ([]qos.Statistics, error) {
	if b.o.Meters == nil {
		return nil, &vnet.UnsupportedError{Feature: "statistics", Backend: backendName, Need: "Options.Meters: OVN counts on the hosts only"}
	}
	v, err := b.c.View(ctx)
	if err != nil {
		return nil, err
	}
	out := qos.NoStatistics(stateOf(v))
	if len(out) == 0 {
		return out, ctx.Err()
	}
	// A row becomes a flow with the same match, which names a port of ours.
	type key struct {
		direction string
		priority  int
		match     string
	}
	rows := map[key]ovn.Mark{}
	for m, q := range ovn.Own[nbrow.QoS](v, vnet.PartQoS) {
		rows[key{q.Direction, q.Priority, q.Match}] = m
	}
	of := map[string]ovn.Mark{} // by Meter.Flow
	for direction, stage := range map[string]string{nbrow.QoSDirectionFromLport: "ls_in_qos_meter", nbrow.QoSDirectionToLport: "ls_out_qos_meter"} {
		flows, err := b.c.FlowsAt(ctx, stage)
		if err != nil {
			return nil, err
		}
		for _, f := range flows {
			if m, ours := rows[key{direction, f.Priority, f.Match}]; ours {
				of[f.UUID[:8]] = m
			}
		}
	}
	all, err := b.o.Meters(ctx)
	if err != nil {
		return nil, err
	}
	at := map[[2]string]*qos.Statistics{}
	for i, s := range out {
		at[[2]string{s.Kind, ovn.LimitID(s.ID, string(s.Direction))}] = &out[i]
	}
	for _, x := range all {
		m := of[x.Flow]
		if s := at[[2]string{m.Kind, m.ID}]; s != nil {
			add(&s.Passed, x.Passed)
			add(&s.Dropped, x.Dropped)
		}
	}
	return out, nil
}

func add(to *qos.Count, c qos.Count) {
	to.Packets += c.Packets
	to.Bytes += c.Bytes
}
