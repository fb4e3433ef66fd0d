package leasestore_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

// Offer, bind, flush, and only then tell the client.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "leases")

	s, err := leasestore.Open(path, nil)
	if err != nil {
		panic(err)
	}
	pool := leasestore.Pool{Scope: "subnet-1", Ranges: []dhcp.AddrRange{{First: netip.MustParseAddr("192.0.2.100"), Last: netip.MustParseAddr("192.0.2.199")}}}
	client := leasestore.Client{Key: "its identifier"}
	ip, _ := s.Offer(pool, client, netip.Addr{})
	_, bound := s.Bind(pool, client, ip, time.Hour)
	if err := s.Flush(); err != nil {
		panic(err)
	}
	fmt.Println(ip, bound)
	if err := s.Close(); err != nil {
		panic(err)
	}

	s, err = leasestore.Open(path, nil) // after a crash
	if err != nil {
		panic(err)
	}
	defer s.Close()
	fmt.Println(s.Find("subnet-1", client.Key))
	// Output:
	// 192.0.2.100 true
	// 192.0.2.100 true true
}
