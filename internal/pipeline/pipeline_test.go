package pipeline

import (
	"testing"

	"github.com/vnet-go/vnet"
)

// TestMayFill compares what the parts may do with the page.
func TestMayFill(t *testing.T) {
	parts := []vnet.Part{"", vnet.PartHost, vnet.PartOverlay, vnet.PartSecGroup, vnet.PartRouter, vnet.PartDHCP, vnet.PartMetadata}
	for table := range 256 {
		var of vnet.Part
		for _, l := range Tables() {
			if uint8(table) >= l.First && uint8(table) <= l.Last {
				if of != "" {
					t.Errorf("table %d is twice on the page", table)
				}
				of = l.Part
			}
		}
		for _, p := range parts {
			want := p == vnet.PartHost || p != "" && p == of || table == Classify && p == vnet.PartMetadata
			if got := MayFill(p, uint8(table)); got != want {
				t.Errorf("table %d: MayFill(%q) = %t, the page says %t", table, p, got, want)
			}
		}
	}
}
