package openflow

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// GroupType is what a group does with its buckets.
type GroupType uint8

// Group types (OpenFlow 1.5.1, section 7.3.4.3).
const (
	GroupAll          GroupType = 0 // every bucket gets a copy
	GroupSelect       GroupType = 1 // one bucket, see GroupDesc.Method
	GroupIndirect     GroupType = 2 // the one bucket
	GroupFastFailover GroupType = 3 // the first that lives
)

func (t GroupType) String() string { return name(uint8(t), "all", "select", "indirect", "ff") }

// AllGroups stands for every group where one is to be deleted.
const AllGroups = 0xfffffffc

// GroupDesc is a group.
type GroupDesc struct {
	ID   uint32
	Type GroupType
	// Method is how GroupSelect chooses: "" as the switch likes, "hash" by a hash
	// over Fields, "dp_hash" by the data path's.
	Method string
	Param  uint64  // basis of the hash
	Fields []Field // of "hash"; none: the 5-tuple
	// Buckets have the IDs 0, 1, 2 ... where all IDs are 0.
	Buckets []Bucket
}

// Bucket is one of a group's choices.
type Bucket struct {
	ID         uint32
	Weight     uint16 // of GroupSelect; 0 is never chosen
	WatchPort  Port   // of GroupFastFailover; 0: none
	WatchGroup uint32 // likewise
	Actions    []Action
}

func (g GroupDesc) String() string {
	p := []string{fmt.Sprintf("group_id=%d,type=%s", g.ID, g.Type)}
	if g.Method != "" {
		m := "selection_method=" + g.Method
		if g.Param != 0 {
			m += fmt.Sprintf(",selection_method_param=%d", g.Param)
		}
		if len(g.Fields) > 0 {
			names := make([]string, len(g.Fields))
			for i, f := range g.Fields {
				names[i] = f.long()
			}
			if len(names) == 1 {
				m += ",fields=" + names[0]
			} else {
				m += ",fields(" + strings.Join(names, ",") + ")"
			}
		}
		p = append(p, m)
	}
	for i, b := range g.Buckets {
		s := fmt.Sprintf("bucket=bucket_id:%d,", g.bucketID(i))
		if g.Type == GroupSelect && b.Weight != 1 {
			s += fmt.Sprintf("weight:%d,", b.Weight)
		}
		if b.WatchPort != 0 {
			s += fmt.Sprintf("watch_port:%s,", b.WatchPort)
		}
		if b.WatchGroup != 0 {
			s += fmt.Sprintf("watch_group:%d,", b.WatchGroup)
		}
		p = append(p, s+"actions="+actionsString(b.Actions))
	}
	return strings.Join(p, ",")
}

func (g GroupDesc) bucketID(i int) uint32 {
	for _, b := range g.Buckets {
		if b.ID != 0 {
			return g.Buckets[i].ID
		}
	}
	return uint32(i)
}

// GroupMod is a change to groups, made by [AddGroup], [ModifyGroup], [PutGroup]
// and [DeleteGroup].
type GroupMod struct {
	command uint16
	GroupDesc
}

// Commands, the last of them Open vSwitch's own.
const (
	groupAdd         = 0
	groupModify      = 1
	groupDelete      = 2
	groupAddOrModify = 0x8000
)

// AddGroup makes a group that is not there yet.
func AddGroup(g GroupDesc) GroupMod { return GroupMod{groupAdd, g} }

// ModifyGroup changes a group that is there.
func ModifyGroup(g GroupDesc) GroupMod { return GroupMod{groupModify, g} }

// PutGroup makes or changes a group.
func PutGroup(g GroupDesc) GroupMod { return GroupMod{groupAddOrModify, g} }

// DeleteGroup deletes a group, or [AllGroups], and the flows that use it. To
// delete one that is not there is no error.
func DeleteGroup(id uint32) GroupMod { return GroupMod{groupDelete, GroupDesc{ID: id}} }

func (m GroupMod) String() string {
	switch m.command {
	case groupDelete:
		return fmt.Sprintf("delete group_id=%d", m.ID)
	case groupModify:
		return "modify " + m.GroupDesc.String()
	}
	return "add " + m.GroupDesc.String()
}

const (
	netronome  = 0x154d
	bucketNone = 0xffffffff
)

// appendMessage appends the whole message (section 7.3.4.3; the selection
// method as netronome-ext.h).
func (m *GroupMod) appendMessage(b []byte, xid uint32) ([]byte, error) {
	invalid := func(reason string) error { return &InvalidError{What: m.String(), Reason: reason} }
	start := len(b)
	b = appendMsgHeader(b, typeGroupMod, xid)
	b = be32(append(be16(b, m.command), byte(m.Type), 0), m.ID)
	b = be32(be16(b, 0, 0), bucketNone)
	if m.command == groupDelete {
		return finish(b, start)
	}
	buckets := len(b)
	for i := range m.Buckets {
		var err error
		if b, err = m.appendBucket(b, i); err != nil {
			return nil, invalid(err.Error())
		}
	}
	if len(b)-buckets > maxMsg {
		return nil, invalid("has more than 64 KiB of buckets")
	}
	binary.BigEndian.PutUint16(b[start+16:], uint16(len(b)-buckets))
	if m.Method != "" {
		if m.Type != GroupSelect || len(m.Method) > 15 {
			return nil, invalid("has a selection method and is not of type select, or one of a long name")
		}
		p := len(b)
		b = be32(be16(b, 0xffff, 0), netronome, 1, 0)
		b = append(b, append([]byte(m.Method), make([]byte, 16-len(m.Method))...)...)
		b = be64(b, m.Param)
		for _, f := range m.Fields {
			if !f.known() {
				return nil, invalid("hashes an unknown field")
			}
			b = Cond{f, f.ones(), f.ones()}.appendTLV(b)
		}
		binary.BigEndian.PutUint16(b[p+2:], uint16(len(b)-p))
		b = pad(b, p)
	}
	return finish(b, start)
}

func (g *GroupDesc) appendBucket(b []byte, i int) ([]byte, error) {
	k := g.Buckets[i]
	start := len(b)
	b = be32(be16(b, 0, 0), g.bucketID(i))
	b, err := appendActions(b, k.Actions)
	if err != nil {
		return nil, err
	}
	actions := len(b) - start - 8
	if g.Type == GroupSelect {
		b = append(be16(b, 0, 8, k.Weight), 0, 0)
	}
	if k.WatchPort != 0 {
		b = be32(be16(b, 1, 8), uint32(k.WatchPort))
	}
	if k.WatchGroup != 0 {
		b = be32(be16(b, 2, 8), k.WatchGroup)
	}
	if len(b)-start > maxMsg {
		return nil, errShort
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start))
	binary.BigEndian.PutUint16(b[start+2:], uint16(actions))
	return b, nil
}

// Group makes one change to groups; see [Conn.BundleMods] for several.
func (c *Conn) Group(ctx context.Context, m GroupMod) error {
	err := c.send(ctx, 1, func(_ int, b []byte, xid uint32) ([]byte, error) { return m.appendMessage(b, xid) })
	if err != nil {
		return fmt.Errorf("%w: %s", err, m)
	}
	return nil
}

// Groups reads the groups.
func (c *Conn) Groups(ctx context.Context) ([]GroupDesc, error) {
	var out []GroupDesc
	err := c.multipart(ctx, partGroupDesc, allGroups, func(b []byte) error {
		for len(b) > 0 {
			g, n, err := decodeGroup(b)
			if err != nil {
				return err
			}
			out = append(out, g)
			b = b[n:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func allGroups(b []byte) ([]byte, error) { return be32(b, AllGroups, 0), nil }

// decodeGroup reads a group's description and returns its length.
func decodeGroup(b []byte) (GroupDesc, int, error) {
	if len(b) < 16 {
		return GroupDesc{}, 0, errShort
	}
	n, size := int(get16(b)), int(get16(b[8:]))
	if n < 16 || n > len(b) || 16+size > n {
		return GroupDesc{}, 0, fmt.Errorf("a group of %d bytes, %d of buckets, in %d", n, size, len(b))
	}
	g := GroupDesc{Type: GroupType(b[2]), ID: binary.BigEndian.Uint32(b[4:])}
	props := b[16+size : n]
	for b := b[16 : 16+size]; len(b) > 0; {
		k, l, err := decodeBucket(b)
		if err != nil {
			return g, n, fmt.Errorf("group %d: %w", g.ID, err)
		}
		g.Buckets = append(g.Buckets, k)
		b = b[l:]
	}
	for len(props) > 0 {
		typ, body, rest, err := takeProperty(props)
		if err != nil {
			return g, n, fmt.Errorf("group %d: %w", g.ID, err)
		}
		props = rest
		if typ != 0xffff || len(body) < 36 || binary.BigEndian.Uint32(body) != netronome {
			continue
		}
		text, _, _ := bytes.Cut(body[12:28], []byte{0})
		g.Method, g.Param = string(text), binary.BigEndian.Uint64(body[28:])
		g.Fields = append(g.Fields, knownMasks(body[36:])...)
	}
	return g, n, nil
}

// knownMasks are the fields of TLVs whose values are masks.
func knownMasks(b []byte) (fs []Field) {
	for len(b) >= 4 {
		n := 4 + int(b[3])
		if n > len(b) {
			break
		}
		if f, _, err := takeField(b); err == nil {
			fs = append(fs, f)
		}
		b = b[n:]
	}
	return fs
}

func decodeBucket(b []byte) (Bucket, int, error) {
	if len(b) < 8 {
		return Bucket{}, 0, errShort
	}
	n, size := int(get16(b)), int(get16(b[2:]))
	if n < 8 || n > len(b) || 8+size > n {
		return Bucket{}, 0, fmt.Errorf("a bucket of %d bytes, %d of actions, in %d", n, size, len(b))
	}
	k := Bucket{ID: binary.BigEndian.Uint32(b[4:])}
	var err error
	if k.Actions, err = takeActions(b[8:8+size], 0); err != nil {
		return k, n, err
	}
	for props := b[8+size : n]; len(props) > 0; {
		typ, body, rest, err := takeProperty(props)
		if err != nil {
			return k, n, err
		}
		props = rest
		switch {
		case typ == 0 && len(body) == 4:
			k.Weight = get16(body)
		case typ == 1 && len(body) == 4:
			if p := Port(binary.BigEndian.Uint32(body)); p != PortAny {
				k.WatchPort = p
			}
		case typ == 2 && len(body) == 4:
			if g := binary.BigEndian.Uint32(body); g != groupAny {
				k.WatchGroup = g
			}
		}
	}
	return k, n, nil
}

// GroupStats is what a group has seen.
type GroupStats struct {
	ID, References uint32
	Packets, Bytes uint64
	Duration       time.Duration
	Buckets        []BucketStats
}

// BucketStats is what a bucket has seen.
type BucketStats struct{ Packets, Bytes uint64 }

// GroupStats reads what the groups have seen.
func (c *Conn) GroupStats(ctx context.Context) ([]GroupStats, error) {
	var out []GroupStats
	err := c.multipart(ctx, partGroup, allGroups, func(b []byte) error {
		be := binary.BigEndian
		for len(b) > 0 {
			if len(b) < 40 {
				return errShort
			}
			n := int(get16(b))
			if n < 40 || n > len(b) {
				return fmt.Errorf("a group of %d bytes in %d", n, len(b))
			}
			s := GroupStats{ID: be.Uint32(b[4:]), References: be.Uint32(b[8:]), Packets: be.Uint64(b[16:]), Bytes: be.Uint64(b[24:]),
				Duration: time.Duration(be.Uint32(b[32:]))*time.Second + time.Duration(be.Uint32(b[36:]))}
			for at := 40; at+16 <= n; at += 16 {
				s.Buckets = append(s.Buckets, BucketStats{be.Uint64(b[at:]), be.Uint64(b[at+8:])})
			}
			out = append(out, s)
			b = b[n:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
