package desired

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/overlay"
)

// State is all that one host is to be.
type State struct {
	topology.States
	// Attachments say which devices are plugged at ports of this host. What is
	// plugged at a port without one is unplugged.
	Attachments []overlay.Attachment `json:"attachments"`
}

// Validate reports what is wrong with s, as [*vnet.FieldError]s whose fields
// are paths in its JSON.
func (s *State) Validate() error {
	errs := []error{
		vnet.In("overlay", s.Overlay.Validate()),
		vnet.In("secgroup", s.SecGroup.Validate()),
		vnet.In("router", s.Router.Validate()),
		vnet.In("dhcp", s.DHCP.Validate()),
		vnet.In("metadata", s.Metadata.Validate()),
		vnet.In("qos", s.QoS.Validate()),
	}
	ports, at := map[string]bool{}, map[string]int{}
	for _, p := range s.Overlay.Ports {
		ports[p.ID] = true
	}
	for i, a := range s.Attachments {
		f := fmt.Sprintf("attachments[%d]", i)
		errs = append(errs, vnet.In(f, a.Validate()))
		if j, ok := at[a.PortID]; ok {
			errs = append(errs, &vnet.FieldError{Field: f + ".port_id", Value: a.PortID, Reason: fmt.Sprintf("is that of attachments[%d] too", j)})
		}
		at[a.PortID] = i
		if !ports[a.PortID] {
			errs = append(errs, &vnet.FieldError{Field: f + ".port_id", Value: a.PortID, Reason: "is no port of overlay.ports"})
		}
	}
	return errors.Join(errs...)
}

// Hash names the content of s.
func (s *State) Hash() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // no field of it can fail
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// Desired is a state with its name.
type Desired struct {
	// Revision names the state, for people and for [Status]. Two states may not
	// have the same.
	Revision string `json:"revision"`
	State    State  `json:"state"`
	// Force says that what this revision removes is meant, whatever the budget.
	Force bool `json:"force,omitempty"`
}

// Source says what this host is to be. A distributed store implements it for
// the host that asks. What moves from one host to another (a router, with its
// addresses) must not be in two places at a time: the store first lets the host
// it leaves go on without it, and hears that from its Status.
type Source interface {
	// Watch yields the state that is wanted now, and each later one, until ctx
	// ends. States are whole and valid: a source that knows only a part yields an
	// error instead ([vnet.ErrNotReady], for one), never the part. An error says
	// that what is wanted now is not known, and why; the state yielded before
	// stays wanted. When it is known again it is yielded again, changed or not.
	// States that were overtaken may be left out.
	Watch(ctx context.Context) iter.Seq2[Desired, error]
	// Report hears how far the host has come, after each change of that. It must
	// not wait for long; what it cannot tell now it may leave out for the next.
	Report(ctx context.Context, s Status)
}

// Status is how far a host has come.
type Status struct {
	Host string `json:"host"`
	// Revision is the newest that the source has yielded.
	Revision string `json:"revision"`
	// Applied is what the host has been made, whole but for devices that are
	// Waiting. It is not taken back when something of it fails later.
	Applied string `json:"applied"`
	// AppliedAt is when Applied was first so; CheckedAt when it was last seen so.
	AppliedAt time.Time `json:"applied_at,omitzero"`
	CheckedAt time.Time `json:"checked_at,omitzero"`
	// Behind is since when the host has not been what is wanted, or that has not
	// been known. Zero: it is as wanted.
	Behind time.Time `json:"behind,omitzero"`
	// SourceError is why what is wanted now is not known. Empty: it is.
	SourceError string `json:"source_error,omitempty"`
	// Error is why Revision could not be applied, at the last attempt.
	Error string `json:"error,omitempty"`
	// Waiting are ports whose device cannot be plugged yet, and why.
	Waiting map[string]string `json:"waiting,omitempty"`
}

// Lag is for how long the host has not been what is wanted.
func (s Status) Lag(now time.Time) time.Duration {
	if s.Behind.IsZero() {
		return 0
	}
	return max(0, now.Sub(s.Behind))
}
