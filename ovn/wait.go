package ovn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/sbrow"
)

// Wait is how far a change must have come before a call returns.
type Wait int

// The ways to wait.
const (
	WaitNone        Wait = iota // it is in the Northbound
	WaitNorthd                  // ovn-northd has made logical flows of it (NB_Global.sb_cfg)
	WaitHypervisors             // every chassis has installed it (NB_Global.hv_cfg)
)

func (w Wait) String() string {
	switch w {
	case WaitNorthd:
		return "northd"
	case WaitHypervisors:
		return "hypervisors"
	}
	return "none"
}

type waitKey struct{}

// WithWait returns a context whose calls wait for w, whatever Options.Wait says.
// A call that finds nothing to write waits until what others have numbered
// before is done. A chassis that is dead or cut off never answers: use a
// deadline; the error then names the chassis that have not answered. Where
// NB_Global.options:enable_chassis_nb_cfg_update is false, none ever does.
func WithWait(ctx context.Context, w Wait) context.Context {
	return context.WithValue(ctx, waitKey{}, w)
}

func (c *Conn) waitOf(ctx context.Context) Wait {
	if w, ok := ctx.Value(waitKey{}).(Wait); ok {
		return w
	}
	return c.o.Wait
}

// number gives the transaction a number: it increments nb_cfg and asks for the
// new value. The other operations of the transaction keep it from being empty.
func (c *Conn) number() []ovsdb.Operation {
	var g *nbrow.NBGlobal
	for _, r := range c.nb.State().All("NB_Global") {
		g = r.(*nbrow.NBGlobal)
	}
	if g == nil {
		return nil
	}
	return ovsdb.Increment("NB_Global", g.UUID, "nb_cfg")
}

// numberOf is the number that the server gave; 0 for none.
func numberOf(results []ovsdb.Result) int {
	for _, r := range results {
		for _, row := range r.Rows {
			var n int
			if json.Unmarshal(row["nb_cfg"], &n) == nil {
				return n
			}
		}
	}
	return 0
}

// await waits until change n (0: the newest there is) has come as far as w.
func (c *Conn) await(ctx context.Context, w Wait, n int) error {
	err := c.nb.Wait(ctx, func(s *ovsdb.State) bool {
		for _, r := range s.All("NB_Global") {
			g := r.(*nbrow.NBGlobal)
			if n == 0 {
				n = g.NbCfg
			}
			done := g.SbCfg
			if w == WaitHypervisors {
				done = min(g.SbCfg, g.HvCfg)
			}
			return done >= n || g.NbCfg < n // nb_cfg has begun again, or the database is another
		}
		return false
	})
	if err == nil {
		return nil
	}
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("written as change %d; waiting for %s: %w", n, w, err)
	}
	return fmt.Errorf("written as change %d, but %s: %w: %w", n, c.missing(w, n), vnet.ErrNotReady, err)
}

// missing says who has not answered to change n.
func (c *Conn) missing(w Wait, n int) string {
	for _, r := range c.nb.State().All("NB_Global") {
		if g := r.(*nbrow.NBGlobal); g.SbCfg < n {
			return fmt.Sprintf("ovn-northd has only done change %d", g.SbCfg)
		}
	}
	if w == WaitNorthd || c.sb == nil {
		return "not every chassis has said that it is done (which ones is in the Southbound, which this connection has not)"
	}
	if err := c.sb.Err(); err != nil {
		return "which chassis are not done is unknown: " + err.Error()
	}
	var late []string
	for _, r := range c.sb.State().All("Chassis_Private") {
		if p := r.(*sbrow.ChassisPrivate); p.NbCfg < n {
			late = append(late, fmt.Sprintf("%s (at %d)", p.Name, p.NbCfg))
		}
	}
	slices.Sort(late)
	switch {
	case len(late) == 0:
		return "ovn-northd has not yet counted the chassis, which all are done"
	case len(late) > 10:
		return fmt.Sprintf("%d chassis are not done: %s, ...", len(late), strings.Join(late[:10], ", "))
	}
	return "these chassis are not done: " + strings.Join(late, ", ")
}
