package nftsecgroup

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/secgroup"
)

// What was asked for stands beside what was made of it, in the set "record"
// of the same table: an object is written as JSON, deflated, and cut into
// elements of 64 bytes: 6 bytes that say which object, 2 that count the
// pieces, 2 that number them, and 54 of content. A process that starts
// anew reads them, and knows what to compare with and what to take away.
const (
	pieceHead = 10
	pieceBody = 64 - pieceHead
)

// entry is one object; one field is set.
type entry struct {
	Group        *secgroup.Group        `json:"g,omitempty"`
	AddressGroup *secgroup.AddressGroup `json:"a,omitempty"`
	Port         *secgroup.Port         `json:"p,omitempty"`
}

func (e entry) key() string {
	switch {
	case e.Group != nil:
		return "group " + e.Group.ID
	case e.AddressGroup != nil:
		return "addressgroup " + e.AddressGroup.ID
	}
	return "port " + e.Port.ID
}

// dictionary has what most records have in common; changing it makes old
// records unreadable, so it has the format's version in it.
const dictionary = `vnet1"remote_address_group_id":"udp","remote_ip_prefix":"","remote_group_id":"IPv4","protocol":"tcp","port_range_min":"port_range_max":` +
	`{"a":{"id":"","addresses":["2001:db8:/64{"g":{"id":"","stateless":true,"rules":[{"id":"","direction":"egress","ethertype":"IPv6","remote_ip_prefix":""},` +
	`{"direction":"ingress","allowed_address_pairs":[{"mac_address":"","ip_address":"/24"}],"disable_port_security":true,"host":""` +
	`{"p":{"id":"","network_id":"","mac":"02:00:00:00:00:01","fixed_ips":["10.0.0.2","2001:db8::"],"security_groups":["default"],"host":"`

// recorder writes records; the zero value is ready. It keeps its compressor,
// which weighs more than a megabyte.
type recorder struct{ w *flate.Writer }

// pieces returns the elements that record e.
func (r *recorder) pieces(e entry) ([]nft.Element, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if r.w == nil {
		if r.w, err = flate.NewWriterDict(&b, flate.BestCompression, []byte(dictionary)); err != nil {
			return nil, err
		}
	} else {
		r.w.Reset(&b)
	}
	if _, err := r.w.Write(text); err != nil {
		return nil, err
	}
	if err := r.w.Close(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(e.key()))
	chunks := slices.Collect(slices.Chunk(b.Bytes(), pieceBody))
	if len(chunks) > 1<<16-1 {
		return nil, fmt.Errorf("%s is too large to be recorded", e.key())
	}
	var out []nft.Element
	for i, c := range chunks {
		// 6 bytes of hash tell objects apart here; a clash is found in reading.
		p := make([]byte, 64)
		copy(p, sum[:6])
		p[6], p[7], p[8], p[9] = byte(len(chunks)>>8), byte(len(chunks)), byte(i>>8), byte(i)
		copy(p[pieceHead:], c)
		var key []any
		for part := range slices.Chunk(p, 16) {
			key = append(key, netip.AddrFrom16([16]byte(part)))
		}
		out = append(out, nft.Key(key...))
	}
	return out, nil
}

// readRecord puts the elements of the set together again.
func readRecord(elems []nft.Element) (secgroup.State, error) {
	type object struct {
		n     int
		parts map[int][]byte
	}
	objects := map[[6]byte]*object{}
	for _, e := range elems {
		var p []byte
		for _, k := range e.Key {
			a, ok := k.(netip.Addr)
			if !ok {
				return secgroup.State{}, fmt.Errorf("record: element %v is not of ours", e.Key)
			}
			b := a.As16()
			p = append(p, b[:]...)
		}
		if len(p) != 64 {
			return secgroup.State{}, fmt.Errorf("record: element of %d bytes", len(p))
		}
		o := objects[[6]byte(p)]
		if o == nil {
			o = &object{parts: map[int][]byte{}}
			objects[[6]byte(p)] = o
		}
		o.n = int(p[6])<<8 | int(p[7])
		o.parts[int(p[8])<<8|int(p[9])] = p[pieceHead:]
	}
	var s secgroup.State
	inflate := flate.NewReaderDict(nil, nil)
	for _, o := range objects {
		var b []byte
		for i := range o.n {
			b = append(b, o.parts[i]...)
		}
		if len(o.parts) != o.n || len(b) != o.n*pieceBody {
			return secgroup.State{}, fmt.Errorf("record: %d of %d pieces of an object", len(o.parts), o.n)
		}
		// Deflate marks its own end; the padding behind it is not read.
		if err := inflate.(flate.Resetter).Reset(bytes.NewReader(b), []byte(dictionary)); err != nil {
			return secgroup.State{}, fmt.Errorf("record: %w", err)
		}
		text, err := io.ReadAll(inflate)
		if err != nil {
			return secgroup.State{}, fmt.Errorf("record: %w", err)
		}
		var e entry
		if err := json.Unmarshal(text, &e); err != nil {
			return secgroup.State{}, fmt.Errorf("record: %w", err)
		}
		switch {
		case e.Group != nil:
			s.Groups = append(s.Groups, *e.Group)
		case e.AddressGroup != nil:
			s.AddressGroups = append(s.AddressGroups, *e.AddressGroup)
		case e.Port != nil:
			s.Ports = append(s.Ports, *e.Port)
		}
	}
	return s.Canonical(), nil
}
