package nftsecgroup

import (
	"testing"

	"pgregory.net/rapid"
)

func TestTypeCodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := rapid.Uint16().Draw(t, "lo")
		hi := rapid.Uint16Range(lo, 65535).Draw(t, "hi")
		boxes := typeCodes(lo, hi)
		for range 50 {
			v := rapid.Uint16().Draw(t, "v")
			n := 0
			for _, b := range boxes {
				if typ, code := uint8(v>>8), uint8(v); typ >= b.t0 && typ <= b.t1 && code >= b.c0 && code <= b.c1 {
					n++
				}
			}
			want := 0
			if v >= lo && v <= hi {
				want = 1
			}
			if n != want {
				t.Fatalf("%d is in %d boxes of %d..%d: %v", v, n, lo, hi, boxes)
			}
		}
	})
}
