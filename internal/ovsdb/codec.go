package ovsdb

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// The notation of values is that of RFC 7047, section 5.1.

// atoms takes a value apart: the elements of a set, or an atom as its one element.
func atoms(raw json.RawMessage) ([]json.RawMessage, error) {
	if len(raw) == 0 || raw[0] != '[' {
		return []json.RawMessage{raw}, nil
	}
	var pair []json.RawMessage
	if err := json.Unmarshal(raw, &pair); err != nil {
		return nil, err
	}
	if len(pair) != 2 {
		return nil, fmt.Errorf("value of %d elements", len(pair))
	}
	switch string(pair[0]) {
	case `"set"`:
		var out []json.RawMessage
		err := json.Unmarshal(pair[1], &out)
		return out, err
	case `"uuid"`, `"named-uuid"`:
		return []json.RawMessage{pair[1]}, nil
	}
	return nil, fmt.Errorf("value is no atom and no set: %.40s", raw)
}

// pairs takes a map apart.
func pairs(raw json.RawMessage) ([][2]json.RawMessage, error) {
	var pair []json.RawMessage
	if err := json.Unmarshal(raw, &pair); err != nil {
		return nil, err
	}
	if len(pair) != 2 || string(pair[0]) != `"map"` {
		return nil, fmt.Errorf("value is no map: %.40s", raw)
	}
	var out [][2]json.RawMessage
	err := json.Unmarshal(pair[1], &out)
	return out, err
}

// setAtom decodes one atom into v.
func setAtom(v reflect.Value, raw json.RawMessage) error {
	if len(raw) > 0 && raw[0] == '[' { // a UUID within a set
		a, err := atoms(raw)
		if err != nil {
			return err
		}
		if len(a) != 1 {
			return fmt.Errorf("%d values for one", len(a))
		}
		raw = a[0]
	}
	if v.Kind() == reflect.String && len(raw) > 0 && raw[0] != '"' {
		v.SetString(string(raw)) // a number where the model has a string
		return nil
	}
	return json.Unmarshal(raw, v.Addr().Interface())
}

// decode returns the value of a field from the wire. Older and newer servers
// may have a set where the model has one value, and the other way round.
func decode(typ reflect.Type, raw json.RawMessage) (reflect.Value, error) {
	v := reflect.New(typ).Elem()
	switch typ.Kind() {
	case reflect.Map:
		ps, err := pairs(raw)
		if err != nil {
			return v, err
		}
		if len(ps) == 0 {
			return v, nil
		}
		v.Set(reflect.MakeMapWithSize(typ, len(ps)))
		for _, p := range ps {
			k, e := reflect.New(typ.Key()).Elem(), reflect.New(typ.Elem()).Elem()
			if err := setAtom(k, p[0]); err != nil {
				return v, err
			}
			if err := setAtom(e, p[1]); err != nil {
				return v, err
			}
			v.SetMapIndex(k, e)
		}
		return v, nil
	}
	as, err := atoms(raw)
	if err != nil {
		return v, err
	}
	switch typ.Kind() {
	case reflect.Slice:
		if len(as) == 0 {
			return v, nil
		}
		v.Set(reflect.MakeSlice(typ, len(as), len(as)))
		for i, a := range as {
			if err := setAtom(v.Index(i), a); err != nil {
				return v, err
			}
		}
		sortSlice(v)
	case reflect.Pointer:
		if len(as) == 0 {
			return v, nil
		}
		v.Set(reflect.New(typ.Elem()))
		return v, setAtom(v.Elem(), as[0])
	default:
		if len(as) == 0 {
			return v, nil
		}
		return v, setAtom(v, as[0])
	}
	return v, nil
}

// sortSlice brings a set into its one order.
func sortSlice(v reflect.Value) {
	switch s := v.Interface().(type) {
	case []string:
		slices.Sort(s)
	case []int:
		slices.Sort(s)
	case []float64:
		slices.Sort(s)
	}
}

// merge applies the difference d, as update2 and update3 send it, to old.
func merge(old, d reflect.Value) reflect.Value {
	switch old.Kind() {
	case reflect.Slice:
		switch o := old.Interface().(type) {
		case []string:
			return reflect.ValueOf(toggle(o, d.Interface().([]string)))
		case []int:
			return reflect.ValueOf(toggle(o, d.Interface().([]int)))
		case []float64:
			return reflect.ValueOf(toggle(o, d.Interface().([]float64)))
		}
	case reflect.Map:
		if o, ok := old.Interface().(map[string]string); ok && len(o) > 0 {
			out := maps.Clone(o)
			for k, v := range d.Interface().(map[string]string) {
				if was, has := o[k]; has && was == v {
					delete(out, k)
				} else {
					out[k] = v
				}
			}
			if len(out) == 0 {
				return reflect.Zero(old.Type())
			}
			return reflect.ValueOf(out)
		}
		out := reflect.MakeMapWithSize(old.Type(), old.Len()+d.Len())
		for it := old.MapRange(); it.Next(); {
			out.SetMapIndex(it.Key(), it.Value())
		}
		for it := d.MapRange(); it.Next(); {
			if was := old.MapIndex(it.Key()); was.IsValid() && was.Interface() == it.Value().Interface() {
				out.SetMapIndex(it.Key(), reflect.Value{})
			} else {
				out.SetMapIndex(it.Key(), it.Value())
			}
		}
		if out.Len() == 0 {
			return reflect.Zero(old.Type())
		}
		return out
	}
	return d
}

// toggle returns what is in one of two sorted sets only.
func toggle[T cmp.Ordered](a, b []T) []T {
	if slices.Equal(a, b) {
		return nil
	}
	out := make([]T, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := cmp.Compare(a[0], b[0]); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// uuidValue is a UUID on the wire.
func uuidValue(id string) any { return []any{"uuid", id} }

// encode is the wire form of a field's value. Maps and sets come out in order.
func (c *column) encode(v reflect.Value) any {
	atom := func(v reflect.Value) any {
		if c.uuid {
			return uuidValue(v.String())
		}
		return v.Interface()
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return []any{"set", []any{}}
		}
		return atom(v.Elem())
	case reflect.Slice:
		out := make([]any, 0, v.Len())
		for i := range v.Len() {
			out = append(out, atom(v.Index(i)))
		}
		return []any{"set", out}
	case reflect.Map:
		out := make([]any, 0, v.Len())
		switch m := v.Interface().(type) {
		case map[string]string:
			for _, k := range slices.Sorted(maps.Keys(m)) {
				out = append(out, []any{k, m[k]})
			}
		default:
			for it := v.MapRange(); it.Next(); {
				e := it.Value().Interface()
				if c.uuids {
					e = uuidValue(it.Value().String())
				}
				out = append(out, []any{it.Key().Interface(), e})
			}
		}
		return []any{"map", out}
	}
	if c.uuid && v.String() == "" {
		return []any{"set", []any{}}
	}
	return atom(v)
}
