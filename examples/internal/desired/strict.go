package desired

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/vnet-go/vnet"
)

// lineError is a mistake in a file, with its line.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// mistakes bounds how many are told of one file.
const mistakes = 20

// decode reads one JSON value into v, which is zero. Unlike encoding/json it
// refuses names that v does not have, in another case too, and names that
// stand twice: of those the last would win, and what the first says be removed
// from the host. Mistakes are [*vnet.FieldError]s with their line.
func decode(text []byte, v any) error {
	c := &checker{text: text}
	d := json.NewDecoder(bytes.NewReader(text))
	var whole json.RawMessage
	if err := d.Decode(&whole); err != nil {
		at := int(d.InputOffset())
		var syntax *json.SyntaxError
		switch {
		case errors.As(err, &syntax):
			at = int(syntax.Offset)
		case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
			at, err = len(text), errors.New("the file ends too early; is it being written?")
		}
		return &lineError{c.line(at), err}
	}
	if _, err := d.Token(); err != io.EOF {
		return &lineError{c.line(int(d.InputOffset())), errors.New("there is something after the end")}
	}
	c.value(whole, int(d.InputOffset())-len(whole), reflect.TypeOf(v).Elem(), "")
	if len(c.errs) > 0 {
		return errors.Join(c.errs...)
	}
	return json.Unmarshal(whole, v)
}

type checker struct {
	text []byte
	errs []error
}

func (c *checker) line(offset int) int {
	return 1 + bytes.Count(c.text[:min(offset, len(c.text))], []byte("\n"))
}

func (c *checker) fail(offset int, field, value, reason string) {
	if len(c.errs) < mistakes {
		c.errs = append(c.errs, &lineError{c.line(offset), &vnet.FieldError{Field: field, Value: value, Reason: reason}})
	}
}

var (
	textual = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonual = reflect.TypeFor[json.Unmarshaler]()
)

// value checks raw, which stands at offset, against t.
func (c *checker) value(raw json.RawMessage, offset int, t reflect.Type, path string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	p := reflect.PointerTo(t)
	leaf := p.Implements(textual) || p.Implements(jsonual) || string(raw) == "null"
	switch {
	case !leaf && raw[0] == '{' && t.Kind() == reflect.Struct:
		fields := fieldsOf(t)
		c.each(raw, offset, path, func(name string, v json.RawMessage, at int) {
			f, ok := fields[name]
			if !ok {
				c.fail(at, join(path, name), "", "is not known")
				return
			}
			c.value(v, at, f, join(path, name))
		})
	case !leaf && raw[0] == '{' && t.Kind() == reflect.Map:
		c.each(raw, offset, path, func(name string, v json.RawMessage, at int) { c.value(v, at, t.Elem(), join(path, name)) })
	case !leaf && raw[0] == '[' && t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		d := json.NewDecoder(bytes.NewReader(raw))
		_, _ = d.Token()
		for i := 0; d.More(); i++ {
			var v json.RawMessage
			_ = d.Decode(&v) // the whole has been read before
			c.value(v, offset+int(d.InputOffset())-len(v), t.Elem(), fmt.Sprintf("%s[%d]", path, i))
		}
	default:
		if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
			reason := err.Error()
			var wrong *json.UnmarshalTypeError
			if errors.As(err, &wrong) {
				reason = "is a JSON " + wrong.Value + " where " + article(t) + " is wanted"
			}
			text := strings.Trim(string(raw), `"`)
			if len(text) > 40 {
				text = text[:40] + "..."
			}
			c.fail(offset, path, text, reason)
		}
	}
}

// each calls f for the members of an object.
func (c *checker) each(raw json.RawMessage, offset int, path string, f func(name string, v json.RawMessage, at int)) {
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token()
	seen := map[string]bool{}
	for d.More() {
		name, _ := d.Token()
		var v json.RawMessage
		_ = d.Decode(&v)
		n, at := name.(string), offset+int(d.InputOffset())-len(v)
		if seen[n] {
			c.fail(at, join(path, n), "", "is there twice")
		}
		seen[n] = true
		f(n, v, at)
	}
}

// fieldsOf are the members that JSON has of t.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			for n, ft := range fieldsOf(f.Type) {
				out[n] = ft
			}
		case name == "-" || !f.IsExported():
		case name == "":
			out[f.Name] = f.Type
		default:
			out[name] = f.Type
		}
	}
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// article names a type as people do.
func article(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a number of type " + t.String()
}
