package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/vnet-go/vnet/examples/internal/machine"
	"github.com/vnet-go/vnet/examples/internal/matrix"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/qos"
)

// errExceeded makes the exit status 1: the table has said it.
var errExceeded = errors.New("more came through than may")

// handleLimits tells what the backends of all sites have counted at limits.
func (a *agent) handleLimits(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []qos.Statistics{}
	for n, s := range a.sites {
		if s.QoS == nil {
			continue
		}
		x, err := s.QoS.Statistics(r.Context())
		if err != nil {
			http.Error(w, fmt.Sprintf("%s: %v", n, err), http.StatusInternalServerError)
			return
		}
		out = append(out, x...)
	}
	json.NewEncoder(w).Encode(out)
}

// measure measures all limits of a running cloud.
func measure(ctx context.Context, m *machine.Machine, t *topology.Cloud) ([]matrix.Taken, error) {
	taken, err := matrix.MeasureLimits(ctx, t, m.VMDir)
	if err != nil {
		return nil, err
	}
	var counted []qos.Statistics
	if err := newAgentClient(m).call(ctx, "GET", "/limits", nil, &counted); err != nil {
		return nil, err
	}
	for i, x := range taken {
		for _, c := range counted {
			if c.Kind == x.Limit.Kind && c.ID == x.Limit.ID && c.Direction == x.Limit.Direction {
				taken[i].Counted = &c
			}
		}
	}
	return taken, nil
}

// exceeded is errExceeded if one of them is.
func exceeded(taken []matrix.Taken) error {
	for _, x := range taken {
		if x.Exceeded() {
			return errExceeded
		}
	}
	return nil
}

func rate(kbps, pps float64) string {
	switch {
	case kbps >= 1000:
		return fmt.Sprintf("%.3g Mbit/s", kbps/1000)
	case kbps > 0:
		return fmt.Sprintf("%.3g kbit/s", kbps)
	}
	return fmt.Sprintf("%.0f packets/s", pps)
}

// promised prints what is limited and promised.
func promised(w io.Writer, t *topology.Cloud) {
	var rows [][]any
	for _, l := range matrix.Limits(t) {
		rows = append(rows, []any{l.Kind, l.ID, l.Direction, "at most " + rate(float64(l.Kbps), float64(l.PPS))})
	}
	for _, p := range t.All.QoS.Ports {
		for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
			if l := p.Way(d); l.MinKbps > 0 {
				rows = append(rows, []any{"port", p.ID, d, "at least " + rate(float64(l.MinKbps), 0)})
			}
		}
	}
	if len(rows) > 0 {
		table(w, "Limits and promises", func(add func(...any)) {
			for _, x := range rows {
				add(x...)
			}
		})
	}
}

// limited prints limits beside what was measured.
func limited(w io.Writer, taken []matrix.Taken) {
	table(w, "Limits", func(add func(...any)) {
		for _, x := range taken {
			l, seen := x.Limit, "not measured: nobody may send there"
			switch {
			case x.From == "":
			case x.Seen.Note != "":
				seen = "not measured: " + x.Seen.Note
			default:
				seen = "measured " + rate(x.Seen.Kbps, x.Seen.PPS)
				if x.Exceeded() {
					seen += " !"
				}
				seen += fmt.Sprintf(" from %s, %s", x.From, x.Probe)
				if x.Least != l {
					seen += fmt.Sprintf(" (%s of %s %s holds before)", rate(float64(x.Least.Kbps), float64(x.Least.PPS)), x.Least.Kind, x.Least.ID)
				}
			}
			dropped := ""
			if x.Counted != nil {
				dropped = fmt.Sprintf("%d packets dropped", x.Counted.Dropped.Packets)
			}
			add(l.Kind, l.ID, l.Direction, rate(float64(l.Kbps), float64(l.PPS)), seen, dropped)
		}
	})
}

// limits prints what is limited, and measures it.
func (c *cli) limits(ctx context.Context) error {
	m, t, err := c.running()
	if err != nil {
		return err
	}
	taken, err := measure(ctx, m, t)
	if err != nil {
		return err
	}
	if c.json {
		if taken == nil {
			taken = []matrix.Taken{}
		}
		err = c.printJSON(taken)
	} else {
		limited(c.out, taken)
	}
	return errors.Join(err, exceeded(taken))
}
