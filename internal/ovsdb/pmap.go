package ovsdb

import (
	"hash/maphash"
	"iter"
)

// shards of a pmap. With 256 of them a change of a table of 10,000 rows
// copies some 40 entries.
const shards = 256

// pmap is a map of which old versions stay as they were. The zero value is
// empty.
type pmap[V any] struct {
	shard [shards]map[string]V
	n     int
}

func shardOf(seed maphash.Seed, k string) uint8 { return uint8(maphash.String(seed, k)) }

func (m *pmap[V]) get(seed maphash.Seed, k string) (V, bool) {
	if m == nil {
		var none V
		return none, false
	}
	v, ok := m.shard[shardOf(seed, k)][k]
	return v, ok
}

func (m *pmap[V]) len() int {
	if m == nil {
		return 0
	}
	return m.n
}

func (m *pmap[V]) all() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if m == nil {
			return
		}
		for _, s := range m.shard {
			for k, v := range s {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// pedit is a new version in the making: shards are copied when first changed.
type pedit[V any] struct {
	m     *pmap[V]
	owned [shards]bool
	seed  maphash.Seed
}

func edit[V any](seed maphash.Seed, old *pmap[V]) *pedit[V] {
	e := &pedit[V]{m: &pmap[V]{}, seed: seed}
	if old != nil {
		*e.m = *old
	}
	return e
}

func (e *pedit[V]) own(i uint8) map[string]V {
	if !e.owned[i] {
		e.owned[i] = true
		s := make(map[string]V, len(e.m.shard[i])+1)
		for k, v := range e.m.shard[i] {
			s[k] = v
		}
		e.m.shard[i] = s
	}
	return e.m.shard[i]
}

func (e *pedit[V]) get(k string) (V, bool) { return e.m.get(e.seed, k) }

func (e *pedit[V]) set(k string, v V) {
	s := e.own(shardOf(e.seed, k))
	if _, was := s[k]; !was {
		e.m.n++
	}
	s[k] = v
}

func (e *pedit[V]) del(k string) {
	s := e.own(shardOf(e.seed, k))
	if _, was := s[k]; was {
		delete(s, k)
		e.m.n--
	}
}
