package qos

import (
	"errors"
	"fmt"

	"github.com/vnet-go/vnet"
)

// fields collects what is wrong with fields.
type fields []error

func (e *fields) add(prefix string, err error) {
	if err == nil {
		return
	}
	if prefix != "" {
		err = vnet.In(prefix, err)
	}
	*e = append(*e, err)
}

func (e *fields) is(wrong bool, field string, value any, reason string) {
	if wrong {
		*e = append(*e, &vnet.FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason})
	}
}

func (e *fields) uplink(name string, optional bool) {
	switch {
	case name == Tunnelled, name == "" && optional:
	default:
		field := "name"
		if optional {
			field = "uplink"
		}
		e.add("", vnet.CheckID(field, name))
	}
}

func (e fields) err() error { return errors.Join(e...) }

func at(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }
