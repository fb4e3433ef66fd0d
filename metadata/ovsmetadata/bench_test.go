package ovsmetadata_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
)

// One endpoint more, beside those that are there.
func BenchmarkEnsureEndpoint(b *testing.B) {
	for _, n := range []int{10, 2000} {
		b.Run(fmt.Sprintf("have=%d", n), func(b *testing.B) {
			ctx := b.Context()
			p := newSite(b).place(b)
			be := p.backend(b, p.sw, p.host(b), nil)
			var st metadata.State
			for i := range n {
				st.Endpoints = append(st.Endpoints, endpointOn(fmt.Sprint("n", i), byte(i)))
			}
			require.NoError(b, be.Sync(ctx, st.Canonical(), vnet.SyncOptions{}))
			e := endpointOn("one", 1)
			for b.Loop() {
				if err := be.EnsureEndpoint(ctx, e); err != nil {
					b.Fatal(err)
				}
				if err := be.DeleteEndpoint(ctx, e.ID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
