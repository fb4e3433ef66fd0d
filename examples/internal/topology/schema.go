package topology

import (
	"net/netip"
	"reflect"
	"strings"

	"github.com/vnet-go/vnet"
)

// Schema is the JSON Schema (draft 2020-12) of topology files, made from the
// types that the parser fills.
func Schema() map[string]any {
	s := object(reflect.TypeFor[File]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "vnet cloud topology"
	s["description"] = "A cloud network as examples/cloud makes it. Field names are Neutron's and Nova's; references are names."
	return s
}

func object(t reflect.Type) map[string]any {
	props := map[string]any{}
	required := []string{}
	for f := range fieldsOf(t) {
		name, need := key(f)
		p := schemaOf(f.Type)
		p["description"] = f.Tag.Get("doc")
		if e := f.Tag.Get("enum"); e != "" {
			p["enum"] = strings.Split(e, ",")
		}
		props[name] = p
		if need {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
}

func schemaOf(t reflect.Type) map[string]any {
	text := func(pattern string) map[string]any { return map[string]any{"type": "string", "pattern": pattern} }
	switch t {
	case reflect.TypeFor[netip.Addr]():
		return text(`^[0-9a-fA-F:.]+$`)
	case reflect.TypeFor[netip.Prefix]():
		return text(`^[0-9a-fA-F:.]+/[0-9]{1,3}$`)
	case reflect.TypeFor[AddrOrPrefix]():
		return text(`^[0-9a-fA-F:.]+(/[0-9]{1,3})?$`)
	case reflect.TypeFor[vnet.MAC]():
		return text(`^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$`)
	case reflect.TypeFor[OptionalAddr]():
		return map[string]any{"type": []string{"string", "null"}, "pattern": `^[0-9a-fA-F:.]+$`}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": map[string]any{"type": []string{"string", "number", "boolean"}}}
	case reflect.Struct:
		return object(t)
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return map[string]any{"type": "integer", "minimum": 0, "maximum": uint64(1)<<t.Bits() - 1}
	case reflect.Float64:
		return map[string]any{"type": "number", "minimum": 0}
	}
	// A string may be written as a number: protocol 17, external_port_range 80:90 in YAML 1.1.
	return map[string]any{"type": []string{"string", "integer"}}
}
