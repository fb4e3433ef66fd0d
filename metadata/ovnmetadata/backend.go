package ovnmetadata

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/ovn"
)

const (
	name         = "ovnmetadata"
	kindEndpoint = "endpoint"      // of the Logical_Switch_Port; the id is the endpoint's
	keyEndpoint  = "vnet:endpoint" // in its external_ids: the endpoint as JSON
)

// Options of a [Backend]. There are none so far; nil will do.
type Options struct{}

// Backend is the central half: a [metadata.Backend] that writes the endpoints
// into the Northbound. It keeps no state; methods may be called from several
// goroutines.
type Backend struct {
	t ovn.Target
	c *ovn.Conn
}

var (
	_ metadata.Backend   = (*Backend)(nil)
	_ metadata.Limited   = (*Backend)(nil)
	_ metadata.Explainer = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovn.Target, _ *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	return &Backend{t: t, c: t.Conn()}, nil
}

// Features implements [metadata.Limited]: endpoints are on networks.
func (b *Backend) Features(context.Context) metadata.Features {
	return metadata.Features{Central: true}
}

// Health implements [metadata.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.c.Health(ctx) }

func refuse(e metadata.Endpoint) error {
	if e.RouterID != "" {
		return &vnet.UnsupportedError{Feature: "metadata endpoint in a router", Backend: name, Need: "an endpoint on each of its networks, and option 121 in their DHCP"}
	}
	return nil
}

func (b *Backend) submit(ctx context.Context, f func(tx *ovn.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartMetadata, f)
}

// EnsureEndpoint implements [metadata.Backend]. A network that has another
// endpoint is [vnet.ErrConflict], one that does not stand [vnet.ErrNotFound].
func (b *Backend) EnsureEndpoint(ctx context.Context, e metadata.Endpoint) error {
	if err := refuse(e); err != nil {
		return err
	}
	return b.submit(ctx, func(tx *ovn.Tx) error {
		for m, row := range ovn.Own[nbrow.LogicalSwitchPort](tx, vnet.PartMetadata) {
			if o := endpointOf(row.ExternalIDs); m.ID != e.ID && o.NetworkID == e.NetworkID {
				return fmt.Errorf("endpoint %s is on network %s: %w", m.ID, e.NetworkID, vnet.ErrConflict)
			}
		}
		return put(tx, e)
	})
}

// DeleteEndpoint implements [metadata.Backend].
func (b *Backend) DeleteEndpoint(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovn.Tx) error {
		drop(tx, ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartMetadata, kindEndpoint, id))
		return nil
	})
}

// Sync implements [metadata.Backend].
func (b *Backend) Sync(ctx context.Context, s metadata.State, o vnet.SyncOptions) error {
	f, err := sync(s, &o)
	if err != nil {
		return err
	}
	return b.submit(ctx, f)
}

// Plan implements [metadata.Backend].
func (b *Backend) Plan(ctx context.Context, s metadata.State) (vnet.Plan, error) {
	f, err := sync(s, nil)
	if err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartMetadata, f)
}

func sync(s metadata.State, o *vnet.SyncOptions) (func(tx *ovn.Tx) error, error) {
	want := map[string]bool{}
	for _, e := range s.Endpoints {
		if err := refuse(e); err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", e.ID, err)
		}
		want[e.ID] = true
	}
	return func(tx *ovn.Tx) error {
		existing := 0
		var gone []*nbrow.LogicalSwitchPort
		for m, row := range ovn.Own[nbrow.LogicalSwitchPort](tx, vnet.PartMetadata) {
			existing++
			if !want[m.ID] {
				gone = append(gone, row)
			}
		}
		for _, e := range s.Endpoints {
			if err := put(tx, e); err != nil {
				return fmt.Errorf("endpoint %s: %w", e.ID, err)
			}
		}
		for _, row := range gone {
			drop(tx, row)
		}
		if o == nil {
			return nil
		}
		return o.Check(tx.Changes(), existing)
	}, nil
}

// put makes the row of an endpoint be so: a localport, which is on every
// chassis and whose packets leave none. OVN answers ARP and neighbour discovery
// for the service's addresses as for its own.
func put(tx *ovn.Tx, e metadata.Endpoint) error {
	sw := ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", e.NetworkID)
	if sw == nil {
		return fmt.Errorf("network %s: %w", e.NetworkID, vnet.ErrNotFound)
	}
	old := ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartMetadata, kindEndpoint, e.ID)
	r := ovn.Ensure(tx, kindEndpoint, e.ID, &nbrow.LogicalSwitchPort{
		Name: tx.Conn().PortName(e.PortID), Type: "localport", Addresses: []string{address(e)}, ExternalIDs: map[string]string{keyEndpoint: text(e)}})
	results := []ovn.Result{r, tx.Hold(sw, "ports", r.UUID)}
	impact := vnet.ImpactNone
	if old != nil {
		impact = vnet.ImpactSome
		if was := endpointOf(old.ExternalIDs); !was.Equal(e) {
			if p := metadata.Diff(metadata.State{Endpoints: []metadata.Endpoint{was}}, metadata.State{Endpoints: []metadata.Endpoint{e}}); len(p.Changes) > 0 {
				tx.Change(p.Changes[0])
				return nil
			}
		}
	}
	tx.Record(kindEndpoint, e.ID, impact, results...)
	return nil
}

func drop(tx *ovn.Tx, row *nbrow.LogicalSwitchPort) {
	if row != nil {
		m, _ := ovn.MarkOf(row.ExternalIDs)
		tx.Record(kindEndpoint, m.ID, vnet.ImpactObject, tx.Delete(row))
	}
}

func address(e metadata.Endpoint) string {
	out := []string{e.MAC.String()}
	for _, p := range e.Addresses {
		out = append(out, p.Addr().String())
	}
	return strings.Join(append(out, metadata.IPv4().String(), metadata.IPv6().String(), metadata.IPv6LinkLocal().String()), " ")
}

func text(e metadata.Endpoint) string {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // a plain struct
	}
	return string(b)
}

// endpointOf reads an endpoint from external_ids of the port, in the Northbound
// or in the Southbound, where northd copies them. What cannot be read is the
// zero Endpoint.
func endpointOf(ext map[string]string) (e metadata.Endpoint) {
	_ = json.Unmarshal([]byte(ext[keyEndpoint]), &e)
	return e
}

// Explain implements [metadata.Explainer], of kind "endpoint".
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	if kind != "endpoint" {
		return x, &vnet.FieldError{Field: "kind", Value: kind, Reason: `is not "endpoint"`}
	}
	v, err := b.c.View(ctx)
	if err != nil {
		return x, err
	}
	row := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartMetadata, kindEndpoint, id)
	if row == nil {
		return x, fmt.Errorf("endpoint %s: %w", id, vnet.ErrNotFound)
	}
	e := endpointOf(row.ExternalIDs)
	x.Text = fmt.Sprintf("endpoint %s on network %s", id, e.NetworkID)
	y := x.Add(fmt.Sprintf("Logical_Switch_Port %s %s, type %s, addresses %q", row.UUID, row.Name, row.Type, row.Addresses))
	if sw := ovn.Holder[nbrow.LogicalSwitch](v, row); sw != nil {
		y.Add("on Logical_Switch " + sw.Name)
	}
	x.Add("the agent of each hypervisor with a machine of the network answers there")
	return x, nil
}
