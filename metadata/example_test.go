package metadata_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/memmetadata"
)

// inventory is what the application knows of its machines.
type inventory map[netip.Addr]*metadata.Instance

func (i inventory) Lookup(_ context.Context, a metadata.Asker) (*metadata.Instance, error) {
	if in, ok := i[a.Addr]; ok && a.RouterID == "router-1" {
		return in, nil
	}
	return nil, vnet.ErrNotFound
}

// An endpoint, and what a machine is told there.
func Example() {
	ctx := context.Background()
	svc, err := metadata.New(memmetadata.New(), nil)
	if err != nil {
		panic(err)
	}
	state := metadata.State{Endpoints: []metadata.Endpoint{{ID: "ep-1", RouterID: "router-1"}}}
	plan, err := svc.Plan(ctx, state)
	if err != nil {
		panic(err)
	}
	fmt.Print(plan)
	if err := svc.Sync(ctx, state, vnet.SyncOptions{}); err != nil {
		panic(err)
	}

	web := netip.MustParseAddr("192.0.2.10")
	srv, err := metadata.NewServer(inventory{web: {UUID: "3f1c", Name: "web", Hostname: "web.example.org",
		Keys: []metadata.Key{{Name: "me", Type: "ssh", Data: "ssh-ed25519 AAAA"}}}}, nil)
	if err != nil {
		panic(err)
	}
	for _, path := range []string{"/latest/meta-data/hostname", "/latest/meta-data/public-keys/"} {
		r := httptest.NewRequest("GET", path, nil)
		r = r.WithContext(metadata.WithAsker(ctx, metadata.NewAsker("router-1", "", web)))
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Body)
	}
	fmt.Println(svc.EnsureEndpoint(ctx, metadata.Endpoint{ID: "ep-2"}))
	// Output:
	// + metadata endpoint ep-1
	// 1 to create, 0 to update, 0 to delete
	// 200 web.example.org
	// 200 0=me
	// ensure endpoint "ep-2": router_id and network_id are both empty; one says where the endpoint is
}
