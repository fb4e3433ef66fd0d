package tcqos

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/qos"
)

// entry is one object as it was asked for; one field is set.
type entry struct {
	Port       *qos.Port       `json:"p,omitempty"`
	Gateway    *qos.Gateway    `json:"g,omitempty"`
	FloatingIP *qos.FloatingIP `json:"f,omitempty"`
	Uplink     *qos.Uplink     `json:"u,omitempty"`
}

func (e entry) key() string {
	switch {
	case e.Port != nil:
		return "port " + e.Port.ID
	case e.Gateway != nil:
		return "gateway " + e.Gateway.RouterID
	case e.FloatingIP != nil:
		return "floatingip " + e.FloatingIP.ID
	}
	return "uplink " + e.Uplink.Name
}

// An object stands in the comments of elements of the set "qos-record": its
// JSON, cut into pieces that a comment holds. An element's key says whose piece
// it is (8 bytes of a hash), of which content (6), the number of pieces and
// which of them.
const pieceLen = 120

func keyHash(key string) [8]byte {
	sum := sha256.Sum256([]byte(key))
	return [8]byte(sum[:8])
}

func (e entry) elements() ([]nft.Element, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	who, what := keyHash(e.key()), sha256.Sum256(text)
	pieces := slices.Collect(slices.Chunk(text, pieceLen))
	if len(pieces) > 255 {
		return nil, fmt.Errorf("%s is too large to be recorded", e.key())
	}
	var out []nft.Element
	for i, p := range pieces {
		var k [16]byte
		copy(k[:], who[:])
		copy(k[8:], what[:6])
		k[14], k[15] = byte(len(pieces)), byte(i)
		x := nft.Key(netip.AddrFrom16(k))
		x.Comment = string(p)
		out = append(out, x)
	}
	return out, nil
}

// read puts the elements together again.
func read(elems []nft.Element) (map[string]entry, error) {
	type piece struct {
		key  [16]byte
		text string
	}
	var all []piece
	for _, e := range elems {
		a, ok := e.Key[0].(netip.Addr)
		if !ok {
			return nil, fmt.Errorf("record: element %v is not of ours", e.Key)
		}
		all = append(all, piece{a.As16(), e.Comment})
	}
	slices.SortFunc(all, func(a, b piece) int { return slices.Compare(a.key[:], b.key[:]) })
	out := map[string]entry{}
	for len(all) > 0 {
		n := int(all[0].key[14])
		if n == 0 || n > len(all) || all[n-1].key != last(all[0].key) {
			return nil, fmt.Errorf("record: a piece of %x is missing", all[0].key[:8])
		}
		text := ""
		for _, p := range all[:n] {
			text += p.text
		}
		var e entry
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			return nil, fmt.Errorf("record: %w", err)
		}
		out[e.key()] = e
		all = all[n:]
	}
	return out, nil
}

// last is the key of the last piece of the same object.
func last(k [16]byte) [16]byte {
	k[15] = k[14] - 1
	return k
}

// state is what entries say.
func state(all map[string]entry) qos.State {
	var s qos.State
	for _, e := range all {
		switch {
		case e.Port != nil:
			s.Ports = append(s.Ports, *e.Port)
		case e.Gateway != nil:
			s.Gateways = append(s.Gateways, *e.Gateway)
		case e.FloatingIP != nil:
			s.FloatingIPs = append(s.FloatingIPs, *e.FloatingIP)
		case e.Uplink != nil:
			s.Uplinks = append(s.Uplinks, *e.Uplink)
		}
	}
	return s.Canonical()
}

// entries are the objects of a state by their keys, uplinks first.
func entries(s qos.State) (keys []string, all map[string]entry) {
	all = map[string]entry{}
	put := func(e entry) { keys = append(keys, e.key()); all[e.key()] = e }
	for _, u := range s.Uplinks {
		put(entry{Uplink: &u})
	}
	for _, p := range s.Ports {
		put(entry{Port: &p})
	}
	for _, g := range s.Gateways {
		put(entry{Gateway: &g})
	}
	for _, f := range s.FloatingIPs {
		put(entry{FloatingIP: &f})
	}
	slices.SortStableFunc(keys, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return keys, all
}

func rank(key string) int {
	if len(key) > 6 && key[:6] == "uplink" {
		return 0
	}
	return 1
}
