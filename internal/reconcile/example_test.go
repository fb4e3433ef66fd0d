package reconcile_test

import (
	"context"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/reconcile"
)

func Example() {
	kind := reconcile.Kind[string, int]{
		Diff: func(was, want *int) (vnet.Change, bool) {
			c := vnet.Change{Part: "demo", Kind: "limit"}
			switch {
			case was == nil:
				c.Verb, c.ID = vnet.Create, fmt.Sprint(*want)
			case want == nil:
				c.Verb, c.ID = vnet.Delete, fmt.Sprint(*was)
			default:
				return c, false
			}
			return c, true
		},
		Do: func(_ context.Context, c vnet.Change, _, _ *int) error { fmt.Println("doing:", c); return nil },
	}
	var s reconcile.Set
	reconcile.Add(&s, kind, map[string]int{"a": 1, "b": 2}, map[string]int{"b": 2, "c": 3})
	fmt.Print(s.Plan())
	fmt.Println(s.Run(context.Background(), vnet.SyncOptions{}, false) != nil)
	fmt.Println(s.Run(context.Background(), vnet.SyncOptions{}, true))
	// Output:
	// + demo limit 3
	// - demo limit 1
	// 1 to create, 0 to update, 1 to delete
	// true
	// doing: + demo limit 3
	// doing: - demo limit 1
	// <nil>
}
