package ovnmetadata

import (
	"context"
	"fmt"

	"github.com/vnet-go/vnet"
)

// Cleanup takes away the namespaces and devices that agents of this owner have
// made on this host, also those that a killed process left behind. While Serve
// runs it is [vnet.ErrConflict].
func (a *Agent) Cleanup(ctx context.Context) error {
	a.mu.Lock()
	if a.running {
		a.mu.Unlock()
		return fmt.Errorf("serving: %w", vnet.ErrConflict)
	}
	a.running = true // and Serve is, while this runs
	a.mu.Unlock()
	err := a.remove(ctx, nil)
	a.mu.Lock()
	a.running = false
	a.mu.Unlock()
	return err
}
