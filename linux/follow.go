package linux

import (
	"context"
	"slices"

	"github.com/vnet-go/vnet"
)

// Follower is a part that has something for what other parts make or connect.
// It is asked while they do, so that nothing passes without it.
type Follower struct {
	Part vnet.Part
	// Plugged returns the steps for a device that is about to be plugged at a
	// port. They are carried out in the same commit; those of phase [Connect]
	// when the device is there, and before it is connected.
	Plugged func(ctx context.Context, portID, device string) ([]Step, error)
	// Unplugged returns the steps that take from a device what Plugged gave it.
	Unplugged func(ctx context.Context, portID, device string) ([]Step, error)
	// Made is called in a commit when a namespace has been made. It writes by
	// itself and may not submit.
	Made func(ctx context.Context, n *Namespace) error
}

// Follow has f asked from now on, in place of whoever followed for the same
// part before.
func (h *Host) Follow(f Follower) {
	h.followMu.Lock()
	defer h.followMu.Unlock()
	h.followers = append(slices.DeleteFunc(slices.Clone(h.followers), func(x Follower) bool { return x.Part == f.Part }), f)
}

func (h *Host) following() []Follower {
	h.followMu.Lock()
	defer h.followMu.Unlock()
	return h.followers
}

// LimitMajor is the major number of the root qdiscs of devices plugged at ports
// that are ours.
const LimitMajor = 0x7e51

// ask asks all followers about a device that comes to a port, or leaves it.
func (h *Host) ask(ctx context.Context, plugged bool, portID, device string) (steps []Step, err error) {
	for _, f := range h.following() {
		what := f.Plugged
		if !plugged {
			what = f.Unplugged
		}
		if what == nil {
			continue
		}
		s, err := what(ctx, portID, device)
		if err != nil {
			return nil, err
		}
		steps = append(steps, s...)
	}
	return steps, nil
}

// made tells all followers.
func (h *Host) made(ctx context.Context, n *Namespace) error {
	for _, f := range h.following() {
		if f.Made == nil {
			continue
		}
		if err := f.Made(ctx, n); err != nil {
			return err
		}
	}
	return nil
}
