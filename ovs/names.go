package ovs

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
)

// The keys of external_ids that every row of ours has.
const (
	keyOwner  = "vnet:owner"
	keyPart   = "vnet:part"
	keyKind   = "vnet:kind"
	keyID     = "vnet:id"
	keyDevice = "vnet:device" // kind of device
	keyNumber = "vnet:number:"
	// keyVersion is another at each change of the numbers, drawn by lot: what a
	// process guards that changes them.
	keyVersion = "vnet:version"
)

// mark says whose a row is and what it is for.
type mark struct {
	owner    vnet.Owner
	part     vnet.Part
	kind, id string
}

func markOf(ext map[string]string) mark {
	return mark{vnet.Owner(ext[keyOwner]), vnet.Part(ext[keyPart]), ext[keyKind], ext[keyID]}
}

// into is external_ids with the mark.
func (m mark) into(more map[string]string) map[string]string {
	out := map[string]string{keyOwner: string(m.owner), keyPart: string(m.part), keyKind: m.kind, keyID: m.id}
	for k, v := range more {
		out[k] = v
	}
	return out
}

func (m mark) sum(of string) [32]byte {
	return sha256.Sum256([]byte(strings.Join([]string{"vnet-ovs", string(m.owner), string(m.part), of, m.kind, m.id}, "\x00")))
}

// uuid is the UUID of the row with this mark in a table: version 8 of RFC 9562.
func (m mark) uuid(table string) string {
	h := m.sum(table)
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// device is a name of 15 characters.
func (m mark) device() string {
	h := m.sum("device")
	return ("v" + encoding.EncodeToString(h[:]))[:15]
}

// A cookie is, from above: 16 bits of the owner, 4 of the part, 1 for learnt
// flows, 43 of kind and id.
const (
	cookieOwner   uint64 = 0xffff << 48
	cookiePart    uint64 = 0xf << 44
	cookieLearned uint64 = 1 << 43
)

var partNumbers = map[vnet.Part]uint64{vnet.PartHost: 1, vnet.PartOverlay: 2, vnet.PartRouter: 3, vnet.PartDHCP: 4, vnet.PartMetadata: 5, vnet.PartSecGroup: 6,
	vnet.PartQoS: 7, vnet.PartSRIOV: 8, vnet.PartDPDK: 9}

func ownerCookie(o vnet.Owner) uint64 {
	h := sha256.Sum256([]byte("vnet-ovs-owner\x00" + o))
	return uint64(binary.BigEndian.Uint16(h[:2])|1) << 48
}

func (s *Switch) partCookie(p vnet.Part) uint64 { return ownerCookie(s.owner) | partNumbers[p]<<44 }

// Cookie is the cookie of an object's flows.
func (s *Switch) Cookie(p vnet.Part, kind, id string) uint64 {
	h := mark{s.owner, p, kind, id}.sum("cookie")
	return s.partCookie(p) | binary.BigEndian.Uint64(h[:8])&(cookieLearned-1)
}

// LearnCookie is a cookie for flows that the switch makes by itself for an
// object: they are not compared with what is wanted, and go with the object.
func (s *Switch) LearnCookie(p vnet.Part, kind, id string) uint64 {
	return s.Cookie(p, kind, id) | cookieLearned
}
