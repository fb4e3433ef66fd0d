package secgrouptest

import (
	"encoding/json"
	"testing"

	"github.com/vnet-go/vnet/secgroup"
)

func runRandom(t *testing.T, h Harness) {}

func stateText(s secgroup.State) string {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}
