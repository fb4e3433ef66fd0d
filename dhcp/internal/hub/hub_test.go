package hub

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
)

func TestSlowWatcherLosesAndIsTold(t *testing.T) {
	var h Hub
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seq := h.Watch(ctx)
	require.True(t, h.Any())
	for range buffered + 10 {
		h.Tell(vnet.Event{Kind: "lease"})
	}
	n := 0
	for e := range seq {
		if e.Kind == "lease" {
			n++
		}
		if n == buffered {
			break
		}
	}
	require.False(t, h.Any(), "leaving the loop ends the watch")
	_ = ctx

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	seq = h.Watch(ctx)
	for range buffered + 1 {
		h.Tell(vnet.Event{Kind: "lease"})
	}
	var kinds []string
	for e := range seq {
		if len(kinds) == 0 {
			h.Tell(vnet.Event{Kind: "after"})
			h.Tell(vnet.Event{Kind: "after"})
		}
		kinds = append(kinds, e.Kind)
		if len(kinds) == buffered+1 {
			stop()
		}
	}
	require.Equal(t, vnet.EventLost, kinds[buffered])
	require.Eventually(t, func() bool { return !h.Any() }, 1e9, 1e6)
}
