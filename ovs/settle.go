package ovs

import (
	"context"
	"fmt"

	of "github.com/vnet-go/vnet/internal/openflow"
)

// Settle returns when packets are treated as the flows say that stand: what
// the datapath had kept of earlier ones has been looked at since. Bundles take
// effect at once for packets that the switch has to look up, and a moment later
// for those of flows that the datapath knows.
func (s *Switch) Settle(ctx context.Context) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, err := s.ready(ctx)
	if err != nil {
		return err
	}
	// A round of ovs-vswitchd's revalidators that ends may have begun before;
	// the one after it has not. A change of flows, also one that changes nothing,
	// makes a round begin now instead of within half a second.
	base := baseFlows()[0]
	base.Cookie = s.Cookie("host", "base", "base")
	for range 2 {
		done := make(chan error, 1)
		go func() {
			_, err := s.control(ctx, "revalidator/wait")
			done <- err
		}()
		if err := c.Apply(ctx, []of.FlowMod{of.Modify(base)}); err != nil {
			return err
		}
		if err := <-done; err != nil {
			return fmt.Errorf("wait for the datapath: %w", err)
		}
	}
	return nil
}
