package openstack_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/vnet-go/vnet/qos/placement"
	"github.com/vnet-go/vnet/qos/placement/openstack"
)

// A ledger over a Placement that is there. The server here stands for it.
func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"usages": {"NET_BW_EGR_KILOBIT_PER_SEC": 250000}}`)
	}))
	defer server.Close()

	s, err := openstack.New(&openstack.Options{
		Endpoint:  server.URL, // of service type "placement" in the catalogue
		Token:     func(context.Context, bool) (string, error) { return "gAAAA", nil },
		ProjectID: "b6b7a7f0a1c64d6f8ee2c7f2bb0d7a55", UserID: "network-service",
	})
	if err != nil {
		panic(err)
	}
	if _, err := placement.New(s, nil); err != nil {
		panic(err)
	}
	used, err := s.Usage(context.Background(), "5c0b7f7e-0000-4000-8000-000000000002")
	fmt.Println(used[placement.EgressKbps], err)
	// Output: 250000 <nil>
}
