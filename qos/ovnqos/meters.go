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
	// A row becomes a flow with the same match, which names a port of ours.
	type key struct {
		direction string
		priority  int
		match     string
	}
	rows := map[key]ovn.Mark{}
	for m, q := range ovn.Own[nbrow.QoS](v, vnet.PartQoS) {
		if q.Bandwidth["rate"] > 0 {
			rows[key{q.Direction, q.Priority, q.Match}] = m
		}
	}
	if len(rows) == 0 {
		return nil, nil
	}
	of := map[string]ovn.Mark{} // by Meter.Flow
	sum := map[string]*qos.Statistics{}
	for direction, stage := range map[string]string{nbrow.QoSDirectionFromLport: "ls_in_qos_meter", nbrow.QoSDirectionToLport: "ls_out_qos_meter"} {
		flows, err := b.c.FlowsAt(ctx, stage)
		if err != nil {
			return nil, err
		}
		for _, f := range flows {
			m, ours := rows[key{direction, f.Priority, f.Match}]
			if !ours {
				continue
			}
			of[f.UUID[:8]] = m
			id := object(m)
			sum[m.Kind+" "+m.ID] = &qos.Statistics{Kind: m.Kind, ID: id, Direction: qos.Direction(m.ID[len(id)+1:])}
		}
	}
	all, err := b.o.Meters(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if m, ours := of[x.Flow]; ours {
			s := sum[m.Kind+" "+m.ID]
			add(&s.Passed, x.Passed)
			add(&s.Dropped, x.Dropped)
		}
	}
	out := make([]qos.Statistics, 0, len(sum))
	for _, s := range sum {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b qos.Statistics) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Direction, b.Direction))
	})
	return out, nil
}

func add(to *qos.Count, c qos.Count) {
	to.Packets += c.Packets
	to.Bytes += c.Bytes
}
