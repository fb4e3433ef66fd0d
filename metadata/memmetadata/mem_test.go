package memmetadata_test

import (
	"testing"

	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/memmetadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
)

func TestConformance(t *testing.T) {
	metadatatest.Run(t, metadatatest.Harness{NoPackets: true, Volatile: true, Make: func(testing.TB, metadatatest.Setup) metadatatest.Host {
		b := memmetadata.New()
		return metadatatest.Host{Metadata: b, Writes: b.Writes, Reopen: func(testing.TB) metadata.Backend { return memmetadata.New() }}
	}})
}
