package leasestore

import (
	"bytes"
	"math"
	"net/netip"
	"testing"
)

// FuzzLog reads any bytes as a store: nothing panics, what is read can be
// written and read again, and what does not begin as a store is refused.
func FuzzLog(f *testing.F) {
	good := []byte(magic)
	for _, r := range []record{
		{op: bound, scope: "s", ip: netip.MustParseAddr("192.0.2.1"), client: Client{Key: "k", ID: []byte{1, 2}, Hostname: "h"}, expires: math.MaxInt64},
		{op: declined, scope: "s", ip: netip.MustParseAddr("2001:db8::1"), client: Client{Key: "d", IAID: 7}, expires: 5},
		{op: opForget, scope: "s"},
	} {
		good = r.encode(good)
		f.Add(good)
	}
	f.Add([]byte("something else"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Open("", nil)
		if err != nil {
			t.Fatal(err)
		}
		var again []byte
		n, err := read(bytes.NewReader(b), func(r record) {
			s.replay(r)
			again = r.encode(again)
		})
		if err == nil && n > int64(len(b)) {
			t.Fatalf("%d good bytes of %d", n, len(b))
		}
		if err != nil && len(again) > 0 {
			t.Fatalf("refused after %d bytes: %v", len(again), err)
		}
		var count int
		if _, err := read(bytes.NewReader(append([]byte(magic), again...)), func(record) { count++ }); err != nil {
			t.Fatal(err)
		}
		if snap := s.snapshot(); len(snap) < len(magic) {
			t.Fatal("snapshot has no head")
		}
	})
}
